"""Users and their policies: the same in every region, whatever is interrupted, and gone when they are deleted."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kmsfs.errors import (
    InvalidRequestError,
    LimitExceededError,
    MalformedPolicyError,
    PinIncorrectError,
    PrincipalNotFoundError,
    RegionNotFoundError,
)
from kmsfs.ids import Region
from kmsfs.keystore.ledger import Changes
from kmsfs.keystore.principals import MAX_POLICIES
from kmsfs.keystore.service import Keystore

US, EU = Region("us-east-1"), Region("eu-west-1")
MAY_DECRYPT = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "*"},
    }
)
MAY_NOTHING = MAY_DECRYPT.replace("Allow", "Deny")


def test_a_user_is_the_same_in_every_region(keystore: Keystore, ks_home: Path) -> None:
    made = keystore.principals.create("alice")
    assert made.arn == "arn:aws:iam::000000000000:user/alice"
    assert made.user_id.startswith("AIDA")
    assert keystore.principals.create("alice") == made
    with Keystore.open(ks_home) as other:
        assert [other._service(region).snapshot.users["alice"] for region in (US, EU)] == [made, made]
        assert [user.to_aws()["UserName"] for user in other.principals.list()] == ["alice"]


def test_a_user_that_one_region_lacks_is_completed(keystore: Keystore) -> None:
    made = keystore.principals.create("alice")
    keystore._service(US).ledger.commit(lambda _: Changes(deletes=[("users", "alice")]))
    assert keystore.principals.list() == [made]
    assert keystore.principals.create("alice") == made
    assert keystore._service(US).snapshot.users["alice"] == made


@pytest.mark.parametrize("name", ["root", "", "a/b", "x" * 65, "a b", "é", "a,b"])
def test_names_that_no_user_can_have(keystore: Keystore, name: str) -> None:
    with pytest.raises(InvalidRequestError):
        keystore.principals.create(name)


def test_policies_of_a_user(keystore: Keystore, ks_home: Path) -> None:
    keystore.principals.create("alice")
    keystore.principals.put_policy("alice", MAY_DECRYPT)
    keystore.principals.put_policy("alice", MAY_DECRYPT, policy="second")
    with Keystore.open(ks_home) as other:
        assert other.principals.policies("alice") == {"default": MAY_DECRYPT, "second": MAY_DECRYPT}
        for region in (US, EU):
            assert set(other._service(region).snapshot.identity_policies["alice"]) == {"default", "second"}
        other.principals.delete_policy("alice", policy="second")
        assert set(other.principals.policies("alice")) == {"default"}
        with pytest.raises(PrincipalNotFoundError, match="no policy second"):
            other.principals.delete_policy("alice", policy="second")


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (MalformedPolicyError, lambda users: users.put_policy("alice", "{}")),
        (InvalidRequestError, lambda users: users.put_policy("alice", MAY_DECRYPT, policy="a/b")),
        (InvalidRequestError, lambda users: users.put_policy("root", MAY_DECRYPT)),
        (PrincipalNotFoundError, lambda users: users.put_policy("bob", MAY_DECRYPT)),
        (PrincipalNotFoundError, lambda users: users.policies("bob")),
        (PrincipalNotFoundError, lambda users: users.delete("bob")),
    ],
)
def test_what_is_refused(keystore: Keystore, error: type[Exception], call: Callable[..., object]) -> None:
    keystore.principals.create("alice")
    with pytest.raises(error):
        call(keystore.principals)
    assert keystore.principals.policies("alice") == {}


def test_a_user_has_so_many_policies_and_no_more(keystore: Keystore) -> None:
    keystore.principals.create("alice")
    for number in range(MAX_POLICIES):
        keystore.principals.put_policy("alice", MAY_DECRYPT, policy=f"p{number}")
    with pytest.raises(LimitExceededError):
        keystore.principals.put_policy("alice", MAY_DECRYPT, policy="one-more")
    keystore.principals.put_policy("alice", MAY_DECRYPT, policy="p0")


def test_a_deleted_user_leaves_nothing(keystore: Keystore) -> None:
    for name in ("alice", "bob"):
        keystore.principals.create(name)
        keystore.principals.put_policy(name, MAY_DECRYPT)
        keystore.credentials.create(name)
    keystore.principals.delete("alice")
    for region in (US, EU):
        snapshot = keystore._service(region).snapshot
        assert set(snapshot.users) == set(snapshot.identity_policies) == {"bob"}
        assert {entry.principal for entry in snapshot.credentials.values()} == {"bob"}


def test_a_new_region_has_users_policies_and_access_keys(keystore: Keystore) -> None:
    made = keystore.principals.create("alice")
    keystore.principals.put_policy("alice", MAY_DECRYPT)
    key = keystore.credentials.create("alice")
    keystore.add_region("ap-south-1")
    snapshot = keystore._service("ap-south-1").snapshot
    assert dict(snapshot.users) == {"alice": made}
    assert snapshot.identity_policies["alice"] == {"default": MAY_DECRYPT}
    assert keystore.credentials.secrets()[key.access_key_id, "ap-south-1"] == key.secret.encode()


def test_a_region_that_cannot_get_them_is_not_added(keystore: Keystore, ks_home: Path) -> None:
    """Else what a policy denies in the other regions would be asked of no policy there."""
    key = keystore.credentials.create()
    keystore.close()
    pin_file = ks_home / f"regions/{EU}.pin"
    pin = pin_file.read_text()
    pin_file.write_text("wrong")
    with Keystore.open(ks_home) as other, pytest.raises(PinIncorrectError):
        other.add_region("ap-south-1")
    pin_file.write_text(pin)
    with Keystore.open(ks_home) as other:
        assert "ap-south-1" not in [region.region for region in other.regions()]
        other.add_region("ap-south-1")
        assert other.credentials.secrets()[key.access_key_id, "ap-south-1"] == key.secret.encode()


def test_without_a_region_there_are_no_users(tmp_path: Path) -> None:
    with Keystore.open(tmp_path) as keystore:
        assert keystore.principals.list() == []
        with pytest.raises(RegionNotFoundError):
            keystore.principals.create("alice")
        with pytest.raises(RegionNotFoundError):
            keystore.credentials.create()


def test_an_access_key_that_is_not_there_cannot_be_deleted(keystore: Keystore) -> None:
    with pytest.raises(PrincipalNotFoundError, match="AKIANOTHING"):
        keystore.credentials.delete("AKIANOTHING")


def test_what_is_done_with_users_is_recorded(keystore: Keystore) -> None:
    keystore.principals.create("alice")
    keystore.principals.put_policy("alice", MAY_DECRYPT)
    made = keystore.credentials.create("alice")
    keystore.credentials.delete(made.access_key_id)
    keystore.principals.delete_policy("alice")
    keystore.principals.delete("alice")
    for region in (US, EU):
        records = [record for record in keystore.audits.read(region) if record["action"].startswith("iam:")]
        assert [record["action"].removeprefix("iam:") for record in records] == [
            "CreateUser", "PutUserPolicy", "CreateAccessKey", "DeleteAccessKey", "DeleteUserPolicy", "DeleteUser"
        ]  # fmt: skip
        assert {record["result"] for record in records} == {"ok"}
        assert made.secret not in str(records)


def test_whether_a_user_exists_is_asked_of_every_region(keystore: Keystore, ks_home: Path) -> None:
    keystore.principals.create("alice")
    keystore.close()  # a token is logged in once for a whole process
    (ks_home / f"regions/{EU}.pin").write_text("wrong")
    with Keystore.open(ks_home) as other:
        for name in ("alice", "root"):
            other.principals.require(name)
        with pytest.raises(PinIncorrectError):  # that region may know him
            other.principals.require("bob")


def test_an_access_key_is_that_of_a_user_who_is_there(keystore: Keystore) -> None:
    """Otherwise one that was made while its user was deleted would be a new user's of that name."""
    with pytest.raises(PrincipalNotFoundError):
        keystore.credentials.create("ghost")
    assert keystore.credentials.list() == []


