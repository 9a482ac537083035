"""A tool changes the keys of an open tree: what is made from then on is under them."""

import json
import os
from pathlib import Path

import pytest
import trio
import trio.testing
from testkit.posix import Posix, opened
from testkit.trees import declare

from kmsfs.errors import FormatError, IntegrityError, KeyDisabledError, NotATreeError
from kmsfs.format.blob import parse_blob_head
from kmsfs.ids import KeyArn
from kmsfs.keystore.pool import ReadyKey
from kmsfs.keystore.service import Keystore
from kmsfs.tree import tree as tree_module
from kmsfs.tree.superblock_file import create_tree


def slots(posix: Posix, path: bytes) -> list[KeyArn]:
    return [parse_blob_head(blob).key_arn for blob in posix.copies(path)[0].slots]


async def test_new_files_are_under_the_keys_of_the_superblock(
    posix: Posix, keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn
) -> None:
    for at, wanted in enumerate([(eu_key, us_key), (us_key, eu_key), (us_key,)]):
        declare(keystore, store, *wanted)
        await posix.tree.reload()
        await posix.put(b"%d" % at, b"x")
        assert slots(posix, b"%d" % at) == list(wanted)
        assert posix.tree.about()["key_arn"] == wanted[0]


async def test_a_key_that_the_tree_has_no_more_does_not_serve(
    posix: Posix, keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn
) -> None:
    """Also before the next file is opened."""
    for wanted, serving in [((eu_key, us_key), eu_key), ((us_key, eu_key), eu_key), ((us_key,), us_key)]:
        declare(keystore, store, *wanted)
        await posix.tree.reload()
        about = posix.tree.about()
        assert (about["serving_key_arn"], about["serving_region"]) == (serving, serving.split(":")[3])


async def test_pools_that_are_not_wanted_any_more_are_dropped(
    posix: Posix, keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn
) -> None:
    posix.pool().fill(20)
    assert posix.tree.file_keys.ready_count == 20
    declare(keystore, store, us_key)
    await posix.tree.reload()
    assert posix.tree.file_keys.ready_count == 0
    posix.pool().fill(3)
    await posix.tree.reload()
    assert posix.tree.file_keys.ready_count == 3, "the same superblock again"


async def test_a_file_that_waits_for_its_first_write_gets_another_key(
    posix: Posix, keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn
) -> None:
    """Else its content would be lost with the key that the tree is taken from."""
    handle = await posix.create(b"f")
    declare(keystore, store, us_key)
    await posix.tree.reload()
    keystore.disable_key(eu_key)
    posix.write(handle, 0, b"abc")
    posix.close(handle)
    assert slots(posix, b"f") == [us_key]
    await posix.reopen()
    assert await posix.get(b"f") == b"abc"


async def test_a_reload_that_cannot_make_data_keys_is_repeated(
    posix: Posix, keystore: Keystore, store: Path, us_key: KeyArn
) -> None:
    handle = await posix.create(b"f")
    declare(keystore, store, us_key)
    keystore.disable_key(us_key)
    with pytest.raises(KeyDisabledError):
        await posix.tree.reload()
    keystore.enable_key(us_key)
    await posix.tree.reload()
    posix.write(handle, 0, b"abc")
    posix.close(handle)
    assert slots(posix, b"f") == [us_key]


