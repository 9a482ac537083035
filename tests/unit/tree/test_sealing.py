"""Idle files: sealed in rounds after their data are durable, never a round too early."""

import errno
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from threading import Event

import pytest
import trio
from testkit.disks import fill, losing_disk
from testkit.home import ALIAS
from testkit.posix import Posix, opened

from kmsfs.errors import FormatError
from kmsfs.keystore.service import Keystore
from kmsfs.tree import sealing
from kmsfs.tree.superblock_file import create_tree


def states(posix: Posix, path: bytes) -> list[tuple[bool, int]]:
    return [(copy.dirty, copy.sealed_length) for copy in posix.copies(path)]


async def test_finish_leaves_both_copies_clean_and_equal(posix: Posix) -> None:
    for size in (1, 4096, 10_000):
        await posix.put(b"%d" % size, bytes(size))
    await posix.truncate(b"10000", 5000)
    paths = {size: posix.backing(b"%d" % size) for size in (1, 4096, 10_000)}
    await posix.reopen()
    for size, path in paths.items():
        raw = path.read_bytes()
        assert raw[:1024] == raw[1024:2048]
        assert set(states(posix, b"%d" % size)) == {(False, 5000 if size == 10_000 else size)}


async def test_a_file_passes_through_two_rounds(posix: Posix) -> None:
    await posix.put(b"f", b"abc")
    assert states(posix, b"f") == [(True, 3), (True, 3)]
    await posix.tree.volume.idle.round()
    assert sorted(states(posix, b"f")) == [(False, 3), (True, 3)]
    assert posix.tree.volume.idle.unsealed == 1
    await posix.tree.volume.idle.round()
    assert states(posix, b"f") == [(False, 3), (False, 3)]
    assert posix.tree.volume.idle.unsealed == 0


async def test_a_file_that_is_open_is_not_sealed(posix: Posix) -> None:
    handle = await posix.create(b"f")
    posix.write(handle, 0, b"abc")
    await posix.seal()
    assert states(posix, b"f") == [(True, 3), (True, 3)]
    posix.close(handle)


async def test_seals_do_not_change_the_times(posix: Posix) -> None:
    await posix.put(b"f", b"abc")
    posix.utime(b"f", 1_000_000_007, 2_000_000_009)
    await posix.seal()
    assert (posix.stat(b"f").st_atime_ns, posix.stat(b"f").st_mtime_ns) == (1_000_000_007, 2_000_000_009)
    assert states(posix, b"f") == [(False, 3), (False, 3)]


class HeldCall:
    """A blocking call that reports its start and waits to be let go."""

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call
        self.started = trio.Event()
        self.go = Event()
        self._token = trio.lowlevel.current_trio_token()

    def __call__(self, *args: object) -> object:
        self._token.run_sync_soon(self.started.set)
        assert self.go.wait(30)
        return self._call(*args)


@pytest.mark.parametrize("stays_open", [True, False])
async def test_a_write_between_syncfs_and_seal_is_not_sealed(
    posix: Posix, monkeypatch: pytest.MonkeyPatch, stays_open: bool
) -> None:
    await posix.put(b"f", b"abc")
    await posix.put(b"g", b"abc")
    held = HeldCall(sealing.syncfs)
    monkeypatch.setattr(sealing, "syncfs", held)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(posix.tree.volume.idle.round)
        await held.started.wait()
        handle = await posix.open(b"f")
        posix.write(handle, 3, b"def")
        if not stays_open:
            posix.close(handle)
        held.go.set()
    assert all(dirty for dirty, _ in states(posix, b"f"))
    assert sorted(states(posix, b"g")) == [(False, 3), (True, 3)]
    if stays_open:
        posix.close(handle)
    await posix.seal()
    assert states(posix, b"f") == [(False, 6), (False, 6)]


async def test_a_file_removed_between_syncfs_and_seal_is_let_go(
    posix: Posix, monkeypatch: pytest.MonkeyPatch
) -> None:
    await posix.put(b"f", b"abc")
    held = HeldCall(sealing.syncfs)
    monkeypatch.setattr(sealing, "syncfs", held)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(posix.tree.volume.idle.round)
        await held.started.wait()
        posix.unlink(b"f")
        held.go.set()
    assert len(posix.tree.volume.idle) == 0


async def test_fsync_puts_a_clean_header_down(posix: Posix) -> None:
    handle = await posix.create(b"f")
    posix.write(handle, 0, b"abc")
    await posix.tree.files.fsync(handle, data_only=False)
    assert sorted(states(posix, b"f")) == [(False, 3), (True, 3)]
    posix.write(handle, 3, b"d")
    assert max(posix.copies(b"f"), key=lambda copy: copy.generation).dirty
    posix.close(handle)


async def test_a_write_during_fsync_leaves_the_header_dirty(
    posix: Posix, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = await posix.create(b"f")
    posix.write(handle, 0, b"abc")
    held = HeldCall(os.fsync)
    monkeypatch.setattr(os, "fsync", held)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: posix.tree.files.fsync(handle, data_only=False))
        await held.started.wait()
        posix.write(handle, 3, b"d")
        held.go.set()
    assert all(dirty for dirty, _ in states(posix, b"f"))
    posix.close(handle)


