"""Answers and words that were recorded from AWS: clients and their test suites compare them letter by letter."""

import json
import os
import re
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError
from testkit.serving import Serving, refused
from testkit.wrapping import wrap

US, EU = "us-east-1", "eu-west-1"
FOR_EVER = "KEY_MATERIAL_DOES_NOT_EXPIRE"
WRAPPING = "RSAES_OAEP_SHA_256"


@pytest.fixture(scope="module")
def mac_key(served: Serving) -> Any:
    return served.client(US).create_key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")["KeyMetadata"]


@pytest.fixture
def frank(served: Serving) -> Any:
    """A client that sends what boto3 would hold back."""
    return served.client(US, validation=False)


def bring(client: Any, name: str, **how: str) -> Any:
    """Import fresh material into a key."""
    made = client.get_parameters_for_import(
        KeyId=name, WrappingAlgorithm=WRAPPING, WrappingKeySpec="RSA_2048"
    )
    return client.import_key_material(
        KeyId=name,
        ImportToken=made["ImportToken"],
        EncryptedKeyMaterial=wrap(made["PublicKey"], WRAPPING, os.urandom(32)),
        **how,
    )


USED_FOR_ENCRYPTION: dict[str, Callable[[Any, Any, Any], Any]] = {
    "Encrypt": lambda us, mac, key: us.encrypt(KeyId=mac, Plaintext=b"x"),
    "GenerateDataKey": lambda us, mac, key: us.generate_data_key(KeyId=mac, KeySpec="AES_256"),
    "GenerateDataKeyWithoutPlaintext": lambda us, mac, key: us.generate_data_key_without_plaintext(
        KeyId=mac, KeySpec="AES_256"
    ),
    "ReEncrypt": lambda us, mac, key: us.re_encrypt(
        CiphertextBlob=us.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"], DestinationKeyId=mac
    ),
}


@pytest.mark.parametrize("action", USED_FOR_ENCRYPTION)
def test_a_mac_key_encrypts_nothing(us: Any, key: Any, mac_key: Any, action: str) -> None:
    told = refused(lambda: USED_FOR_ENCRYPTION[action](us, mac_key["KeyId"], key["KeyId"]))
    assert told == (
        "InvalidKeyUsageException",
        f"{mac_key['Arn']} key usage is GENERATE_VERIFY_MAC which is not valid for {action}.",
    )


def test_an_encryption_key_makes_no_mac(us: Any, key: Any) -> None:
    asked = {"KeyId": key["KeyId"], "Message": b"m", "MacAlgorithm": "HMAC_SHA_256"}
    said = f"{key['Arn']} key usage is ENCRYPT_DECRYPT which is not valid for"
    for call in (us.generate_mac, lambda **more: us.generate_mac(DryRun=True, **more)):
        assert refused(lambda call=call: call(**asked)) == (  # type: ignore[misc]
            "InvalidKeyUsageException",
            f"{said} GenerateMac.",
        )
    told = refused(lambda: us.verify_mac(Mac=b"x", **asked))
    assert told == ("InvalidKeyUsageException", f"{said} VerifyMac.")


def test_a_mac_key_has_one_algorithm(us: Any, frank: Any, mac_key: Any) -> None:
    asked = {"KeyId": mac_key["KeyId"], "Message": b"m"}
    for call in (
        lambda **more: us.generate_mac(**asked, **more),
        lambda **more: us.verify_mac(Mac=b"x", **asked, **more),
    ):
        assert refused(lambda call=call: call(MacAlgorithm="HMAC_SHA_512")) == (  # type: ignore[misc]
            "InvalidKeyUsageException",
            "Algorithm HMAC_SHA_512 is incompatible with key spec HMAC_256.",
        )
    assert refused(lambda: frank.generate_mac(MacAlgorithm="INVALID", **asked)) == (
        "ValidationException",
        "1 validation error detected: Value 'INVALID' at 'macAlgorithm' failed to satisfy constraint: "
        "Member must satisfy enum value set: [HMAC_SHA_384, HMAC_SHA_256, HMAC_SHA_224, HMAC_SHA_512]",
    )