async def test_a_creation_under_way_ends_under_the_new_keys(
    posix: Posix, keystore: Keystore, store: Path, us_key: KeyArn, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace, go = posix.tree.namespace, trio.Event()
    real = namespace._announce

    async def held(*arguments: object) -> bytes:
        await go.wait()
        return await real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(namespace, "_announce", held)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(posix.put, b"f", b"abc")
        await trio.testing.wait_all_tasks_blocked()
        declare(keystore, store, us_key)
        await posix.tree.reload()
        go.set()
    assert slots(posix, b"f") == [us_key]


async def test_what_is_made_from_then_on_is_under_current_material(
    posix: Posix, keystore: Keystore, eu_key: KeyArn
) -> None:
    """Though another process has rotated the key, and a creation and an open file were under way."""
    opened = await posix.create(b"opened")
    posix.pool().fill(3)
    with Keystore.open(keystore.home) as other:
        current = other.rotate_key(eu_key).current_material_id
    await posix.tree.follow()
    posix.write(opened, 0, b"abc")
    posix.close(opened)
    await posix.put(b"new", b"abc")
    assert {materials(posix, path) for path in (b"opened", b"new")} == {(current,)}


async def test_a_creation_under_way_ends_under_current_material(
    posix: Posix, keystore: Keystore, eu_key: KeyArn, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace, go = posix.tree.namespace, trio.Event()
    real = namespace._announce

    async def held(*arguments: object) -> bytes:
        await go.wait()
        return await real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(namespace, "_announce", held)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(posix.put, b"f", b"abc")
        await trio.testing.wait_all_tasks_blocked()
        current = keystore.rotate_key(eu_key).current_material_id
        await posix.tree.follow()
        go.set()
    assert materials(posix, b"f") == (current,)


async def test_a_data_key_under_way_to_an_open_file_is_under_current_material(
    posix: Posix, keystore: Keystore, eu_key: KeyArn, monkeypatch: pytest.MonkeyPatch
) -> None:
    await posix.put(b"f", b"")
    file_keys, go = posix.tree.file_keys, trio.Event()
    real = file_keys.take

    async def held(*arguments: object) -> ReadyKey:
        ready = await real(*arguments)  # type: ignore[arg-type]
        await go.wait()
        return ready

    async def write() -> None:
        handle = await posix.open(b"f")
        posix.write(handle, 0, b"abc")
        posix.close(handle)

    monkeypatch.setattr(file_keys, "take", held)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        current = keystore.rotate_key(eu_key).current_material_id
        await posix.tree.follow()
        go.set()
    assert materials(posix, b"f") == (current,)


async def test_a_tree_that_a_tool_held_until_a_moment_ago_is_opened_as_it_left_it(
    keystore: Keystore, store: Path, us_key: KeyArn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what is created would be under the keys that the tool has just freed."""
    real = tree_module.lock_tree

    def late(root_fd: int, path: Path, *, shared: bool) -> int:
        declare(keystore, store, us_key)
        return real(root_fd, path, shared=shared)

    monkeypatch.setattr(tree_module, "lock_tree", late)
    async with opened(keystore, store) as posix:
        await posix.put(b"f", b"abc")
        assert slots(posix, b"f") == [us_key]


def materials(posix: Posix, path: bytes) -> tuple[bytes, ...]:
    return tuple(parse_blob_head(blob).material_id for blob in posix.copies(path)[0].slots)


@pytest.mark.parametrize("what", ["edited", "another tree's", "another chunk size", "not JSON", "gone"])
async def test_a_superblock_that_is_not_the_trees_is_refused(
    posix: Posix, keystore: Keystore, store: Path, tmp_path: Path, eu_key: KeyArn, us_key: KeyArn, what: str
) -> None:
    before = posix.tree.volume.block
    path = store / "kmsfs.tree"
    raw = path.read_bytes()
    if what == "edited":
        members = json.loads(raw)
        members["default_key_arn"] = us_key
        path.write_bytes(json.dumps(members, sort_keys=True, separators=(",", ":")).encode())
    elif what == "another tree's":
        create_tree(keystore, tmp_path / "other", us_key)
        path.write_bytes((tmp_path / "other" / "kmsfs.tree").read_bytes())
    elif what == "another chunk size":
        sealed = posix.tree.volume.keys.seal_superblock(
            type(before)(before.tree_id, 65536, us_key, before.slots)
        )
        path.write_bytes(sealed.pack())
    elif what == "not JSON":
        path.write_bytes(b"superblock")
    else:
        os.unlink(path)
    with pytest.raises((IntegrityError, FormatError, NotATreeError)) as caught:
        await posix.tree.reload()
    assert str(store) in str(caught.value)
    assert posix.tree.volume.block is before
    await posix.put(b"f", b"abc")
    assert slots(posix, b"f") == [eu_key]
    path.write_bytes(raw)
