"""Regular files: opening, reading, writing, truncating, syncing, and the table of handles."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

from kmsfs.errors import IntegrityError, KmsfsError
from kmsfs.format.layout import HEADER_SIZE
from kmsfs.storage import backing
from kmsfs.storage.lending import open_lent
from kmsfs.tree import recovery
from kmsfs.tree.open_file import Buffer, OpenFile
from kmsfs.tree.sealing import sync

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kmsfs.envelope.file_key import OpenedHeader
    from kmsfs.ids import KeyArn
    from kmsfs.keystore.pool import ReadyKey
    from kmsfs.tree.inodes import Inode
    from kmsfs.tree.volume import Caller, Volume


class Handle:
    """What one open(2) got."""

    __slots__ = ("drops_privileges", "file")

    def __init__(self, file: OpenFile, *, drops_privileges: bool = False) -> None:
        self.file = file
        self.drops_privileges = drops_privileges  # writes clear set-user-ID and set-group-ID (write(2))


class Files:
    """The open files of one mount."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._handles: dict[int, Handle] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._handles)

    # --- opening and closing -----------------------------------------------------------------------------

    async def open(self, inode: Inode, flags: int, caller: Caller) -> tuple[int, bool]:
        """(handle, whether the kernel must pass writes on at once). Truncates with O_TRUNC."""
        write = flags & os.O_ACCMODE != os.O_RDONLY or bool(flags & os.O_TRUNC)
        if write:
            await self._volume.idle.room()
        file = await self.acquire(inode, caller.uid, write=write)
        try:
            if flags & os.O_TRUNC and file.size:
                await self._truncate(file, 0)
            mode = os.fstat(file.fd).st_mode
            drops = write and caller.uid != 0 and _has_privileges(mode)
            if drops and flags & os.O_TRUNC:
                os.fchmod(file.fd, _without_privileges(mode))
        except BaseException:
            self.let_go(file)
            raise
        return self._new_handle(Handle(file, drops_privileges=drops)), drops

    def create(self, inode: Inode, fd: int, ready: ReadyKey) -> int:
        """A handle on a file that was just created; takes over ``fd``. No checkpoint."""
        file = OpenFile(
            inode, fd, self._volume.chunk_size, writable=True, nowait=not self._volume.memory_backed
        )
        file.ready = ready
        file.handles = 1
        inode.file = file
        return self._new_handle(Handle(file))

    def release(self, number: int) -> None:
        """Close a handle. No checkpoint."""
        self.let_go(self._handles.pop(number).file)

    def release_all(self) -> None:
        """Close the handles that a lazily detached mount leaves behind. No checkpoint."""
        for number in list(self._handles):
            self.release(number)

    def flush(self, number: int) -> None:
        """close(2) was called: the header on the store says the length. No checkpoint."""
        file = self._handles[number].file
        if file.writable:
            file.note_length()

    def _new_handle(self, handle: Handle) -> int:
        self._next += 1
        self._handles[self._next] = handle
        return self._next

    async def acquire(self, inode: Inode, uid: int, *, write: bool) -> OpenFile:
        """The open file of an inode, with one more handle counted."""
        if write and self._volume.options.read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        cached = inode.file
        file = cached or await self._load(inode, uid, write=write)
        self._volume.idle.take(file)
        file.handles += 1
        try:
            if cached and file.header is not None:
                self._volume.file_keys.check_slots(file.header, uid)
            if write and file.header is not None and file.header.read_only_flags:
                raise OSError(errno.EROFS, "file has a feature that this version can only read")
            if write and not file.writable:
                self._upgrade(file)
            if write and file.header is None:
                await self._provide_key(file, uid)
        except BaseException:
            self.let_go(file)
            raise
        return file

    def let_go(self, file: OpenFile) -> None:
        """Give back what ``acquire`` counted. No checkpoint."""
        file.handles -= 1
        if file.handles == 0:
            if file.ready is not None:
                self._volume.file_keys.give_back(file.ready)
                file.ready = None
            self._volume.idle.add(file)

    async def _provide_key(self, file: OpenFile, uid: int) -> None:
        """Get the data key for the first write now, where the failure can still be told to the caller.

        One under other keys than the file is wanted under by now, or under old material, is exchanged.
        """
        file_keys = self._volume.file_keys
        outdated = file.ready is not None and file_keys.is_outdated(file.ready)
        while file.header is None and (
            file.ready is None or outdated or file.ready.wanted != self._wanted_keys(file)
        ):
            epoch = file_keys.epoch
            spare: ReadyKey | None = await file_keys.take(self._wanted_keys(file), uid)
            outdated = epoch != file_keys.epoch
            if file.header is None:
                file.ready, spare = spare, file.ready
            if spare is not None:
                file_keys.give_back(spare)

    def _wanted_keys(self, file: OpenFile) -> tuple[KeyArn, ...]:
        return self._volume.block.wanted_keys(self._volume.zone_of(file.inode))

    async def exchange_keys(self) -> None:
        """Give the open files that were never written data keys under what they are wanted under now."""
        for file in self._unwritten():
            await self._exchange_key(file)

    async def follow_keys(self, interval_s: float) -> None:
        """Do that again and again, for ever: old material may be gone when they are written."""
        while True:
            await trio.sleep(interval_s)
            for file in self._unwritten():
                with suppress(KmsfsError, OSError):  # it is tried again
                    await self._exchange_key(file)

    def _unwritten(self) -> set[OpenFile]:
        return {handle.file for handle in self._handles.values() if handle.file.ready is not None}

    async def _exchange_key(self, file: OpenFile) -> None:
        if file.ready is None:
            return
        file.handles += 1  # it stays open meanwhile
        try:
            await self._provide_key(file, os.getuid())
        finally:
            self.let_go(file)

    async def _load(self, inode: Inode, uid: int, *, write: bool) -> OpenFile:
        fd, writable = self._open_backing(inode, write=write)
        try:
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) != inode.key or not stat.S_ISREG(status.st_mode):
                raise OSError(errno.ESTALE, "another object stands here now")
            file = OpenFile(
                inode, fd, self._volume.chunk_size, writable=writable, nowait=not self._volume.memory_backed
            )
            if status.st_size:
                opened = await self._open_header(fd, uid)
                if inode.file is not None:  # somebody else was faster
                    os.close(fd)
                    return inode.file
                if opened.header.read_only_flags:
                    file.writable = False  # nor is it ever sealed or mended
                recovery.adopt(file, opened, os.fstat(fd).st_size)
                file.durable_copy = self._volume.swapping.get(inode.key, file.durable_copy)
        except BaseException:
            os.close(fd)
            raise
        inode.file = file
        return file

    async def _open_header(self, fd: int, uid: int) -> OpenedHeader:
        """The header as it is now: others may open, write and close the file while this one waits for disk and HSM."""
        raw = await self._volume.on_disk(os.pread, fd, HEADER_SIZE, 0)
        while True:
            opened = await self._volume.file_keys.open(raw, uid)
            now = os.pread(fd, HEADER_SIZE, 0)
            if now == raw:
                return opened
            raw = now

    def _open_backing(self, inode: Inode, *, write: bool) -> tuple[int, bool]:
        """(descriptor, whether it writes): for writing wherever possible, so that every handle can share it."""
        if inode.parent is None:
            if inode.path_fd < 0:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            name, dir_fd = os.fsencode(backing.proc_path(inode.path_fd)), -1
            flags = os.O_RDONLY if self._volume.options.read_only else os.O_RDWR
            return os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC), not self._volume.options.read_only
        name, dir_fd = self._volume.place(inode, inode.parent)
        noatime = self._volume.options.noatime
        if not self._volume.options.read_only:
            try:
                return backing.open_regular(name, dir_fd, write=True, noatime=noatime), True
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY):
                    raise
                if write:
                    return self._open_with_loan(name, dir_fd, error, noatime=noatime), True
        return backing.open_regular(name, dir_fd, write=False, noatime=noatime), False

    @staticmethod
    def _open_with_loan(name: bytes, dir_fd: int, refusal: OSError, *, noatime: bool) -> int:
        """For writing: who may write, which the kernel has checked, may still not read, and the header must be read."""
        if refusal.errno != errno.EACCES:
            raise refusal
        return open_lent(name, dir_fd, noatime=noatime)

    def _upgrade(self, file: OpenFile) -> None:
        fd, _ = self._open_backing(file.inode, write=True)
        try:
            if not os.path.sameopenfile(fd, file.fd):
                raise OSError(errno.ESTALE, "another object stands here now")
            os.dup2(fd, file.fd, inheritable=False)  # a thread may be reading from that number
        finally:
            os.close(fd)
        file.writable = True

    # --- content -----------------------------------------------------------------------------------------

    async def read(self, number: int, offset: int, length: int) -> Buffer:
        """Plain bytes. A cold read warms the page cache in a thread; the read itself has no checkpoint."""
        file = self._handles[number].file
        data = file.read(offset, length, wait=False)
        if data is None:
            _, start, count = file.span(offset, min(offset + length, file.size))
            await trio.to_thread.run_sync(os.pread, file.fd, count, start)
            data = file.read(offset, length)
            if data is None:
                raise AssertionError("a waiting read returns data")
        return data

    def preview(self, number: int, limit: int) -> Buffer | None:
        """All of a small file that nobody else has open, once for each time that the kernel gets to know the inode.

        For the kernel's page cache. Only without another handle is there no dirty page that it could overwrite, and
        no read under way. None if it is large, cold or damaged: then reading it says so. No checkpoint.
        """
        file = self._handles[number].file
        inode = file.inode
        if inode.previewed or file.handles != 1 or not 0 < file.size <= limit:
            return None
        inode.previewed = True
        try:
            return file.read(0, file.size, wait=False)
        except (IntegrityError, OSError):
            return None

    def write(self, number: int, offset: int, data: Buffer) -> int:
        """Write plain bytes. No checkpoint."""
        handle = self._handles[number]
        written = handle.file.write(offset, data)
        if handle.drops_privileges:
            mode = os.fstat(handle.file.fd).st_mode
            if _has_privileges(mode):
                os.fchmod(handle.file.fd, _without_privileges(mode))
        return written

    async def truncate(self, inode: Inode, size: int, caller: Caller) -> None:
        """truncate(2)."""
        async with self._using(inode, caller.uid) as file:
            await self._set_size(file, size, caller)

    async def ftruncate(self, number: int, size: int, caller: Caller) -> None:
        """ftruncate(2): as for a write, what counted when the file was opened counts."""
        file = self._handles[number].file
        file.handles += 1
        try:
            await self._set_size(file, size, caller)
        finally:
            self.let_go(file)

    async def _set_size(self, file: OpenFile, size: int, caller: Caller) -> None:
        await self._truncate(file, size)
        mode = os.fstat(file.fd).st_mode
        if caller.uid != 0 and _has_privileges(mode):
            os.fchmod(file.fd, _without_privileges(mode))
        file.note_length()

    async def materialise(self, inode: Inode) -> OpenFile:
        """Give a never written file its header, and return the file."""
        async with self._using(inode, os.geteuid()) as file:
            file.materialise()
            return file

    @asynccontextmanager
    async def _using(self, inode: Inode, uid: int) -> AsyncIterator[OpenFile]:
        file = await self.acquire(inode, uid, write=True)
        try:
            yield file
        finally:
            self.let_go(file)

    async def _truncate(self, file: OpenFile, size: int) -> None:
        if size < file.size:
            # No write of this file can come in between: the kernel holds its inode lock during a truncation.
            file.shrinking = True  # a close or fsync meanwhile must not put the old length back
            try:
                if file.begin_shrink(size):
                    generation = file.generation
                    await trio.to_thread.run_sync(sync, file, os.fdatasync, file.fd)
                    file.note_durable(generation)
                    file.may_be_clean = False
                file.finish_shrink(size)
            finally:
                file.shrinking = False
        else:
            file.grow(size)

    async def fsync(self, number: int, *, data_only: bool) -> None:
        """Make the content durable, then put a clean header down; that one may reach the disk later."""
        file = self._handles[number].file
        if not file.writable:
            return
        file.note_length()
        version, generation = file.version, file.generation
        await trio.to_thread.run_sync(sync, file, os.fdatasync if data_only else os.fsync, file.fd)
        file.note_durable(generation)
        if (
            file.version == version
            and file.header is not None
            and file.header.dirty
            and not file.tail_damaged
            and not file.data_lost
            and not file.shrinking
        ):
            with file.times_kept():
                file.put_header(dirty=False, sealed_length=file.size)


def _has_privileges(mode: int) -> bool:
    return bool(mode & stat.S_ISUID) or mode & (stat.S_ISGID | stat.S_IXGRP) == stat.S_ISGID | stat.S_IXGRP


def _without_privileges(mode: int) -> int:
    drop = stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0)
    return stat.S_IMODE(mode) & ~drop