def blob_of(us: Any, key: str) -> bytes:
    return us.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]


RSA = "RSAES_OAEP_SHA_256"
BY_RSA: dict[str, Callable[[Any, str], object]] = {
    "Encrypt": lambda us, key: us.encrypt(KeyId=key, Plaintext=b"x", EncryptionAlgorithm=RSA),
    "Decrypt": lambda us, key: us.decrypt(CiphertextBlob=b"any", KeyId=key, EncryptionAlgorithm=RSA),
    "ReEncrypt from": lambda us, key: us.re_encrypt(
        CiphertextBlob=b"any", SourceKeyId=key, DestinationKeyId=key, SourceEncryptionAlgorithm=RSA
    ),
    "ReEncrypt to": lambda us, key: us.re_encrypt(
        CiphertextBlob=blob_of(us, key), DestinationKeyId=key, DestinationEncryptionAlgorithm=RSA
    ),
}


@pytest.mark.parametrize("use", BY_RSA)
def test_a_symmetric_key_has_one_algorithm(us: Any, key: Any, use: str) -> None:
    assert refused(lambda: BY_RSA[use](us, key["KeyId"])) == (
        "InvalidKeyUsageException",
        f"Algorithm {RSA} is incompatible with key spec SYMMETRIC_DEFAULT.",
    )


def test_what_a_key_is_for_counts_before_its_algorithm(us: Any, mac_key: Any) -> None:
    assert refused(lambda: BY_RSA["Encrypt"](us, mac_key["KeyId"])) == (
        "InvalidKeyUsageException",
        f"{mac_key['Arn']} key usage is GENERATE_VERIFY_MAC which is not valid for Encrypt.",
    )
    assert refused(lambda: BY_RSA["Encrypt"](us, "no-key")) == ("NotFoundException", "Invalid keyId 'no-key'")


WITHOUT_WORDS: dict[str, Callable[[Any, str, str], object]] = {
    "KMSInvalidMacException": lambda us, mac, key: us.verify_mac(
        KeyId=mac, Message=b"m", MacAlgorithm="HMAC_SHA_256", Mac=b"x"
    ),
    "InvalidCiphertextException": lambda us, mac, key: us.decrypt(CiphertextBlob=blob_of(us, key) + b"more"),
}


@pytest.mark.parametrize("code", WITHOUT_WORDS)
def test_an_error_without_words_has_no_message(us: Any, key: Any, mac_key: Any, code: str) -> None:
    with pytest.raises(ClientError) as error:
        WITHOUT_WORDS[code](us, mac_key["KeyId"], key["KeyId"])
    answer = error.value.response
    assert answer["Error"] == {"Code": code, "Message": ""}
    assert "message" not in answer


@pytest.mark.parametrize("spec", ["HMAC_256", "RSA_2048"])
@pytest.mark.parametrize("member", ["KeySpec", "CustomerMasterKeySpec"])
def test_only_symmetric_keys_go_without_a_usage(us: Any, spec: str, member: str) -> None:
    assert refused(lambda: us.create_key(**{member: spec})) == (
        "ValidationException",
        "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.",
    )


@pytest.mark.parametrize(
    ("spec", "usage"),
    [
        ("SYMMETRIC_DEFAULT", "SIGN_VERIFY"),
        ("SYMMETRIC_DEFAULT", "GENERATE_VERIFY_MAC"),
        ("HMAC_256", "SIGN_VERIFY"),
        ("HMAC_256", "ENCRYPT_DECRYPT"),
        ("RSA_2048", "KEY_AGREEMENT"),
        ("ECC_NIST_P256", "GENERATE_VERIFY_MAC"),
    ],
)
def test_a_usage_that_no_key_of_the_spec_has(us: Any, spec: str, usage: str) -> None:
    assert refused(lambda: us.create_key(KeySpec=spec, KeyUsage=usage)) == (
        "ValidationException",
        f"KeyUsage {usage} is not compatible with KeySpec {spec}",
    )


