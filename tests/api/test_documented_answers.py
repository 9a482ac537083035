"""Answers that AWS documents of single actions: what is refused, and what a dry run tells."""

import json
from typing import Any

import pytest
from testkit.policy_cases import allow, deny, policy, text, when
from testkit.serving import Serving, refused

US = "us-east-1"
ROOT = "arn:aws:iam::000000000000:root"
NOBODY = "arn:aws:iam::000000000000:user/nobody"


@pytest.fixture(scope="module")
def mac_key(served: Serving) -> Any:
    return served.client(US).create_key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")["KeyMetadata"]


def test_a_constraint_stands_on_no_operation_without_an_encryption_context(us: Any, mac_key: Any) -> None:
    code, message = refused(
        lambda: us.create_grant(
            KeyId=mac_key["KeyId"],
            GranteePrincipal=ROOT,
            Operations=["GenerateMac", "DescribeKey"],
            Constraints={"EncryptionContextSubset": {"team": "blue"}},
        )
    )
    assert code == "ValidationException"
    assert "GenerateMac" in message
    assert us.list_grants(KeyId=mac_key["KeyId"])["Grants"] == []


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({}, "DryRunOperationException"),
        ({"GranteePrincipal": NOBODY}, "InvalidArnException"),
        ({"RetiringPrincipal": NOBODY}, "InvalidArnException"),
        ({"Operations": ["GenerateMac"]}, "ValidationException"),
        ({"Operations": []}, "ValidationException"),
        ({"Constraints": {"EncryptionContextEquals": {"k": "v" * 385}}}, "ValidationException"),
    ],
)
def test_a_dry_run_tells_that_no_grant_would_be_made(us: Any, key: Any, more: Any, code: str) -> None:
    asked = {"KeyId": key["KeyId"], "GranteePrincipal": ROOT, "Operations": ["Decrypt"], **more}
    assert refused(lambda: us.create_grant(DryRun=True, **asked))[0] == code
    assert us.list_grants(KeyId=key["KeyId"])["Grants"] == []


def test_a_dry_run_tells_that_a_mac_key_has_another_algorithm(us: Any, mac_key: Any) -> None:
    asked = {"KeyId": mac_key["KeyId"], "Message": b"m", "DryRun": True}
    for algorithm, code in (
        ("HMAC_SHA_256", "DryRunOperationException"),
        ("HMAC_SHA_512", "InvalidKeyUsageException"),
    ):
        named = {"MacAlgorithm": algorithm, **asked}
        assert refused(lambda named=named: us.generate_mac(**named))[0] == code  # type: ignore[misc]
        assert refused(lambda named=named: us.verify_mac(Mac=b"x", **named))[0] == code  # type: ignore[misc]


def test_a_dry_run_tells_that_an_encryption_context_is_too_long(us: Any, key: Any) -> None:
    name, long = key["KeyId"], {"k": "v" * 9000}
    blob = us.encrypt(KeyId=name, Plaintext=b"x")["CiphertextBlob"]
    for call in (
        lambda: us.encrypt(KeyId=name, Plaintext=b"x", EncryptionContext=long, DryRun=True),
        lambda: us.decrypt(CiphertextBlob=blob, EncryptionContext=long, DryRun=True),
        lambda: us.generate_data_key(KeyId=name, KeySpec="AES_256", EncryptionContext=long, DryRun=True),
        lambda: us.re_encrypt(
            CiphertextBlob=blob, DestinationKeyId=name, SourceEncryptionContext=long, DryRun=True
        ),
        lambda: us.re_encrypt(
            CiphertextBlob=blob, DestinationKeyId=name, DestinationEncryptionContext=long, DryRun=True
        ),
    ):
        assert refused(call)[0] == "ValidationException"
    us.disable_key(KeyId=name)  # of two faults, the real call tells the same one
    for dry in (False, True):
        told = refused(
            lambda dry=dry: us.encrypt(KeyId=name, Plaintext=b"x", EncryptionContext=long, DryRun=dry)
        )  # type: ignore[misc]
        assert told[0] == "ValidationException"


