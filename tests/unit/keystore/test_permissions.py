"""Who may use a key, end to end: the root like everybody, the file system's own key, and the owner of the token."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from testkit.audits import results
from testkit.policy_cases import allow, deny, policy

from kmsfs.errors import (
    AccessDeniedError,
    GrantNotFoundError,
    InvalidGrantTokenError,
    KeyDisabledError,
    KeyNotFoundError,
    MalformedPolicyError,
)
from kmsfs.ids import TreeId
from kmsfs.keystore.access import NewGrant
from kmsfs.keystore.authorize import Caller
from kmsfs.keystore.data_key_cache import DataKeyCache
from kmsfs.keystore.pool import DataKeyPool
from kmsfs.keystore.service import Keystore

US, EU = "us-east-1", "eu-west-1"
MAIN = "alias/main"
ACCOUNT = "000000000000"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
ALICE = f"arn:aws:iam::{ACCOUNT}:user/alice"
TREE = TreeId(b"t" * 16)
NO_ONE = json.dumps(policy(allow("kms:DescribeKey", ALICE)))
MAY_USE = json.dumps(policy(allow(["kms:Decrypt", "kms:GenerateDataKey"])))
MAY_READ = json.dumps(policy(allow("kms:Decrypt")))


@pytest.fixture
def mount(ks_home: Path, keystore: Keystore) -> Iterator[Keystore]:
    """What a mount with ``principal=alice`` works with."""
    keystore.principals.create("alice")
    with Keystore.open(ks_home, via="mount", principal="alice") as opened:
        yield opened


def test_a_key_whose_policy_trusts_no_one_is_used_by_no_one(keystore: Keystore) -> None:
    keystore.principals.create("alice")
    blob = keystore.encrypt(MAIN, b"x", {}, region=US).blob
    other = keystore.create_key(US, alias="alias/other").arn
    keystore.put_key_policy(MAIN, NO_ONE, bypass_lockout_check=True, region=US)
    assert keystore.key_policy(MAIN, region=US) == NO_ONE
    for use in (
        lambda: keystore.encrypt(MAIN, b"x", {}, region=US),
        lambda: keystore.generate_data_key(MAIN, {}, region=US),
        lambda: keystore.generate_data_keys(keystore.resolve(MAIN, region=US).arn, [{}]),
        lambda: keystore.decrypt(blob, {}, region=US),
        lambda: keystore.unwrap(blob, {}, ref=keystore.resolve(MAIN, region=US).arn),
        lambda: keystore.disable_key(MAIN, region=US),
        lambda: keystore.tag_key(MAIN, [("a", "b")], region=US),
        lambda: keystore.create_alias("alias/third", MAIN, region=US),
        lambda: keystore.delete_alias(MAIN, region=US),
        lambda: keystore.update_alias(MAIN, other, region=US),
        lambda: keystore.update_alias("alias/other", MAIN, region=US),
        lambda: keystore.create_grant(MAIN, NewGrant(ALICE, frozenset({"Decrypt"})), region=US),
        lambda: keystore.put_key_policy(MAIN, NO_ONE, bypass_lockout_check=True, region=US),
    ):
        with pytest.raises(AccessDeniedError, match="not authorized to perform: kms:"):
            use()
    assert results(keystore.home, "Encrypt", US) == [(ROOT, "ok"), (ROOT, "AccessDeniedError")]
    assert (ROOT, "AccessDeniedError") in results(keystore.home, "Decrypt", US)


def test_the_command_line_puts_the_policy_of_that_name(keystore: Keystore) -> None:
    named = {"StringEquals": {"kms:PolicyName": "default"}}
    only_that = json.dumps(policy(allow("kms:PutKeyPolicy", ROOT, Condition=named)))
    keystore.put_key_policy(MAIN, only_that, region=US)
    keystore.put_key_policy(MAIN, only_that, region=US)
    never = deny("kms:PutKeyPolicy", "*", Condition=named)
    denies = json.dumps(policy(allow("kms:*", ROOT), never))
    keystore.put_key_policy(MAIN, denies, bypass_lockout_check=True, region=US)
    with pytest.raises(AccessDeniedError, match="PutKeyPolicy"):
        keystore.put_key_policy(MAIN, only_that, region=US)


def test_the_owner_of_the_token_recovers_a_key(keystore: Keystore) -> None:
    keystore.principals.create("alice")
    default = keystore.key_policy(MAIN, region=US)
    keystore.put_key_policy(MAIN, NO_ONE, bypass_lockout_check=True, region=US)
    with pytest.raises(AccessDeniedError):
        keystore.put_key_policy(MAIN, default, region=US)
    keystore.put_key_policy(MAIN, default, as_owner=True, region=US)
    keystore.encrypt(MAIN, b"x", {}, region=US)
    assert results(keystore.home, "kmsfs:RecoverKeyPolicy", US) == [(ROOT, "ok")]


def test_a_policy_that_locks_its_author_out_is_refused(keystore: Keystore) -> None:
    keystore.principals.create("alice")
    only_alice = json.dumps(policy(allow(principal=ALICE)))
    with pytest.raises(MalformedPolicyError, match="will not allow you"):
        keystore.put_key_policy(MAIN, only_alice, region=US)
    with pytest.raises(MalformedPolicyError, match="will not allow you"):
        keystore.put_key_policy(MAIN, only_alice, as_owner=True, region=US)
    keystore.put_key_policy(MAIN, only_alice, caller=Caller("alice"), region=US)
    assert keystore.key_policy(MAIN, region=US) == only_alice


def test_a_server_is_not_asked_for_its_own_rights(keystore: Keystore, ks_home: Path) -> None:
    keystore.principals.create("alice")
    keystore.put_key_policy(MAIN, NO_ONE, bypass_lockout_check=True, region=US)
    with Keystore.open(ks_home, via="server") as server:
        blob = server.encrypt(MAIN, b"x", {}, region=US).blob
        assert server.decrypt(blob, {}, region=US).plaintext == b"x"
        server.check_usable(server.resolve(MAIN, region=US).arn)


# --- mounts -------------------------------------------------------------------------------------
def test_a_mounting_principal_needs_both_rights(keystore: Keystore, mount: Keystore) -> None:
    arn = mount.resolve(MAIN, region=US).arn
    pool, cache = DataKeyPool(mount, arn, TREE), DataKeyCache(mount)
    blob = keystore.generate_data_key(arn, {"a": "b"}).blob

    def read() -> None:
        mount.check_usable(arn)
        cache.unwrap(blob, {"a": "b"}, arn)

    for call in (pool.take, lambda: pool.fill(1), read):
        with pytest.raises(AccessDeniedError):
            call()
    keystore.principals.put_policy("alice", MAY_READ)
    mount.refresh()
    read()
    with pytest.raises(AccessDeniedError, match="kms:GenerateDataKey"):
        pool.take()
    keystore.principals.put_policy("alice", MAY_USE)
    mount.refresh()
    pool.fill(3)
    pool.take()
    assert len(pool) == 2
    keystore.principals.delete_policy("alice")
    mount.refresh()
    for call in (pool.take, read):
        with pytest.raises(AccessDeniedError):
            call()
    assert len(pool) == 0
    assert (ALICE, "ok") in results(mount.home, "GenerateDataKey", US)


def test_permission_comes_before_the_state(keystore: Keystore, mount: Keystore) -> None:
    arn = keystore.disable_key(MAIN, region=US).arn
    with pytest.raises(AccessDeniedError):
        mount.check_usable(arn)
    keystore.principals.put_policy("alice", MAY_READ)
    mount.refresh()
    with pytest.raises(KeyDisabledError):
        mount.check_usable(arn)


def test_a_policy_that_asks_for_the_tree(keystore: Keystore, mount: Keystore) -> None:
    arn = mount.resolve(MAIN, region=US).arn
    of_tree = {"StringEquals": {"kms:EncryptionContext:kmsfs:tree-id": TREE.hex()}}
    document = json.dumps(policy(allow(["kms:Decrypt", "kms:GenerateDataKey"], Condition=of_tree)))
    keystore.principals.put_policy("alice", document)
    mount.refresh()
    DataKeyPool(mount, arn, TREE).take()
    with pytest.raises(AccessDeniedError):
        DataKeyPool(mount, arn, TreeId(bytes(16))).take()


def test_the_managed_key_is_for_the_file_system(keystore: Keystore, mount: Keystore) -> None:
    arn = keystore.managed_key(US).arn
    mount.require_permission(arn, "GenerateDataKey")
    blob = mount.generate_data_key(arn, {}).blob
    with pytest.raises(AccessDeniedError):
        keystore.decrypt(blob, {})
    with pytest.raises(AccessDeniedError):
        keystore.require_permission(arn, "GenerateDataKey")
    assert mount.decrypt(blob, {}).plaintext


# --- grants -------------------------------------------------------------------------------------
def test_the_life_of_a_grant(keystore: Keystore, mount: Keystore) -> None:
    arn = keystore.resolve(MAIN, region=US).arn
    wanted = NewGrant(ALICE, frozenset({"Decrypt", "RetireGrant"}), retiring_principal=ROOT)
    entry, token = keystore.create_grant(arn, wanted)
    grant_id = entry.grant.grant_id
    mount.refresh()
    mount.check_usable(arn)
    assert keystore.grants(MAIN, region=US) == keystore.retirable_grants(US, ROOT) == [entry]
    assert keystore.retirable_grants(US, ALICE) == keystore.retirable_grants(EU, ROOT) == []
    assert keystore.grant_of_token(US, token) == keystore.grant(arn, grant_id) == entry
    mount.retire_grant(entry)
    with pytest.raises(AccessDeniedError):
        mount.check_usable(arn)
    keystore.refresh()
    with pytest.raises(InvalidGrantTokenError):
        keystore.grant_of_token(US, token)
    with pytest.raises(GrantNotFoundError):
        keystore.revoke_grant(arn, grant_id)


def test_grants_are_retired_by_those_who_may(keystore: Keystore, mount: Keystore) -> None:
    entry, _ = keystore.create_grant(MAIN, NewGrant(ALICE, frozenset({"Decrypt"})), region=US)
    mount.refresh()
    with pytest.raises(AccessDeniedError, match="kms:RetireGrant"):
        mount.retire_grant(entry)
    assert results(mount.home, "RetireGrant", US) == [(ALICE, "AccessDeniedError")]
    keystore.retire_grant(entry)
    again, _ = keystore.create_grant(MAIN, NewGrant(ALICE, frozenset({"Decrypt"})), region=US)
    keystore.revoke_grant(MAIN, again.grant.grant_id, region=US)
    assert keystore.grants(MAIN, region=US) == []


def test_an_account_that_retires_grants_delegates_it(keystore: Keystore, mount: Keystore) -> None:
    wanted = NewGrant(ALICE, frozenset({"Decrypt"}), retiring_principal=ROOT)
    entry, _ = keystore.create_grant(MAIN, wanted, region=US)
    mount.refresh()
    with pytest.raises(AccessDeniedError, match="kms:RetireGrant"):
        mount.retire_grant(entry)
    allow = {"Effect": "Allow", "Action": "kms:RetireGrant", "Resource": "*"}
    keystore.principals.put_policy("alice", json.dumps({"Statement": allow}))
    mount.refresh()
    mount.retire_grant(entry)
    assert keystore.grants(MAIN, region=US) == []


def test_a_key_that_is_not_there_is_not_judged(keystore: Keystore) -> None:
    missing = f"arn:aws:kms:{US}:{ACCOUNT}:key/00000000-0000-0000-0000-000000000000"
    keystore.require_permission(missing, "Decrypt")  # type: ignore[arg-type]
    with pytest.raises(KeyNotFoundError):
        keystore.check_usable(missing)
