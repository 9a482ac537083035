"""Every regular file of a tree's backing directory, with the keys that it is to be under.

Encrypted names only: nothing here knows a clear one. No link is followed. What goes away meanwhile was removed or
moved by the mount, and is not missed here: whoever changes a mounted tree walks it again.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from kmsfs.envelope.tree_key import LONG_PREFIX
from kmsfs.errors import FormatError, IntegrityError
from kmsfs.format.directory import NO_DIRECTORY, RECORD_SIZE, DirectoryRecord
from kmsfs.storage import backing
from kmsfs.tree.directories import RECORD_NAME, is_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kmsfs.envelope.tree_key import TreeKeys
    from kmsfs.ids import DirId, KeyArn

Wanted = tuple["KeyArn", ...]


@dataclass(frozen=True, slots=True)
class FoundDirectory:
    """A directory on the way; ``fd`` is good until the walk goes on."""

    path: bytes  # of entries, relative to the tree's root; b"" is the root
    fd: int
    record: DirectoryRecord


class FoundFile(NamedTuple):
    """A regular file; ``dir_fd`` is good until the walk goes on."""

    path: bytes
    name: bytes
    dir_fd: int
    wanted: Wanted


@dataclass(slots=True)
class _Level:
    path: bytes
    fd: int
    parent: DirId
    zone: str
    children: list[bytes] = field(default_factory=list)
    record: DirectoryRecord | None = None


class Walk:
    """One pass over a tree, depth first. Holds a descriptor for each level, and the names of one directory a level."""

    def __init__(
        self,
        root_fd: int,
        keys: TreeKeys,
        wanted: Callable[[str], Wanted],
        *,
        on_directory: Callable[[FoundDirectory], None],
        on_problem: Callable[[bytes, Exception], None],
    ) -> None:
        self._root_fd = root_fd
        self._keys = keys
        self._wanted = wanted  # the keys of files below a zone ("": in none)
        self._on_directory = on_directory
        self._on_problem = on_problem
        self.foreign = 0  # entries that are not of this tree: neither served by a mount nor touched here

    def files(self, start: bytes = b"") -> Iterator[FoundFile]:
        """Yield the files at or below ``start``: those of each directory before those further down."""
        levels = [_Level(b"", os.dup(self._root_fd), NO_DIRECTORY, "")]
        try:
            names = start.split(b"/") if start else []
            for name in names[:-1]:
                if not self._recognise(levels[-1]) or (below := self._open(levels[-1], name)) is None:
                    return
                levels.append(below)
            yield from self._at(levels, names[-1]) if names else self._enter(levels[0])
            while levels:
                top = levels[-1]
                if not top.children:
                    os.close(levels.pop().fd)
                    continue
                below = self._open(top, top.children.pop())
                if below is not None:
                    levels.append(below)
                    yield from self._enter(below)
        finally:
            for level in levels:
                os.close(level.fd)

    def _at(self, levels: list[_Level], name: bytes) -> Iterator[FoundFile]:
        """What a single name stands for."""
        above = levels[-1]
        if not self._recognise(above):
            return
        path = join(above.path, name)
        try:
            mode = os.stat(name, dir_fd=above.fd, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return
        except OSError as error:
            self._on_problem(path, error)
            return
        if stat.S_ISDIR(mode):
            above.children.append(name)
        elif stat.S_ISREG(mode):
            yield FoundFile(path, name, above.fd, self._wanted(above.zone))

    def _open(self, above: _Level, name: bytes) -> _Level | None:
        path = join(above.path, name)
        assert above.record is not None  # noqa: S101 - children are listed after the record was read
        try:
            fd = backing.open_directory(name, above.fd)
        except (FileNotFoundError, NotADirectoryError):  # it moved, and something else may have its name
            return None
        except OSError as error:
            self._on_problem(path, error)
            return None
        return _Level(path, fd, above.record.dir_id, above.zone)

    def _enter(self, level: _Level) -> Iterator[FoundFile]:
        if not self._recognise(level):
            return
        try:
            listing = backing.open_listing(b".", level.fd)
        except OSError as error:
            self._tell(level, error)
            return
        try:
            yield from self._list(level, listing, self._wanted(level.zone))
        finally:
            os.close(listing)

    def _recognise(self, level: _Level) -> bool:
        """Authenticate the record of a directory, and let the caller change its zone before anything below is seen."""
        try:
            raw = backing.read_small(RECORD_NAME, level.fd, RECORD_SIZE)
            level.record = self._keys.open_directory(raw, level.parent)
        except (OSError, FormatError, IntegrityError) as error:
            self._tell(level, error)
            return False
        try:
            self._on_directory(FoundDirectory(level.path, level.fd, level.record))
        except (FileNotFoundError, NotADirectoryError):  # it moved: whoever moved it tells
            pass
        except OSError as error:
            self._on_problem(level.path, error)
        level.zone = level.record.zone or level.zone
        return True

    def _tell(self, level: _Level, error: Exception) -> None:
        if not (isinstance(error, FileNotFoundError) and os.fstat(level.fd).st_nlink == 0):
            self._on_problem(level.path, error)

    def _is_foreign(self, name: bytes, level: _Level) -> bool:
        """Whether a mount would not show the entry; that of a long name is looked at when it is opened."""
        assert level.record is not None  # noqa: S101 - it was read before the directory is listed
        if name.startswith(LONG_PREFIX):
            return False
        try:
            self._keys.decrypt_name(name, level.record.dir_id)
        except (FormatError, IntegrityError):
            self.foreign += 1
            return True
        return False

    def _list(self, level: _Level, listing: int, wanted: Wanted) -> Iterator[FoundFile]:
        try:
            with os.scandir(listing) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    if not is_entry(name) or self._is_foreign(name, level):
                        continue
                    with suppress(FileNotFoundError):
                        if entry.is_file(follow_symlinks=False):
                            yield FoundFile(join(level.path, name), name, level.fd, wanted)
                        elif entry.is_dir(follow_symlinks=False):
                            level.children.append(name)
        except OSError as error:  # of the directory: whoever takes the files catches his own
            self._tell(level, error)


def join(directory: bytes, name: bytes) -> bytes:
    """The path of an entry, relative to the root."""
    return directory + b"/" + name if directory else name


@contextmanager
def standing(root_fd: int, path: bytes) -> Iterator[tuple[bytes, int]]:
    """The last name of a path relative to the root, and a descriptor of the directory that holds it."""
    *directories, name = path.split(b"/")
    dir_fd = os.dup(root_fd)
    try:
        for directory in directories:
            below = backing.open_directory(directory, dir_fd)
            os.close(dir_fd)
            dir_fd = below
        yield name, dir_fd
    finally:
        os.close(dir_fd)