def test_the_policy_of_ram_is_not_put(us: Any, key: Any) -> None:
    name, own = key["KeyId"], text(policy(allow(principal=ROOT)))
    assert refused(lambda: us.put_key_policy(KeyId=name, PolicyName="AWS_RAM", Policy=own)) == (
        "ValidationException",
        "The AWS_RAM policy can only be managed by the RAM service",
    )
    told = refused(lambda: us.get_key_policy(KeyId=name, PolicyName="AWS_RAM"))
    assert told == ("NotFoundException", "No such policy exists")


@pytest.mark.parametrize("named", [{}, {"PolicyName": "default"}])
def test_policies_look_at_the_name_of_a_policy(us: Any, key: Any, named: dict[str, str]) -> None:
    name = key["KeyId"]
    anything = allow(principal=ROOT)
    only = allow(
        ["kms:GetKeyPolicy", "kms:PutKeyPolicy"],
        ROOT,
        Condition=when("StringEquals", "kms:PolicyName", "default"),
    )
    us.put_key_policy(KeyId=name, Policy=text(policy(only)), **named)
    assert json.loads(us.get_key_policy(KeyId=name, **named)["Policy"]) == policy(only)
    for call in (us.get_key_policy, lambda **more: us.put_key_policy(Policy="{}", **more)):
        other = refused(lambda call=call: call(KeyId=name, PolicyName="AWS_RAM"))  # type: ignore[misc]
        assert other[0] == "AccessDeniedException"
    never = deny("kms:PutKeyPolicy", "*", Condition=when("StringEquals", "kms:PolicyName", "default"))
    locked = refused(lambda: us.put_key_policy(KeyId=name, Policy=text(policy(anything, never)), **named))
    assert locked[0] == "MalformedPolicyDocumentException"
    us.put_key_policy(KeyId=name, Policy=text(policy(anything)), **named)


def test_every_use_of_a_symmetric_key_is_of_its_algorithm(us: Any) -> None:
    symmetric = when("StringEquals", "kms:EncryptionAlgorithm", "SYMMETRIC_DEFAULT")
    uses = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*"]
    rules = policy(
        allow(["kms:PutKeyPolicy", "kms:DescribeKey"], ROOT), allow(uses, ROOT, Condition=symmetric)
    )
    key = us.create_key(Policy=text(rules))["KeyMetadata"]["KeyId"]
    us.generate_data_key_without_plaintext(KeyId=key, KeySpec="AES_256")
    made = us.generate_data_key(KeyId=key, KeySpec="AES_256")
    again = us.re_encrypt(CiphertextBlob=made["CiphertextBlob"], DestinationKeyId=key)["CiphertextBlob"]
    assert us.decrypt(CiphertextBlob=again)["Plaintext"] == made["Plaintext"]
    assert (
        us.decrypt(CiphertextBlob=us.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"])["Plaintext"]
        == b"x"
    )


@pytest.mark.parametrize("attested", ["ImageSha384", "PCR0", "PCR31", "NitroTPMPCR4"])
def test_what_is_left_to_enclaves_is_allowed_to_nobody(us: Any, attested: str) -> None:
    condition = when("StringEqualsIgnoreCase", f"kms:RecipientAttestation:{attested}", "9fedcba8")
    document = policy(
        allow(["kms:PutKeyPolicy", "kms:DescribeKey"], ROOT),
        allow("kms:GenerateDataKey", ROOT, Condition=condition),
    )
    name = us.create_key(Policy=text(document))["KeyMetadata"]["KeyId"]
    assert refused(lambda: us.generate_data_key(KeyId=name, KeySpec="AES_256"))[0] == "AccessDeniedException"


def test_no_enclave_attests_what_there_is_not(us: Any) -> None:
    for key in ("kms:RecipientAttestation:PCR", "kms:RecipientAttestation:PCR32", "kms:RecipientAttestation"):
        document = policy(allow(principal=ROOT, Condition=when("StringEquals", key, "9fedcba8")))
        told = refused(lambda document=document: us.create_key(Policy=text(document)))  # type: ignore[misc]
        assert told[0] == "MalformedPolicyDocumentException"
