"""rename(2) and renameat2(2).

A directory that changes its parent first gets a record that names both parents, durably, then moves, then gets a record
that names the new one: a stop at any point leaves a tree that reads (docs/format.md section 6). A file that goes into
another zone is wrapped under that zone's keys as well, moves, and loses the old slots once that is durable
(crossings.py).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from kmsfs.envelope.tree_key import entry_name
from kmsfs.errors import KmsfsError
from kmsfs.format.directory import NO_DIRECTORY, DirectoryRecord
from kmsfs.storage import backing, durable
from kmsfs.storage.backing import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT
from kmsfs.storage.lending import lent
from kmsfs.tree.crossings import Crossing
from kmsfs.tree.directories import write_sidecar
from kmsfs.tree.namespace import Removal, set_aside

if TYPE_CHECKING:
    from kmsfs.ids import DirId
    from kmsfs.tree.files import Files
    from kmsfs.tree.inodes import Inode
    from kmsfs.tree.volume import Volume

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Place:
    """One end of a rename."""

    parent: Inode
    entry: bytes
    encrypted: bytes
    fd: int  # owned: good across checkpoints
    status: os.stat_result | None
    inode: Inode | None

    @classmethod
    def at(cls, volume: Volume, parent: Inode, name: bytes) -> Place:
        """Look at what stands at a name."""
        encrypted = volume.directories.encrypted(parent, name)
        entry = entry_name(encrypted)
        fd = os.dup(volume.directories.fd(parent))
        status = None
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(entry, dir_fd=fd, follow_symlinks=False)
        return cls(parent, entry, encrypted, fd, status, volume.inodes.find(status) if status else None)

    def is_directory(self) -> bool:
        """Whether a directory stands here."""
        return self.status is not None and stat.S_ISDIR(self.status.st_mode)

    def same_object(self, other: Place) -> bool:
        """Whether both names are links to one object."""
        if self.status is None or other.status is None:
            return False
        return (self.status.st_dev, self.status.st_ino) == (other.status.st_dev, other.status.st_ino)


async def rename(
    volume: Volume, files: Files, old: tuple[Inode, bytes], new: tuple[Inode, bytes], flags: int, uid: int
) -> None:
    """renameat2(2) with RENAME_NOREPLACE, RENAME_EXCHANGE and RENAME_WHITEOUT, on behalf of a user."""
    if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    source = Place.at(volume, *old)
    try:
        target = Place.at(volume, *new)
        try:
            if _is_done(source, target, flags):
                return
            crossings = _crossings(volume, files, source, target, flags, uid)
            if target.entry != target.encrypted and target.status is None:
                await trio.to_thread.run_sync(write_sidecar, target.fd, target.entry, target.encrypted)
            async with (
                volume.directories.changing if _moves_directory(source, target, flags) else nullcontext()
            ):
                await _rename(volume, source, target, flags, crossings)
        finally:
            os.close(target.fd)
    finally:
        os.close(source.fd)


def _is_done(source: Place, target: Place, flags: int) -> bool:
    """Refuse what cannot be; True if there is nothing to do."""
    if source.status is None or (flags & RENAME_EXCHANGE and target.status is None):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    if flags & RENAME_NOREPLACE and target.status is not None:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    if source.same_object(target):
        return True  # rename(2): two links to one file: nothing happens
    if not flags & RENAME_EXCHANGE and target.status is not None:
        _check_kinds(source, target)
    return False


async def _rename(
    volume: Volume, source: Place, target: Place, flags: int, crossings: list[Crossing]
) -> None:
    moves = _moves(volume, source, target, exchange=bool(flags & RENAME_EXCHANGE))
    try:
        for move in moves:
            await trio.to_thread.run_sync(move.announce)
        while not all(crossing.is_prepared() for crossing in crossings):
            for crossing in crossings:
                await crossing.prepare()
        # No checkpoint: what is prepared stays so until the names have changed.
        if flags & RENAME_EXCHANGE:
            backing.rename(source.entry, source.fd, target.entry, target.fd, flags)
            _exchanged(volume, source, target)
        else:
            _replace(volume, source, target, flags)
    except (OSError, KmsfsError, trio.Cancelled):
        with trio.CancelScope(shield=True):
            for move in moves:
                await trio.to_thread.run_sync(move.cancel)
            for crossing in crossings:
                await crossing.cancel()
            volume.directories.retire(target.parent, target.entry)
        raise
    for move in moves:
        move.inode_moved()
        await trio.to_thread.run_sync(move.finish)
    durable_names = await trio.to_thread.run_sync(_make_durable, source, target) if crossings else True
    for crossing in crossings:
        await crossing.finish(durable=durable_names)


def _make_durable(source: Place, target: Place) -> bool:
    """Make the names of both directories durable; False if that failed. Waits for the disk."""
    try:
        for place in (target, source):
            with lent(place.fd, stat.S_IRUSR | stat.S_IXUSR):
                durable.sync_directory(place.fd)
    except OSError as error:
        log.warning("a file that was moved keeps slots of two zones: %s", os.strerror(error.errno or 0))
        return False
    return True


def _moves_directory(source: Place, target: Place, flags: int) -> bool:
    """Whether the record of a directory will be replaced."""
    exchanged = bool(flags & RENAME_EXCHANGE) and target.is_directory()
    return source.parent is not target.parent and (source.is_directory() or exchanged)


def _crossings(
    volume: Volume, files: Files, source: Place, target: Place, flags: int, uid: int
) -> list[Crossing]:
    """The files that go into another zone. OSError(EXDEV) for what cannot: then mv(1) copies."""
    if volume.wanted_keys(source.parent) == volume.wanted_keys(target.parent):
        return []
    crossings = []
    for place, parent in [(source, target.parent), (target, source.parent)][
        : 1 + bool(flags & RENAME_EXCHANGE)
    ]:
        status = place.status
        assert status is not None  # noqa: S101 - _is_done has looked
        if stat.S_ISDIR(status.st_mode) and not _is_zone(volume, place):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        if stat.S_ISREG(status.st_mode):
            if status.st_nlink > 1:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            inode = place.inode or volume.inodes.of(status)
            inode.place(place.parent, place.entry, status.st_nlink)
            place.inode = inode
            crossings.append(Crossing(volume, files, inode, parent, uid))
    return crossings


def _is_zone(volume: Volume, place: Place) -> bool:
    """Whether a directory names its key itself, so that it does not matter where it stands."""
    directories = volume.directories
    if place.inode is not None:
        return bool(directories.record(place.inode).zone)
    fd = backing.open_directory(place.entry, place.fd)
    try:
        return bool(directories.read_record(fd, directories.record(place.parent).dir_id).zone)
    finally:
        os.close(fd)


def _check_kinds(source: Place, target: Place) -> None:
    if source.is_directory() and not target.is_directory():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if target.is_directory() and not source.is_directory():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


def _replace(volume: Volume, source: Place, target: Place, flags: int) -> None:
    """Everything but an exchange. No checkpoint."""
    removal = None
    aside = b""
    if target.status is not None:
        removal = Removal(volume, target.parent, target.entry, target.status)
        if target.is_directory():
            aside = set_aside(volume, target.entry, target.fd)
    try:
        backing.rename(source.entry, source.fd, target.entry, target.fd, flags)
    except OSError:
        if aside:
            backing.rename(aside, target.fd, target.entry, target.fd)
        raise
    if aside:
        volume.directories.purge(aside, target.fd)
    if removal is not None:
        removal.done()
    _moved(volume, source.inode, source, target)
    volume.directories.retire(source.parent, source.entry)  # not after a whiteout: the entry is there


def _moved(volume: Volume, inode: Inode | None, old: Place, new: Place) -> None:
    assert old.status is not None  # noqa: S101 - something stood there
    volume.moved.add(new.parent, new.entry, old.status.st_ino)
    if inode is not None:
        inode.displace(old.parent, old.entry)
        inode.parent, inode.name = new.parent, new.entry
        if inode.links is not None:
            inode.links.add((new.parent, new.entry))


def _exchanged(volume: Volume, source: Place, target: Place) -> None:
    _moved(volume, source.inode, source, target)
    _moved(volume, target.inode, target, source)


class Move:
    """A directory that changes its parent."""

    def __init__(self, volume: Volume, place: Place, old: DirId, new: DirId) -> None:
        self._directories = volume.directories
        self._inode = place.inode
        self._fd = backing.open_directory(place.entry, place.fd)
        try:
            self._record = self._directories.read_record(self._fd, old)
        except BaseException:
            os.close(self._fd)
            raise
        self._old, self._new = old, new
        self._announced = False

    def announce(self) -> None:
        """The record names both parents. Waits for the disk."""
        self._write(replace(self._record, parent=self._old, other_parent=self._new))
        self._announced = True

    def finish(self) -> None:
        """The record names the new parent. Waits for the disk; on error the record with both stays, and reads."""
        try:
            self._write(replace(self._record, parent=self._new, other_parent=NO_DIRECTORY))
        except OSError as error:  # the rename itself is done: it must not be told as a failure
            log.warning("directory %s keeps two parents: %s", self._record.dir_id.hex(), error.strerror)
        finally:
            os.close(self._fd)

    def cancel(self) -> None:
        """The record names the old parent again. Waits for the disk; on error the one with both stays, and reads."""
        try:
            if self._announced:
                with contextlib.suppress(OSError):
                    self._write(replace(self._record, parent=self._old, other_parent=NO_DIRECTORY))
        finally:
            os.close(self._fd)

    def inode_moved(self) -> None:
        """What is kept in memory follows."""
        if self._inode is not None:
            self._inode.directory = replace(self._record, parent=self._new, other_parent=NO_DIRECTORY)

    def _write(self, record: DirectoryRecord) -> None:
        self._directories.replace_record(self._fd, record)


def _moves(volume: Volume, source: Place, target: Place, *, exchange: bool) -> list[Move]:
    if source.parent is target.parent:
        return []
    old = volume.directories.record(source.parent).dir_id
    new = volume.directories.record(target.parent).dir_id
    moves = []
    if source.is_directory():
        moves.append(Move(volume, source, old, new))
    if exchange and target.is_directory():
        try:
            moves.append(Move(volume, target, new, old))
        except BaseException:
            for move in moves:
                move.cancel()
            raise
    return moves