@pytest.mark.parametrize(
    ("spec", "usage"),
    [
        ("RSA_2048", "ENCRYPT_DECRYPT"),
        ("RSA_4096", "SIGN_VERIFY"),
        ("ECC_NIST_P256", "KEY_AGREEMENT"),
        ("ECC_NIST_EDWARDS25519", "SIGN_VERIFY"),
        ("ML_DSA_44", "SIGN_VERIFY"),
        ("ML_KEM_768", "ENCAPSULATE_DECAPSULATE"),
        ("SM2", "ENCRYPT_DECRYPT"),
    ],
)
def test_asymmetric_keys_are_known_and_not_made(us: Any, spec: str, usage: str) -> None:
    assert refused(lambda: us.create_key(KeySpec=spec, KeyUsage=usage)) == (
        "UnsupportedOperationException",
        f"KeySpec {spec} is not supported.",
    )


def test_the_arn_of_another_region_is_told_by_its_region(us: Any, eu: Any, key: Any) -> None:
    told = refused(lambda: eu.describe_key(KeyId=key["Arn"]))
    assert told == ("NotFoundException", f"Invalid arn {US}")


def test_a_value_that_is_one_too_long_is_quoted_whole(us: Any, frank: Any, key: Any) -> None:
    value, text = "v" * 257, "d" * 8193
    for call, shown, member, limit in (
        (
            lambda: us.tag_resource(KeyId=key["KeyId"], Tags=[{"TagKey": "k", "TagValue": value}]),
            value,
            "tags.1.member.tagValue",
            256,
        ),
        (
            lambda: frank.update_key_description(KeyId=key["KeyId"], Description=text),
            text,
            "description",
            8192,
        ),
    ):
        assert refused(call) == (
            "ValidationException",
            f"1 validation error detected: Value '{shown}' at '{member}' failed to satisfy constraint: "
            f"Member must have length less than or equal to {limit}",
        )


def test_rotation_on_demand_answers_with_the_arn_until_its_limit(us: Any, key: Any) -> None:
    for _ in range(25):
        assert us.rotate_key_on_demand(KeyId=key["KeyId"])["KeyId"] == key["Arn"]
    assert refused(lambda: us.rotate_key_on_demand(KeyId=key["KeyId"])) == (
        "LimitExceededException",
        "The on-demand rotations limit has been reached for the given keyId. "
        f"No more on-demand rotations can be performed for this key: {key['Arn']}",
    )


