"""Names: look-up, creation, removal, links. Renames are in kmsfs.tree.renames.

The kernel serialises changes within a directory (its inode lock is held for the whole request), so a checkpoint
inside a change can only let other directories change.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from kmsfs.crypto.entropy import NONCE_SIZE, random_bytes
from kmsfs.envelope.tree_key import INDIRECT_LINK_SIZE, entry_name
from kmsfs.storage import backing, durable
from kmsfs.tree import symlinks
from kmsfs.tree.directories import write_sidecar

if TYPE_CHECKING:
    from kmsfs.keystore.pool import ReadyKey
    from kmsfs.tree.inodes import Inode
    from kmsfs.tree.volume import Caller, Volume

Entry = tuple["Inode", os.stat_result]


class Namespace:
    """The names of one mount."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._directories = volume.directories
        self._inodes = volume.inodes

    # --- look-up -----------------------------------------------------------------------------------------

    def lookup(self, parent: Inode, name: bytes) -> Entry:
        """The object at ``name``. Counts a look-up. FileNotFoundError if there is none."""
        entry = self._directories.entry(parent, name)
        status = os.stat(entry, dir_fd=self._directories.fd(parent), follow_symlinks=False)
        return self.known(parent, entry, status)

    def known(self, parent: Inode, entry: bytes, status: os.stat_result) -> Entry:
        """Note where an object stands, and count a look-up."""
        inode = self._inodes.of(status)
        inode.place(parent, entry, status.st_nlink)
        inode.lookups += 1
        return inode, status

    def _status(self, parent: Inode, entry: bytes) -> os.stat_result:
        return os.stat(entry, dir_fd=self._directories.fd(parent), follow_symlinks=False)

    # --- creation ----------------------------------------------------------------------------------------

    async def create(
        self, parent: Inode, name: bytes, mode: int, caller: Caller
    ) -> tuple[Entry, int, ReadyKey]:
        """A new regular file, a descriptor that reads and writes it, and its data key, without which there is no file.

        FileExistsError if the name is taken.
        """
        file_keys = self._volume.file_keys
        epoch = file_keys.epoch
        ready = await file_keys.take(self._volume.wanted_keys(parent), caller.uid)
        try:
            entry = await self._announce(parent, name)
            while (
                ready.wanted != (wanted := self._volume.wanted_keys(parent)) or epoch != file_keys.epoch
            ):  # since a moment ago
                epoch = file_keys.epoch
                with self._unless_failed(parent, entry):
                    fresh = await file_keys.take(wanted, caller.uid)
                file_keys.give_back(ready)
                ready = fresh
            return *self._create(parent, entry, mode, caller), ready
        except BaseException:
            file_keys.give_back(ready)
            raise

    def _create(self, parent: Inode, entry: bytes, mode: int, caller: Caller) -> tuple[Entry, int]:
        dir_fd = self._directories.fd(parent)
        with self._unless_failed(parent, entry):
            fd = backing.create_regular(entry, dir_fd, stat.S_IMODE(mode))
            try:
                self._own_or_remove(parent, entry, mode, caller)
                return self.known(parent, entry, os.fstat(fd)), fd
            except BaseException:
                os.close(fd)
                raise

    async def mknod(self, parent: Inode, name: bytes, mode: int, device: int, caller: Caller) -> Entry:
        """mknod(2): a regular file, fifo, socket or device."""
        entry = await self._announce(parent, name)
        with self._unless_failed(parent, entry):
            os.mknod(entry, mode, device, dir_fd=self._directories.fd(parent))
            self._own_or_remove(parent, entry, mode, caller)
        return self.known(parent, entry, self._status(parent, entry))

    async def symlink(self, parent: Inode, name: bytes, target: bytes, caller: Caller) -> Entry:
        """symlink(2)."""
        entry = await self._announce(parent, name)
        stored = await symlinks.seal(self._volume, target, random_bytes(NONCE_SIZE))
        with self._unless_failed(parent, entry):
            try:
                os.symlink(stored, entry, dir_fd=self._directories.fd(parent))
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
                # XFS takes 1,023 bytes.
                stored = await symlinks.seal_beside(self._volume, target, random_bytes(NONCE_SIZE))
                os.symlink(stored, entry, dir_fd=self._directories.fd(parent))
            self._own_or_remove(parent, entry, stat.S_IFLNK, caller)
        return self.known(parent, entry, self._status(parent, entry))

    async def link(self, inode: Inode, parent: Inode, name: bytes) -> Entry:
        """link(2). A file is under the keys of one zone, so all its names are in it: OSError(EXDEV) otherwise."""
        entry = await self._announce(parent, name)
        with self._unless_failed(parent, entry):
            self._link(inode, parent, entry)
        return self.known(parent, entry, self._status(parent, entry))

    def _link(self, inode: Inode, parent: Inode, entry: bytes) -> None:
        if inode.parent is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        wanted = self._volume.wanted_keys
        if inode.kind == stat.S_IFREG and wanted(parent) != wanted(inode.parent):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        old_entry, source_fd = self._volume.place(inode, inode.parent)
        source_fd = os.dup(source_fd)  # opening the other one may evict it
        try:
            parent_fd = self._directories.fd(parent)
            os.link(old_entry, entry, src_dir_fd=source_fd, dst_dir_fd=parent_fd, follow_symlinks=False)
            self._volume.moved.add(parent, entry, inode.key[1])
        finally:
            os.close(source_fd)

    async def mkdir(self, parent: Inode, name: bytes, mode: int, caller: Caller) -> Entry:
        """mkdir(2). The record is durable before the directory has its name: there is no directory without one."""
        directories = self._directories
        entry = directories.entry(parent, name)
        parent_fd = directories.fd(parent)
        if _exists(entry, parent_fd):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        entry = await self._announce(parent, name)
        temporary = durable.temporary_name()
        parent_fd = os.dup(directories.fd(parent))
        try:
            with self._unless_failed(parent, entry):
                lent = 0 if self._volume.as_root else stat.S_IRWXU & ~mode  # to write the record
                os.mkdir(temporary, stat.S_IMODE(mode) | lent, dir_fd=parent_fd)
                try:
                    record = directories.make_record(directories.record(parent).dir_id)
                    await trio.to_thread.run_sync(self._furnish, temporary, parent_fd, record)
                    self._own(parent, temporary, mode | stat.S_IFDIR, caller)
                    if lent:
                        now = os.stat(temporary, dir_fd=parent_fd).st_mode
                        os.chmod(temporary, stat.S_IMODE(now) & ~lent, dir_fd=parent_fd)
                    backing.rename(temporary, parent_fd, entry, parent_fd, backing.RENAME_NOREPLACE)
                except BaseException:
                    directories.purge(temporary, parent_fd)
                    raise
        finally:
            os.close(parent_fd)
        inode, status = self.known(parent, entry, self._status(parent, entry))
        inode.directory = record
        return inode, status

    def _furnish(self, name: bytes, parent_fd: int, record: object) -> None:
        fd = backing.open_directory(name, parent_fd)
        try:
            self._directories.write_record(fd, record)  # type: ignore[arg-type]
        finally:
            os.close(fd)

    async def _announce(self, parent: Inode, name: bytes) -> bytes:
        """The backing entry for a new name; a sidecar, if it needs one, is durable before the entry."""
        encrypted = self._directories.encrypted(parent, name)
        entry = entry_name(encrypted)
        if entry != encrypted:
            fd = os.dup(self._directories.fd(parent))
            try:
                await trio.to_thread.run_sync(write_sidecar, fd, entry, encrypted)
            finally:
                os.close(fd)
        return entry

    def _unless_failed(self, parent: Inode, entry: bytes) -> _Retiring:
        return _Retiring(self._volume, parent, entry)

    def _own_or_remove(self, parent: Inode, entry: bytes, mode: int, caller: Caller) -> None:
        """Give a new object that has its name already to the caller, or take the name away again."""
        try:
            self._own(parent, entry, mode, caller)
        except BaseException:
            removal = Removal(self._volume, parent, entry, self._status(parent, entry))
            os.unlink(entry, dir_fd=self._directories.fd(parent))
            removal.done()
            raise

    def _own(self, parent: Inode, entry: bytes, mode: int, caller: Caller) -> None:
        """Give a new object to the caller, as the file system would have done for him."""
        dir_fd = self._directories.fd(parent)
        if self._volume.as_root and (caller.uid, caller.gid) != (0, 0):
            group = caller.gid
            if os.fstat(dir_fd).st_mode & stat.S_ISGID:
                group = -1  # inherited from the directory, which the backing file system has done
            os.chown(entry, caller.uid, group, dir_fd=dir_fd, follow_symlinks=False)
        elif caller.gid != os.getegid() and not os.fstat(dir_fd).st_mode & stat.S_ISGID:
            with contextlib.suppress(PermissionError):  # a group that only the program is in
                os.chown(entry, -1, caller.gid, dir_fd=dir_fd, follow_symlinks=False)
        special = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
        if mode & special and not stat.S_ISLNK(mode):
            now = os.stat(entry, dir_fd=dir_fd, follow_symlinks=False).st_mode
            wanted = stat.S_IMODE(now) | mode & special
            os.chmod(entry, wanted, dir_fd=dir_fd, follow_symlinks=False)

    # --- removal -----------------------------------------------------------------------------------------

    def unlink(self, parent: Inode, name: bytes) -> None:
        """unlink(2). No checkpoint."""
        entry = self._directories.entry(parent, name)
        dir_fd = self._directories.fd(parent)
        status = os.stat(entry, dir_fd=dir_fd, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        removal = Removal(self._volume, parent, entry, status)
        os.unlink(entry, dir_fd=dir_fd)
        removal.done()
        self._directories.retire(parent, entry)

    def rmdir(self, parent: Inode, name: bytes) -> None:
        """rmdir(2). The directory leaves its name before it is taken apart. No checkpoint."""
        entry = self._directories.entry(parent, name)
        dir_fd = self._directories.fd(parent)
        status = os.stat(entry, dir_fd=dir_fd, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        removal = Removal(self._volume, parent, entry, status)
        temporary = set_aside(self._volume, entry, dir_fd)
        self._directories.purge(temporary, dir_fd)
        removal.done()
        self._directories.retire(parent, entry)


def set_aside(volume: Volume, entry: bytes, dir_fd: int) -> bytes:
    """Take the name from an empty directory, atomically; OSError(ENOTEMPTY) if it is not empty."""
    fd = backing.open_directory(entry, dir_fd)
    try:
        if not volume.directories.is_empty(fd):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
    finally:
        os.close(fd)
    temporary = durable.temporary_name()
    backing.rename(entry, dir_fd, temporary, dir_fd)
    return temporary


@dataclass(slots=True)
class Removal:
    """What is to be remembered of an object before one of its names goes, and done after."""

    volume: Volume
    parent: Inode
    entry: bytes
    status: os.stat_result
    inode: Inode | None = field(init=False)
    zone: str = field(init=False)
    link_file: bytes | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        inode = self.inode = self.volume.inodes.find(self.status)
        self.zone = self.volume.zone(self.parent)
        if stat.S_ISLNK(self.status.st_mode) and self.status.st_size == INDIRECT_LINK_SIZE:
            self.link_file = symlinks.link_file(self.volume, self.parent, self.entry)
        if inode is None or not self._keeps_a_name():
            return
        others = (inode.links or set()) - {(self.parent, self.entry)}
        if not others and inode.path_fd < 0:
            inode.path_fd = backing.open_path(self.entry, self.volume.directories.fd(self.parent))

    def done(self) -> None:
        """The name is gone."""
        inode = self.inode
        if inode is not None:
            inode.displace(self.parent, self.entry)
            if inode.parent is None:
                inode.zone = self.zone
        if self._keeps_a_name():
            return
        if self.link_file is not None:
            symlinks.remove_link_file(self.volume, self.link_file)
        if inode is not None:
            self.volume.gone(inode, self.status)

    def _keeps_a_name(self) -> bool:
        return not stat.S_ISDIR(self.status.st_mode) and self.status.st_nlink > 1


class _Retiring:
    """Context manager: if the entry could not be made, remove the sidecar that announced it."""

    __slots__ = ("_entry", "_parent", "_volume")

    def __init__(self, volume: Volume, parent: Inode, entry: bytes) -> None:
        self._volume, self._parent, self._entry = volume, parent, entry

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._volume.directories.retire(self._parent, self._entry)


def _exists(entry: bytes, dir_fd: int) -> bool:
    try:
        os.stat(entry, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
