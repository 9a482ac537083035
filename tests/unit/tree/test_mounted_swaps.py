"""Headers that a tool has computed, put in place while the tree is in use."""

import errno
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import trio
from testkit.posix import Posix

from kmsfs.errors import FormatError, IntegrityError
from kmsfs.format.blob import parse_blob_head
from kmsfs.format.layout import HEADER_SIZE
from kmsfs.ids import KeyArn
from kmsfs.keystore.service import Keystore
from kmsfs.storage import backing
from kmsfs.tree import crossings
from kmsfs.tree.mounted_swaps import MountedSwap, put_swaps
from kmsfs.tree.open_file import OpenFile
from kmsfs.tree.rekey import Rekeyer


def order(posix: Posix, path: bytes, *wanted: KeyArn) -> MountedSwap:
    """What a tool orders for a file as it stands on the store."""
    stored = posix.backing(path)
    with stored.open("rb") as file:
        raw = file.read(HEADER_SIZE)
    rekeyer = Rekeyer(posix.keystore, posix.tree.volume.block.tree_id)
    swap = rekeyer.swap(raw, rekeyer.targets(wanted))
    assert swap is not None
    entries = [os.fsencode(part) for part in stored.relative_to(posix.path).parts]
    return MountedSwap.of(entries, stored.stat().st_ino, raw, swap.newest_copy, swap.sealed)


async def put(posix: Posix, *orders: MountedSwap, touch: bool = False) -> list[object]:
    return list(await put_swaps(posix.tree, orders, touch=touch))


async def _closed(posix: Posix) -> None:
    await posix.reopen()


async def _idle(posix: Posix) -> None:
    await posix.seal()


async def _unsealed(posix: Posix) -> None:
    pass


async def _open(posix: Posix) -> None:
    await posix.open(b"d/f")


STATES = [_closed, _idle, _unsealed, _open]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("touch", [False, True])
async def test_both_copies_get_the_new_slots(
    posix: Posix, us_key: KeyArn, state: Callable[[Posix], Awaitable[None]], touch: bool
) -> None:
    await posix.mkdir(b"d")
    await posix.put(b"d/f", b"abc" * 3000)
    await posix.put(b"g", b"abc")
    posix.utime(b"d/f", 1, 2)
    await state(posix)
    orders = [order(posix, b"d/f", us_key), order(posix, b"g", us_key)]
    assert await put(posix, *orders, touch=touch) == ["done", "done"]
    assert posix.slot_keys(b"d/f") == posix.slot_keys(b"g") == [us_key]
    assert posix.stat(b"d/f").st_mtime_ns == (1_000_000_002 if touch else 2)
    await posix.put(b"d/f", b"x", 1)
    assert await posix.get(b"d/f") == b"axc" + b"abc" * 2999
    await posix.reopen()
    assert await posix.get(b"d/f") == b"axc" + b"abc" * 2999
    assert posix.slot_keys(b"d/f") == [us_key]


async def test_what_is_not_as_the_tool_has_read_it_is_left_alone(posix: Posix, us_key: KeyArn) -> None:
    for name in (b"changed", b"open", b"removed", b"moved", b"replaced", b"directory"):
        await posix.put(name, b"abc")
    await posix.seal()
    await posix.reopen()
    names = (b"changed", b"open", b"removed", b"moved", b"replaced", b"directory")
    orders = [order(posix, name, us_key) for name in names]
    await posix.put(b"changed", b"x")
    await posix.seal()
    handle = await posix.open(b"open")
    posix.write(handle, 0, b"x")
    posix.unlink(b"removed")
    await posix.rename(b"moved", b"elsewhere")
    await posix.put(b"other", b"def")
    await posix.rename(b"other", b"replaced")
    posix.unlink(b"directory")
    await posix.mkdir(b"directory")
    assert await put(posix, *orders) == ["changed", "changed", "gone", "gone", "gone", "gone"]
    for name, content in [(b"changed", b"xbc"), (b"elsewhere", b"abc"), (b"replaced", b"def")]:
        assert await posix.get(name) == content
        assert us_key not in posix.slot_keys(name)
    posix.close(handle)