def test_a_policy_is_not_left_for_a_user_who_was_deleted_meanwhile(
    keystore: Keystore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keystore.principals.create("alice")
    required = keystore.principals.require

    def deleted_then(name: str) -> None:
        required(name)
        monkeypatch.undo()
        keystore.principals.delete(name)

    monkeypatch.setattr(keystore.principals, "require", deleted_then)
    with pytest.raises(PrincipalNotFoundError):
        keystore.principals.put_policy("alice", MAY_DECRYPT)
    assert not keystore._service(US).snapshot.identity_policies


TAKEN_AWAY: dict[str, Callable[[Keystore, str], object]] = {
    "access key": lambda keystore, key: keystore.credentials.delete(key),
    "policy": lambda keystore, _: keystore.principals.delete_policy("alice"),
    "user": lambda keystore, _: keystore.principals.delete("alice"),
    "wider policy": lambda keystore, _: keystore.principals.put_policy("alice", MAY_NOTHING),
}


@pytest.mark.parametrize("what", TAKEN_AWAY)
def test_a_right_is_taken_away_though_one_region_cannot_be_asked(
    keystore: Keystore, ks_home: Path, what: str
) -> None:
    keystore.principals.create("alice")
    keystore.principals.put_policy("alice", MAY_DECRYPT)
    made = keystore.credentials.create("alice").access_key_id
    keystore.close()
    pin_file = ks_home / f"regions/{EU}.pin"
    pin = pin_file.read_text()
    pin_file.write_text("wrong")
    with Keystore.open(ks_home) as other:
        with pytest.raises(PinIncorrectError):
            TAKEN_AWAY[what](other, made)
        snapshot = other._service(US).ledger.reload()
        assert {
            "access key": made not in snapshot.credentials,
            "policy": "alice" not in snapshot.identity_policies,
            "user": not snapshot.users and not snapshot.credentials,
            "wider policy": snapshot.identity_policies.get("alice") == {"default": MAY_NOTHING},
        }[what]
    pin_file.write_text(pin)
    with Keystore.open(ks_home) as other:  # the other region is reached by repeating it
        TAKEN_AWAY[what](other, made)
        assert all(finding.ok for finding in other.check())
