"""What the lesson shows in the console and says in passing, by API."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from testkit.home import Home
from testkit.serving import Serving, refused, serving

from kmsfs.keystore.service import Keystore

US, EU = "us-east-1", "eu-west-1"
MESSAGE = b"this is a secret message\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    home = Home(tmp_path_factory.mktemp("lesson") / "home")
    for region in (US, EU):
        home.ok("region", "add", region)
    with serving(home) as running:
        yield running


@pytest.fixture
def us(served: Serving) -> Any:
    return served.client(US)


@pytest.fixture
def eu(served: Serving) -> Any:
    return served.client(EU)


@pytest.fixture
def cmk(us: Any) -> Any:
    return us.create_key(Description="LA KMS DEMO CMK")["KeyMetadata"]


@pytest.fixture
def managed(served: Serving, us: Any, tmp_path: Path) -> Any:
    """The managed key of us-east-1: made when the service that it is for first needs one."""
    served.home.ok("init", tmp_path / "tree", "--region", US)
    return us.describe_key(KeyId="alias/aws/kmsfs")["KeyMetadata"]


def test_an_alias_is_repointed_and_the_application_does_not_notice(us: Any, cmk: Any) -> None:
    us.create_alias(AliasName="alias/lakmsdemo", TargetKeyId=cmk["KeyId"])

    def application() -> bytes:
        return us.encrypt(KeyId="alias/lakmsdemo", Plaintext=MESSAGE)["CiphertextBlob"]

    old = application()
    successor = us.create_key()["KeyMetadata"]
    us.update_alias(AliasName="alias/lakmsdemo", TargetKeyId=successor["KeyId"])
    new = application()
    found = [us.decrypt(CiphertextBlob=blob) for blob in (old, new)]
    assert [answer["Plaintext"] for answer in found] == [MESSAGE, MESSAGE]
    assert [answer["KeyId"] for answer in found] == [cmk["Arn"], successor["Arn"]]


def test_rotation_of_a_customer_managed_key_is_on_or_off(us: Any, cmk: Any) -> None:
    def status() -> Any:
        return us.get_key_rotation_status(KeyId=cmk["KeyId"])

    assert status()["KeyRotationEnabled"] is False
    us.enable_key_rotation(KeyId=cmk["KeyId"])
    assert (status()["KeyRotationEnabled"], status()["RotationPeriodInDays"]) == (True, 365)
    us.disable_key_rotation(KeyId=cmk["KeyId"])
    assert status()["KeyRotationEnabled"] is False


def test_a_managed_key_is_seen(us: Any, managed: Any) -> None:
    assert (managed["KeyManager"], managed["KeyState"]) == ("AWS", "Enabled")
    assert managed["KeyId"] in [key["KeyId"] for key in us.list_keys()["Keys"]]
    (alias,) = us.list_aliases(KeyId=managed["KeyId"])["Aliases"]
    assert alias["AliasName"] == "alias/aws/kmsfs"
    status = us.get_key_rotation_status(KeyId=managed["KeyId"])
    assert (status["KeyRotationEnabled"], status["RotationPeriodInDays"]) == (True, 1095)
    assert us.list_resource_tags(KeyId=managed["KeyId"])["Tags"] == []
    assert us.list_key_rotations(KeyId=managed["KeyId"])["Rotations"] == []


MANAGING: dict[str, dict[str, Any]] = {
    "disable_key": {},
    "enable_key": {},
    "enable_key_rotation": {},
    "disable_key_rotation": {},
    "rotate_key_on_demand": {},
    "schedule_key_deletion": {},
    "cancel_key_deletion": {},
    "update_key_description": {"Description": "mine"},
    "tag_resource": {"Tags": [{"TagKey": "owner", "TagValue": "me"}]},
    "untag_resource": {"TagKeys": ["owner"]},
}


@pytest.mark.parametrize("action", MANAGING)
def test_a_managed_key_is_not_managed(us: Any, managed: Any, action: str) -> None:
    code, _ = refused(lambda: getattr(us, action)(KeyId=managed["KeyId"], **MANAGING[action]))
    assert code == "AccessDeniedException"
    assert us.describe_key(KeyId=managed["KeyId"])["KeyMetadata"] == managed


def test_aliases_of_managed_keys_are_reserved(us: Any, cmk: Any, managed: Any) -> None:
    for call in (
        lambda: us.create_alias(AliasName="alias/aws/s3", TargetKeyId=cmk["KeyId"]),
        lambda: us.update_alias(AliasName="alias/aws/kmsfs", TargetKeyId=cmk["KeyId"]),
        lambda: us.delete_alias(AliasName="alias/aws/kmsfs"),
    ):
        assert refused(call)[0] == "NotAuthorizedException"
    pointed = refused(lambda: us.create_alias(AliasName="alias/mine", TargetKeyId=managed["KeyId"]))
    assert pointed[0] == "AccessDeniedException"
    assert us.describe_key(KeyId="alias/aws/kmsfs")["KeyMetadata"] == managed


def test_owned_keys_are_hidden(served: Serving, us: Any) -> None:
    """The token has more keys than any listing shows."""
    listed = us.list_keys(Limit=1000)["Keys"]
    assert {us.describe_key(KeyId=key["KeyId"])["KeyMetadata"]["KeyManager"] for key in listed} <= {
        "CUSTOMER",
        "AWS",
    }
    with Keystore.open(served.home.path) as keystore:
        labels = {key.label for key in keystore._service(US).hsm.list_keys()}
    assert {f"kmsfs:{key['KeyId']}" for key in listed} < labels


def test_four_kilobytes_and_no_more(us: Any, cmk: Any) -> None:
    blob = us.encrypt(KeyId=cmk["KeyId"], Plaintext=bytes(4096))["CiphertextBlob"]
    assert us.decrypt(CiphertextBlob=blob)["Plaintext"] == bytes(4096)
    code, message = refused(lambda: us.encrypt(KeyId=cmk["KeyId"], Plaintext=bytes(4097)))
    assert code == "ValidationException"
    assert message.endswith("Member must have length less than or equal to 4096")


def test_a_key_never_leaves_its_region(served: Serving, us: Any, eu: Any, cmk: Any, tmp_path: Path) -> None:
    blob = us.encrypt(KeyId=cmk["KeyId"], Plaintext=MESSAGE)["CiphertextBlob"]
    there = eu.create_key()["KeyMetadata"]
    for call in (
        lambda: eu.decrypt(CiphertextBlob=blob),
        lambda: eu.re_encrypt(CiphertextBlob=blob, DestinationKeyId=there["KeyId"]),
    ):
        assert refused(call)[0] == "AccessDeniedException"
    for call in (
        lambda: eu.encrypt(KeyId=cmk["KeyId"], Plaintext=MESSAGE),
        lambda: eu.encrypt(KeyId=cmk["Arn"], Plaintext=MESSAGE),
        lambda: us.re_encrypt(CiphertextBlob=blob, DestinationKeyId=there["Arn"]),
    ):
        assert refused(call)[0] == "NotFoundException"

    (tmp_path / "here").write_bytes(blob)
    served.home.ok("re-encrypt", tmp_path / "here", "--to-key", there["Arn"], "--out", tmp_path / "there")
    moved = eu.decrypt(CiphertextBlob=(tmp_path / "there").read_bytes())
    assert (moved["Plaintext"], moved["KeyId"]) == (MESSAGE, there["Arn"])
