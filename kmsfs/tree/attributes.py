"""Changing attributes: mode, owner, times. Sizes are in kmsfs.tree.files."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from kmsfs.storage import backing

if TYPE_CHECKING:
    from kmsfs.tree.inodes import Inode
    from kmsfs.tree.volume import Volume


def chown(volume: Volume, inode: Inode, uid: int, gid: int) -> None:
    """chown(2); -1 leaves a value. The backing file system drops set-user-ID bits as it should."""
    if inode.file is not None:
        os.fchown(inode.file.fd, uid, gid)
        return
    name, dir_fd, held = _place(volume, inode)
    os.chown(name, uid, gid, dir_fd=dir_fd, follow_symlinks=held)


def chmod(volume: Volume, inode: Inode, mode: int) -> None:
    """chmod(2); links have no mode of their own."""
    if inode.file is not None:
        os.fchmod(inode.file.fd, stat.S_IMODE(mode))
        return
    name, dir_fd, held = _place(volume, inode)
    try:
        os.chmod(name, stat.S_IMODE(mode), dir_fd=dir_fd, follow_symlinks=held)
    except ValueError:  # how Python words EOPNOTSUPP: somebody put a link where the object was
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP)) from None


def set_times(volume: Volume, inode: Inode, atime_ns: int | None, mtime_ns: int | None) -> None:
    """utimensat(2); None leaves a value."""
    if atime_ns is None or mtime_ns is None:
        status = volume.status(inode)
        atime_ns = status.st_atime_ns if atime_ns is None else atime_ns
        mtime_ns = status.st_mtime_ns if mtime_ns is None else mtime_ns
    if inode.file is not None:
        os.utime(inode.file.fd, ns=(atime_ns, mtime_ns))
        return
    name, dir_fd, held = _place(volume, inode)
    os.utime(name, ns=(atime_ns, mtime_ns), dir_fd=dir_fd, follow_symlinks=held)


def open_path(volume: Volume, inode: Inode) -> int:
    """A new O_PATH descriptor of any object; the caller closes it."""
    if inode.file is not None:
        return os.dup(inode.file.fd)
    name, dir_fd, held = _place(volume, inode)
    return os.dup(inode.path_fd) if held else backing.open_path(name, dir_fd)


def _place(volume: Volume, inode: Inode) -> tuple[bytes, int, bool]:
    """(name, directory, whether the name is a descriptor's in /proc, the only kind of link that is followed)."""
    if inode is volume.inodes.root:
        return b".", volume.root_fd, False
    if inode.parent is None:
        if inode.path_fd >= 0:
            return os.fsencode(backing.proc_path(inode.path_fd)), -1, True
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    return *volume.place(inode, inode.parent), False
