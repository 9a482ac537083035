"""Listing directories: a snapshot of names, decrypted as they are asked for."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from kmsfs.storage import backing
from kmsfs.storage.lending import lent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kmsfs.tree.inodes import Inode
    from kmsfs.tree.volume import Volume


class Listing:
    """One opendir(3): positions stay valid while it is open, whatever is created or removed meanwhile."""

    __slots__ = ("_entries", "_fd", "_volume", "inode")

    def __init__(self, volume: Volume, inode: Inode) -> None:
        self._volume = volume
        self.inode = inode
        self._entries: list[bytes] = []
        self._fd = -1  # a removed directory lists nothing
        if inode.ghost is None:
            path_fd = volume.directories.fd(inode)
            with lent(path_fd, stat.S_IRUSR | stat.S_IXUSR):
                self._fd = backing.open_listing(b".", path_fd)

    async def rewind(self) -> None:
        """Take a new snapshot."""
        if self._fd < 0:
            return
        names = await self._volume.on_disk(os.listdir, self._fd)
        self._entries = [os.fsencode(name) for name in names]

    def entries(self, start: int) -> Iterator[tuple[int, bytes, bytes, os.stat_result]]:
        """(next position, clear name, backing entry, attributes) of what is there, from position ``start``."""
        if start >= len(self._entries):
            return
        directories = self._volume.directories
        record = directories.record(self.inode)
        fd = self._fd
        with lent(fd, stat.S_IXUSR):
            for position in range(start, len(self._entries)):
                entry = self._entries[position]
                name = directories.clear_name(fd, record, entry)
                if name is None:
                    continue
                try:
                    status = os.stat(entry, dir_fd=fd, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield position + 1, name, entry, status

    def sync(self) -> None:
        """Make the directory's entries durable. Waits for the disk."""
        if self._fd >= 0:
            os.fsync(self._fd)

    def close(self) -> None:
        """closedir(3)."""
        if self._fd >= 0:
            os.close(self._fd)
