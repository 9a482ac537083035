"""The file header: one copy of 1,024 bytes, packed and parsed (docs/format.md section 3).

Bytes only: the MAC is carried, not checked. kmsfs.envelope.file_key binds it to a data key.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple, Self

from kmsfs.errors import FormatError, UnsupportedFormatError
from kmsfs.format.holes import Extents
from kmsfs.format.layout import CHUNK_SIZES, HEADER_COPY_SIZE, MAX_CHUNKS
from kmsfs.ids import FileId

MAGIC = b"KMSFSHDR"
VERSION = 1
SUITE_GCM = 1  # HKDF-SHA-512, AES-256-GCM, HMAC-SHA-256
MAX_SLOTS = 3
MAX_BLOB = 256
MAX_EXTENTS = 8
MAC_SIZE = 32
MAX_CHUNK_WRITES = 1 << 31

_DIRTY = 1
_FIXED = struct.Struct(">8sHHBBHHBBI Q32s32sQQ")
_SLOT = struct.Struct(f">H{MAX_BLOB}s")
_SLOT_COUNT_AT = 18
_GENERATION_AT = 24
_EXTENT_SIZE = 12
_EXTENTS_AT = _FIXED.size
_SLOTS_AT = _EXTENTS_AT + MAX_EXTENTS * _EXTENT_SIZE
_MAC_AT = HEADER_COPY_SIZE - MAC_SIZE
_NO_SLOTS = bytes(MAX_SLOTS * _SLOT.size)
_NO_EXTENTS = bytes(MAX_EXTENTS * _EXTENT_SIZE)
_RESERVED = bytes(_MAC_AT - _SLOTS_AT - MAX_SLOTS * _SLOT.size)


class FileHeader(NamedTuple):
    """What one header copy says. ``slots`` are ciphertext blobs just as a keystore returned them."""

    file_id: FileId
    commitment: bytes
    chunk_size: int
    slots: tuple[bytes, ...]
    generation: int = 1
    sealed_length: int = 0
    chunk_writes: int = 0
    dirty: bool = True
    holes: tuple[tuple[int, int], ...] = ()  # [start, stop) in chunks, sorted, disjoint
    read_only_flags: int = 0
    suite: int = SUITE_GCM

    def pack(self) -> bytes:
        """The first 992 bytes: what the MAC covers. FormatError for a header that would not parse."""
        self._check_fits()
        extents = b"".join(
            start.to_bytes(6, "big") + (stop - start).to_bytes(6, "big") for start, stop in self.holes
        )
        slots = b"".join(_SLOT.pack(len(blob), blob) for blob in self.slots)
        return b"".join(
            (
                _FIXED.pack(
                    MAGIC,
                    VERSION,
                    self.suite,
                    self.chunk_size.bit_length() - 1,
                    _DIRTY if self.dirty else 0,
                    0,
                    self.read_only_flags,
                    len(self.slots),
                    len(self.holes),
                    0,
                    self.generation,
                    self.file_id,
                    self.commitment,
                    self.sealed_length,
                    self.chunk_writes,
                ),
                extents.ljust(MAX_EXTENTS * _EXTENT_SIZE, b"\0"),
                slots.ljust(MAX_SLOTS * _SLOT.size, b"\0"),
                _RESERVED,
            )
        )

    def _check_fits(self) -> None:
        # struct cuts a string that is too long without a word: the data key would be lost
        _check_slots(self.slots)
        if len(self.holes) > MAX_EXTENTS or any(stop > MAX_CHUNKS for _, stop in self.holes):
            raise FormatError(f"file header holds {MAX_EXTENTS} hole extents of 48-bit chunk indices")

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Parse one copy, or raise FormatError. Nothing here is authenticated yet."""
        if len(raw) != HEADER_COPY_SIZE:
            raise FormatError(f"file header copy is {len(raw)} bytes, expected {HEADER_COPY_SIZE}")
        (
            magic,
            version,
            suite,
            log2_chunk,
            state,
            incompat,
            read_only,
            slot_count,
            extent_count,
            zero,
            generation,
            file_id,
            commitment,
            sealed_length,
            chunk_writes,
        ) = _FIXED.unpack_from(raw)
        if magic != MAGIC:
            raise FormatError("not a kmsfs file header")
        if version != VERSION or suite != SUITE_GCM or incompat:
            raise UnsupportedFormatError(
                f"file header has version {version}, suite {suite}, incompatible flags {incompat:#x}",
                hint="read it with a newer kmsfs",
            )
        if 1 << log2_chunk not in CHUNK_SIZES or state & ~_DIRTY or zero:
            raise FormatError("file header has an impossible chunk size, state or reserved field")
        if raw[_MAC_AT - len(_RESERVED) : _MAC_AT] != _RESERVED:
            raise FormatError("file header has a non-zero reserved field")
        return cls(
            file_id=FileId(file_id),
            commitment=commitment,
            chunk_size=1 << log2_chunk,
            slots=_parse_slots(raw, slot_count),
            generation=generation,
            sealed_length=sealed_length,
            chunk_writes=chunk_writes,
            dirty=bool(state & _DIRTY),
            holes=_parse_extents(raw, extent_count),
            read_only_flags=read_only,
        )


