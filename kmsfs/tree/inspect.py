"""What a path of a tree is: ids, keys and lengths, read without any key (``kmsfs info``)."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

from kmsfs.envelope.file_key import newest_unverified
from kmsfs.errors import FormatError, NotATreeError
from kmsfs.format.blob import parse_blob_head
from kmsfs.format.directory import RECORD_SIZE, DirectoryRecord
from kmsfs.format.layout import HEADER_SIZE
from kmsfs.storage import backing
from kmsfs.tree.directories import RECORD_NAME, SUPERBLOCK_NAME
from kmsfs.tree.superblock_file import read_superblock
from kmsfs.tree.zones import zone_at

if TYPE_CHECKING:
    from pathlib import Path

    from kmsfs.format.superblock import Superblock

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


def inspect_path(path: Path) -> dict[str, Any]:
    """Describe an entry of an unmounted tree, or the tree's root. Nothing that is said is authenticated."""
    root = find_root(path)
    block = read_superblock(root)
    place = path.parent.resolve() / path.name if path.name else path.resolve()
    about = _describe(path, block, zone_at(place, root))
    return about | {"entry": "" if place == root else os.fspath(place.relative_to(root))}


def _describe(path: Path, block: Superblock, zone: str) -> dict[str, Any]:
    mode = path.lstat().st_mode
    if stat.S_ISDIR(mode):
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return describe_directory(fd, block, zone)
        finally:
            os.close(fd)
    raw = b""
    if stat.S_ISREG(mode):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            raw = os.pread(fd, HEADER_SIZE, 0)
        finally:
            os.close(fd)
    return describe_file(mode, raw, block, zone)


def find_root(path: Path) -> Path:
    """The nearest directory at or above ``path`` that has a superblock."""
    absolute = path.parent.resolve() / path.name if path.name else path.resolve()
    for directory in (absolute, *absolute.parents):
        if not directory.is_symlink() and (directory / os.fsdecode(SUPERBLOCK_NAME)).is_file():
            return directory
    raise NotATreeError(f"{path} is in no kmsfs tree and no kmsfs mount")


def describe_file(mode: int, raw: bytes, block: Superblock, zone: str) -> dict[str, Any]:
    """Describe a non-directory from its mode and, for a regular file, its header bytes and its zone's key."""
    about: dict[str, Any] = {
        "kind": _KINDS.get(stat.S_IFMT(mode), "unknown"),
        "tree_id": block.tree_id.hex(),
        "file_id": None,
        "chunk_size": block.chunk_size,
        "sealed_length": 0 if stat.S_ISREG(mode) else None,
        "zone": zone or None,
        "key_arn": block.wanted_keys(zone)[0] if stat.S_ISREG(mode) else None,
        "slots": [],
    }
    if not raw:
        return about
    if len(raw) != HEADER_SIZE:
        raise FormatError(
            f"file is cut off inside its header ({len(raw)} bytes)", hint="restore it from a backup"
        )
    header = newest_unverified(raw)
    about["file_id"] = header.file_id.hex()
    about["chunk_size"] = header.chunk_size
    about["sealed_length"] = header.sealed_length
    about["dirty"] = header.dirty
    about["key_arn"] = describe_slot(header.slots[0])["key_arn"]
    about["slots"] = [describe_slot(blob) for blob in header.slots]
    return about


def describe_directory(dir_fd: int, block: Superblock, zone: str) -> dict[str, Any]:
    """Describe a directory from its record and its zone's key; the root also tells the tree's slots."""
    record = DirectoryRecord.parse(backing.read_small(RECORD_NAME, dir_fd, RECORD_SIZE))
    is_root = not any(record.parent)
    return {
        "kind": "directory",
        "tree_id": block.tree_id.hex(),
        "file_id": None,
        "directory_id": record.dir_id.hex(),
        "chunk_size": block.chunk_size,
        "sealed_length": None,
        "zone": zone or None,
        "is_zone": bool(record.zone),
        "key_arn": block.wanted_keys(zone)[0],
        "default_key_arn": block.default_key_arn,
        "slots": [describe_slot(slot.blob) for slot in block.slots] if is_root else [],
    }


def describe_slot(blob: bytes) -> dict[str, str | None]:
    """Region, key ARN and material id that a slot names."""
    try:
        head = parse_blob_head(blob)
    except FormatError:
        return {"region": None, "key_arn": None, "material_id": None}
    return {
        "region": head.key_arn.split(":")[3],
        "key_arn": head.key_arn,
        "material_id": head.material_id.hex(),
    }
