"""What became of the batch that a crash interrupted, so that the journal and the report tell of it.

A file that got its new slots looks current to every later pass: what is not found here is in no report.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from kmsfs.envelope.file_key import newest_unverified
from kmsfs.errors import FormatError, IntegrityError
from kmsfs.format.layout import HEADER_SIZE
from kmsfs.storage import backing
from kmsfs.tools.walk import Walk, standing
from kmsfs.tree.rekey import has_slots

if TYPE_CHECKING:
    from kmsfs.tools.changes import KeyedTree
    from kmsfs.tools.journal import Journal, Moved
    from kmsfs.tools.walk import FoundFile

_LOOKS: Final = 5  # at a tree in which files go on moving


def settle_interrupted(journal: Journal, tree: KeyedTree) -> None:
    """Write down which files of the interrupted batch were done. One that is no more counts as not done."""
    moved = journal.unsettled
    if not moved:
        return
    tree.wait_for_swaps()
    headers = {file.file_id: header for file in moved if (header := _header_at(file, tree)) is not None}
    missing = {file.file_id for file in moved} - headers.keys()
    if missing:  # moved since, or removed
        headers |= _sought(missing, tree)
    undone = [at for at, file in enumerate(moved) if not _is_done(file, headers.get(file.file_id, b""))]
    journal.settle_read(undone)


def _is_done(file: Moved, header: bytes) -> bool:
    return has_slots(header, file.file_id, file.new)


def _header_at(file: Moved, tree: KeyedTree) -> bytes | None:
    """The header of a file, if it is still where it was."""
    try:
        with standing(tree.root_fd, os.fsencode(file.path)) as (name, dir_fd):
            fd = backing.open_regular(name, dir_fd, write=False, noatime=True)
    except OSError:
        return None
    try:
        raw = os.pread(fd, HEADER_SIZE, 0)
    finally:
        os.close(fd)
    return raw if _file_id(raw) == file.file_id else None


def _sought(missing: set[str], tree: KeyedTree) -> dict[str, bytes]:
    """The headers of files by their ids, wherever in the tree they are."""
    found: dict[str, bytes] = {}
    walk = Walk(
        tree.root_fd,
        tree.keys,
        lambda zone: (),
        on_directory=lambda directory: None,
        on_problem=lambda path, error: None,  # told by the pass to come
    )
    tree.moved()  # from here on
    starts = [b""]
    for _ in range(_LOOKS):
        for file in (file for start in starts for file in walk.files(start)):
            raw = _header_of(file, tree)
            file_id = _file_id(raw)
            if file_id in missing:
                found[file_id] = raw
                if len(found) == len(missing):
                    return found
        starts = [path for _, path in tree.moved() or ()]
        if not starts:
            break
    return found


def _header_of(file: FoundFile, tree: KeyedTree) -> bytes:
    with suppress(OSError):
        fd = tree.open(file)
        try:
            return os.pread(fd, HEADER_SIZE, 0)
        finally:
            os.close(fd)
    return b""


def _file_id(raw: bytes) -> str:
    with suppress(FormatError, IntegrityError):
        return newest_unverified(raw).file_id.hex()
    return ""
