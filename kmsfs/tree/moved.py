"""Where things have been moved to since a tool last asked.

A tool that walks a mounted tree could miss what is moved from where it has not been to where it has. What moves to and
fro is remembered once for each of its places; its inode number tells the tool what it has found already.
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
        self._places: dict[tuple[int, bytes], None] | None = None  # None: nobody asks, or it is too much
        self._bytes = 0

    def add(self, parent: Inode, entry: bytes, ino: int) -> None:
        """Something has got another name."""
        if self._places is None:
            return
        place = ino, entry_path(parent, entry)
        if place not in self._places:
            self._places[place] = None
            self._bytes += len(place[1])
            if self._bytes > _MAX_BYTES:
                self._places = None

    def take(self) -> list[tuple[int, bytes]] | None:
        """(inode number, path) of what was moved since the last call; None if that is not known. From now on it is."""
        places, self._places, self._bytes = self._places, {}, 0
        return None if places is None else list(places)
