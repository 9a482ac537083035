"""Directories of the backing store: descriptors, records, and the way from clear names to entries.

A descriptor from ``fd`` belongs to the cache here and is good until the next checkpoint.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections import OrderedDict
from typing import TYPE_CHECKING

import trio

from kmsfs.crypto.entropy import random_bytes
from kmsfs.envelope.tree_key import LONG_PREFIX, MAX_NAME, SIDECAR_SUFFIX, TreeKeys, entry_name
from kmsfs.errors import FormatError, IntegrityError
from kmsfs.format.directory import NO_DIRECTORY, RECORD_SIZE, DirectoryRecord
from kmsfs.ids import DirId
from kmsfs.storage import backing, durable
from kmsfs.storage.lending import lent

if TYPE_CHECKING:
    from kmsfs.tree.inodes import Inode

log = logging.getLogger(__name__)

RECORD_NAME = b".kmsfs.dir"
SUPERBLOCK_NAME = b"kmsfs.tree"
LINKS_NAME = b"kmsfs.links"
WORK_NAME = b"kmsfs.work"
COPYING_NAME = b"kmsfs.copying"
_OWN_PREFIX = b"kmsfs."
_MAX_FDS = 256
_MAX_LONG_NAME = 400  # bytes of an encrypted name of 255 bytes


class Directories:
    """All that a mount knows of its directories."""

    def __init__(self, root: Inode, root_fd: int, keys: TreeKeys) -> None:
        self.root = root
        self.root_fd = root_fd
        self._keys = keys
        self._fds: OrderedDict[Inode, int] = OrderedDict()
        self._reported: set[tuple[int, int]] = set()
        self.changing = trio.Lock()  # held by whoever replaces records: a move, the making of a zone

    # --- descriptors --------------------------------------------------------------------------------

    def fd(self, inode: Inode) -> int:
        """An O_PATH descriptor of a directory."""
        if inode is self.root:
            return self.root_fd
        found = self._fds.get(inode)
        if found is not None:
            self._fds.move_to_end(inode)
            return found
        chain = [inode]  # not recursive: trees may be deeper than Python's stack
        while (
            (parent := chain[-1].parent) is not None and parent is not self.root and parent not in self._fds
        ):
            chain.append(parent)
        for directory in reversed(chain):
            found = self._open(directory)
        assert found is not None  # noqa: S101 - the chain has at least one element
        return found

    def _open(self, inode: Inode) -> int:
        if inode.parent is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        parent_fd = self.root_fd if inode.parent is self.root else self._fds[inode.parent]
        fd = backing.open_directory(inode.name, parent_fd)
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) != inode.key:
            os.close(fd)
            raise OSError(errno.ESTALE, "another directory stands here now")
        self._fds[inode] = fd
        if len(self._fds) > _MAX_FDS:
            _, oldest = self._fds.popitem(last=False)
            os.close(oldest)
        return fd

    def forget(self, inode: Inode) -> None:
        """Close the descriptor of a directory that goes."""
        fd = self._fds.pop(inode, None)
        if fd is not None:
            os.close(fd)

    def close(self) -> None:
        """Close all descriptors but the root's."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    # --- records ------------------------------------------------------------------------------------

    def record(self, inode: Inode) -> DirectoryRecord:
        """The authenticated record of a directory; read once."""
        if inode.directory is None:
            parent_id = NO_DIRECTORY
            if inode is not self.root:
                if inode.parent is None:
                    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
                parent_id = self.record(inode.parent).dir_id
            inode.directory = self.read_record(self.fd(inode), parent_id)
        return inode.directory

    def read_record(self, dir_fd: int, parent: DirId) -> DirectoryRecord:
        """Read and authenticate the record in an open directory."""
        try:
            with lent(dir_fd, stat.S_IXUSR):
                raw = backing.read_small(RECORD_NAME, dir_fd, RECORD_SIZE)
        except FileNotFoundError:
            raise IntegrityError(
                "a directory has lost its record", hint="restore .kmsfs.dir from a backup"
            ) from None
        return self._keys.open_directory(raw, parent)

    def make_record(self, parent: DirId) -> DirectoryRecord:
        """A record for a new directory."""
        return DirectoryRecord(DirId(random_bytes(16)), parent)

    def write_record(self, dir_fd: int, record: DirectoryRecord) -> None:
        """Write the first record of a directory, durably. Waits for the disk."""
        durable.write_new(RECORD_NAME, dir_fd, self._keys.seal_directory(record))
        durable.sync_directory(dir_fd)

    def replace_record(self, dir_fd: int, record: DirectoryRecord) -> None:
        """Replace the record of a directory, durably; its times stay. Waits for the disk."""
        put_record(dir_fd, self._keys.seal_directory(record))

    # --- names --------------------------------------------------------------------------------------

    def entry(self, parent: Inode, name: bytes) -> bytes:
        """The backing entry that stands for a clear name."""
        return entry_name(self.encrypted(parent, name))

    def encrypted(self, parent: Inode, name: bytes) -> bytes:
        """The encrypted name, before it is shortened."""
        if len(name) > MAX_NAME:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        record = parent.directory or self.record(parent)
        return self._keys.encrypt_name(name, record.dir_id)

    def retire(self, parent: Inode, entry: bytes) -> None:
        """The entry was removed: remove its sidecar. One that cannot be removed stays as a leftover."""
        if not entry.startswith(_OWN_PREFIX):
            return
        with contextlib.suppress(OSError):  # what was asked for is done: it must not be told as a failure
            fd = self.fd(parent)
            try:
                os.stat(entry, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                os.unlink(entry + SIDECAR_SUFFIX, dir_fd=fd)

    def clear_name(self, dir_fd: int, directory: DirectoryRecord, entry: bytes) -> bytes | None:
        """The clear name of a backing entry, or None for one that is not an entry of the tree."""
        encrypted = entry
        if not is_entry(entry):
            if not entry.startswith(_OWN_PREFIX) and entry != RECORD_NAME:
                self._report(dir_fd, directory)
            return None
        if b"." in entry:
            try:
                encrypted = backing.read_small(entry + SIDECAR_SUFFIX, dir_fd, _MAX_LONG_NAME)
            except (OSError, IntegrityError):
                self._report(dir_fd, directory)
                return None
        try:
            if entry_name(encrypted) != entry:
                raise IntegrityError("long name stands under another hash")
            return self._keys.decrypt_name(encrypted, directory.dir_id)
        except (FormatError, IntegrityError):
            self._report(dir_fd, directory)
            return None

    def _report(self, dir_fd: int, directory: DirectoryRecord) -> None:
        """Log foreign entries once for each directory; they are neither served nor touched."""
        status = os.fstat(dir_fd)
        key = (status.st_dev, status.st_ino)
        if key not in self._reported:
            self._reported.add(key)
            log.warning("directory %s holds entries that are not of this tree", directory.dir_id.hex())

    def is_empty(self, dir_fd: int) -> bool:
        """Whether a directory holds nothing but its record and leftovers. ``dir_fd`` may be O_PATH."""
        with lent(dir_fd, stat.S_IRUSR | stat.S_IXUSR):
            fd = backing.open_listing(b".", dir_fd)
        try:
            names = set(map(os.fsencode, os.listdir(fd)))
        finally:
            os.close(fd)
        return all(is_leftover(name, names) for name in names)

    def purge(self, name: bytes, parent_fd: int) -> None:
        """Remove an empty directory that nobody sees any more: record, leftovers, directory.

        What cannot be removed stays as a leftover of the parent: the directory has lost its name already.
        """
        try:
            self._purge(name, parent_fd)
        except OSError as error:
            log.warning("leftover %s stays: %s", os.fsdecode(name), os.strerror(error.errno or 0))

    def _purge(self, name: bytes, parent_fd: int) -> None:
        path_fd = backing.open_directory(name, parent_fd)
        try:
            with lent(path_fd, stat.S_IRWXU):
                self._empty(path_fd)
        finally:
            os.close(path_fd)
        os.rmdir(name, dir_fd=parent_fd)

    def _empty(self, path_fd: int) -> None:
        fd = backing.open_listing(b".", path_fd)
        try:
            for entry in map(os.fsencode, os.listdir(fd)):
                if entry.startswith(durable.TEMPORARY_PREFIX):
                    self._remove_leftover(entry, fd)
                else:
                    os.unlink(entry, dir_fd=fd)
        finally:
            os.close(fd)

    def _remove_leftover(self, name: bytes, dir_fd: int) -> None:
        try:
            os.unlink(name, dir_fd=dir_fd)
        except IsADirectoryError:
            self._purge(name, dir_fd)


def write_sidecar(dir_fd: int, entry: bytes, encrypted: bytes) -> None:
    """Keep the encrypted name that is too long to be an entry, durably. Waits for the disk."""
    try:
        durable.write_new(entry + SIDECAR_SUFFIX, dir_fd, encrypted)
    except FileExistsError:  # of the entry that has the name now, or left over
        durable.replace(entry + SIDECAR_SUFFIX, dir_fd, encrypted)


def put_record(dir_fd: int, sealed: bytes) -> None:
    """Replace the record of an open directory, durably; its times stay. Waits for the disk."""
    status = os.fstat(dir_fd)
    with lent(dir_fd, stat.S_IRWXU):
        durable.replace(RECORD_NAME, dir_fd, sealed)
    with contextlib.suppress(PermissionError):  # not the owner
        os.utime(backing.proc_path(dir_fd), ns=(status.st_atime_ns, status.st_mtime_ns))


def is_entry(name: bytes) -> bool:
    """Whether a backing name can be that of a clear one; the tree's own files and leftovers have a dot in theirs."""
    return b"." not in name or (name.startswith(LONG_PREFIX) and not name.endswith(SIDECAR_SUFFIX))


def is_leftover(name: bytes, siblings: set[bytes]) -> bool:
    """Whether a backing entry does not count when a directory is asked to be empty."""
    if name == RECORD_NAME or name.startswith(durable.TEMPORARY_PREFIX):
        return True
    is_sidecar = name.startswith(LONG_PREFIX) and name.endswith(SIDECAR_SUFFIX)
    return is_sidecar and name.removesuffix(SIDECAR_SUFFIX) not in siblings
