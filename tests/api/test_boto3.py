"""What boto3 gets from a real server: every action, and AWS's errors."""

import base64
from typing import Any

import pytest
from testkit.serving import Serving, refused

US, EU = "us-east-1", "eu-west-1"


def test_a_new_key_is_described_and_listed(us: Any, key: Any) -> None:
    assert us.describe_key(KeyId=key["KeyId"])["KeyMetadata"] == key
    assert us.describe_key(KeyId=key["Arn"])["KeyMetadata"]["Description"] == "a key"
    assert {"KeyId": key["KeyId"], "KeyArn": key["Arn"]} in us.list_keys()["Keys"]


def test_encrypt_and_decrypt_with_a_context(us: Any, key: Any) -> None:
    context = {"project": "files"}
    made = us.encrypt(KeyId=key["KeyId"], Plaintext=b"secret", EncryptionContext=context)
    assert made["KeyId"] == key["Arn"]
    found = us.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext=context)
    assert (found["Plaintext"], found["KeyId"]) == (b"secret", key["Arn"])
    assert found["KeyMaterialId"] == key["CurrentKeyMaterialId"]
    wrong = refused(lambda: us.decrypt(CiphertextBlob=made["CiphertextBlob"]))
    assert wrong == ("InvalidCiphertextException", "")


def test_data_keys_and_random_bytes(us: Any, key: Any) -> None:
    made = us.generate_data_key(KeyId=key["KeyId"], KeySpec="AES_256")
    assert len(made["Plaintext"]) == 32
    assert us.decrypt(CiphertextBlob=made["CiphertextBlob"])["Plaintext"] == made["Plaintext"]
    sealed = us.generate_data_key_without_plaintext(KeyId=key["KeyId"], NumberOfBytes=100)
    assert "Plaintext" not in sealed
    assert len(us.decrypt(CiphertextBlob=sealed["CiphertextBlob"])["Plaintext"]) == 100
    assert len(us.generate_random(NumberOfBytes=1024)["Plaintext"]) == 1024


def test_re_encrypt(us: Any, key: Any) -> None:
    other = us.create_key()["KeyMetadata"]
    blob = us.encrypt(KeyId=key["Arn"], Plaintext=b"moved")["CiphertextBlob"]
    moved = us.re_encrypt(
        CiphertextBlob=blob,
        SourceKeyId=key["KeyId"],
        DestinationKeyId=other["KeyId"],
        DestinationEncryptionContext={"new": "context"},
    )
    assert (moved["SourceKeyId"], moved["KeyId"]) == (key["Arn"], other["Arn"])
    assert moved["DestinationKeyMaterialId"] == other["CurrentKeyMaterialId"]
    found = us.decrypt(CiphertextBlob=moved["CiphertextBlob"], EncryptionContext={"new": "context"})
    assert found["Plaintext"] == b"moved"


def test_an_alias_is_repointed(us: Any, key: Any) -> None:
    other = us.create_key()["KeyMetadata"]
    us.create_alias(AliasName="alias/moving", TargetKeyId=key["KeyId"])
    twice = refused(lambda: us.create_alias(AliasName="alias/moving", TargetKeyId=key["KeyId"]))
    assert twice[0] == "AlreadyExistsException"
    assert us.encrypt(KeyId="alias/moving", Plaintext=b"x")["KeyId"] == key["Arn"]
    us.update_alias(AliasName="alias/moving", TargetKeyId=other["Arn"])
    assert us.encrypt(KeyId="alias/moving", Plaintext=b"x")["KeyId"] == other["Arn"]
    assert [alias["AliasName"] for alias in us.list_aliases(KeyId=other["KeyId"])["Aliases"]] == [
        "alias/moving"
    ]
    us.delete_alias(AliasName="alias/moving")
    gone = refused(lambda: us.describe_key(KeyId="alias/moving"))
    assert gone[0] == "NotFoundException"
    assert gone[1].endswith("alias/moving is not found.")


