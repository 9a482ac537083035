"""The content of a file, sealed anew under another data key. Both files are in nobody else's hands.

Every chunk is verified before it is sealed. Holes stay holes, and take neither time nor space; memory is one run of
chunks.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from kmsfs.envelope.file_key import open_header
from kmsfs.errors import UnsupportedFormatError
from kmsfs.format import layout
from kmsfs.format.layout import CHUNK_OVERHEAD, HEADER_SIZE
from kmsfs.tree import recovery
from kmsfs.tree.inodes import Inode
from kmsfs.tree.open_file import OpenFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kmsfs.envelope.file_key import Unwrap
    from kmsfs.keystore.pool import ReadyKey

_RUN: Final = 1 << 20  # bytes


def open_old(fd: int, chunk_size: int, unwrap: Unwrap) -> OpenFile:
    """A file to be read, as a mount would open it; nothing is mended on the store."""
    old = _file(fd, chunk_size, writable=False)
    opened = open_header(os.pread(fd, HEADER_SIZE, 0), unwrap)
    if opened.header.read_only_flags:
        raise UnsupportedFormatError(
            "file has a feature that this version can only read", hint="use a newer kmsfs"
        )
    recovery.adopt(old, opened, os.fstat(fd).st_size)
    return old


def reseal(old: OpenFile, fd: int, ready: ReadyKey) -> OpenFile:
    """Write the content of ``old`` to the empty file ``fd`` under another data key; sealed, not durable."""
    new = _file(fd, old.chunk_size, writable=True)
    new.ready = ready
    new.materialise()
    chunk, stop = old.chunk_size, layout.chunk_count(old.size, old.chunk_size)
    at = 0
    while (at := _skip_hole(old, at, stop)) < stop:
        end = min(at + _RUN // chunk, stop)
        for first, last in _data(old, at, end):
            new.write(first * chunk, old.read(first * chunk, (last - first) * chunk) or b"")
        at = end
    new.grow(old.size)
    new.put_header(dirty=False, sealed_length=new.size)
    new.put_other_copy()
    return new


def _file(fd: int, chunk_size: int, *, writable: bool) -> OpenFile:
    status = os.fstat(fd)
    inode = Inode(0, (status.st_dev, status.st_ino), stat.S_IFREG)
    return OpenFile(inode, fd, chunk_size, writable=writable, nowait=False)


def _skip_hole(old: OpenFile, at: int, stop: int) -> int:
    """The first chunk from ``at`` on that may hold data: what the store has no blocks for is not read."""
    hole_stop = next((end for start, end in old.holes if start <= at < end), at)
    if hole_stop == at:
        return at
    try:
        data = os.lseek(old.fd, layout.chunk_offset(at, old.chunk_size), os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return min(hole_stop, stop)
    chunk = (data - HEADER_SIZE) // (old.chunk_size + CHUNK_OVERHEAD)
    return min(chunk, hole_stop, stop)


def _data(old: OpenFile, first: int, stop: int) -> Iterator[tuple[int, int]]:
    """The runs of chunks in [first, stop) that are no holes."""
    if not any(start < stop and first < end for start, end in old.holes):
        yield first, stop
        return
    stride = old.chunk_size + CHUNK_OVERHEAD
    stored = os.pread(old.fd, (stop - first) * stride, layout.chunk_offset(first, old.chunk_size))
    begin = first
    for index in range(first, stop):
        at = (index - first) * stride
        if index in old.holes and not stored[at : at + stride].strip(b"\0"):
            if begin < index:
                yield begin, index
            begin = index + 1
    if begin < stop:
        yield begin, stop
