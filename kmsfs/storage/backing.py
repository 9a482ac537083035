"""System calls on the backing directory, relative to directory descriptors, following no link.

Thin on purpose: names and errors are the kernel's. Whatever changes the store goes through this module, so that
there is one place to look at (and one to disturb in crash tests).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from typing import Final

from kmsfs.errors import IntegrityError

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
RENAME_WHITEOUT: Final = 4
_TMPFS_MAGICS: Final = frozenset({0x01021994, 0x858458F6})  # tmpfs, ramfs (statfs(2))

_libc = ctypes.CDLL(None, use_errno=True)

open_directory_flags: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_directory(name: bytes, dir_fd: int) -> int:
    """A descriptor for relative calls on directory ``name``; it cannot list."""
    return os.open(name, open_directory_flags, dir_fd=dir_fd)


def open_listing(name: bytes, dir_fd: int) -> int:
    """A descriptor that can list and fsync directory ``name``."""
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)


def open_regular(name: bytes, dir_fd: int, *, write: bool, noatime: bool = False) -> int:
    """Open an existing entry without following links; O_NONBLOCK so that a planted fifo cannot stall."""
    flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    if noatime:
        try:
            return os.open(name, flags | os.O_NOATIME, dir_fd=dir_fd)
        except PermissionError:  # not the owner: atime moves, nothing else does
            pass
    return os.open(name, flags, dir_fd=dir_fd)


def open_path(name: bytes, dir_fd: int) -> int:
    """An O_PATH descriptor of any kind of entry, the link itself for a symlink."""
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)


def create_regular(name: bytes, dir_fd: int, mode: int) -> int:
    """Create an entry that must not exist; the descriptor reads and writes whatever ``mode`` says."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, mode, dir_fd=dir_fd)


def proc_path(fd: int) -> str:
    """A path that names exactly the object behind ``fd``, for calls that know no descriptors."""
    return f"/proc/self/fd/{fd}"


def rename(name: bytes, dir_fd: int, new_name: bytes, new_dir_fd: int, flags: int = 0) -> None:
    """renameat2(2)."""
    if not flags:
        os.rename(name, new_name, src_dir_fd=dir_fd, dst_dir_fd=new_dir_fd)
    elif _libc.renameat2(dir_fd, name, new_dir_fd, new_name, ctypes.c_uint(flags)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def syncfs(fd: int) -> None:
    """Make everything written to the file system of ``fd`` durable (syncfs(2))."""
    if _libc.syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def write_all(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """pwrite(2) until all is written. On error ``OSError.written`` is the number of bytes that were."""
    view = memoryview(data)
    done = 0
    try:
        done = os.pwrite(fd, view, offset)
        while done < len(view):
            done += os.pwrite(fd, view[done:], offset + done)
    except OSError as error:
        raise ShortWriteError(error, done) from error


class ShortWriteError(OSError):
    """A write failed after ``written`` bytes; errno is the cause's."""

    def __init__(self, cause: OSError, written: int) -> None:
        super().__init__(cause.errno, cause.strerror)
        self.written = written


def read_small(name: bytes, dir_fd: int, limit: int) -> bytes:
    """Contents of a small regular file, at most ``limit`` + 1 bytes, following no link."""
    fd = open_regular(name, dir_fd, write=False)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise IntegrityError("a record of the tree is not a regular file")
        return os.pread(fd, limit + 1, 0)
    finally:
        os.close(fd)


def is_memory_backed(fd: int) -> bool:
    """Whether reads and listings of this store never wait for a disk."""
    buffer = ctypes.create_string_buffer(256)  # struct statfs is 120 bytes on 64-bit Linux
    if _libc.fstatfs(fd, buffer) != 0:
        return False
    return ctypes.c_long.from_buffer(buffer).value in _TMPFS_MAGICS


class TimesKept:
    """Context manager: restore atime and mtime of a descriptor."""

    __slots__ = ("_fd", "_times")

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> None:
        status = os.fstat(self._fd)
        self._times = (status.st_atime_ns, status.st_mtime_ns)

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(PermissionError):  # another user's file, which we may only write
            os.utime(self._fd, ns=self._times)