def names(*principals: str, action: str = "kms:*") -> str:
    """Return a key policy that allows some principals an action."""
    statement = {"Effect": "Allow", "Principal": {"AWS": principals}, "Action": action, "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def test_policies_that_aws_refuses(us: Any, key: Any) -> None:
    root = f"arn:aws:iam::{key['AWSAccountId']}:root"
    invalid = "Policy contains a statement with one or more invalid principals."
    lockout = "The new key policy will not allow you to update the key policy in the future."
    for policy, said in (
        (names(root, root.replace("root", "user/nobody")), invalid),
        (names(root, "arn:aws:iam::12:root"), invalid),
        (names(root, action="kms:Encrypt"), lockout),
    ):
        for call in (us.create_key, lambda **more: us.put_key_policy(KeyId=key["KeyId"], **more)):
            assert refused(lambda call=call, policy=policy: call(Policy=policy)) == (  # type: ignore[misc]
                "MalformedPolicyDocumentException",
                said,
            )


def test_the_aliases_of_a_key_are_counted(us: Any, key: Any) -> None:
    names = [f"alias/{key['KeyId']}/{number}" for number in range(51)]
    for name in names[:50]:
        us.create_alias(AliasName=name, TargetKeyId=key["KeyId"])
    assert refused(lambda: us.create_alias(AliasName=names[50], TargetKeyId=key["KeyId"])) == (
        "LimitExceededException",
        "Aliases per key quota for this account in this region is 50, current usage is 50.",
    )


def test_only_encryption_keys_rotate(us: Any) -> None:
    key = us.create_key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")["KeyMetadata"]
    for call in (us.enable_key_rotation, us.rotate_key_on_demand):
        assert refused(lambda call=call: call(KeyId=key["KeyId"])) == ("UnsupportedOperationException", "")
    us.disable_key(KeyId=key["KeyId"])
    assert refused(lambda: us.rotate_key_on_demand(KeyId=key["KeyId"])) == (
        "DisabledException",
        f"{key['Arn']} is disabled.",
    )


def test_imported_material_rotates_on_demand_once_more_is_there(us: Any) -> None:
    key = us.create_key(Origin="EXTERNAL")["KeyMetadata"]
    assert refused(lambda: us.rotate_key_on_demand(KeyId=key["KeyId"])) == (
        "KMSInvalidStateException",
        f"{key['Arn']} is pending import.",
    )
    bring(us, key["KeyId"], ExpirationModel=FOR_EVER)
    assert refused(lambda: us.rotate_key_on_demand(KeyId=key["KeyId"])) == (
        "KMSInvalidStateException",
        f"No available key material pending rotation for the key: {key['Arn']}.",
    )
    for call in (us.enable_key_rotation, us.disable_key_rotation):
        assert refused(lambda call=call: call(KeyId=key["KeyId"])) == (
            "UnsupportedOperationException",
            f"{key['Arn']} origin is EXTERNAL which is not valid for this operation.",
        )


def test_material_is_imported_only_into_keys_that_wait_for_it(us: Any, key: Any) -> None:
    name = key["KeyId"]
    for call in (
        lambda: us.get_parameters_for_import(
            KeyId=name, WrappingAlgorithm=WRAPPING, WrappingKeySpec="RSA_2048"
        ),
        lambda: us.import_key_material(
            KeyId=name, ImportToken=b"x", EncryptedKeyMaterial=b"x", ExpirationModel=FOR_EVER
        ),
        lambda: us.delete_imported_key_material(KeyId=name),
    ):
        assert refused(call) == (
            "UnsupportedOperationException",
            f"{key['Arn']} origin is AWS_KMS which is not valid for this operation.",
        )


def test_imported_material_expires_on_a_date_or_not_at_all(us: Any) -> None:
    name = us.create_key(Origin="EXTERNAL")["KeyMetadata"]["KeyId"]
    assert refused(lambda: bring(us, name)) == (
        "ValidationException",
        "A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES",
    )


def test_one_imported_material_at_a_time_waits_for_rotation(us: Any) -> None:
    key = us.create_key(Origin="EXTERNAL")["KeyMetadata"]
    bring(us, key["KeyId"], ExpirationModel=FOR_EVER)
    new = {"ExpirationModel": FOR_EVER, "ImportType": "NEW_KEY_MATERIAL"}
    waiting = bring(us, key["KeyId"], **new)["KeyMaterialId"]
    code, message = refused(lambda: bring(us, key["KeyId"], **new))
    assert code == "KMSInvalidStateException"
    said = re.fullmatch(
        rf"New key material \(id: ([0-9a-f]{{64}})\) cannot be imported into KMS key {key['Arn']}, "
        rf"because another key material \(id: {waiting}\) is pending rotation\.",
        message,
    )
    assert said is not None, message
    assert said[1] != waiting


def test_only_a_primary_key_is_replicated(us: Any, eu: Any, key: Any) -> None:
    primary = us.create_key(MultiRegion=True)["KeyMetadata"]
    answer = us.replicate_key(KeyId=primary["KeyId"], ReplicaRegion=EU)
    assert "ReplicaTags" not in answer
    replica = answer["ReplicaKeyMetadata"]
    for call, about in (
        (lambda: eu.replicate_key(KeyId=replica["KeyId"], ReplicaRegion=US), replica),
        (lambda: us.replicate_key(KeyId=key["KeyId"], ReplicaRegion=EU), key),
    ):
        assert refused(call) == (
            "UnsupportedOperationException",
            f"{about['Arn']} is not a multi-Region primary key.",
        )
