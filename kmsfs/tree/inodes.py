"""Inodes that the kernel knows, and where they stand in the backing directory.

A backing inode is recognised by (st_dev, st_ino) for as long as it exists. When its last name goes, it leaves the
index at once: the backing file system may give the same number to a new file while the kernel still holds the old one.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kmsfs.format.directory import DirectoryRecord
    from kmsfs.tree.open_file import OpenFile

ROOT_NUMBER = 1
_FIRST_FREE_NUMBER = 1 << 62  # for inodes whose backing number is taken

Key = tuple[int, int]


class Inode:
    """One object of the tree. ``parent`` and ``name`` (of the backing entry) are its latest known place."""

    __slots__ = (
        "bare",
        "directory",
        "file",
        "ghost",
        "key",
        "kind",
        "links",
        "lookups",
        "name",
        "number",
        "parent",
        "path_fd",
        "previewed",
        "zone",
    )

    def __init__(self, number: int, key: Key, kind: int) -> None:
        self.number = number
        self.key = key
        self.kind = kind  # S_IFMT of the mode
        self.lookups = 0
        self.parent: Inode | None = None
        self.name = b""
        self.links: set[tuple[Inode, bytes]] | None = None  # all known places, for hard links only
        self.file: OpenFile | None = None
        self.directory: DirectoryRecord | None = None
        self.ghost: os.stat_result | None = None  # attributes since the last name went
        self.bare = False  # known to have no extended attributes at all
        self.previewed = False  # the kernel was given the content of this small file
        self.zone = ""  # the key of the zone that its last known place was in, once it has none
        self.path_fd = -1  # holds on to an object whose remaining names are not known

    def is_directory(self) -> bool:
        """Whether this is a directory."""
        return self.kind == stat.S_IFDIR

    def place(self, parent: Inode, name: bytes, link_count: int) -> None:
        """Note that the object stands at ``name`` in ``parent``."""
        if link_count > 1 and self.kind != stat.S_IFDIR:
            if self.links is None:
                self.links = {(self.parent, self.name)} if self.parent is not None else set()
            self.links.add((parent, name))
        self.parent = parent
        self.name = name

    def displace(self, parent: Inode, name: bytes) -> None:
        """Note that the object no longer stands at ``name`` in ``parent``."""
        if self.links is not None:
            self.links.discard((parent, name))
        if self.parent is parent and self.name == name:
            self.parent, self.name = next(iter(self.links), (None, b"")) if self.links else (None, b"")


class InodeTable:
    """Inodes by the number that the kernel uses and by backing identity."""

    def __init__(self, root_stat: os.stat_result) -> None:
        self._device = root_stat.st_dev
        self.root = Inode(ROOT_NUMBER, (root_stat.st_dev, root_stat.st_ino), stat.S_IFDIR)
        self.root.lookups = 1
        self._by_number: dict[int, Inode] = {ROOT_NUMBER: self.root}
        self._by_key: dict[Key, Inode] = {self.root.key: self.root}
        self._next_number = _FIRST_FREE_NUMBER

    def __len__(self) -> int:
        return len(self._by_number)

    def get(self, number: int) -> Inode:
        """The inode of a number that the kernel sends."""
        inode = self._by_number.get(number)
        if inode is None:
            raise OSError(errno.ESTALE, "inode is not known")
        return inode

    def peek(self, number: int) -> Inode | None:
        """The inode of a number, if it is known."""
        return self._by_number.get(number)

    def find(self, status: os.stat_result) -> Inode | None:
        """The inode of a backing object, if it is known."""
        return self._by_key.get((status.st_dev, status.st_ino))

    def of(self, status: os.stat_result) -> Inode:
        """The inode of a backing object, made if it is new. The caller places it and counts the look-up."""
        key = (status.st_dev, status.st_ino)
        inode = self._by_key.get(key)
        kind = stat.S_IFMT(status.st_mode)
        if inode is not None:
            if inode.kind == kind:
                return inode
            self.detach(inode)  # the store was changed behind our back: the number is another object now
        inode = self._by_key[key] = Inode(self._free_number(status), key, kind)
        self._by_number[inode.number] = inode
        return inode

    def detach(self, inode: Inode) -> None:
        """The backing object is gone: its identity may be used again, its number not before it is forgotten."""
        if self._by_key.get(inode.key) is inode:
            del self._by_key[inode.key]

    def drop(self, inode: Inode) -> None:
        """Neither the kernel nor an open file needs the inode any more."""
        self.detach(inode)
        self._by_number.pop(inode.number, None)
        if inode.path_fd >= 0:
            os.close(inode.path_fd)
            inode.path_fd = -1

    def _free_number(self, status: os.stat_result) -> int:
        number = status.st_ino
        same_device = status.st_dev == self._device
        if same_device and ROOT_NUMBER < number < _FIRST_FREE_NUMBER and number not in self._by_number:
            return number
        self._next_number += 1
        return self._next_number
