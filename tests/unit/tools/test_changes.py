"""Changes of the declared keys of an unmounted tree: rewrap, migrate, replicate, drop; with zones, damage and stops."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from testkit.posix import Posix, opened
from testkit.tool_trees import CONTENT, Notes, contents, fill, slot_keys

from kmsfs.errors import InvalidRequestError, KeyDisabledError, LimitExceededError
from kmsfs.format.layout import HEADER_COPY_SIZE
from kmsfs.format.superblock import Superblock, TreeSlot
from kmsfs.ids import KeyArn
from kmsfs.keystore.service import Keystore
from kmsfs.tools import changes
from kmsfs.tools.access import UnmountedTree
from kmsfs.tools.changes import Change
from kmsfs.tools.convergence import Result
from kmsfs.tools.runners import InProcess
from kmsfs.tree.directories import put_record
from kmsfs.tree.rekey import Rekeyer
from kmsfs.tree.superblock_file import create_tree, read_superblock

Decide = Callable[[Superblock], Change]


@pytest.fixture
async def store(keystore: Keystore, store: Path) -> Path:
    """The store of a tree that is filled and closed."""
    async with opened(keystore, store) as posix:
        await fill(posix)
    return store


def apply(keystore: Keystore, store: Path, decide: Decide, notes: Notes | None = None) -> Result:
    with UnmountedTree(keystore, store) as tree:
        runner = InProcess(Rekeyer(keystore, tree.block.tree_id))
        return changes.apply(decide(tree.block), tree, runner, notes or Notes(), progress=lambda tally: None)


def to(key_arn: KeyArn) -> Decide:
    return lambda block: changes.migrate(block, key_arn)


async def make_zone(keystore: Keystore, store: Path, path: bytes, key_arn: KeyArn) -> None:
    """Make a directory of a closed tree a zone, and a file in it that is under the zone's key."""
    async with opened(keystore, store) as posix:
        volume, inode = posix.tree.volume, posix.find(path)
        record = volume.directories.record(inode)
        changed = type(record)(record.dir_id, record.parent, zone=key_arn)
        put_record(volume.directories.fd(inode), volume.keys.seal_directory(changed))
    async with opened(keystore, store) as posix:
        await posix.put(path + b"/in-zone", b"z")


async def test_rewrap_reaches_every_slot_after_a_rotation(
    keystore: Keystore, store: Path, eu_key: KeyArn
) -> None:
    old = keystore.rotate_key(eu_key).materials[0].material_id
    notes = Notes()
    result = apply(keystore, store, changes.rewrap, notes)
    assert result.complete
    assert result.failures == []
    assert {head.material_id for plan in notes.intended for head in plan.swap.old} == {old}
    assert result.under == {eu_key: keystore.resolve(eu_key).current_material_id.hex()}
    keystore._service("eu-west-1").hsm.destroy(old)
    assert await contents(keystore, store) == CONTENT
    assert apply(keystore, store, changes.rewrap).done == 0


async def test_migrate_leaves_nothing_of_the_old_region(
    keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn
) -> None:
    zone_key = keystore.create_key(region="eu-west-1").arn
    await make_zone(keystore, store, b"d/deep", zone_key)
    assert slot_keys(store) == {(eu_key,), (zone_key,)}
    result = apply(keystore, store, to(us_key))
    assert (result.complete, result.failures) == (True, [])
    assert slot_keys(store) == {(us_key,)}
    assert read_superblock(store).key_arns == (us_key,)
    keystore.disable_key(eu_key)
    keystore.disable_key(zone_key)
    assert await contents(keystore, store) == CONTENT
    async with opened(keystore, store) as posix:
        record = posix.tree.volume.directories.record(posix.find(b"d/deep"))
        assert record.zone == us_key, "a zone stays a zone"
        await posix.put(b"d/deep/new", b"n")
        assert await posix.get(b"d/deep/in-zone") == b"z"
    assert slot_keys(store) == {(us_key,)}


async def test_a_zone_keeps_its_key_in_a_rewrap(
    keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn
) -> None:
    await make_zone(keystore, store, b"d/deep", us_key)
    apply(keystore, store, changes.rewrap)  # what was in the directory before comes under the zone's key
    assert slot_keys(store) == {(eu_key,), (us_key,)}
    async with opened(keystore, store) as posix:
        assert keys_of(posix, b"d/deep/h") == (us_key,)
        assert keys_of(posix, b"f") == (eu_key,)


def keys_of(posix: Posix, path: bytes) -> tuple[str, ...]:
    (keys,) = slot_keys(posix.backing(path))
    return keys


async def test_a_replica_opens_the_tree_alone_and_is_dropped_again(
    keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn
) -> None:
    apply(keystore, store, lambda block: changes.replicate(block, us_key))
    assert slot_keys(store) == {(eu_key, us_key)}
    keystore.disable_key(eu_key)
    assert await contents(keystore, store) == CONTENT
    keystore.enable_key(eu_key)
    apply(keystore, store, lambda block: changes.drop(block, us_key))
    assert slot_keys(store) == {(eu_key,)}
    assert read_superblock(store).key_arns == (eu_key,)


async def test_the_default_key_can_be_dropped_when_its_region_is_gone(
    keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn
) -> None:
    apply(keystore, store, lambda block: changes.replicate(block, us_key))
    keystore.disable_key(eu_key)
    result = apply(keystore, store, lambda block: changes.drop(block, eu_key))
    assert result.complete
    assert slot_keys(store) == {(us_key,)}
    assert read_superblock(store).default_key_arn == us_key