async def test_a_path_through_a_file_is_gone(posix: Posix, us_key: KeyArn) -> None:
    await posix.put(b"f", b"abc")
    await posix.seal()
    one = order(posix, b"f", us_key)
    assert await put(posix, replace(one, entries=[*one.entries, *one.entries])) == ["gone"]


async def test_an_open_file_that_was_never_written(posix: Posix, us_key: KeyArn) -> None:
    await posix.put(b"f", b"abc")
    await posix.seal()
    one = order(posix, b"f", us_key)
    posix.unlink(b"f")
    handle = await posix.create(b"f")
    ino = posix.backing(b"f").stat().st_ino
    assert await put(posix, replace(one, ino=ino)) == ["changed"]
    posix.close(handle)


async def test_a_header_of_another_file_is_refused(posix: Posix, us_key: KeyArn) -> None:
    for name in (b"f", b"g"):
        await posix.put(name, b"abc")
    f, g = order(posix, b"f", us_key), order(posix, b"g", us_key)
    with pytest.raises(FormatError):
        MountedSwap.of(f.entries, f.ino, f.raw, 0, g.swap.sealed)
    with pytest.raises(FormatError):
        MountedSwap.of(f.entries, f.ino, f.raw, 0, f.raw[:1024])
    (refused,) = await put(posix, replace(f, swap=g.swap))  # f is open
    assert isinstance(refused, IntegrityError)
    assert us_key not in posix.slot_keys(b"f")


