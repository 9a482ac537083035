"""What happens when a file is opened whose length and header disagree (docs/format.md section 3, last table)."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from kmsfs.errors import IntegrityError
from kmsfs.format import layout
from kmsfs.format.layout import CHUNK_OVERHEAD

if TYPE_CHECKING:
    from kmsfs.envelope.file_key import OpenedHeader
    from kmsfs.tree.open_file import OpenFile

_MAX_DROPPED = 4096  # chunks

log = logging.getLogger(__name__)


def adopt(file: OpenFile, opened: OpenedHeader, stored: int) -> None:
    """Give ``file`` its header and length; ``stored`` is the backing size. Raises IntegrityError if cut off."""
    header = opened.header
    if header.chunk_size != file.chunk_size:
        raise IntegrityError(
            f"file {header.file_id.hex()} has chunks of {header.chunk_size} bytes, its tree {file.chunk_size}"
        )
    length = layout.plain_size(stored, header.chunk_size)
    exact = stored == layout.backing_size(length, header.chunk_size)
    if not header.dirty and stored < layout.backing_size(header.sealed_length, header.chunk_size):
        raise IntegrityError(
            f"file {header.file_id.hex()} is cut off: {length} of {header.sealed_length} bytes are there",
            hint="restore it from a backup",
        )
    file.adopt(opened, length)
    if header.dirty or length != header.sealed_length or not exact:
        _check_tail(file, exact=exact)


def _check_tail(file: OpenFile, *, exact: bool) -> None:
    header = file.header
    assert header is not None  # noqa: S101 - just adopted
    name = header.file_id.hex()
    if _is_unfinished_cut(file, header.sealed_length):
        log.warning("file %s: finishing a truncation to %d bytes", name, header.sealed_length)
        _cut(file, header.sealed_length)
        return
    if not exact:
        log.warning("file %s: dropping an incomplete chunk behind %d bytes", name, file.size)
        _cut(file, file.size)
    _drop_unfinished_tail(file, name, header.sealed_length)
    if file.size and not _verifies(file, (file.size - 1) // file.chunk_size, file.size):
        file.tail_damaged = True
        log.error("file %s: last chunk does not verify after a crash; it stays unsealed", name)
        return
    if file.size != header.sealed_length:
        log.warning("file %s: resealing %d bytes, its header says %d", name, file.size, header.sealed_length)


def _drop_unfinished_tail(file: OpenFile, name: str, sealed_length: int) -> None:
    """Cut off last chunks that do not verify and were never sealed: writes that nobody had synced."""
    chunk, size = file.chunk_size, file.size
    for _ in range(_MAX_DROPPED):
        last = (size - 1) // chunk
        if size <= sealed_length or last * chunk < sealed_length or _verifies(file, last, size):
            break
        size = last * chunk
    if size != file.size:
        log.warning("file %s: dropping unfinished writes behind %d bytes", name, size)
        _cut(file, size)


def _is_unfinished_cut(file: OpenFile, sealed_length: int) -> bool:
    """A truncation writes the new, shorter last chunk before it cuts what follows."""
    if not 0 < sealed_length < file.size or not sealed_length % file.chunk_size:
        return False
    chunk = sealed_length // file.chunk_size
    return not _verifies(file, chunk, file.size) and _verifies(file, chunk, sealed_length)


def _verifies(file: OpenFile, chunk: int, length: int) -> bool:
    """Whether ``chunk`` verifies when the file is taken to be ``length`` bytes long."""
    start = layout.chunk_offset(chunk, file.chunk_size)
    count = min(file.chunk_size, length - chunk * file.chunk_size) + CHUNK_OVERHEAD
    try:
        file.cipher.open(chunk, os.pread(file.fd, count, start), file.holes)
    except IntegrityError:
        return False
    return True


def _cut(file: OpenFile, length: int) -> None:
    file.size = length
    if file.writable:
        os.ftruncate(file.fd, layout.backing_size(length, file.chunk_size))