def with_slots(copy: bytes, generation: int, slots: Sequence[bytes]) -> bytes:
    """What the MAC covers of a copy that parses, with other slots; FormatError if they do not fit."""
    _check_slots(slots)
    packed = b"".join(_SLOT.pack(len(blob), blob) for blob in slots).ljust(MAX_SLOTS * _SLOT.size, b"\0")
    return b"".join(
        (
            copy[:_SLOT_COUNT_AT],
            bytes([len(slots)]),
            copy[_SLOT_COUNT_AT + 1 : _GENERATION_AT],
            generation.to_bytes(8, "big"),
            copy[_GENERATION_AT + 8 : _SLOTS_AT],
            packed,
            copy[_SLOTS_AT + len(packed) : _MAC_AT],
        )
    )


def slots_begin_with(raw: bytes, prefixes: Sequence[bytes]) -> bool:
    """Whether both copies hold exactly one slot for each prefix, in that order. Proves nothing; costs no parsing."""
    for copy in (0, HEADER_COPY_SIZE):
        if raw[copy + _SLOT_COUNT_AT] != len(prefixes):
            return False
        first = copy + _SLOTS_AT + 2
        for prefix in prefixes:
            if not raw.startswith(prefix, first):
                return False
            first += _SLOT.size
    return True


def header_mac(raw: bytes) -> tuple[bytes, bytes]:
    """Split a copy into what its MAC covers and the MAC."""
    return raw[:_MAC_AT], raw[_MAC_AT:]


def _check_slots(slots: Sequence[bytes]) -> None:
    if not 1 <= len(slots) <= MAX_SLOTS or not all(0 < len(blob) <= MAX_BLOB for blob in slots):
        raise FormatError(f"file header holds 1 to {MAX_SLOTS} wrapped data keys of 1 to {MAX_BLOB} bytes")


def _parse_slots(raw: bytes, count: int) -> tuple[bytes, ...]:
    if not 1 <= count <= MAX_SLOTS:
        raise FormatError(f"file header has {count} slots, expected 1 to {MAX_SLOTS}")
    slots = []
    for number in range(count):
        length, blob = _SLOT.unpack_from(raw, _SLOTS_AT + number * _SLOT.size)
        if not 0 < length <= MAX_BLOB or blob[length:] != _NO_SLOTS[length:MAX_BLOB]:
            raise FormatError(f"slot {number} of the file header is malformed")
        slots.append(blob[:length])
    used = count * _SLOT.size
    if raw[_SLOTS_AT + used : _SLOTS_AT + len(_NO_SLOTS)] != _NO_SLOTS[used:]:
        raise FormatError(f"file header has {count} slots and bytes in others")
    return tuple(slots)


def _parse_extents(raw: bytes, count: int) -> tuple[tuple[int, int], ...]:
    if count > MAX_EXTENTS:
        raise FormatError(f"file header has {count} hole extents, at most {MAX_EXTENTS} fit")
    if not count and raw[_EXTENTS_AT:_SLOTS_AT] == _NO_EXTENTS:
        return ()
    ranges = []
    for number in range(MAX_EXTENTS):
        at = _EXTENTS_AT + number * _EXTENT_SIZE
        start = int.from_bytes(raw[at : at + 6], "big")
        length = int.from_bytes(raw[at + 6 : at + 12], "big")
        if (number < count) != (length > 0) or (number >= count and start) or start + length > MAX_CHUNKS:
            raise FormatError(f"hole extent {number} of the file header is malformed")
        if number < count:
            ranges.append((start, start + length))
    if list(Extents(ranges)) != ranges:
        raise FormatError("hole extents of the file header are not sorted and apart")
    return tuple(ranges)
