"""A regular file on its way into another zone: under the keys of both while it moves, then under those of the new one.

First slots for the new zone's keys are added, durably, in both header copies; that alone asks the HSMs, and if it fails
nothing has changed. Then the file is renamed, durably, then the old slots go. A stop at any point leaves a file that
opens by the keys of the place where it is, with at most a slot too many.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from kmsfs.format.header import MAX_SLOTS
from kmsfs.tree.slots import put_slots, settle

if TYPE_CHECKING:
    from kmsfs.keystore.pool import ReadyKey
    from kmsfs.tree.files import Files
    from kmsfs.tree.inodes import Inode
    from kmsfs.tree.open_file import OpenFile
    from kmsfs.tree.volume import Volume

log = logging.getLogger(__name__)


class Crossing:
    """``prepare`` until ``is_prepared``, then the rename, then ``finish``; or ``cancel``.

    The kernel holds the inode lock of what it renames: no truncation is under way, and a new name cannot come. Pages
    are written back, and other programs open, read and sync the file all the while.
    """

    def __init__(self, volume: Volume, files: Files, inode: Inode, to: Inode, uid: int) -> None:
        self._volume = volume
        self._files = files
        self._inode = inode
        self._to = to  # the directory that it moves to
        self._uid = uid
        self._wanted = volume.wanted_keys(to)
        self._file: OpenFile | None = None  # held from when it is known to have a header
        self._old: tuple[bytes, ...] = ()
        self._new: tuple[bytes, ...] = ()
        self._put: tuple[bytes, ...] = ()  # what the header was given here
        self._spare: ReadyKey | None = None  # what a file that was never written would have used

    def is_prepared(self) -> bool:
        """Whether the file can stand in the new zone as it is now. No checkpoint."""
        if self._volume.wanted_keys(self._to) != self._wanted:
            return False
        if self._has_header():
            return self._file is not None and bool(self._new) and self._has_new_slots(self._file)
        ready = self._inode.file.ready if self._inode.file is not None else None
        return ready is None or ready.wanted == self._wanted

    async def prepare(self) -> None:
        """Make a header with slots for the new zone and the old ones durable. Raises what the HSMs say."""
        self._wanted = self._volume.wanted_keys(self._to)
        if not self._has_header():
            await self._exchange_ready_key()
            return
        if self._file is None:
            self._file = await self._files.acquire(self._inode, self._uid, write=True)
        header = self._file.header
        if header is None:
            return
        new = await self._volume.file_keys.rewrap(header, self._wanted, self._uid)
        if self._file.header is None or self._file.header.slots != header.slots:
            return  # a tool was faster: once more
        if header.slots != self._put:  # as it was, or as a tool has made it since
            self._old = header.slots
        self._new = new
        others = tuple(blob for blob in self._old if blob not in new)
        self._put = (*new, *others)[:MAX_SLOTS]
        if self._put != header.slots:
            put_slots(self._file, self._put)
            await settle(self._file)

    async def finish(self, *, durable: bool) -> None:
        """The file has its new place: drop the old slots, unless a power cut could still put it back to the old one.

        What fails here is left to the next rewrap.
        """
        self._give_back_spare()
        await self._leave(self._new if durable else ())

    async def cancel(self) -> None:
        """The file stays where it is: everything as it was."""
        file, spare = self._inode.file, self._spare
        if spare is not None and file is not None and file.ready is not None:
            self._spare, file.ready = file.ready, spare
        self._give_back_spare()
        await self._leave(self._old)

    async def _exchange_ready_key(self) -> None:
        file = self._inode.file
        old = file.ready if file is not None else None
        if file is None or old is None or old.wanted == self._wanted:
            return
        epoch = self._volume.file_keys.epoch
        ready = await self._volume.file_keys.take(self._wanted, self._uid)
        if (
            file.ready is not old or epoch != self._volume.file_keys.epoch
        ):  # written, closed or rotated meanwhile
            self._volume.file_keys.give_back(ready)
            return
        file.ready = ready
        if self._spare is None:
            self._spare = old
        else:  # one of a zone that has changed again
            self._volume.file_keys.give_back(old)

    async def _leave(self, slots: tuple[bytes, ...]) -> None:
        """Let the file go with these slots, if they are not its already."""
        file = self._file
        if file is None:
            self._volume.released(self._inode)
            return
        try:
            if slots and self._has_new_slots(file) and file.header is not None and file.header.slots != slots:
                put_slots(file, slots)
                await settle(file)
        except OSError as error:
            name = file.header.file_id.hex() if file.header is not None else ""
            log.warning("file %s keeps slots of two zones: %s", name, os.strerror(error.errno or 0))
        finally:
            self._file = None
            self._files.let_go(file)

    def _give_back_spare(self) -> None:
        if self._spare is not None:
            self._volume.file_keys.give_back(self._spare)
            self._spare = None

    def _has_header(self) -> bool:
        file = self._inode.file
        return file.header is not None if file is not None else self._volume.status(self._inode).st_size > 0

    def _has_new_slots(self, file: OpenFile) -> bool:
        return file.header is not None and file.header.slots[: len(self._new)] == self._new