async def test_a_key_is_dropped_only_when_nothing_needs_it_and_until_then_again(
    keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn
) -> None:
    """The command was refused the second time, and a zone of the key could stay one for good."""
    apply(keystore, store, lambda block: changes.replicate(block, us_key))
    await make_zone(keystore, store, b"d/deep", eu_key)
    async with opened(keystore, store) as posix:
        damaged = posix.backing(b"d/g")
    good = damaged.read_bytes()
    damaged.write_bytes(good[:100])
    result = apply(keystore, store, lambda block: changes.drop(block, eu_key))
    assert [failure.path for failure in result.failures] == [os.fsencode(damaged.relative_to(store))]
    assert read_superblock(store).key_arns == (us_key, eu_key), "not the default any more, and not let go"
    damaged.write_bytes(good)
    result = apply(keystore, store, lambda block: changes.drop(block, eu_key))
    assert (result.complete, result.failures) == (True, [])
    assert slot_keys(store) == {(us_key,)}
    assert (read_superblock(store).key_arns, result.zone_keys) == ((us_key,), {us_key})


async def test_what_cannot_be_declared_is_refused(keystore: Keystore, store: Path, eu_key: KeyArn) -> None:
    block = read_superblock(store)
    with pytest.raises(InvalidRequestError):
        changes.drop(block, eu_key)
    with pytest.raises(InvalidRequestError):
        changes.drop(block, KeyArn(eu_key[:-1] + "x"))
    full = replace(block, slots=tuple(TreeSlot(KeyArn(f"{eu_key}{n}"), b"blob") for n in range(3)))
    with pytest.raises(LimitExceededError):
        changes.replicate(full, KeyArn(f"{eu_key}3"))


async def test_a_key_that_cannot_be_used_changes_nothing(
    keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn
) -> None:
    before = (store / "kmsfs.tree").read_bytes()
    keystore.disable_key(us_key)
    with pytest.raises(KeyDisabledError):
        apply(keystore, store, to(us_key))
    assert (store / "kmsfs.tree").read_bytes() == before
    assert slot_keys(store) == {(eu_key,)}


async def test_a_damaged_file_keeps_the_old_key_declared(
    keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn
) -> None:
    async with opened(keystore, store) as posix:
        damaged = posix.backing(b"d/g")
    good = damaged.read_bytes()
    spoiled = bytearray(good)
    for copy in (0, HEADER_COPY_SIZE):
        spoiled[copy + 100] ^= 1
    damaged.write_bytes(spoiled)
    result = apply(keystore, store, to(us_key))
    assert [failure.path for failure in result.failures] == [os.fsencode(damaged.relative_to(store))]
    assert read_superblock(store).key_arns == (us_key, eu_key)
    damaged.write_bytes(good)  # restored from a backup
    result = apply(keystore, store, to(us_key))
    assert (result.done, result.failures) == (1, [])
    assert read_superblock(store).key_arns == (us_key,)
    assert await contents(keystore, store) == CONTENT


async def test_a_migration_that_stopped_goes_on(
    keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn
) -> None:
    class StopError(Exception):
        pass

    def stop() -> None:
        raise StopError

    notes = Notes()
    notes.on_sync = stop
    with pytest.raises(StopError):
        apply(keystore, store, to(us_key), notes)
    assert await contents(keystore, store) == CONTENT
    assert read_superblock(store).key_arns == (us_key, eu_key)
    assert apply(keystore, store, to(us_key)).complete
    assert slot_keys(store) == {(us_key,)}


async def test_a_rotation_in_the_middle_is_followed(keystore: Keystore, store: Path, us_key: KeyArn) -> None:
    notes = Notes()

    def rotate() -> None:
        notes.on_sync = lambda: None
        keystore.rotate_key(us_key)

    notes.on_sync = rotate
    result = apply(keystore, store, to(us_key), notes)
    assert result.passes == 2
    current = keystore.resolve(us_key).current_material_id
    assert {head.material_id for plan in notes.intended[-5:] for head in plan.swap.new} == {current}
    assert apply(keystore, store, changes.rewrap).done == 0


async def test_a_rotation_in_the_middle_reaches_the_superblock(
    keystore: Keystore, store: Path, eu_key: KeyArn
) -> None:
    """Else the tree key would be lost with the material that the superblock was under."""
    keystore.rotate_key(eu_key)
    notes = Notes()

    def rotate() -> None:
        notes.on_sync = lambda: None
        keystore.rotate_key(eu_key)

    notes.on_sync = rotate
    result = apply(keystore, store, changes.rewrap, notes)
    key = keystore.resolve(eu_key)
    assert result.complete
    assert result.under == {eu_key: key.current_material_id.hex()}
    for material in key.materials[:-1]:
        keystore._service("eu-west-1").hsm.destroy(material.material_id)
    assert await contents(keystore, store) == CONTENT


async def test_an_empty_tree_is_known_to_be_under_its_key(
    keystore: Keystore, tmp_path: Path, eu_key: KeyArn
) -> None:
    create_tree(keystore, tmp_path / "empty", eu_key)
    material = keystore.rotate_key(eu_key).current_material_id.hex()
    assert apply(keystore, tmp_path / "empty", changes.rewrap).under == {eu_key: material}


async def test_a_zone_is_under_its_key_too(
    keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn
) -> None:
    await make_zone(keystore, store, b"d/deep", us_key)
    result = apply(keystore, store, changes.rewrap)
    assert (result.zone_keys, set(result.under)) == ({us_key}, {us_key, eu_key})
