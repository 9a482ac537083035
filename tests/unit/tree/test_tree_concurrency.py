"""One slow operation does not stall the others: a held HSM call, a held fsync, and a reader beside them."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from threading import Event

import pytest
import trio
from testkit.home import ALIAS, Home
from testkit.posix import Posix, opened
from testkit.slow import SlowKeystore, let_go, started

from kmsfs.errors import HsmUnavailableError
from kmsfs.keystore.service import Keystore
from kmsfs.tree.superblock_file import create_tree


@pytest.fixture
def keystore(home: Home) -> Iterator[Keystore]:
    with SlowKeystore(home.path) as keystore:
        yield keystore


@pytest.fixture
async def slow(posix: Posix) -> AsyncIterator[Posix]:
    """Two sealed files, ``a`` open in this session, ``b`` not; the HSM holds from now on."""
    await posix.put(b"a", b"a")
    await posix.put(b"b", b"b")
    await posix.reopen()
    assert await posix.get(b"a") == b"a"
    keystore = posix.keystore
    assert isinstance(keystore, SlowKeystore)
    keystore.hold = True
    yield posix
    keystore.go.set()


async def test_a_slow_unwrap_stalls_nobody_else(slow: Posix) -> None:
    got = []

    async def open_b() -> None:
        got.append(await slow.get(b"b"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_b)
        await started(slow)
        assert await slow.get(b"a") == b"a"
        await slow.put(b"a", b"A")
        assert slow.size(b"b") == 1
        await slow.rename(b"a", b"c")
        assert await slow.names() == [b"b", b"c"]
        assert got == []
        let_go(slow)
    assert got == [b"b"]


async def test_openers_of_one_file_share_the_unwrap(slow: Posix) -> None:
    got = []

    async def open_b() -> None:
        handle = await slow.open(b"b")
        got.append(handle)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(open_b)
        await started(slow)
        let_go(slow)
    assert slow.tree._cache.unwraps == 2  # a and b
    assert len({id(slow.tree.files._handles[handle].file) for handle in got}) == 1
    for handle in got:
        slow.write(handle, 0, b"%d" % handle)
        slow.close(handle)
    assert await slow.get(b"b") == b"%d" % got[-1]


async def test_a_failed_unwrap_is_each_openers_error_and_is_not_kept(slow: Posix) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))

    async def open_b() -> None:
        with pytest.raises(HsmUnavailableError):
            await slow.open(b"b")

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(open_b)
        await started(slow)
        let_go(slow, fail=True)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    let_go(slow)
    assert await slow.get(b"b") == b"b"


async def test_a_file_removed_while_its_key_is_unwrapped(slow: Posix) -> None:
    got = []

    async def open_b() -> None:
        handle = await slow.open(b"b")
        got.append(await slow.read(handle))
        slow.close(handle)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_b)
        await started(slow)
        slow.unlink(b"b")
        let_go(slow)
    assert got == [b"b"]
    assert await slow.names() == [b"a"]


async def test_a_file_that_is_written_and_closed_while_its_key_is_unwrapped(slow: Posix) -> None:
    keystore = slow.keystore
    assert isinstance(keystore, SlowKeystore)
    got = []

    async def open_b() -> None:
        handle = await slow.open(b"b")
        file = slow.tree.files._handles[handle].file
        got.append((await slow.read(handle), file.generation, file.chunk_writes))
        slow.close(handle)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_b)
        await started(slow)
        slow.tree.file_keys._lane.total_tokens = 2
        slow.tree._cache.purge()
        keystore.hold = False
        await slow.truncate(b"b", 2)
        await slow.seal()
        slow.evict(b"b")
        newest = max(slow.copies(b"b"), key=lambda copy: copy.generation)
        let_go(slow)
    assert got == [(b"b\0", newest.generation, newest.chunk_writes)]


async def test_a_slow_wrap_stalls_nobody_else(slow: Posix) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow.put, b"new", b"n")
        await started(slow)
        assert await slow.get(b"a") == b"a"
        let_go(slow)
    assert await slow.get(b"new") == b"n"


async def test_filling_the_pool_stalls_nobody(slow: Posix) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow.tree.run)
        await started(slow)
        assert await slow.get(b"a") == b"a"
        let_go(slow)
        while not len(slow.pool()):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


async def test_opening_does_not_wait_for_the_whole_pool(posix: Posix) -> None:
    """Somebody who waits for one key waits for at most one that is being made ahead of time."""
    await posix.put(b"b", b"b")
    await posix.reopen()
    keystore = posix.keystore
    assert isinstance(keystore, SlowKeystore)
    keystore.hold = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(posix.tree.run)
        await started(posix)

        async def open_b() -> None:
            await posix.get(b"b")
            nursery.cancel_scope.cancel()

        nursery.start_soon(open_b)
        while not posix.tree.file_keys._lane.statistics().tasks_waiting:
            await trio.lowlevel.checkpoint()
        let_go(posix)
    assert keystore.unwrapped_as <= 3


async def test_a_slow_fsync_stalls_nobody_else(slow: Posix, monkeypatch: pytest.MonkeyPatch) -> None:
    token, in_fsync, go = trio.lowlevel.current_trio_token(), trio.Event(), Event()
    real = os.fsync

    def held(fd: int) -> None:
        token.run_sync_soon(in_fsync.set)
        assert go.wait(30)
        real(fd)

    handle = await slow.open(b"a")
    slow.write(handle, 0, b"x")
    monkeypatch.setattr(os, "fsync", held)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: slow.tree.files.fsync(handle, data_only=False))
        await in_fsync.wait()
        assert await slow.get(b"a") == b"x"
        slow.write(handle, 1, b"y")
        assert slow.size(b"b") == 1
        go.set()
    slow.close(handle)
    let_go(slow)
    assert await slow.get(b"a") == b"xy"


async def test_two_trees_and_one_keystore(keystore: Keystore, tmp_path: Path) -> None:
    for name in ("one", "two"):
        create_tree(keystore, tmp_path / name, ALIAS)
    async with opened(keystore, tmp_path / "one") as one, opened(keystore, tmp_path / "two") as two:
        await one.put(b"f", b"one")
        await two.put(b"f", b"two")
        assert await one.get(b"f") == b"one"
        assert await two.get(b"f") == b"two"
