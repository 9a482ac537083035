"""The directory record ``.kmsfs.dir`` (docs/format.md section 6). Bytes only: the MAC is not checked here."""

import struct
from dataclasses import dataclass
from typing import Self

from kmsfs.errors import FormatError, UnsupportedFormatError
from kmsfs.ids import DirId

MAGIC = b"KMSFSDIR"
VERSION = 1
RECORD_SIZE = 384
MAX_ZONE = 256
NO_DIRECTORY = DirId(bytes(16))  # parent of the root; "no other parent"

_RECORD = struct.Struct(f">8sHH16s16s16sH{MAX_ZONE}s34s")
_MAC_AT = _RECORD.size


@dataclass(frozen=True, slots=True)
class DirectoryRecord:
    """Identity of a directory, bound to the parent (or, during a move, the two parents) it may stand in."""

    dir_id: DirId
    parent: DirId
    other_parent: DirId = NO_DIRECTORY
    zone: str = ""  # key ARN; empty: the parent's zone

    def pack(self) -> bytes:
        """The first 352 bytes: what the MAC covers. FormatError for a record that would not parse."""
        if not self.zone.isascii() or len(self.zone) > MAX_ZONE or self.dir_id == NO_DIRECTORY:
            raise FormatError(
                f"directory record holds an id and a zone of at most {MAX_ZONE} ASCII characters"
            )
        return _RECORD.pack(
            MAGIC,
            VERSION,
            0,
            self.dir_id,
            self.parent,
            self.other_parent,
            len(self.zone),
            self.zone.encode("ascii"),
            bytes(34),
        )

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Parse a record, or raise FormatError. Nothing here is authenticated yet."""
        if len(raw) != RECORD_SIZE:
            raise FormatError(f"directory record is {len(raw)} bytes, expected {RECORD_SIZE}")
        magic, version, flags, dir_id, parent, other, zone_length, zone, zero = _RECORD.unpack_from(raw)
        if magic != MAGIC:
            raise FormatError("not a kmsfs directory record")
        if version != VERSION or flags:
            raise UnsupportedFormatError(
                f"directory record has version {version}, incompatible flags {flags:#x}",
                hint="read it with a newer kmsfs",
            )
        if zone_length > MAX_ZONE or zone[zone_length:].strip(b"\0") or zero.strip(b"\0"):
            raise FormatError("directory record has a malformed zone or reserved field")
        if dir_id == NO_DIRECTORY:
            raise FormatError("directory record has no id")
        try:
            key_arn = zone[:zone_length].decode("ascii")
        except UnicodeDecodeError:
            raise FormatError("zone of the directory record is not ASCII") from None
        return cls(DirId(dir_id), DirId(parent), DirId(other), key_arn)

    def stands_in(self, parent: DirId) -> bool:
        """Whether a directory with this record may be a child of ``parent``."""
        return parent == self.parent or (self.other_parent != NO_DIRECTORY and parent == self.other_parent)


def record_mac(raw: bytes) -> tuple[bytes, bytes]:
    """Split a record into what its MAC covers and the MAC."""
    return raw[:_MAC_AT], raw[_MAC_AT:]
