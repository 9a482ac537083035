"""One open regular file: its content as plain bytes, on one backing descriptor that all handles share.

Everything here runs on the event loop without a checkpoint, so each method is atomic to every other request: no locks.
Page-cache I/O and 4 KiB of AES-GCM cost less than a thread hop. Methods that could wait for a disk say so.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from kmsfs.crypto.entropy import NONCE_SIZE, random_bytes
from kmsfs.envelope.file_key import FileKeys, OpenedHeader, derive_file_keys, next_header, seal_header
from kmsfs.errors import IntegrityError, KeyExhaustedError
from kmsfs.format import layout
from kmsfs.format.header import MAX_CHUNK_WRITES, MAX_EXTENTS, SUITE_GCM, FileHeader
from kmsfs.format.holes import Extents
from kmsfs.format.layout import CHUNK_OVERHEAD, HEADER_COPY_SIZE
from kmsfs.storage.backing import ShortWriteError, TimesKept, write_all

if TYPE_CHECKING:
    from kmsfs.envelope.content import ChunkCipher
    from kmsfs.keystore.pool import ReadyKey
    from kmsfs.tree.inodes import Inode

WRITE_RESERVE = 1 << 16  # chunk writes that a header accounts for in advance
_EXACT_HOLES = 4096  # extents kept exactly in memory
_scratch = bytearray(1100 << 10)  # a request of 1 MiB, sealed; used and done with between two checkpoints
Buffer = bytes | bytearray | memoryview


class OpenFile:
    """Content, header and keys of one inode. ``header`` is None until the file is written for the first time."""

    __slots__ = (
        "chunk_size",
        "chunk_writes",
        "cipher",
        "copies_agree",
        "data_lost",
        "durable_copy",
        "fd",
        "handles",
        "header",
        "holes",
        "inode",
        "keys",
        "may_be_clean",
        "newest_copy",
        "nowait",
        "ready",
        "shrinking",
        "size",
        "tail_damaged",
        "version",
        "writable",
    )

    cipher: ChunkCipher  # set together with header

    def __init__(self, inode: Inode, fd: int, chunk_size: int, *, writable: bool, nowait: bool) -> None:
        self.inode = inode
        self.fd = fd
        self.chunk_size = chunk_size
        self.writable = writable  # whether fd writes
        self.nowait = nowait  # reads ask the page cache first (RWF_NOWAIT)
        self.handles = 0
        self.header: FileHeader | None = None
        self.keys: FileKeys | None = None
        self.ready: ReadyKey | None = None  # the key that the first write will use
        self.size = 0
        self.holes = Extents()
        self.chunk_writes = 0
        self.newest_copy = 0
        self.durable_copy: int | None = None  # the copy that a power cut leaves: never written over
        self.copies_agree = True
        self.may_be_clean = False  # a shrink must make a dirty header durable first
        self.tail_damaged = False
        self.data_lost = False  # a sync has failed: never sealed, since the next one succeeds all the same
        self.shrinking = False  # a shorter length is announced in the header and not yet cut
        self.version = 0  # counts changes, so that a seal can tell that it came too late

    def adopt(self, opened: OpenedHeader, size: int) -> None:
        """Take over an authenticated header."""
        header = opened.header
        self.header, self.keys, self.cipher = header, opened.keys, opened.keys.cipher
        self.newest_copy, self.copies_agree = opened.newest_copy, opened.copies_agree
        self.durable_copy = opened.newest_copy
        self.may_be_clean = opened.may_be_clean
        self.holes = Extents(header.holes)
        self.chunk_writes = header.chunk_writes
        self.size = size

    def is_sealed(self) -> bool:
        """Whether both header copies on disk are clean and say the length."""
        header = self.header
        return header is None or (
            not header.dirty and self.copies_agree and header.sealed_length == self.size
        )

    # --- reading ---------------------------------------------------------------------------------------

    def span(self, offset: int, end: int) -> tuple[int, int, int]:
        """(first chunk, backing offset, backing length) of the chunks that hold [offset, end)."""
        first = offset // self.chunk_size
        start = layout.chunk_offset(first, self.chunk_size)
        stop = layout.backing_size(
            min(-(-end // self.chunk_size) * self.chunk_size, self.size), self.chunk_size
        )
        return first, start, stop - start

    def read(self, offset: int, length: int, *, wait: bool = True) -> Buffer | None:
        """Verified plain bytes; fewer at the end. With ``wait`` false, None if a disk would have to be waited for."""
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        first, start, count = self.span(offset, end)
        sealed: bytes | bytearray
        if wait or not self.nowait:
            sealed = os.pread(self.fd, count, start)
        else:
            sealed = bytearray(count)
            try:
                if os.preadv(self.fd, [sealed], start, os.RWF_NOWAIT) < count:
                    return None
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):  # overlayfs, NFS, FUSE cannot tell
                    raise
                return None
        try:
            if len(sealed) < count:
                raise IntegrityError("a chunk is cut off")
            plain = self.cipher.open(first, sealed, self.holes)
        except IntegrityError as error:
            assert self.header is not None  # noqa: S101 - an empty file is not read
            raise error.about("file", self.header.file_id.hex()) from None
        skip = offset - first * self.chunk_size
        if skip or len(plain) != end - offset:
            return memoryview(plain)[skip : skip + end - offset]
        return plain

    # --- writing ---------------------------------------------------------------------------------------

    def write(self, offset: int, data: Buffer) -> int:
        """Write all of ``data``; on error what was stored before is still there. Extends, leaving holes."""
        end = offset + len(data)
        if end > layout.max_plain_size(self.chunk_size):
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        if not len(data):
            return 0
        if self.header is None:
            return self._first_write(offset, data)
        chunk = self.chunk_size
        first, last = offset // chunk, (end - 1) // chunk
        if offset > self.size:
            self._open_gap(first)
        body = self._whole_chunks(offset, data, end)
        self._before_write(last + 1 - first)
        sealed = self.cipher.seal(first, body, random_bytes(NONCE_SIZE * (last + 1 - first)), _scratch)
        try:
            write_all(self.fd, sealed, layout.chunk_offset(first, chunk))
        except ShortWriteError as error:
            self._undo(first, body, error.written)
            raise
        if self.holes:
            self._fill(first, last + 1)
        if end > self.size:
            self.size = end
        return len(data)

    def _first_write(self, offset: int, data: Buffer) -> int:
        """Header and first chunks in one call, so that an ordinary new file is one write."""
        if offset or len(data) > 1 << 20:
            self.materialise()
            return self.write(offset, data)
        count = layout.chunk_count(len(data), self.chunk_size)
        header, keys = self._new_header(len(data), count + WRITE_RESERVE)
        sealed = keys.cipher.seal(0, data, random_bytes(NONCE_SIZE * count), _scratch)
        self._put_first(header, keys, sealed)
        self.size, self.chunk_writes = len(data), count
        return len(data)

    def materialise(self) -> None:
        """Give a file that was never written its header; it stays empty."""
        if self.header is None:
            header, keys = self._new_header(0, WRITE_RESERVE)
            self._put_first(header, keys, b"")

    def _new_header(self, length: int, chunk_writes: int) -> tuple[FileHeader, FileKeys]:
        ready = self.ready
        if ready is None:
            raise AssertionError("a file is written only through a handle that has a data key ready")
        keys = derive_file_keys(ready.data_key, ready.file_id, SUITE_GCM, self.chunk_size)
        header = FileHeader(
            file_id=ready.file_id,
            commitment=keys.commitment,
            chunk_size=self.chunk_size,
            slots=ready.blobs,
            sealed_length=length,
            chunk_writes=chunk_writes,
        )
        return header, keys

    def _put_first(self, header: FileHeader, keys: FileKeys, sealed: Buffer) -> None:
        copy = seal_header(header, keys)
        try:
            write_all(self.fd, b"".join((copy, copy, sealed)), 0)
        except OSError:
            self.ready = self.ready and self.ready.spent()
            os.ftruncate(self.fd, 0)
            raise
        self.header, self.keys, self.cipher = header, keys, keys.cipher
        self.ready = None
        self.copies_agree = True
        self.version += 1

    def _whole_chunks(self, offset: int, data: Buffer, end: int) -> Buffer:
        """``data`` with what its first and last chunk hold around it."""
        chunk = self.chunk_size
        head, tail_at = offset % chunk, min(-(-end // chunk) * chunk, self.size)
        if not head and end >= tail_at:
            return data
        before = self._old(offset - head, min(offset, self.size)).ljust(head, b"\0") if head else b""
        after = self._old(end, tail_at) if end < tail_at else b""
        return b"".join((before, data, after))

    def _old(self, start: int, end: int) -> bytes:
        return bytes(self.read(start, end - start) or b"") if start < end else b""

    def _before_write(self, count: int) -> None:
        """Header work that must precede chunk writes: dirty on disk, writes accounted for."""
        header = self.header
        assert header is not None  # noqa: S101 - callers made it
        self.chunk_writes += count
        if self.chunk_writes > MAX_CHUNK_WRITES:
            self.chunk_writes -= count
            raise KeyExhaustedError(
                "data key of the file has reached its limit of chunk writes",
                hint="copy the file: a copy has a new key",
            )
        self.version += 1
        if not header.dirty or self.chunk_writes > header.chunk_writes:
            self.put_header(dirty=True, sealed_length=header.sealed_length)

    def _open_gap(self, first: int) -> None:
        """Before a write beyond the end: fill the old last chunk with zeros, declare the chunks between a hole."""
        start = layout.chunk_count(self.size, self.chunk_size)
        if start and start - 1 < first:
            self._pad_tail()
        if start < first:
            self._declare_hole(start, first)

    def _pad_tail(self) -> None:
        """Seal the old, short last chunk again as a whole one. A short hole grows by itself."""
        chunk, rest = self.chunk_size, self.size % self.chunk_size
        if not rest:
            return
        tail = self.size // chunk
        start = layout.chunk_offset(tail, chunk)
        if tail in self.holes and not any(os.pread(self.fd, rest + CHUNK_OVERHEAD, start)):
            self.size += chunk - rest
            os.ftruncate(self.fd, layout.backing_size(self.size, chunk))
            return
        body = self._old(self.size - rest, self.size).ljust(chunk, b"\0")
        self._before_write(1)
        try:
            write_all(self.fd, self.cipher.seal(tail, body, random_bytes(NONCE_SIZE)), start)
        except ShortWriteError as error:
            self._undo(tail, body, error.written)
            raise
        self.size += chunk - rest

    def _declare_hole(self, start: int, stop: int) -> None:
        self.holes.add(start, stop)
        self.version += 1
        if len(self.holes) > _EXACT_HOLES:
            self.holes = self.holes.coarsened(_EXACT_HOLES // 2)
        assert self.header is not None  # noqa: S101 - callers made it
        self.put_header(dirty=True, sealed_length=self.header.sealed_length)

    def _fill(self, first: int, stop: int) -> None:
        self.holes.remove(first, stop)
        if len(self.holes) > _EXACT_HOLES:
            self.holes = self.holes.coarsened(_EXACT_HOLES // 2)

    def _undo(self, first: int, body: Buffer, written: int) -> None:
        """After a failed write: keep the chunks that were written whole, restore the one that was cut.

        Needs no new space: it cuts the file, or writes where blocks are allocated.
        """
        chunk = self.chunk_size
        broken = first + written // (chunk + CHUNK_OVERHEAD)
        self.version += 1
        if broken * chunk >= self.size:  # beyond the old end
            self.size = max(self.size, broken * chunk) if broken > first else self.size
            os.ftruncate(self.fd, layout.backing_size(self.size, chunk))
        elif broken == self.size // chunk:  # the old, short last chunk
            at = (broken - first) * chunk
            old = memoryview(body)[at : at + self.size % chunk]
            sealed = self.cipher.seal(broken, old, random_bytes(NONCE_SIZE))
            write_all(self.fd, sealed, layout.chunk_offset(broken, chunk))
            os.ftruncate(self.fd, layout.backing_size(self.size, chunk))
        elif broken in self.holes:
            partial = written % (chunk + CHUNK_OVERHEAD)
            write_all(self.fd, bytes(partial), layout.chunk_offset(broken, chunk))

    # --- truncation --------------------------------------------------------------------------------------

    def grow(self, size: int) -> None:
        """Extend with a hole: takes no space and no time."""
        if size > layout.max_plain_size(self.chunk_size):
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        if size <= self.size:
            return
        self.materialise()
        chunk = self.chunk_size
        tail, rest = divmod(self.size, chunk)
        if rest and size <= (tail + 1) * chunk:  # the new end is in the old last chunk
            self.write(size - 1, b"\0")
            return
        self._pad_tail()
        self._declare_hole(layout.chunk_count(self.size, chunk), layout.chunk_count(size, chunk))
        os.ftruncate(self.fd, layout.backing_size(size, chunk))
        self.size = size

    def begin_shrink(self, size: int) -> bool:
        """First half of a truncation: announce the new length. True if fdatasync must come before the second half."""
        self.version += 1
        self.put_header(dirty=True, sealed_length=size)
        return self.may_be_clean

    def finish_shrink(self, size: int) -> None:
        """Second half: cut. A stop between the two writes here leaves what the next open can finish."""
        chunk = self.chunk_size
        if size >= self.size:
            return
        keep, rest = divmod(size, chunk)
        if rest:
            start = layout.chunk_offset(keep, chunk)
            stored = min(chunk, self.size - keep * chunk) + CHUNK_OVERHEAD
            if keep not in self.holes or any(os.pread(self.fd, stored, start)):
                body = self._old(keep * chunk, size)
                self._before_write(1)
                write_all(self.fd, self.cipher.seal(keep, body, random_bytes(NONCE_SIZE)), start)
        os.ftruncate(self.fd, layout.backing_size(size, chunk))
        self.size = size
        self.holes.remove(layout.chunk_count(size, chunk), layout.MAX_CHUNKS)
        self.tail_damaged = False

    # --- header ----------------------------------------------------------------------------------------

    def put_header(self, *, dirty: bool, sealed_length: int, slots: tuple[bytes, ...] | None = None) -> None:
        """Write the next generation, never over the copy that is known to be durable. Makes nothing durable."""
        assert self.header is not None and self.keys is not None  # noqa: S101, PT018 - callers made them
        header = next_header(
            self.header,
            slots=self.header.slots if slots is None else slots,
            dirty=dirty,
            sealed_length=sealed_length,
            chunk_writes=self.chunk_writes + (WRITE_RESERVE if dirty else 0),
            holes=tuple(self.holes.coarsened(MAX_EXTENTS)) if self.holes else (),
        )
        target = 1 - (self.newest_copy if self.durable_copy is None else self.durable_copy)
        write_all(self.fd, seal_header(header, self.keys), target * HEADER_COPY_SIZE)
        self.header, self.newest_copy, self.copies_agree = header, target, False
        self.may_be_clean |= not dirty

    def note_durable(self, generation: int) -> None:
        """A sync began when the header had ``generation``, and has ended."""
        if self.header is not None and self.header.generation == generation:
            self.durable_copy = self.newest_copy

    @property
    def generation(self) -> int:
        """Generation of the newest header copy; 0 before there is one."""
        return self.header.generation if self.header is not None else 0

    def put_other_copy(self) -> None:
        """Write the newest header over the other copy; the newest must be durable."""
        assert self.header is not None and self.keys is not None  # noqa: S101, PT018 - callers made them
        write_all(self.fd, seal_header(self.header, self.keys), (1 - self.newest_copy) * HEADER_COPY_SIZE)
        self.copies_agree = True

    def note_length(self) -> None:
        """Bring the sealed length of a dirty header up to date, leaving the times of the file alone."""
        header = self.header
        if header is not None and header.dirty and header.sealed_length != self.size and not self.shrinking:
            with self.times_kept():
                self.put_header(dirty=True, sealed_length=self.size)

    def times_kept(self) -> TimesKept:
        """For header writes that the user must not see as a modification."""
        return TimesKept(self.fd)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.fd)
        self.fd = -1
