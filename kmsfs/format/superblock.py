"""The superblock ``kmsfs.tree`` (docs/format.md section 2). Bytes only: the MAC is carried, not checked."""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from kmsfs.errors import FormatError, UnsupportedFormatError
from kmsfs.format.header import MAX_BLOB
from kmsfs.format.header import MAX_SLOTS as MAX_FILE_SLOTS
from kmsfs.format.layout import check_chunk_size
from kmsfs.ids import KeyArn, TreeId

FORMAT = "kmsfs-tree"
VERSION = 1
MAX_SIZE = 65536
MAX_SLOTS = 8
KNOWN_INCOMPAT: Final[frozenset[str]] = frozenset()
KNOWN_RO_COMPAT: Final[frozenset[str]] = frozenset()
_MEMBERS: Final = {
    "format": str,
    "version": int,
    "tree_id": str,
    "chunk_size": int,
    "default_key_arn": str,
    "incompat": list,
    "ro_compat": list,
    "slots": list,
    "mac": str,
}


@dataclass(frozen=True, slots=True)
class TreeSlot:
    """One wrapped copy of the tree key."""

    key_arn: KeyArn
    blob: bytes


@dataclass(frozen=True, slots=True)
class Superblock:
    """What identifies a tree and opens its names."""

    tree_id: TreeId
    chunk_size: int
    default_key_arn: KeyArn
    slots: tuple[TreeSlot, ...]
    ro_compat: tuple[str, ...] = ()
    mac: bytes = b""

    @property
    def read_only(self) -> bool:
        """Whether a feature that this version does not know allows reading only."""
        return not KNOWN_RO_COMPAT.issuperset(self.ro_compat)

    @property
    def key_arns(self) -> tuple[KeyArn, ...]:
        """The tree's keys: the default one, then the replicas, which are the others that open the tree."""
        replicas = (slot.key_arn for slot in self.slots if slot.key_arn != self.default_key_arn)
        return self.default_key_arn, *replicas

    def wanted_keys(self, zone: str) -> tuple[KeyArn, ...]:
        """The CMKs that the files of a zone, ``""`` for none, are to be wrapped under."""
        return wanted_keys(zone, self.key_arns)

    def covered(self) -> bytes:
        """The canonical bytes that the MAC covers."""
        return _canonical(self._members())

    def pack(self) -> bytes:
        """The canonical bytes on disk, MAC included."""
        return _canonical(self._members() | {"mac": self.mac.hex()})

    def _members(self) -> dict[str, Any]:
        slots = [{"key_arn": s.key_arn, "blob": base64.b64encode(s.blob).decode()} for s in self.slots]
        return {
            "format": FORMAT,
            "version": VERSION,
            "tree_id": self.tree_id.hex(),
            "chunk_size": self.chunk_size,
            "default_key_arn": self.default_key_arn,
            "incompat": [],
            "ro_compat": list(self.ro_compat),
            "slots": slots,
        }

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Parse, or raise FormatError. Only the canonical form parses; nothing is authenticated yet."""
        if len(raw) > MAX_SIZE:
            raise FormatError(f"superblock is larger than {MAX_SIZE} bytes")
        try:
            members = json.loads(raw.decode("ascii"))
        except (ValueError, RecursionError):
            raise FormatError("superblock is not JSON") from None
        if not isinstance(members, dict) or members.get("format") != FORMAT:
            raise FormatError("not a kmsfs superblock")
        _check_version(members)
        for name, kind in _MEMBERS.items():
            if type(members.get(name)) is not kind:
                raise FormatError(f"superblock member {name} is missing or of a wrong type")
        ro_compat = members["ro_compat"]
        if not all(isinstance(name, str) for name in ro_compat):
            raise FormatError("superblock member ro_compat is malformed")
        block = cls(
            tree_id=TreeId(_hex(members["tree_id"], 16, "tree_id")),
            chunk_size=check_chunk_size(members["chunk_size"]),
            default_key_arn=KeyArn(members["default_key_arn"]),
            slots=_parse_slots(members["slots"]),
            ro_compat=tuple(ro_compat),
            mac=_hex(members["mac"], 32, "mac"),
        )
        if block.pack() != raw:
            raise FormatError("superblock is not in canonical form")
        return block


def wanted_keys(zone: str, tree_keys: Sequence[KeyArn]) -> tuple[KeyArn, ...]:
    """The CMKs that files are to be wrapped under: the zone's, or else the tree's first, then the tree's others."""
    first = KeyArn(zone) if zone else tree_keys[0]
    return tuple(dict.fromkeys((first, *tree_keys[1:])))[:MAX_FILE_SLOTS]


def _canonical(members: dict[str, Any]) -> bytes:
    return json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def _check_version(members: dict[str, Any]) -> None:
    version, incompat = members.get("version"), members.get("incompat")
    if type(version) is int and version > VERSION:
        raise UnsupportedFormatError(
            f"superblock has version {version}, this kmsfs reads {VERSION}", hint="use a newer kmsfs"
        )
    if version != VERSION:
        raise FormatError("superblock member version is missing or wrong")
    if isinstance(incompat, list) and not all(
        isinstance(name, str) and name in KNOWN_INCOMPAT for name in incompat
    ):
        raise UnsupportedFormatError(
            "superblock has an unknown incompatible feature", hint="use a newer kmsfs"
        )


def _hex(text: str, size: int, name: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != size:
        raise FormatError(f"superblock member {name} is not {size} bytes in hex")
    return value


def _parse_slots(entries: list[Any]) -> tuple[TreeSlot, ...]:
    if not 1 <= len(entries) <= MAX_SLOTS:
        raise FormatError(f"superblock has {len(entries)} slots, expected 1 to {MAX_SLOTS}")
    slots = []
    for entry in entries:
        if not isinstance(entry, dict) or set(entry) != {"key_arn", "blob"}:
            raise FormatError("superblock slot is malformed")
        arn, text = entry["key_arn"], entry["blob"]
        if not isinstance(arn, str) or not isinstance(text, str):
            raise FormatError("superblock slot is malformed")
        try:
            blob = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise FormatError("superblock slot is not base64") from None
        if not 0 < len(blob) <= MAX_BLOB:
            raise FormatError(f"wrapped tree key in a superblock slot is not 1 to {MAX_BLOB} bytes")
        slots.append(TreeSlot(KeyArn(arn), blob))
    return tuple(slots)