async def test_after_a_failed_syncfs_each_file_is_asked(
    posix: Posix, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    await posix.put(b"f", b"abc")
    monkeypatch.setattr(sealing, "syncfs", broken)
    await posix.tree.volume.idle.round()
    assert sorted(states(posix, b"f")) == [(False, 3), (True, 3)]
    assert "sealing failed: Input/output error" in caplog.text
    await posix.seal()
    assert states(posix, b"f") == [(False, 3), (False, 3)]


async def test_a_file_that_cannot_be_sealed_does_not_keep_others_from_it(
    posix: Posix, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (b"a", b"b", b"c"):
        await posix.put(name, b"abc")
    broken = posix.find(b"b").file
    assert broken is not None
    kept = os.dup(broken.fd)
    read_only = os.open(posix.backing(b"b"), os.O_RDONLY)
    os.dup2(read_only, broken.fd)  # writes fail with EBADF
    os.close(read_only)
    await posix.seal()
    assert states(posix, b"a") == states(posix, b"c") == [(False, 3), (False, 3)]
    assert states(posix, b"b") == [(True, 3), (True, 3)]
    assert "Bad file descriptor" in caplog.text
    os.dup2(kept, broken.fd)
    os.close(kept)


async def test_too_many_unsealed_files_make_a_writer_wait(posix: Posix) -> None:
    await posix.reopen(max_unsealed=4)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(posix.tree.volume.idle.run)
        for at in range(20):
            await posix.tree.volume.idle.room()
            await posix.put(b"%d" % at, b"abc")
            assert posix.tree.volume.idle.unsealed <= 4
        nursery.cancel_scope.cancel()


async def test_idle_files_are_a_bounded_cache(posix: Posix) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    for at in range(200):
        await posix.put(b"%d" % at, b"abc")
    await posix.seal()
    assert len(posix.tree.volume.idle) == 128
    posix.forget()
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 128
    assert len(posix.tree.volume.inodes) == 129


async def test_closing_seals_files_that_are_still_open(
    posix: Posix, caplog: pytest.LogCaptureFixture
) -> None:
    """A lazy unmount leaves handles that nobody will release."""
    handle = await posix.create(b"f")
    posix.write(handle, 0, bytes(100))
    posix.write(handle, 100, bytes(10_000))
    await posix.reopen()
    assert states(posix, b"f") == [(False, 10_100), (False, 10_100)]
    assert await posix.get(b"f") == bytes(10_100)
    assert caplog.records == []


def is_sealed(posix: Posix, path: bytes, length: int) -> bool:
    """Whether a header promises that length; the header itself may be among what was lost."""
    try:
        return (False, length) in states(posix, path)
    except (FormatError, OSError):
        return False


@pytest.fixture
async def losing(keystore: Keystore, tmp_path: Path) -> AsyncIterator[Posix]:
    """A tree on a disk that loses what is written once its medium is full."""
    with losing_disk(tmp_path / "medium") as disk:
        create_tree(keystore, disk / "store", ALIAS)
        async with opened(keystore, disk / "store") as posix:
            yield posix


async def test_a_file_whose_data_were_lost_is_not_sealed(
    losing: Posix, caplog: pytest.LogCaptureFixture
) -> None:
    """Linux tells of lost data once: the next syncfs succeeds although nothing was written again."""
    for name in (b"kept", b"used"):
        await losing.put(name, b"abc")
    await losing.seal()
    used = await losing.open(b"used")
    filler = fill(losing.path.parent.parent)
    await losing.put(b"lost", bytes(8 << 20))
    losing.write(used, 0, bytes(8 << 20))
    await losing.tree.volume.idle.round()
    assert "sealing failed" in caplog.text
    losing.close(used)
    await losing.seal()
    assert losing.tree.volume.idle.unsealed == 0
    filler.unlink()
    assert states(losing, b"kept") == [(False, 3), (False, 3)]
    assert [name for name in (b"lost", b"used") if is_sealed(losing, name, 8 << 20)] == []


async def test_what_fsync_says_is_lost_is_not_sealed(losing: Posix) -> None:
    handle = await losing.create(b"lost")
    filler = fill(losing.path.parent.parent)
    losing.write(handle, 0, bytes(8 << 20))
    with pytest.raises(OSError, match=r"No space left|Input/output error"):
        await losing.tree.files.fsync(handle, data_only=False)
    filler.unlink()
    await losing.tree.files.fsync(handle, data_only=False)
    losing.close(handle)
    await losing.seal()
    assert not is_sealed(losing, b"lost", 8 << 20)


async def test_files_that_cannot_be_sealed_do_not_make_a_writer_wait(
    posix: Posix, caplog: pytest.LogCaptureFixture
) -> None:
    await posix.reopen(max_unsealed=4)
    for at in range(4):
        await posix.put(b"%d" % at, b"abc")
        file = posix.find(b"%d" % at).file
        assert file is not None
        read_only = os.open(posix.backing(b"%d" % at), os.O_RDONLY)
        os.dup2(read_only, file.fd)  # writes fail with EBADF
        os.close(read_only)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(posix.tree.volume.idle.run)
        with trio.fail_after(30):
            await posix.tree.volume.idle.room()
        nursery.cancel_scope.cancel()
    assert "sealing failed: Bad file descriptor" in caplog.text
    assert states(posix, b"0") == [(True, 3), (True, 3)]


async def test_an_unmount_from_a_store_that_cannot_sync_gives_everything_back(
    posix: Posix, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    descriptors = len(os.listdir("/proc/self/fd"))
    await posix.put(b"f", b"abc")
    with monkeypatch.context() as patch:
        patch.setattr(sealing, "syncfs", broken)
        await posix.reopen()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert "Input/output error" in caplog.text