async def test_a_file_that_is_written_between_the_halves(
    posix: Posix, us_key: KeyArn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is not open at first, one is; a third is only read."""
    names = (b"closed", b"open", b"read")
    for name in names:
        await posix.put(name, b"abc")
    await posix.reopen()
    handle = await posix.open(b"open")
    orders = [order(posix, name, us_key) for name in names]
    real = posix.tree.volume.idle.sync_store

    async def use_meanwhile() -> bool:
        durable = await real()
        await posix.put(b"closed", b"x")
        posix.write(handle, 0, b"x")
        assert await posix.get(b"read") == b"abc"
        return durable

    monkeypatch.setattr(posix.tree.volume.idle, "sync_store", use_meanwhile)
    assert await put(posix, *orders) == ["changed", "changed", "done"]
    posix.close(handle)
    await posix.seal()
    for name, content in zip(names, (b"xbc", b"xbc", b"abc"), strict=True):
        assert await posix.get(name) == content
        assert posix.slot_keys(name) == [us_key]
    await posix.reopen()
    for name, content in zip(names, (b"xbc", b"xbc", b"abc"), strict=True):
        assert await posix.get(name) == content


async def test_a_move_that_fails_after_all_leaves_what_the_tool_has_put(
    posix: Posix, keystore: Keystore, eu_key: KeyArn, us_key: KeyArn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a slot under old material could come back that the tool has told as gone."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    await posix.mkdir(b"us")
    await posix.make_zone(b"us", us_key)
    await posix.put(b"f", b"abc")
    keystore.rotate_key(eu_key)
    told: list[object] = []
    settle = crossings.settle

    async def put_meanwhile(file: OpenFile) -> bool:
        settled = await settle(file)
        if not told:
            told.extend(await put(posix, order(posix, b"f", eu_key)))
        return settled

    with monkeypatch.context() as patch:
        patch.setattr(crossings, "settle", put_meanwhile)
        patch.setattr(backing, "rename", refuse)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            await posix.rename(b"f", b"us/f")
    assert told == ["done"]
    current = keystore.resolve(eu_key).current_material_id
    assert [[parse_blob_head(blob).material_id for blob in copy.slots] for copy in posix.copies(b"f")] == [
        [current]
    ] * 2
    assert await posix.get(b"f") == b"abc"


async def test_a_store_that_cannot_be_made_durable_keeps_the_old_headers(
    posix: Posix, eu_key: KeyArn, us_key: KeyArn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    await posix.put(b"f", b"abc")
    await posix.reopen()
    with monkeypatch.context() as patch:
        patch.setattr("kmsfs.tree.sealing.syncfs", lost)
        (failed,) = await put(posix, order(posix, b"f", us_key))
    assert isinstance(failed, OSError)
    assert failed.errno == errno.EIO
    assert await posix.get(b"f") == b"abc"


async def test_a_full_store_fails_that_file_only(
    posix: Posix, us_key: KeyArn, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (b"f", b"g"):
        await posix.put(name, b"abc")
    await posix.reopen()
    orders = [order(posix, name, us_key) for name in (b"f", b"g")]
    real = os.pwrite
    calls = []

    def full_once(fd: int, data: bytes, offset: int) -> int:
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", full_once)
    failed, done = await put(posix, *orders)
    assert isinstance(failed, OSError)
    assert done == "done"
    assert await posix.get(b"f") == await posix.get(b"g") == b"abc"


async def test_others_are_served_meanwhile(posix: Posix, us_key: KeyArn) -> None:
    for number in range(200):
        await posix.put(b"f%d" % number, b"abc")
    await posix.reopen()
    orders = [order(posix, b"f%d" % number, us_key) for number in range(200)]
    descriptors = len(os.listdir("/proc/self/fd"))
    served = 0

    async def serve() -> None:
        nonlocal served
        while True:
            await posix.get(b"f%d" % (served % 200))
            served += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        outcomes = await put(posix, *orders)
        nursery.cancel_scope.cancel()
    assert served > 1
    assert set(outcomes) <= {"done", "changed"}
    assert outcomes.count("done") > 0
    await posix.reopen()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    for number in range(200):
        assert await posix.get(b"f%d" % number) == b"abc"


async def test_what_moves_is_told_once(posix: Posix) -> None:
    for path in (b"a", b"b", b"a/d"):
        await posix.mkdir(path)
    await posix.put(b"a/d/f", b"abc")
    await posix.rename(b"a/d/f", b"a/f")
    moved = posix.tree.volume.moved
    assert moved.take() is None  # nobody had asked
    await posix.rename(b"a/d", b"b/e")
    await posix.link(b"a/f", b"b/e/g")
    assert moved.take() == [place(posix, b"b/e"), place(posix, b"b/e/g")]
    assert moved.take() == []
    await posix.put(b"x", b"")
    await posix.rename(b"x", b"a/f", backing.RENAME_EXCHANGE)
    assert moved.take() == [place(posix, b"a/f"), place(posix, b"x")]


async def test_what_moves_to_and_fro_is_told_once_for_each_place(posix: Posix) -> None:
    await posix.put(b"f", b"")
    moved = posix.tree.volume.moved
    moved.take()
    for _ in range(3):
        await posix.rename(b"f", b"g")
        there = place(posix, b"g")
        await posix.rename(b"g", b"f")
    assert moved.take() == [there, place(posix, b"f")]


def place(posix: Posix, path: bytes) -> tuple[int, bytes]:
    """The inode and the encrypted path of what stands at a clear one."""
    entry = posix.backing(path)
    return entry.stat().st_ino, os.fsencode(entry.relative_to(posix.path))


async def test_more_moves_than_can_be_kept_are_told_as_unknown(posix: Posix, keystore: Keystore) -> None:
    await posix.put(b"f", b"")
    moved = posix.tree.volume.moved
    moved.take()
    for number in range(4200):
        moved.add(posix.tree.volume.inodes.root, b"n" * 255, number)
    assert moved.take() is None
    assert moved.take() == []
