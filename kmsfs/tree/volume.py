"""What the parts of a mounted tree share: identity, keys, directories, inodes, idle files."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import trio

from kmsfs.format.layout import plain_size
from kmsfs.storage.backing import is_memory_backed
from kmsfs.tree.directories import Directories
from kmsfs.tree.inodes import Inode, InodeTable, Key
from kmsfs.tree.moved import MovedPaths
from kmsfs.tree.sealing import IdleFiles

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmsfs.envelope.tree_key import TreeKeys
    from kmsfs.format.superblock import Superblock
    from kmsfs.ids import KeyArn
    from kmsfs.tree.file_keys import FileKeys

_T = TypeVar("_T")
_FINE_TIMES = ("st_atime_ns", "st_mtime_ns", "st_ctime_ns", "st_blksize", "st_blocks", "st_rdev")


class Caller(Protocol):
    """Who makes a request."""

    @property
    def uid(self) -> int:
        """Effective user id."""
        ...

    @property
    def gid(self) -> int:
        """Effective group id."""
        ...


@dataclass(frozen=True, slots=True)
class TreeOptions:
    """How a tree is opened."""

    read_only: bool = False
    noatime: bool = False
    max_unsealed: int = 1024  # written files that may wait for their seal, each with a descriptor


class Volume:
    """An open tree. Owns ``root_fd`` and every descriptor that the parts open."""

    def __init__(
        self, root_fd: int, block: Superblock, keys: TreeKeys, file_keys: FileKeys, options: TreeOptions
    ) -> None:
        self.root_fd = root_fd
        self.block = block
        self.keys = keys
        self.file_keys = file_keys
        self.options = options
        self.chunk_size = block.chunk_size
        self.as_root = os.geteuid() == 0
        self.memory_backed = is_memory_backed(root_fd)
        self.inodes = InodeTable(os.fstat(root_fd))
        self.directories = Directories(self.inodes.root, root_fd, keys)
        self.idle = IdleFiles(root_fd, self.released, max_unsealed=options.max_unsealed)
        self.moved = MovedPaths()
        self.swapping: dict[Key, int] = {}  # files not open that get a new header: which copy is durable
        self.directories.record(self.inodes.root)  # a tree without its root record is refused at once

    async def on_disk(self, call: Callable[..., _T], *args: object) -> _T:
        """Run what may wait for a disk; inline where there is none."""
        if self.memory_backed:
            return call(*args)
        return await trio.to_thread.run_sync(call, *args)

    def status(self, inode: Inode) -> os.stat_result:
        """The backing attributes of an inode, wherever it is now."""
        if inode.file is not None:
            return os.fstat(inode.file.fd)
        if inode.ghost is not None:
            return inode.ghost
        if inode.parent is None:
            return os.fstat(self.root_fd if inode is self.inodes.root else inode.path_fd)
        name, dir_fd = self.place(inode, inode.parent)
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)

    def place(self, inode: Inode, parent: Inode) -> tuple[bytes, int]:
        """(backing entry, descriptor of its directory), where ``parent`` is the latest known one. No checkpoint.

        One of several names can be out of date: the kernel forgets the directory of one while it holds another.
        """
        if not inode.links:
            return inode.name, self.directories.fd(parent)
        for directory, name in [(parent, inode.name), *inode.links]:
            try:
                dir_fd = self.directories.fd(directory)
                status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
            except OSError:
                continue
            if (status.st_dev, status.st_ino) == inode.key:
                inode.parent, inode.name = directory, name
                return name, dir_fd
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def size(self, status: os.stat_result) -> int:
        """The plain size of a regular file or directory; never opens anything."""
        if stat.S_ISREG(status.st_mode):
            return plain_size(status.st_size, self.chunk_size)
        return status.st_size

    def wanted_keys(self, directory: Inode) -> tuple[KeyArn, ...]:
        """The CMKs that files of a directory are to be wrapped under; the nearest zone at or above it decides."""
        return self.block.wanted_keys(self.zone(directory))

    def zone(self, directory: Inode) -> str:
        """The key of the nearest zone at or above a directory, or nothing."""
        at: Inode | None = directory
        while at is not None:
            zone = self.directories.record(at).zone
            if zone:
                return zone
            at = at.parent
        return ""

    def zone_of(self, inode: Inode) -> str:
        """The same for what is no directory; without a known place that of its last one counts."""
        return self.zone(inode.parent) if inode.parent is not None else inode.zone

    def gone(self, inode: Inode, status: os.stat_result) -> None:
        """The last name of ``inode`` was removed; ``status`` is from just before."""
        inode.ghost = _without_links(status)
        self.inodes.detach(inode)
        self.directories.forget(inode)
        if inode.file is not None and inode.file.handles == 0:
            self.idle.discard(inode.file)
        elif inode.lookups == 0:
            self.released(inode)

    def released(self, inode: Inode) -> None:
        """Drop an inode that neither the kernel nor an open file needs."""
        if inode.lookups == 0 and inode.file is None:
            self.directories.forget(inode)
            self.inodes.drop(inode)

    def forget(self, forgotten: list[tuple[int, int]]) -> None:
        """The kernel gives look-ups back: (inode number, count) pairs."""
        for number, count in forgotten:
            inode = self.inodes.peek(number)
            if inode is None:  # nothing to give back; the rest of the batch still is
                continue
            inode.lookups -= count
            if inode.lookups == 0:
                self.released(inode)

    async def close(self) -> None:
        """Seal and close everything."""
        await self.idle.finish()
        self.directories.close()
        os.close(self.root_fd)


def _without_links(status: os.stat_result) -> os.stat_result:
    """The same attributes with a link count of 0."""
    counted = list(status)
    counted[stat.ST_NLINK] = 0
    times = {name: getattr(status, name) for name in _FINE_TIMES}
    return os.stat_result(counted, times)
