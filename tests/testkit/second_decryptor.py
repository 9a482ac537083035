"""A second decryptor, written from docs/format.md alone with ``cryptography`` alone; it shares no code with kmsfs.

``read_tree`` returns everything in a tree by clear path. It raises ValueError where the page says that something is
damaged, and leaves out what the page calls foreign or unfinished.
"""

import base64
import hashlib
import hmac
import json
import os
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

DataKeys = Callable[[bytes], bytes | None]  # by file id
Xattrs = Callable[[Path], dict[str, bytes]]
HEADER = struct.Struct(">8sHHBBHHBBIQ32s32sQQ96s774s10s32s")
RECORD = struct.Struct(">8sHH16s16s16sH256s34s32s")


@dataclass
class Entry:
    kind: str  # "directory", "file", "symlink" or "other"
    content: bytes = b""  # of a file; the target of a symlink
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


def _must(truth: bool, problem: str) -> None:
    if not truth:
        raise ValueError(problem)


def _hkdf(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(SHA512(), length, salt, info).derive(key)


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _unb64(text: str) -> bytes:
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    _must(_b64(raw) == text, "not canonical base64url")
    return raw


def _siv(key: bytes, sealed: bytes, *associated: bytes) -> bytes:
    try:
        return AESSIV(key).decrypt(sealed, list(associated))
    except (InvalidTag, ValueError):
        raise ValueError("a sealed name or value does not verify") from None


def system_xattrs(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in os.listxattr(path)}


class Tree:
    def __init__(
        self, root: Path, tree_key: bytes, data_key: DataKeys, xattrs: Xattrs = system_xattrs
    ) -> None:
        self.root, self.data_key, self.read_xattrs = root, data_key, xattrs
        raw = (root / "kmsfs.tree").read_bytes()
        block = json.loads(raw)
        mac = bytes.fromhex(block.pop("mac"))
        _must((block["format"], block["version"]) == ("kmsfs-tree", 1), "not a tree of version 1")
        _must(block["incompat"] == [], "unknown incompatible feature")
        tree_id, self.chunk = bytes.fromhex(block["tree_id"]), block["chunk_size"]
        sizes = {"superblock-mac": 32, "directory-mac": 32, "names": 64}
        sizes |= {"symlinks": 64, "xattr-names": 32, "xattr-values": 64}
        self.keys = {
            name: _hkdf(tree_key, tree_id, b"kmsfs/v1/tree/" + name.encode(), n) for name, n in sizes.items()
        }
        canonical = json.dumps(block, sort_keys=True, separators=(",", ":")).encode()
        _must(_hmac(self.keys["superblock-mac"], canonical) == mac, "superblock does not verify")

    def walk(self, path: Path, clear: bytes, parent: bytes) -> Iterator[tuple[bytes, Entry]]:
        raw = (path / ".kmsfs.dir").read_bytes()
        magic, version, flags, own_id, first, second, _, _, _, mac = RECORD.unpack(raw)
        _must((magic, version, flags) == (b"KMSFSDIR", 1, 0), "not a directory record of version 1")
        _must(_hmac(self.keys["directory-mac"], raw[:352]) == mac, "directory record does not verify")
        _must(parent == first or (second != bytes(16) and parent == second), "directory of another parent")
        yield clear, Entry("directory", xattrs=self.xattrs(path, own_id))
        for name in sorted(os.listdir(path)):
            try:
                stored = self.stored_name(path, name)
                clear_name = _siv(self.keys["names"], _unb64(stored), own_id) if stored else b""
            except ValueError:
                continue  # foreign
            if not clear_name:
                continue
            child = clear + b"/" + clear_name
            mode = os.lstat(path / name).st_mode
            if stat.S_ISDIR(mode):
                yield from self.walk(path / name, child, own_id)
            elif stat.S_ISREG(mode):
                yield child, self.file(path / name)
            elif stat.S_ISLNK(mode):
                yield child, Entry("symlink", self.target(os.readlink(path / name)))
            else:
                yield child, Entry("other")

    def stored_name(self, path: Path, name: str) -> str:
        if "." not in name:
            return name
        if not name.startswith("kmsfs.long.") or name.endswith(".name"):
            return ""
        stored = (path / f"{name}.name").read_text("ascii")
        digest = hashlib.sha256(stored.encode()).digest()
        return stored if len(stored) > 255 and f"kmsfs.long.{_b64(digest)}" == name else ""

    def target(self, text: str) -> bytes:
        if len(text) == 33:
            link = text.removeprefix("kmsfs.link.")
            raw, extra = (self.root / "kmsfs.links" / link).read_bytes(), (_unb64(link),)
        else:
            raw, extra = _unb64(text), ()
        return _siv(self.keys["symlinks"], raw[12:], b"kmsfs1 symlink", raw[:12], *extra)

    def xattrs(self, path: Path, owner: bytes) -> dict[bytes, bytes]:
        found = {}
        for name, value in self.read_xattrs(path).items():
            namespace, kmsfs, rest = (*name.split(".", 2), "", "")[:3]
            if kmsfs != "kmsfs":
                continue
            plain = _siv(self.keys["xattr-values"], value[12:], b"kmsfs1 xattr", owner, value[:12])
            end = 2 + int.from_bytes(plain[:2], "big")
            clear = plain[2:end]
            _must(_b64(_hmac(self.keys["xattr-names"], owner + clear)[:16]) == rest, "xattr of another name")
            _must(clear.startswith(namespace.encode() + b"."), "xattr of another namespace")
            found[clear] = plain[end:]
        return found

    def file(self, path: Path) -> Entry:
        raw = path.read_bytes()
        if not raw:
            return Entry("file")
        _must(len(raw) >= 2048, "cut off inside the header")
        copies = [raw[:1024], raw[1024:2048]]
        for copy in sorted(copies, key=lambda c: c[24:32], reverse=True):
            magic, version, suite, log2, state, incompat, _, _, extents, _, *rest = HEADER.unpack(copy)
            _, file_id, commitment, sealed, _, holes, _, _, mac = rest
            if (magic, version, suite, incompat) != (b"KMSFSHDR", 1, 1, 0):
                continue
            data_key = self.data_key(file_id)
            if data_key is None:
                continue
            keys = _hkdf(data_key, file_id, b"kmsfs/v1/file" + struct.pack(">H", suite), 96)
            if keys[64:] == commitment and _hmac(keys[32:64], copy[:992]) == mac:
                break
        else:
            raise ValueError("no copy of the header verifies")
        _must(1 << log2 == self.chunk, "chunk size of another tree")
        ranges = [
            (int.from_bytes(holes[i : i + 6]), int.from_bytes(holes[i + 6 : i + 12]))
            for i in range(0, 96, 12)
        ]
        covered = ranges[:extents]
        prefix = b"kmsfs1" + file_id + struct.pack(">HB", suite, log2)
        stride, count = self.chunk + 28, -(-(len(raw) - 2048) // (self.chunk + 28))
        plain = b"".join(
            self.open_chunk(keys[:32], prefix, i, raw[2048 + i * stride : 2048 + (i + 1) * stride], covered)
            for i in range(count)
        )
        _must(len(plain) >= sealed or bool(state & 1), "cut off")
        return Entry("file", plain, self.xattrs(path, file_id))

    def open_chunk(
        self, key: bytes, prefix: bytes, index: int, body: bytes, holes: list[tuple[int, int]]
    ) -> bytes:
        _must(len(body) > 28, f"chunk {index} is cut off")
        if not any(body) and any(start <= index < start + length for start, length in holes):
            return bytes(len(body) - 28)
        try:
            return AESGCM(key).decrypt(body[:12], body[12:], prefix + struct.pack(">Q", index))
        except InvalidTag:
            raise ValueError(f"chunk {index} does not verify") from None


def read_tree(
    root: Path, tree_key: bytes, data_key: DataKeys, xattrs: Xattrs = system_xattrs
) -> dict[bytes, Entry]:
    """Everything in the tree by clear path; the root is ``b""``."""
    return dict(Tree(root, tree_key, data_key, xattrs).walk(root, b"", bytes(16)))
