"""Zones: directories that name the CMK of what is created in and below them (docs/format.md section 6).

A zone says what new files get. What is there already keeps its keys until a rewrap.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from kmsfs.errors import FormatError, IntegrityError
from kmsfs.format.directory import RECORD_SIZE, DirectoryRecord
from kmsfs.storage import backing
from kmsfs.tree.directories import RECORD_NAME, is_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from kmsfs.tree.inodes import Inode
    from kmsfs.tree.tree import Tree


@dataclass(frozen=True, slots=True)
class Zone:
    """A directory that names a CMK. ``path`` is relative to where one has looked; ``.`` is that itself."""

    path: str
    key_arn: str
    problem: str = ""  # why it cannot be told, or why nothing can be made under the key


async def set_zone(tree: Tree, entries: Sequence[bytes], key_arn: str) -> None:
    """Make the directory at ``entries`` a zone of a CMK, or with an empty name of a key no zone of its own.

    The key must be one that files can be made under now, by whom the tree is open for.
    """
    volume = tree.volume
    if volume.options.read_only:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    if key_arn:
        await volume.file_keys.require(volume.block.wanted_keys(key_arn), os.geteuid())
    with _reached(tree, entries) as inode:
        async with volume.directories.changing:
            changed = replace(volume.directories.record(inode), zone=key_arn)
            fd = os.dup(volume.directories.fd(inode))
            try:
                await trio.to_thread.run_sync(volume.directories.replace_record, fd, changed)
            except OSError:
                inode.directory = None  # the old one or the new one: it is read again
                raise
            finally:
                os.close(fd)
            inode.directory = changed


@contextmanager
def _reached(tree: Tree, entries: Sequence[bytes]) -> Iterator[Inode]:
    """The directory at a path of backing entries, known to the tree as long as the block runs."""
    volume = tree.volume
    inode, looked_up = volume.inodes.root, []
    try:
        for entry in entries:
            status = os.stat(entry, dir_fd=volume.directories.fd(inode), follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            inode, _ = tree.namespace.known(inode, entry, status)
            looked_up.append(inode)
        yield inode
    finally:
        volume.forget([(inode.number, 1) for inode in reversed(looked_up)])


def zone_at(path: Path, root: Path) -> str:
    """The key of the zone that an entry of a tree lies in, or nothing. Needs no keys: nothing is authenticated."""
    for directory in (path, *path.parents):
        zone = _zone_of(directory) if directory.is_dir() and not directory.is_symlink() else ""
        if zone or directory == root:
            return zone
    raise AssertionError("the root is above every entry")


def _zone_of(directory: Path) -> str:
    fd = os.open(directory, backing.open_directory_flags)
    try:
        return _own_zone(fd)
    finally:
        os.close(fd)


def zones_below(top: Path) -> Iterator[Zone]:
    """The zones at and below a directory of a tree's store. Needs no keys: nothing is authenticated."""
    for place in directories_below(top, lambda entry: is_entry(os.fsencode(entry.name))):
        try:
            zone = _own_zone(place.open())
        except (FormatError, IntegrityError) as error:
            yield Zone(place.path, "", f"record of the directory: {error}")
        except OSError as error:
            yield place.untold(error)
        else:
            if zone:
                yield Zone(place.path, zone)


class Place:
    """A directory below another, reached by descriptors: no path leads to one that is deep enough."""

    def __init__(self, name: str, above: Place | None = None) -> None:
        self._name, self._above = name, above
        self.fd = -1
        self.problem: OSError | None = None  # why it cannot be listed: of what is in it nothing is known
        self.below: list[str] = []

    @property
    def path(self) -> str:
        """Relative to where one has begun; ``.`` is that itself."""
        names, place = list[str](), self
        while place._above is not None:
            names.append(place._name)
            place = place._above
        return "/".join(reversed(names)) or "."

    def open(self) -> int:
        """A descriptor that lists, good until the next directory; raises why there is none."""
        if self.problem is not None:
            raise self.problem
        return self.fd

    def untold(self, error: OSError) -> Zone:
        """What is said of a directory that cannot be looked at."""
        what = "directory" if error is self.problem else "record of the directory"
        return Zone(self.path, "", f"{what}: {os.strerror(error.errno or errno.EIO).lower()}")

    def enter(self, belongs: Callable[[os.DirEntry[str]], bool]) -> bool:
        """Open and list it; False if it is there no more."""
        above = self._above
        try:
            self.fd = os.open(
                self._name,
                os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (os.O_NOFOLLOW if above else 0),
                dir_fd=above.fd if above else None,
            )
            with os.scandir(self.fd) as entries:
                found = [entry.name for entry in entries if _is_directory(entry) and belongs(entry)]
        except (FileNotFoundError, NotADirectoryError):  # it was removed meanwhile
            return False
        except OSError as error:
            self.problem = error
            return True
        self.below = sorted(found, reverse=True)
        return True

    def close(self) -> None:
        """Close the descriptor."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def directories_below(top: Path, belongs: Callable[[os.DirEntry[str]], bool]) -> Iterator[Place]:
    """A directory and all below it that ``belongs`` says yes to, each before what is in it, by name."""
    levels: list[Place] = []
    try:
        place = Place(os.fspath(top))
        while True:
            levels.append(place)
            if place.enter(belongs):
                yield place
            while levels and not levels[-1].below:
                levels.pop().close()
            if not levels:
                return
            place = Place(levels[-1].below.pop(), levels[-1])
    finally:
        for level in levels:
            level.close()


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except FileNotFoundError:
        return False


def _own_zone(fd: int) -> str:
    return DirectoryRecord.parse(backing.read_small(RECORD_NAME, fd, RECORD_SIZE)).zone
