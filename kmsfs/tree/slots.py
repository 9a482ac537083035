"""Other slots for the header of an open file, while programs go on reading and writing it.

What a file's header says of its content stays. The copy that a power cut would leave is never written over, so that at
any moment one copy is good; ``settle`` brings the new slots to both.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio

from kmsfs.tree.sealing import sync

if TYPE_CHECKING:
    from kmsfs.tree.open_file import OpenFile


def put_slots(file: OpenFile, slots: tuple[bytes, ...]) -> None:
    """Write the next header, with other slots; the times stay. Makes nothing durable. No checkpoint."""
    assert file.header is not None  # noqa: S101 - callers looked
    with file.times_kept():
        file.put_header(dirty=file.header.dirty, sealed_length=file.header.sealed_length, slots=slots)


async def settle(file: OpenFile) -> bool:
    """Make the newest header durable, then write it over the other copy; the caller holds the file.

    False if the header was written meanwhile: then the other copy follows when the file is sealed.
    """
    generation = file.generation
    await trio.to_thread.run_sync(sync, file, os.fdatasync, file.fd)
    file.note_durable(generation)
    if file.generation != generation:
        return False
    with file.times_kept():
        file.put_other_copy()
    return True
