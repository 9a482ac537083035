"""Who holds a tree, and which keys it is under."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from testkit.trees import declare

from kmsfs.errors import (
    IntegrityError,
    InvalidRequestError,
    KeyDisabledError,
    LimitExceededError,
    TreeBusyError,
)
from kmsfs.format.superblock import Superblock
from kmsfs.ids import KeyArn
from kmsfs.keystore.model import RotationType
from kmsfs.keystore.service import Keystore
from kmsfs.tree.superblock_file import (
    lock_work,
    open_root,
    open_tree_keys,
    read_superblock,
)

Declare = Callable[..., Superblock]


def test_one_tool_at_a_time_changes_the_keys_of_a_tree(store: Path) -> None:
    root_fd = open_root(store)
    work = lock_work(root_fd, store)
    with pytest.raises(TreeBusyError, match=f"{store}.*kmsfs.work"):
        lock_work(root_fd, store)
    os.close(work)
    os.close(lock_work(root_fd, store))
    assert (store / "kmsfs.work").stat().st_mode & 0o777 == 0o600
    os.close(root_fd)


def test_the_owner_of_a_tree_can_work_after_root_has(store: Path) -> None:
    os.chown(store, 65534, 65534)
    root_fd = open_root(store)
    os.close(lock_work(root_fd, store))
    os.close(root_fd)
    status = (store / "kmsfs.work").stat()
    assert (status.st_uid, status.st_gid) == (65534, 65534)


# --- the keys of a tree -------------------------------------------------------------------------------
@pytest.fixture
def declared(keystore: Keystore, store: Path) -> Declare:
    """Declare the keys of the tree and read back what that made of the superblock."""

    def declared(*key_arns: KeyArn, renew: bool = False) -> Superblock:
        block = declare(keystore, store, *key_arns, renew=renew)
        assert read_superblock(store) == block
        return block

    return declared


def arns(block: Superblock) -> list[KeyArn]:
    return [slot.key_arn for slot in block.slots]


def test_a_tree_gets_and_loses_keys(
    declared: Declare, keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn
) -> None:
    first = read_superblock(store)
    both = declared(eu_key, us_key)
    assert (arns(both), both.default_key_arn) == ([eu_key, us_key], eu_key)
    assert both.slots[0] == first.slots[0], "a slot that is there is kept"
    turned = declared(us_key, eu_key)
    assert (turned.slots, turned.default_key_arn) == (both.slots[::-1], us_key)
    moved = declared(us_key)
    assert (moved.slots, moved.default_key_arn) == (turned.slots[:1], us_key)
    keystore.disable_key(eu_key)
    keys, slot = open_tree_keys(keystore, moved, store)
    keys.verify_superblock(moved)
    assert slot == moved.slots[0]
    assert moved.tree_id == first.tree_id
    assert moved.chunk_size == first.chunk_size


def test_declaring_what_is_declared_writes_nothing(declared: Declare, store: Path, eu_key: KeyArn) -> None:
    before = (store / "kmsfs.tree").stat()
    declared(eu_key)
    declared(eu_key, renew=True)
    after = (store / "kmsfs.tree").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("region", ["eu-west-1", "us-east-1"])
def test_slots_are_renewed_after_a_rotation(
    declared: Declare, keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn, region: str
) -> None:
    before = declared(eu_key, us_key)
    rotated = eu_key if region == "eu-west-1" else us_key
    keystore._service(region).lifecycle.rotate(keystore.resolve(rotated), RotationType.ON_DEMAND)
    assert declared(eu_key, us_key) == before, "only if asked"
    after = declared(eu_key, us_key, renew=True)
    renewed = [new.key_arn for old, new in zip(before.slots, after.slots, strict=True) if old != new]
    assert renewed == [rotated]
    for slot in after.slots:
        context = {"kmsfs:tree-id": after.tree_id.hex(), "kmsfs:purpose": "tree-key"}
        opened = keystore.decrypt(slot.blob, context, ref=slot.key_arn)
        assert opened.material_id == keystore.resolve(slot.key_arn).current_material_id


def test_a_key_can_be_dropped_that_does_not_answer(
    declared: Declare, keystore: Keystore, eu_key: KeyArn, us_key: KeyArn
) -> None:
    declared(eu_key, us_key)
    keystore.disable_key(eu_key)
    assert arns(declared(us_key)) == [us_key]


def test_a_key_that_cannot_wrap_changes_nothing(
    declared: Declare, keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn
) -> None:
    before = (store / "kmsfs.tree").read_bytes()
    keystore.disable_key(us_key)
    with pytest.raises(KeyDisabledError):
        declared(eu_key, us_key)
    with pytest.raises(InvalidRequestError):
        declared()
    with pytest.raises(InvalidRequestError):
        declared(eu_key, eu_key)
    with pytest.raises(LimitExceededError):
        declared(*(KeyArn(f"{eu_key}{n}") for n in range(9)))
    assert (store / "kmsfs.tree").read_bytes() == before
    assert [path.name for path in store.iterdir() if path.name.startswith("kmsfs.tmp.")] == []


def test_an_edited_superblock_is_not_signed_anew(declared: Declare, store: Path, eu_key: KeyArn) -> None:
    path = store / "kmsfs.tree"
    path.write_bytes(path.read_bytes().replace(b'"chunk_size":4096', b'"chunk_size":65536'))
    with pytest.raises(IntegrityError):
        declared(eu_key)
