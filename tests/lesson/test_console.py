"""What the lesson shows in the console and says in passing, by API."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from testkit.home import Home
from testkit.serving import Serving, refused, serving

from kmsfs.keystore.service import Keystore

US, EU = "us-east-1", "eu-west-1"
MESSAGE = b"this is a secret message\n"
MAY_USE = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": ["kms:Encrypt", "kms:Decrypt"], "Resource": "*"}],
}
NO_ONE = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Deny", "Principal": "*", "Action": "kms:*", "Resource": "*"}],
}


@pytest.fixture(scope="module")
def lesson_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("lesson") / "home")
    for region in (US, EU):
        home.ok("region", "add", region)
    return home


@pytest.fixture(scope="module")
def users(lesson_home: Home) -> dict[str, Any]:
    """The access keys of alice, whose identity policy lets her use keys, and of bob, who has none."""
    with Keystore.open(lesson_home.path) as keystore:
        for name in ("alice", "bob"):
            keystore.principals.create(name)
        keystore.principals.put_policy("alice", json.dumps(MAY_USE))
        return {name: keystore.credentials.create(name) for name in ("alice", "bob")}


@pytest.fixture(scope="module")
def served(lesson_home: Home, users: dict[str, Any]) -> Iterator[Serving]:
    with serving(lesson_home) as running:
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


def test_the_key_trusts_the_account(us: Any, cmk: Any) -> None:
    assert us.list_key_policies(KeyId=cmk["KeyId"])["PolicyNames"] == ["default"]
    policy = json.loads(us.get_key_policy(KeyId=cmk["KeyId"], PolicyName="default")["Policy"])
    (statement,) = policy["Statement"]
    assert statement == {
        "Sid": "Enable IAM User Permissions",
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{cmk['AWSAccountId']}:root"},
        "Action": "kms:*",
        "Resource": "*",
    }


def test_identity_policies_allow_individual_identities(
    served: Serving, users: dict[str, Any], cmk: Any
) -> None:
    alice, bob = (
        served.client(US, access_key_id=made.access_key_id, secret=made.secret) for made in users.values()
    )
    blob = alice.encrypt(KeyId=cmk["KeyId"], Plaintext=MESSAGE)["CiphertextBlob"]
    assert alice.decrypt(CiphertextBlob=blob)["Plaintext"] == MESSAGE
    for call in (
        lambda: bob.decrypt(CiphertextBlob=blob),
        lambda: bob.encrypt(KeyId=cmk["KeyId"], Plaintext=MESSAGE),
        lambda: alice.put_key_policy(KeyId=cmk["KeyId"], Policy=json.dumps(NO_ONE)),
    ):
        assert refused(call)[0] == "AccessDeniedException"


def test_without_the_default_policy_no_one_has_access(us: Any, cmk: Any) -> None:
    key, policy = cmk["KeyId"], json.dumps(NO_ONE)
    blob = us.encrypt(KeyId=key, Plaintext=MESSAGE)["CiphertextBlob"]
    lockout = refused(lambda: us.put_key_policy(KeyId=key, Policy=policy))
    assert lockout[0] == "MalformedPolicyDocumentException"
    assert us.decrypt(CiphertextBlob=blob)["Plaintext"] == MESSAGE
    us.put_key_policy(KeyId=key, Policy=policy, BypassPolicyLockoutSafetyCheck=True)
    for call in (
        lambda: us.decrypt(CiphertextBlob=blob),
        lambda: us.describe_key(KeyId=key),
        lambda: us.put_key_policy(KeyId=key, Policy=policy, BypassPolicyLockoutSafetyCheck=True),
        lambda: us.schedule_key_deletion(KeyId=key),
    ):
        assert refused(call)[0] == "AccessDeniedException"


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


def test_a_managed_key_is_used_by_its_service_alone(us: Any, managed: Any) -> None:
    for call in (
        lambda: us.encrypt(KeyId="alias/aws/kmsfs", Plaintext=MESSAGE),
        lambda: us.generate_data_key(KeyId=managed["Arn"], KeySpec="AES_256"),
    ):
        assert refused(call)[0] == "AccessDeniedException"


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
    "put_key_policy": {"Policy": json.dumps(NO_ONE), "BypassPolicyLockoutSafetyCheck": True},
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
    us.create_key()
    listed = {f"kmsfs:{key['KeyId']}" for key in us.list_keys(Limit=1000)["Keys"]}
    with Keystore.open(served.home.path) as keystore:
        held = {key.label for key in keystore._service(US).hsm.list_keys()}
    assert listed < held
    for label in held - listed:
        name = label.removeprefix("kmsfs:")
        assert refused(lambda name=name: us.describe_key(KeyId=name))[0] == "NotFoundException"


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
