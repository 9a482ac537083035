"""A mount acts for a principal: what that may not do with the key fails, as soon as it may not, until it may again."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from testkit.audits import records
from testkit.home import ALIAS, REGION, Home, refused
from testkit.mounting import Mount, Mounter
from testkit.policy_cases import allow, policy, text
from testkit.reaching import eventually, opening

from kmsfs.keystore.service import Keystore

ROOT = "arn:aws:iam::000000000000:root"
ALICE = "arn:aws:iam::000000000000:user/alice"
READ, BOTH = ["kms:Decrypt"], ["kms:Decrypt", "kms:GenerateDataKey"]
OTHER = "us-east-1"
AS_ALICE = ("-o", "principal=alice")


@pytest.fixture
def let(home: Home) -> Callable[[list[str]], None]:
    """Says what alice, who is made here, may do with keys."""
    home.ok("user", "create", "alice")

    def put(actions: list[str]) -> None:
        with Keystore.open(home.path) as keystore:
            keystore.principals.put_policy("alice", text(policy(allow(actions))))

    return put


def creating(path: Path) -> str:
    """What making a file gives: ``ok`` or an errno's name."""
    try:
        path.write_bytes(b"new")
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    path.unlink()
    return "ok"


def test_a_principal_without_rights_does_not_mount(
    home: Home, mounter: Mounter, let: Callable[[list[str]], None]
) -> None:
    mount = mounter(start=False)
    mount.expect_log("is not authorized to perform|does not exist")

    def denied(*options: str) -> str:
        said = refused(home.run("mount", mount.tree, mount.path, *options), 8)
        assert not mount.is_mounted()
        return said

    assert "kms:GenerateDataKey" in denied(*AS_ALICE)
    assert "kms:Decrypt" in denied("-o", "ro,principal=alice")
    let(READ)
    assert "kms:GenerateDataKey" in denied(*AS_ALICE)
    let(["kms:GenerateDataKey"])
    assert "kms:Decrypt" in denied(*AS_ALICE)
    assert "bob" in refused(home.run("mount", mount.tree, mount.path, "-o", "principal=bob"), 3)
    for options in ("principal", "principal=", "principal=a,principal=b"):
        refused(home.run("mount", mount.tree, mount.path, "-o", options), 2)
    let(BOTH)
    mount.start(*AS_ALICE)


def test_the_keys_of_replicas_are_asked_about_as_well(
    home: Home, mounter: Mounter, let: Callable[[list[str]], None]
) -> None:
    mount = mounter(start=False)
    mount.expect_log("is not authorized to perform")
    home.ok("region", "add", OTHER)
    other = home.json("key", "create", "--region", OTHER)["Arn"]
    home.ok("replicate", mount.tree, "--to-key", other)
    let(BOTH)
    said = refused(home.run("mount", mount.tree, mount.path, *AS_ALICE), 8)
    assert "kms:Encrypt" in said
    assert other in said
    let([*BOTH, "kms:Encrypt"])
    mount.start(*AS_ALICE)
    (mount.path / "file").write_bytes(b"content")
    assert [slot["region"] for slot in home.json("info", mount.path / "file")["slots"]] == [REGION, OTHER]
    mount.unmount()
    let(READ)
    mount.start("-o", "ro,principal=alice")


def test_a_move_into_another_zone_has_its_own_permission(
    home: Home, mounter: Mounter, let: Callable[[list[str]], None]
) -> None:
    mount = mounter(start=False)
    mount.expect_log("is not authorized to perform")
    home.ok("region", "add", OTHER)
    other = home.json("key", "create", "--region", OTHER)["Arn"]
    let(BOTH)
    mount.start(*AS_ALICE)
    file, zone = mount.path / "file", mount.path / "zone"
    zone.mkdir()
    home.ok("zone", "create", zone, "--key", other)
    file.write_bytes(b"content")

    def moving() -> str:
        try:
            file.rename(zone / "file")
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "ok"

    assert moving() == "EACCES"
    assert file.read_bytes() == b"content"
    let([*BOTH, "kms:ReEncryptTo"])
    eventually(moving, "ok")
    assert [slot["key_arn"] for slot in home.json("info", zone / "file")["slots"]] == [other]


def test_reading_needs_only_to_decrypt(mounter: Mounter, let: Callable[[list[str]], None]) -> None:
    let(READ)
    mount = mounter()
    (mount.path / "file").write_bytes(b"content")
    mount.unmount()
    mount.start("-o", "ro,principal=alice")
    assert (mount.path / "file").read_bytes() == b"content"


def test_a_changed_policy_reaches_a_running_mount(mounter: Mounter, let: Callable[[list[str]], None]) -> None:
    let(BOTH)
    mount = mounter(*AS_ALICE)
    file, other = mount.path / "file", mount.path / "other"
    file.write_bytes(b"content")
    mount.expect_log("is not authorized to perform")
    let(READ)
    eventually(lambda: creating(other), "EACCES")
    assert opening(file) == "ok"
    let(["kms:GenerateDataKey"])
    eventually(lambda: opening(file), "EACCES")
    assert file.stat().st_size == len(b"content")
    let(BOTH)
    eventually(lambda: opening(file), "ok")
    eventually(lambda: creating(other), "ok")
    assert file.read_bytes() == b"content"


def test_a_key_policy_reaches_the_mount_of_the_root(home: Home, mounted: Mount, tmp_path: Path) -> None:
    home.ok("user", "create", "alice")
    file = mounted.path / "file"
    file.write_bytes(b"content")
    mounted.expect_log("is not authorized to perform")
    before, no_one = tmp_path / "before", tmp_path / "no-one"
    before.write_text(home.ok("key", "policy", "get", ALIAS))
    no_one.write_text(text(policy(allow("kms:DescribeKey", ALICE))))
    home.ok("key", "policy", "put", ALIAS, no_one, "--bypass-lockout-check")
    eventually(lambda: opening(file), "EACCES")
    home.ok("key", "policy", "put", ALIAS, before, "--as-owner")
    eventually(lambda: opening(file), "ok")


def test_a_grant_is_enough_and_the_log_names_who_opened(home: Home, mounter: Mounter) -> None:
    home.ok("user", "create", "alice")
    options = [word for name in ("Decrypt", "GenerateDataKey") for word in ("--operation", name)]
    made = home.json("grant", "create", ALIAS, "--grantee", "alice", *options)
    mount = mounter(*AS_ALICE)
    (mount.path / "file").write_bytes(b"content")
    mount.expect_log("is not authorized to perform")
    home.ok("grant", "revoke", ALIAS, made["GrantId"])
    eventually(lambda: opening(mount.path / "file"), "EACCES")
    mount.unmount()
    found = [record for record in records(home.path, REGION) if record["via"] == "mount"]
    assert {record["principal"] for record in found} == {ALICE}
    results = {(record["action"], record["result"]) for record in found}
    assert ("kmsfs:OpenFile", "AccessDeniedError") in results
    assert ("kmsfs:CreateFile", "ok") in results