def test_a_disabled_key_is_refused_until_enabled(us: Any, key: Any) -> None:
    blob = us.encrypt(KeyId=key["Arn"], Plaintext=b"x")["CiphertextBlob"]
    us.disable_key(KeyId=key["KeyId"])
    said = ("DisabledException", f"{key['Arn']} is disabled.")
    assert refused(lambda: us.decrypt(CiphertextBlob=blob)) == said
    assert refused(lambda: us.encrypt(KeyId=key["KeyId"], Plaintext=b"x")) == said
    us.enable_key(KeyId=key["KeyId"])
    assert us.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"


def test_a_key_is_of_its_region_alone(us: Any, eu: Any, key: Any) -> None:
    blob = us.encrypt(KeyId=key["KeyId"], Plaintext=b"x")["CiphertextBlob"]
    assert refused(lambda: eu.decrypt(CiphertextBlob=blob))[0] == "AccessDeniedException"
    assert refused(lambda: eu.encrypt(KeyId=key["Arn"], Plaintext=b"x")) == (
        "NotFoundException",
        f"Invalid arn {US}",
    )
    unknown = refused(lambda: eu.describe_key(KeyId=key["KeyId"]))
    assert unknown == ("NotFoundException", f"Key '{key['Arn'].replace(US, EU)}' does not exist")


def test_the_key_that_was_named_must_be_the_blobs(us: Any, key: Any) -> None:
    other = us.create_key()["KeyMetadata"]
    blob = us.encrypt(KeyId=key["KeyId"], Plaintext=b"x")["CiphertextBlob"]
    assert refused(lambda: us.decrypt(CiphertextBlob=blob, KeyId=other["KeyId"])) == (
        "IncorrectKeyException",
        "The key ID in the request does not identify a CMK that can perform this operation.",
    )


def test_dry_run(us: Any, key: Any) -> None:
    blob = us.encrypt(KeyId=key["KeyId"], Plaintext=b"x")["CiphertextBlob"]
    code = "DryRunOperationException"
    assert refused(lambda: us.encrypt(KeyId=key["KeyId"], Plaintext=b"x", DryRun=True))[0] == code
    assert refused(lambda: us.decrypt(CiphertextBlob=blob, DryRun=True))[0] == code
    us.disable_key(KeyId=key["KeyId"])
    assert refused(lambda: us.decrypt(CiphertextBlob=blob, DryRun=True))[0] == "DisabledException"


def test_pages(us: Any) -> None:
    made = {us.create_key()["KeyMetadata"]["KeyId"] for _ in range(3)}
    whole = us.list_keys()["Keys"]
    paged = [
        key
        for page in us.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 2})
        for key in page["Keys"]
    ]
    assert paged == whole
    assert made <= {key["KeyId"] for key in whole}
    assert refused(lambda: us.list_keys(Marker="nonsense"))[0] == "InvalidMarkerException"


@pytest.mark.parametrize("made_up", ["[]", "null", '["", ["x"]]', '["other", [1]]', "\\"])
def test_a_marker_made_up_is_refused(us: Any, made_up: str) -> None:
    us.create_key()
    marker = base64.urlsafe_b64encode(made_up.encode()).decode()
    assert refused(lambda: us.list_keys(Marker=marker))[0] == "InvalidMarkerException"


def test_names_that_name_nothing(us: Any, key: Any) -> None:
    assert refused(lambda: us.describe_key(KeyId="x")) == ("NotFoundException", "Invalid keyId 'x'")
    reserved = refused(lambda: us.create_alias(AliasName="alias/aws/s3", TargetKeyId=key["KeyId"]))
    assert reserved[0] == "NotAuthorizedException"
    assert refused(lambda: us.enable_key(KeyId="alias/any"))[0] == "NotFoundException"


def test_what_kmsfs_does_not_do_says_so(us: Any, key: Any) -> None:
    asked = refused(lambda: us.get_public_key(KeyId=key["KeyId"]))
    assert asked == ("UnsupportedOperationException", "GetPublicKey is not supported.")


def test_a_wrong_secret_is_refused(served: Serving) -> None:
    refusal = refused(lambda: served.client(US, secret="wrong").list_keys())
    assert refusal[0] == "InvalidSignatureException"


def test_a_region_that_is_not_configured_knows_no_access_key(served: Serving) -> None:
    assert refused(lambda: served.client("ap-south-1").list_keys())[0] == "UnrecognizedClientException"
