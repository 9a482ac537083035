"""Zones: directories that name the CMK of what is created in and below them (docs/format.md section 6).

A zone says what new files get. What is there already keeps its keys until a rewrap.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from kmsfs.errors import FormatError
from kmsfs.format.directory import RECORD_SIZE, DirectoryRecord
from kmsfs.storage import backing
from kmsfs.tree.directories import RECORD_NAME, is_entry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
        zone = _own_zone(directory) if directory.is_dir() and not directory.is_symlink() else ""
        if zone or directory == root:
            return zone
    raise AssertionError("the root is above every entry")


def zones_below(top: Path) -> Iterator[Zone]:
    """The zones at and below a directory of a tree's store. Needs no keys: nothing is authenticated."""
    unlisted: list[OSError] = []
    for place, directories, _ in os.walk(top, onerror=unlisted.append):
        directories[:] = sorted(name for name in directories if is_entry(os.fsencode(name)))
        path = os.path.relpath(place, top)
        try:
            zone = _own_zone(Path(place))
        except (OSError, FormatError) as error:
            yield Zone(path, "", f"record of the directory: {error}")
            continue
        if zone:
            yield Zone(path, zone)
    yield from untold(unlisted, top)


def untold(unlisted: Sequence[OSError], top: Path) -> Iterator[Zone]:
    """The directories that could not be listed: of zones at and below them nothing is known."""
    for error in unlisted:
        if not isinstance(error, FileNotFoundError):  # it was removed meanwhile
            reason = os.strerror(error.errno or errno.EIO).lower()
            yield Zone(os.path.relpath(error.filename, top), "", f"directory: {reason}")


def _own_zone(directory: Path) -> str:
    fd = os.open(directory, backing.open_directory_flags)
    try:
        return DirectoryRecord.parse(backing.read_small(RECORD_NAME, fd, RECORD_SIZE)).zone
    finally:
        os.close(fd)
