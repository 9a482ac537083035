"""Where things have been moved to since a tool last asked.

A tool that walks a mounted tree could miss what is moved from where it has not been to where it has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kmsfs.tree.inodes import Inode

_MAX_BYTES: Final = 1 << 20


def entry_path(inode: Inode | None, entry: bytes = b"") -> bytes:
    """The backing entries from the root to ``entry`` in a directory, or to the directory itself."""
    names = [entry] if entry else []
    while inode is not None and inode.parent is not None:
        names.append(inode.name)
        inode = inode.parent
    return b"/".join(reversed(names))


class MovedPaths:
    """Records nothing before ``take`` was called for the first time."""

    def __init__(self) -> None:
        self._paths: list[bytes] | None = None  # None: nobody asks, or there is too much to remember
        self._bytes = 0

    def add(self, parent: Inode, entry: bytes) -> None:
        """Something has got another name."""
        if self._paths is None:
            return
        path = entry_path(parent, entry)
        self._paths.append(path)
        self._bytes += len(path)
        if self._bytes > _MAX_BYTES:
            self._paths = None

    def take(self) -> list[bytes] | None:
        """What was moved since the last call; None if that is not known. From now on it is."""
        paths, self._paths, self._bytes = self._paths, [], 0
        return paths
