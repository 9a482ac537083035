"""Single entries of a store, and how their likes are made in another. No link is followed."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from typing import TYPE_CHECKING, Final

from kmsfs.storage import backing
from kmsfs.storage.backing import proc_path
from kmsfs.storage.lending import lent
from kmsfs.storage.likeness import copy_attributes, copy_times

if TYPE_CHECKING:
    from collections.abc import Callable

_RUN: Final = 16 << 20  # bytes that are copied between two words of progress


def remove(name: bytes, dir_fd: int) -> None:
    """Remove an entry, and what is below it."""
    if stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode):
        shutil.rmtree(os.fsdecode(name), dir_fd=dir_fd)
    else:
        os.unlink(name, dir_fd=dir_fd)


def make_directory(name: bytes, dir_fd: int) -> bool:
    """Whether a directory is new, which is there now and ours to fill."""
    try:
        os.mkdir(name, 0o700, dir_fd=dir_fd)
    except FileExistsError:
        there = backing.open_path(name, dir_fd)
        try:
            if stat.S_ISDIR(os.fstat(there).st_mode):
                os.chmod(proc_path(there), 0o700)
                return False
        finally:
            os.close(there)
        os.unlink(name, dir_fd=dir_fd)
        os.mkdir(name, 0o700, dir_fd=dir_fd)
    return True


def open_source(name: bytes, dir_fd: int) -> int:
    """A descriptor that reads a file, whatever its mode says."""
    path_fd = backing.open_path(name, dir_fd)
    try:
        with lent(path_fd, stat.S_IRUSR):
            return backing.open_regular(name, dir_fd, write=False, noatime=True)
    finally:
        os.close(path_fd)


def copy_content(fd: int, new: int, size: int, progress: Callable[[int], None]) -> None:
    """Copy the bytes of a file. Holes stay holes. ``progress`` is told how many more are done."""
    at = 0
    while (at := _next_data(fd, at, size)) < size:
        stop = os.lseek(fd, at, os.SEEK_HOLE)
        os.lseek(new, at, os.SEEK_SET)
        while at < stop:
            count = os.sendfile(new, fd, at, min(stop - at, _RUN))
            if not count:
                raise OSError(errno.EIO, "file got shorter while it was copied")
            at += count
            progress(count)
    os.ftruncate(new, size)


def _next_data(fd: int, at: int, size: int) -> int:
    try:
        return os.lseek(fd, at, os.SEEK_DATA) if at < size else size
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return size


def copy_symlink(source_fd: int, target_fd: int, name: bytes, status: os.stat_result) -> None:
    """Make the like of a symlink."""
    os.symlink(os.readlink(name, dir_fd=source_fd), name, dir_fd=target_fd)
    new = os.stat(name, dir_fd=target_fd, follow_symlinks=False)
    if (status.st_uid, status.st_gid) != (new.st_uid, new.st_gid):
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target_fd, follow_symlinks=False)
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=target_fd, follow_symlinks=False)


def copy_special(source_fd: int, target_fd: int, name: bytes, status: os.stat_result) -> None:
    """Make the like of a device, FIFO or socket."""
    os.mknod(name, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev, dir_fd=target_fd)
    old = backing.open_path(name, source_fd)
    try:
        new = backing.open_path(name, target_fd)
        try:
            copy_attributes(old, new)
            copy_times(status, new)
        finally:
            os.close(new)
    finally:
        os.close(old)
