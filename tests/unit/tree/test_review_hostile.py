"""What a hostile reading found: races, failures after the deed, and stores that cannot do everything."""

import errno
import os
import stat
from typing import Any

import pytest
import trio
from testkit.posix import ROOT, Posix

from kmsfs.errors import FormatError, IntegrityError
from kmsfs.fuse.fast_loop import _LowLevel
from kmsfs.storage import durable
from kmsfs.storage.backing import RENAME_EXCHANGE
from kmsfs.tree import attributes

LONG = b"n" * 255


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_a_store_that_cannot_tell_whether_a_read_would_wait(
    posix: Posix, monkeypatch: pytest.MonkeyPatch
) -> None:
    """overlayfs, NFS and FUSE answer RWF_NOWAIT with EOPNOTSUPP."""
    posix.tree.volume.memory_backed = False
    await posix.put(b"f", b"content")

    def refuse(*_: Any) -> int:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "preadv", refuse)
    posix.evict(b"f")
    handle = await posix.open(b"f", os.O_RDONLY)
    assert posix.tree.files.preview(handle, 4096) is None
    assert await posix.read(handle) == b"content"
    posix.close(handle)


async def test_a_preview_that_fails_does_not_fail_the_open(
    posix: Posix, monkeypatch: pytest.MonkeyPatch
) -> None:
    await posix.put(b"f", b"content")
    handle = await posix.open(b"f", os.O_RDONLY)

    def fail(*_: Any) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", fail)
        patch.setattr(os, "pread", fail)
        assert posix.tree.files.preview(handle, 4096) is None
    assert await posix.read(handle) == b"content"
    posix.close(handle)


async def test_a_descriptor_that_becomes_writable_keeps_its_number(posix: Posix) -> None:
    """A thread may be reading from it."""
    await posix.put(b"f", b"content")
    await posix.seal()
    posix.evict(b"f")
    reader = await posix.open(b"f", os.O_RDONLY)
    file = posix.find(b"f").file
    assert file is not None
    read_only = os.open(f"/proc/self/fd/{file.fd}", os.O_RDONLY)
    os.dup2(read_only, file.fd, inheritable=False)  # as after EACCES
    os.close(read_only)
    file.writable = False
    number, before = file.fd, descriptors()
    writer = await posix.open(b"f", os.O_RDWR)
    assert (file.fd, file.writable, descriptors()) == (number, True, before)
    posix.write(writer, 0, b"C")
    assert await posix.read(reader) == b"Content"
    posix.close(reader)
    posix.close(writer)


async def test_a_descriptor_does_not_become_that_of_another_file(posix: Posix) -> None:
    for name in (b"f", b"g"):
        await posix.put(name, name * 10)
    await posix.seal()
    posix.evict(b"f")
    reader = await posix.open(b"f", os.O_RDONLY)
    inode = posix.find(b"f")
    assert inode.file is not None
    inode.file.writable = False
    other = posix.backing(b"g")
    stored = other.read_bytes()
    os.replace(other, posix.backing(b"f"))  # behind our back
    with pytest.raises(OSError) as caught:
        await posix.tree.files.open(inode, os.O_RDWR, ROOT)
    assert caught.value.errno == errno.ESTALE
    assert await posix.read(reader) == b"f" * 10
    assert posix.backing(b"f").read_bytes() == stored
    posix.close(reader)


