"""Puts headers that a tool has computed in place while the tree is mounted.

The tool names a file by its entries and inode, and the header that it has read. What is not so any more is left alone:
a file that was moved or removed is gone, one whose header was written meanwhile has changed. A file that is not open
gets the sealed header as it is, one copy and then the other, as in swaps.py; one that is open gets its slots through
its OpenFile, which alone knows what else the header is to say.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from kmsfs.envelope.file_key import check_header
from kmsfs.errors import FormatError, IntegrityError, KmsfsError
from kmsfs.format.header import FileHeader
from kmsfs.format.layout import HEADER_COPY_SIZE, HEADER_SIZE
from kmsfs.storage import backing
from kmsfs.storage.lending import open_lent
from kmsfs.tree.rekey import Swap
from kmsfs.tree.slots import put_slots
from kmsfs.tree.swaps import TOUCH_NS, write_newest_copy, write_other_copy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kmsfs.tree.inodes import Inode, Key
    from kmsfs.tree.open_file import OpenFile
    from kmsfs.tree.tree import Tree

DONE: Final = "done"
CHANGED: Final = "changed"
GONE: Final = "gone"
_AT_ONCE: Final = 128  # files of which each keeps a descriptor until both halves are done

Outcome = str | KmsfsError | OSError


@dataclass(frozen=True, slots=True)
class MountedSwap:
    """A header for one file of a mounted tree."""

    entries: Sequence[bytes]
    ino: int
    raw: bytes  # the 2,048 bytes that the tool has read
    swap: Swap

    @classmethod
    def of(
        cls, entries: Sequence[bytes], ino: int, raw: bytes, newest_copy: int, sealed: bytes
    ) -> MountedSwap:
        """Raises FormatError for a header that does not follow the one that was read."""
        if not entries or len(raw) != HEADER_SIZE or newest_copy not in (0, 1):
            raise FormatError("header of no file")
        old = FileHeader.parse(_copy(raw, newest_copy))
        new = FileHeader.parse(sealed)
        if (new.file_id, new.generation) != (old.file_id, old.generation + 1):
            raise FormatError("header does not follow the one that it replaces")
        return cls(entries, ino, raw, Swap(old.file_id, old.generation, newest_copy, sealed, (), ()))


@dataclass(frozen=True, slots=True)
class _Begun:
    """A file with its new header beside the old one. ``fd`` and one handle of ``file`` are owned."""

    order: MountedSwap
    fd: int
    key: Key
    file: OpenFile | None = None
    generation: int = 0


async def put_swaps(tree: Tree, orders: Sequence[MountedSwap], *, touch: bool) -> list[Outcome]:
    """What became of each: ``done``, ``changed``, ``gone``, or an error. The mount serves others meanwhile."""
    outcomes: list[Outcome] = []
    for start in range(0, len(orders), _AT_ONCE):
        outcomes += await _Batch(tree, touch=touch).put(orders[start : start + _AT_ONCE])
    return outcomes


class _Batch:
    def __init__(self, tree: Tree, *, touch: bool) -> None:
        self._tree = tree
        self._volume = tree.volume
        self._touch = touch
        self._directory: tuple[Sequence[bytes], int] = ((), -1)  # the last one that was looked into

    async def put(self, orders: Sequence[MountedSwap]) -> list[Outcome]:
        """First halves, one syncfs, second halves."""
        begun: list[_Begun | Outcome] = []
        try:
            for order in orders:
                begun.append(await self._guarded_begin(order))
                await trio.lowlevel.checkpoint()
            durable = await self._volume.idle.sync_store()
            outcomes: list[Outcome] = []
            for item in begun:
                if isinstance(item, _Begun):
                    outcomes.append(
                        self._guarded_end(item) if durable else OSError(errno.EIO, os.strerror(errno.EIO))
                    )
                    await trio.lowlevel.checkpoint()
                else:
                    outcomes.append(item)
            return outcomes
        finally:
            for item in begun:
                if isinstance(item, _Begun):
                    self._let_go(item)
            if self._directory[1] >= 0:
                os.close(self._directory[1])

    # --- first half --------------------------------------------------------------------------------------
    async def _guarded_begin(self, order: MountedSwap) -> _Begun | Outcome:
        try:
            return await self._begin(order)
        except (FileNotFoundError, NotADirectoryError):
            return GONE
        except (OSError, KmsfsError) as error:
            return error

    async def _begin(self, order: MountedSwap) -> _Begun | Outcome:
        dir_fd = self._reach(order.entries[:-1])
        name = order.entries[-1]
        status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        if status.st_ino != order.ino or not stat.S_ISREG(status.st_mode):
            return GONE
        file = self._in_use(self._volume.inodes.find(status))
        if file is not None:
            return await self._begin_open(order, file)
        try:
            fd = backing.open_regular(name, dir_fd, write=True, noatime=True)
        except PermissionError:
            fd = open_lent(name, dir_fd, noatime=True)
        now = os.fstat(fd)
        try:
            if now.st_ino != order.ino or os.pread(fd, HEADER_SIZE, 0) != order.raw:
                os.close(fd)
                return CHANGED
            begun = _Begun(order, fd, (now.st_dev, now.st_ino))
            self._volume.swapping[begun.key] = order.swap.newest_copy
            write_other_copy(fd, order.swap)
        except BaseException:
            self._volume.swapping.pop((now.st_dev, now.st_ino), None)
            os.close(fd)
            raise
        return begun

    def _reach(self, entries: Sequence[bytes]) -> int:
        """A descriptor of a directory, good until the next one is asked for."""
        if not entries:
            return self._volume.root_fd
        if self._directory[1] >= 0:
            if self._directory[0] == entries:
                return self._directory[1]
            os.close(self._directory[1])
            self._directory = ((), -1)
        fd = os.dup(self._volume.root_fd)
        for entry in entries:
            try:
                below = backing.open_directory(entry, fd)
            finally:
                os.close(fd)
            fd = below
        self._directory = (entries, fd)
        return fd

    def _in_use(self, inode: Inode | None) -> OpenFile | None:
        """The open file, if it cannot simply be closed."""
        file = inode.file if inode is not None else None
        if file is not None and file.handles == 0 and file.header is not None and file.is_sealed():
            self._volume.idle.discard(file)
            return None
        return file

    async def _begin_open(self, order: MountedSwap, file: OpenFile) -> _Begun | Outcome:
        if file.header is None:
            return CHANGED
        header = FileHeader.parse(order.swap.sealed)
        file = await self._tree.files.acquire(file.inode, os.geteuid(), write=True)
        try:
            # No checkpoint from here on: nobody writes the header in between.
            assert file.keys is not None  # noqa: S101 - set together with the header
            check_header(order.swap.sealed, header, file.keys)
            if file.header is None or header.file_id != file.header.file_id:
                raise IntegrityError("header is of another file")
            if file.generation != order.swap.generation or file.shrinking:
                self._tree.files.let_go(file)
                return CHANGED
            put_slots(file, header.slots)
        except BaseException:
            self._tree.files.let_go(file)
            raise
        return _Begun(order, -1, file.inode.key, file, file.generation)

    # --- second half -------------------------------------------------------------------------------------
    def _guarded_end(self, begun: _Begun) -> Outcome:
        """No checkpoint."""
        try:
            return self._end_open(begun, begun.file) if begun.file is not None else self._end(begun)
        except OSError as error:
            return error

    def _end(self, begun: _Begun) -> Outcome:
        raw, swap = begun.order.raw, begun.order.swap
        now = os.pread(begun.fd, HEADER_SIZE, 0)
        old = _copy(raw, swap.newest_copy)
        if _copy(now, swap.newest_copy) != old:
            return DONE  # somebody has opened the file since and put a later header there
        if _copy(now, 1 - swap.newest_copy) != swap.sealed:
            return CHANGED  # the same, and its old header is still there
        write_newest_copy(begun.fd, swap, touch=self._touch)
        inode = self._volume.inodes.find(os.fstat(begun.fd))
        if inode is not None and inode.file is not None:  # opened meanwhile, not written
            inode.file.note_durable(swap.generation + 1)
            inode.file.copies_agree = True
        return DONE

    def _end_open(self, begun: _Begun, file: OpenFile) -> Outcome:
        file.note_durable(begun.generation)
        if file.generation != begun.generation:
            return CHANGED  # its old copy may still hold old slots
        with file.times_kept():
            file.put_other_copy()
        if self._touch:
            status = os.fstat(file.fd)
            os.utime(file.fd, ns=(status.st_atime_ns, status.st_mtime_ns + TOUCH_NS))
        return DONE

    def _let_go(self, begun: _Begun) -> None:
        if begun.file is not None:
            self._tree.files.let_go(begun.file)
        else:
            del self._volume.swapping[begun.key]
            os.close(begun.fd)


def _copy(raw: bytes, position: int) -> bytes:
    return raw[position * HEADER_COPY_SIZE : (position + 1) * HEADER_COPY_SIZE]
