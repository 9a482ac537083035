"""Makes the frozen tree of format version 1, tests/trees/v1: made once, read for ever.

The envelope layer alone writes it, with fixed keys and nonces; extended attributes stand in tree.json, because
version control has none. tree.json also holds the keys and what a reader must find.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kmsfs.envelope.file_key import derive_file_keys, seal_header
from kmsfs.envelope.tree_key import (
    LINK_PREFIX,
    LONG_PREFIX,
    MAX_INLINE_TARGET,
    SIDECAR_SUFFIX,
    b64,
    entry_name,
)
from kmsfs.format import aad, layout
from kmsfs.format.directory import DirectoryRecord
from kmsfs.format.header import FileHeader
from kmsfs.ids import DirId, FileId
from testkit.golden import (
    CHUNK,
    CMK,
    KEY_ARN,
    NO_PARENT,
    ROOT_ID,
    TREE_ID,
    TREE_KEY,
    TREE_KEYS,
    fixed,
    sample_superblock,
    wrap,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONG_NAME = b"long name " * 25 + b"12345"  # 255 bytes
LONG_TARGET = b"../" * 1300 + b"x"
HOLES = ((1, 4), (5, 6))


@dataclass
class Maker:
    root: Path
    data_keys: dict[str, str] = field(default_factory=dict)
    xattrs: dict[str, dict[str, str]] = field(default_factory=dict)
    entries: list[dict[str, object]] = field(default_factory=list)

    def directory(self, at: Path, clear: bytes, dir_id: DirId, parent: DirId, zone: str = "") -> None:
        at.mkdir()
        (at / ".kmsfs.dir").write_bytes(TREE_KEYS.seal_directory(DirectoryRecord(dir_id, parent, zone=zone)))
        self.entries.append({"path": clear.hex(), "kind": "directory"})

    def entry(self, at: Path, directory: DirId, clear: bytes) -> Path:
        encrypted = TREE_KEYS.encrypt_name(clear, directory)
        backing = entry_name(encrypted)
        if backing.startswith(LONG_PREFIX):
            (at / os.fsdecode(backing + SIDECAR_SUFFIX)).write_bytes(encrypted)
        return at / os.fsdecode(backing)

    def file(
        self, path: Path, clear: bytes, pieces: list[bytes], *, dirty: bool = False, generation: int = 2
    ) -> FileId:
        """``pieces`` are the chunks; an empty one is a hole."""
        label = clear.hex()
        file_id, data_key = FileId(fixed(f"file {label}", 32)), fixed(f"key {label}", 32)
        keys = derive_file_keys(data_key, file_id, 1, CHUNK)
        stored, plain = b"", b""
        for index, piece in enumerate(pieces):
            nonce = fixed(f"nonce {label} {index}", 12)
            stored += bytes(keys.cipher.seal(index, piece, nonce)) if piece else bytes(CHUNK + 28)
            plain += piece or bytes(CHUNK)
        header = FileHeader(
            file_id=file_id,
            commitment=keys.commitment,
            chunk_size=CHUNK,
            slots=(wrap(data_key, aad.file_context(TREE_ID, file_id), fixed(f"wrap {label}", 12)),),
            generation=generation,
            sealed_length=len(plain),
            chunk_writes=len(pieces),
            dirty=dirty,
            holes=HOLES if b"" in pieces else (),
        )
        older = header._replace(generation=1, dirty=True, sealed_length=0) if dirty else header
        path.write_bytes(seal_header(older, keys) + seal_header(header, keys) + stored)
        assert path.stat().st_size == layout.backing_size(len(plain), CHUNK)
        self.data_keys[file_id.hex()] = data_key.hex()
        self.entries.append({"path": clear.hex(), "kind": "file", "content": plain.hex()})
        return file_id

    def symlink(self, path: Path, clear: bytes, target: bytes) -> None:
        nonce = fixed(f"nonce {clear.hex()}", 12)
        if len(target) <= MAX_INLINE_TARGET:
            os.symlink(b64(TREE_KEYS.seal_target(target, nonce)), os.fsencode(path))
        else:
            link_id = fixed(f"link {clear.hex()}", 16)
            (self.root / "kmsfs.links").mkdir(exist_ok=True)
            beside = self.root / "kmsfs.links" / b64(link_id).decode()
            beside.write_bytes(TREE_KEYS.seal_target(target, nonce, link_id))
            os.symlink(LINK_PREFIX + b64(link_id), os.fsencode(path))
        self.entries.append({"path": clear.hex(), "kind": "symlink", "content": target.hex()})

    def xattr(self, path: Path, owner: bytes, clear: bytes, name: bytes, value: bytes) -> None:
        backing = TREE_KEYS.xattr_name(name, owner).decode()
        sealed = TREE_KEYS.seal_xattr(name, value, owner, fixed(f"nonce {clear.hex()} {name!r}", 12))
        self.xattrs.setdefault(str(path.relative_to(self.root)), {})[backing] = sealed.hex()
        for item in self.entries:
            if item["path"] == clear.hex():
                item.setdefault("xattrs", {})[name.decode()] = value.hex()  # type: ignore[attr-defined]


def bytes_of(label: str, size: int) -> Iterator[bytes]:
    """Content in chunks."""
    content = fixed(label, size)
    yield from (content[at : at + CHUNK] for at in range(0, size, CHUNK))


def make_tree(base: Path) -> None:
    """Write ``base``/tree and ``base``/tree.json."""
    root = base / "tree"
    maker = Maker(root)
    maker.directory(root, b"", ROOT_ID, NO_PARENT)
    (root / "kmsfs.tree").write_bytes(sample_superblock().pack())

    def entry(clear: bytes) -> tuple[Path, bytes]:
        return maker.entry(root, ROOT_ID, clear), b"/" + clear

    empty, clear = entry(b"empty")
    empty.touch()
    maker.entries.append({"path": clear.hex(), "kind": "file", "content": ""})
    maker.file(*entry(b"emptied"), [])
    small, clear = entry(b"small")
    maker.xattr(small, maker.file(small, clear, [b"abc"]), clear, b"user.mime_type", b"text/plain")
    maker.file(*entry(b"one chunk"), list(bytes_of("one chunk", CHUNK)))
    maker.file(*entry(b"multi-chunk"), list(bytes_of("multi-chunk", 3 * CHUNK + 17)))
    maker.file(*entry(b"dirty"), list(bytes_of("dirty", CHUNK + 5)), dirty=True)
    first, fifth, last = fixed("first", CHUNK), fixed("fifth", CHUNK), fixed("last", 7)
    maker.file(*entry(b"sparse"), [first, b"", b"", b"", fifth, b"", last])
    maker.file(*entry(LONG_NAME), [b"under a long name"])
    maker.file(*entry(b"caf\xc3\xa9 \xff\n"), [b"any bytes make a name"])
    maker.symlink(*entry(b"symlink"), b"small")
    maker.symlink(*entry(b"longest inline symlink"), LONG_TARGET[-MAX_INLINE_TARGET:])
    maker.symlink(*entry(b"long symlink"), LONG_TARGET)
    _nested(maker)
    known = {"tree_key": TREE_KEY.hex(), "cmk": CMK.hex(), "key_arn": KEY_ARN, "data_keys": maker.data_keys}
    text = json.dumps(known | {"xattrs": maker.xattrs, "entries": maker.entries}, indent=1)
    (base / "tree.json").write_text(text + "\n")


def _nested(maker: Maker) -> None:
    outer_id, inner_id = DirId(fixed("directory outer", 16)), DirId(fixed("directory inner", 16))
    outer = maker.entry(maker.root, ROOT_ID, b"outer")
    maker.directory(outer, b"/outer", outer_id, ROOT_ID, KEY_ARN)
    maker.xattr(outer, outer_id, b"/outer", b"user.note", b"")
    inner = maker.entry(outer, outer_id, LONG_NAME)
    maker.directory(inner, b"/outer/" + LONG_NAME, inner_id, outer_id)
    maker.file(maker.entry(inner, inner_id, b"small"), b"/outer/" + LONG_NAME + b"/small", [b"nested"])
    (outer / "README").write_text("A foreign file: not served.\n")
    (outer / "kmsfs.tmp.unfinished").mkdir()
    (outer / "kmsfs.tmp.unfinished" / "x").write_text("An unfinished operation: not part of the tree.\n")
