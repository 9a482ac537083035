"""Keeps recently used files open, and seals the ones that were written.

A clean header is a promise that an auditor can hold the store to: the file is no shorter than this. So it is
written only after the data are durable. One syncfs(2) makes the data of a whole batch durable; then each file gets
one clean header copy; the next syncfs makes those durable; then the other copy follows (docs/format.md section 3).
A file thus passes through two rounds.

Linux tells of lost data once, and of whose they are only to each file's own fsync(2). After a syncfs that failed,
every file is therefore asked by itself. One whose data are lost, or that keeps others out since its header cannot
be written, is closed unsealed: the next open checks it as after a crash.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from typing import TYPE_CHECKING

import trio

from kmsfs.storage.backing import syncfs

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmsfs.tree.inodes import Inode
    from kmsfs.tree.open_file import OpenFile

log = logging.getLogger(__name__)

SEAL_DELAY_S = 5.0
_MAX_SEALED = 128  # idle files kept open for a quick reopen


class IdleFiles:
    """Files without handles: clean ones as a bounded cache, unsealed ones until they are sealed."""

    def __init__(self, root_fd: int, on_close: Callable[[Inode], None], *, max_unsealed: int) -> None:
        self._root_fd = root_fd
        self._on_close = on_close
        self._max_unsealed = max_unsealed
        self._sealed: OrderedDict[OpenFile, None] = OrderedDict()
        self._unsealed: OrderedDict[OpenFile, None] = OrderedDict()
        self._work = trio.Event()
        self._urgent = trio.Event()
        self._round_done = trio.Condition()
        self._store_failed = False  # a syncfs has: the next good one vouches for nothing that was open then

    def __len__(self) -> int:
        return len(self._sealed) + len(self._unsealed)

    @property
    def unsealed(self) -> int:
        """Number of idle files that wait for a seal."""
        return len(self._unsealed)

    def add(self, file: OpenFile) -> None:
        """The last handle of ``file`` went. No checkpoint."""
        if file.inode.ghost is not None:
            self._close(file)
        elif file.data_lost:
            self._give_up(file)
        elif file.is_sealed() or not file.writable or file.tail_damaged:
            self._sealed[file] = None
            if len(self._sealed) > _MAX_SEALED:
                self._close(self._sealed.popitem(last=False)[0])
        else:
            file.note_length()
            self._unsealed[file] = None
            self._work.set()
            if len(self._unsealed) > self._max_unsealed // 2:
                self._urgent.set()

    def take(self, file: OpenFile) -> None:
        """``file`` gets a handle again. No checkpoint."""
        self._sealed.pop(file, None)
        self._unsealed.pop(file, None)

    def discard(self, file: OpenFile) -> None:
        """The file was removed and nobody has it open. No checkpoint."""
        self.take(file)
        self._close(file)

    async def room(self) -> None:
        """Wait while too many descriptors wait for their seal."""
        while len(self._unsealed) >= self._max_unsealed:
            self._urgent.set()
            async with self._round_done:
                if len(self._unsealed) >= self._max_unsealed:
                    await self._round_done.wait()

    async def run(self) -> None:
        """Seal in rounds, for ever."""
        while True:
            await self._work.wait()
            with trio.move_on_after(SEAL_DELAY_S):
                await self._urgent.wait()
            self._urgent = trio.Event()
            await self.round()
            if not self._unsealed:
                self._work = trio.Event()

    async def round(self) -> None:
        """One syncfs, then one header copy for each file that was idle all the while."""
        before = [(file, file.version, file.generation) for file in self._unsealed]
        if before:
            await self._sync()
            for file, version, generation in before:
                if not self._store_failed or await self._is_durable(file):
                    file.note_durable(generation)
                    if file in self._unsealed and file.version == version:
                        self._try_to_advance(file)
                elif file.data_lost and file in self._unsealed:
                    self._give_up(file)
        async with self._round_done:
            self._round_done.notify_all()

    async def sync_store(self) -> bool:
        """Make all of the store durable; False if that cannot be vouched for."""
        await self._sync()
        return not self._store_failed

    async def _sync(self) -> None:
        try:
            await trio.to_thread.run_sync(syncfs, self._root_fd)
        except OSError as error:
            self._store_failed = True
            log.error("sealing failed: %s", os.strerror(error.errno or 0))

    async def _is_durable(self, file: OpenFile) -> bool:
        """Whether an idle file says of itself that nothing of it was lost; one that is in use again is asked later."""
        if file not in self._unsealed:
            return False
        fd = os.dup(file.fd)  # it may be closed meanwhile, and its number used again
        try:
            await trio.to_thread.run_sync(sync, file, os.fsync, fd)
        except OSError as error:
            _log_failure(file, "its last writes are lost", error)
            return False
        finally:
            os.close(fd)
        return True

    async def finish(self) -> None:
        """Seal and close everything; for the end of a mount."""
        for _ in range(3):
            if self._unsealed:
                await self.round()
        if self._unsealed:
            log.error("%d files could not be sealed; the next open checks them", len(self._unsealed))
        await self._sync()
        for file in (*self._sealed, *self._unsealed):
            self._close(file)
        self._sealed.clear()
        self._unsealed.clear()

    def _try_to_advance(self, file: OpenFile) -> None:
        try:
            self._advance(file)
        except OSError as error:
            _log_failure(file, "sealing failed", error)
            if len(self._unsealed) > self._max_unsealed // 2:  # until then it may wait for a better time
                self._give_up(file)

    def _give_up(self, file: OpenFile) -> None:
        """Close a file unsealed. What the page cache holds of it may not be what the store holds."""
        self.take(file)
        os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        self._close(file)

    def _advance(self, file: OpenFile) -> None:
        header = file.header
        assert header is not None  # noqa: S101 - a file without header is sealed
        with file.times_kept():
            if header.dirty or header.sealed_length != file.size:
                file.put_header(dirty=False, sealed_length=file.size)
            else:
                file.put_other_copy()
        if file.is_sealed():
            del self._unsealed[file]
            self.add(file)

    def _close(self, file: OpenFile) -> None:
        file.close()
        file.inode.file = None
        self._on_close(file.inode)


def sync(file: OpenFile, call: Callable[[int], None], fd: int) -> None:
    """fsync(2) or fdatasync(2) on a descriptor of the file. Waits for the disk."""
    try:
        call(fd)
    except OSError:
        file.data_lost = True
        raise


def _log_failure(file: OpenFile, what: str, error: OSError) -> None:
    assert file.header is not None  # noqa: S101 - a file without header is sealed
    log.error("file %s: %s: %s", file.header.file_id.hex(), what, os.strerror(error.errno or 0))