async def test_a_directory_that_moved_reads_although_its_sidecar_could_not_go(
    posix: Posix, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure after the rename must not give the record the old parent back."""
    await posix.mkdir(b"d")
    await posix.mkdir(LONG)
    await posix.put(LONG + b"/f", b"content")
    unlink = os.unlink

    def refuse(path: Any, **where: Any) -> None:
        if os.fsencode(path).endswith(b".name"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        unlink(path, **where)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        await posix.rename(LONG, b"d/moved")
    await posix.reopen()
    assert await posix.get(b"d/moved/f") == b"content"
    assert not posix.exists(LONG)


async def test_a_rename_that_happened_is_not_told_as_a_failure(
    posix: Posix, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last record cannot be written: the one with both parents reads."""
    for name in (b"a", b"b", b"a/d"):
        await posix.mkdir(name)
    await posix.put(b"a/d/f", b"content")
    real, calls = durable.replace, []

    def fail_second(name: bytes, dir_fd: int, content: bytes) -> None:
        calls.append(name)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(name, dir_fd, content)

    before = descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(durable, "replace", fail_second)
        await posix.rename(b"a/d", b"b/d")
    assert len(calls) == 2
    assert descriptors() <= before + 1  # a cached directory at most
    await posix.reopen()
    assert await posix.get(b"b/d/f") == b"content"


async def test_an_exchange_with_a_damaged_directory_leaks_nothing(posix: Posix) -> None:
    for name in (b"a", b"b", b"a/d", b"b/e"):
        await posix.mkdir(name)
    await posix.reopen()
    record = posix.backing(b"b/e") / ".kmsfs.dir"
    record.write_bytes(bytes(384))
    posix.find(b"a/d")
    counts = []
    for _ in range(3):
        with pytest.raises((IntegrityError, FormatError)):
            await posix.rename(b"a/d", b"b/e", RENAME_EXCHANGE)
        counts.append(descriptors())
    assert counts[0] == counts[2]


async def test_a_file_that_cannot_be_reported_removed_is_removed(
    posix: Posix, monkeypatch: pytest.MonkeyPatch
) -> None:
    await posix.put(LONG, b"content")
    unlink = os.unlink

    def refuse(path: Any, **where: Any) -> None:
        if os.fsencode(path).endswith(b".name"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        unlink(path, **where)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        posix.unlink(LONG)
    assert not posix.exists(LONG)
    await posix.put(LONG, b"again")
    assert await posix.get(LONG) == b"again"


async def test_the_loop_does_not_read_a_request_that_another_task_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The descriptor of FUSE blocks: to read it when it is empty stops everything."""
    reader, writer = os.pipe()
    low, waits = _LowLevel(), []
    low._burst = 1 << 20  # straight to the scheduler
    real = trio.lowlevel.wait_readable

    async def woken_too_late(fd: int) -> None:
        waits.append(fd)
        os.write(writer, b"x")
        await real(fd)
        if len(waits) == 1:
            os.read(fd, 1)  # by a worker that found it with poll, in the same turn of the scheduler

    monkeypatch.setattr(trio.lowlevel, "wait_readable", woken_too_late)
    try:
        await low.wait_readable(reader)
        assert low._poll.poll(0)
    finally:
        os.close(reader)
        os.close(writer)


async def test_what_lost_the_name_that_was_known_keeps_its_attributes(posix: Posix) -> None:
    """Held by a descriptor of the kernel's, with a name left that nobody has looked up."""
    await posix.mkdir(b"d")
    await posix.mknod(b"p", stat.S_IFIFO | 0o600)
    await posix.link(b"p", b"d/q")
    await posix.reopen()
    inode = posix.find(b"p")
    posix.unlink(b"p")
    volume = posix.tree.volume
    attributes.chmod(volume, inode, 0o640)
    attributes.set_times(volume, inode, 1_000_000_007, 2_000_000_009)
    attributes.chown(volume, inode, os.geteuid(), os.getegid())
    fd = attributes.open_path(volume, inode)
    assert (os.fstat(fd).st_dev, os.fstat(fd).st_ino) == inode.key
    os.close(fd)
    assert stat.S_IMODE(posix.stat(b"d/q").st_mode) == 0o640
    assert posix.stat(b"d/q").st_mtime_ns == 2_000_000_009


async def test_a_file_with_two_names_survives_a_directory_that_was_forgotten(posix: Posix) -> None:
    """The kernel forgets a directory while an object in it is known by another name; then the directory moves."""
    for name in (b"a", b"b"):
        await posix.mkdir(name)
    await posix.put(b"a/f", b"content")
    await posix.link(b"a/f", b"b/f")
    await posix.reopen()
    inode = posix.find(b"a/f")
    tree = posix.tree
    directory = tree.namespace.lookup(tree.volume.inodes.root, b"b")[0]
    assert tree.namespace.lookup(directory, b"f")[0] is inode
    tree.volume.forget([(inode.number, 1), (directory.number, 1)])
    await posix.rename(b"b", b"c")
    await posix.mkdir(b"b")
    await posix.put(b"b/f", b"another")
    another = posix.stat(b"b/f").st_mode
    assert tree.volume.status(inode).st_ino == inode.key[1]
    attributes.chmod(tree.volume, inode, 0o600)
    assert posix.stat(b"b/f").st_mode == another
    assert stat.S_IMODE(posix.stat(b"c/f").st_mode) == 0o600
    handle, _ = await tree.files.open(inode, os.O_RDONLY, ROOT)
    assert await posix.read(handle) == b"content"
    posix.close(handle)
