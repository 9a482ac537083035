"""kmsfs reads the frozen tree of every format version, now and for ever.

The tree's CMK is known and in no token, so the one thing that stands in here is the keystore; all else is real.
"""

import json
import os
import shutil
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from testkit import make_vectors

from kmsfs.crypto.aead import gcm_open
from kmsfs.errors import IntegrityError, InvalidCiphertextError
from kmsfs.format.blob import parse_blob
from kmsfs.format.context import encode_context
from kmsfs.tree import symlinks
from kmsfs.tree.inodes import Inode
from kmsfs.tree.listing import Listing
from kmsfs.tree.tree import Tree
from kmsfs.tree.volume import TreeOptions

VERSIONS = sorted(path for path in make_vectors.FROZEN.parent.iterdir() if path.is_dir())
Found = dict[bytes, tuple[str, bytes, dict[bytes, bytes]]]


@dataclass
class Plaintext:
    plaintext: bytes


class NoAudits:
    """A tree that nobody keeps a log of."""

    def count(self, arn: str, action: str, context: Mapping[str, str], **of: object) -> None: ...

    def tend(self) -> None: ...


class KnownKey:
    """A keystore of one CMK that everybody knows."""

    def __init__(self, cmk: bytes) -> None:
        self._cmk = cmk

    def decrypt(self, blob: bytes, context: Mapping[str, str], *, ref: str | None = None) -> Plaintext:
        parsed = parse_blob(blob)
        aad = blob[: -len(parsed.sealed)] + encode_context(context)
        try:
            return Plaintext(gcm_open(self._cmk, parsed.nonce, parsed.sealed, aad))
        except IntegrityError:
            raise InvalidCiphertextError("blob does not open") from None

    def unwrap(self, blob: bytes, context: Mapping[str, str], *, ref: str) -> bytes:
        return self.decrypt(blob, context, ref=ref).plaintext

    def check_usable(
        self, key_arn: str, action: str = "", pairs: Mapping[str, str] | None = None
    ) -> None: ...

    def refresh(self) -> None: ...

    @property
    def audits(self) -> NoAudits:
        return NoAudits()

    def is_fast(self, key_arn: str) -> bool:
        return True

    def serving_key(self, key_arn: str) -> str:
        return key_arn

    def measure(self, key_arns: Iterable[str] = ()) -> None: ...


@dataclass
class Nobody:
    uid: int = 65534
    gid: int = 65534


def lay_out(version: Path, at: Path) -> Path:
    """A copy of the tree with the extended attributes that version control could not keep."""
    shutil.copytree(version / "tree", at, symlinks=True)
    for name, values in json.loads((version / "tree.json").read_text())["xattrs"].items():
        for attribute, value in values.items():
            os.setxattr(at / name, attribute, bytes.fromhex(value))
    return at


async def walk(tree: Tree, inode: Inode, clear: bytes, found: Found) -> None:
    xattrs = {name: tree.xattrs.get(inode, name) for name in tree.xattrs.list(inode)}
    found[clear] = ("directory", b"", xattrs)
    listing = Listing(tree.volume, inode)
    await listing.rewind()
    names = [name for _, name, _, _ in listing.entries(0)]
    listing.close()
    for name in names:
        child, status = tree.namespace.lookup(inode, name)
        path = clear + b"/" + name
        if child.is_directory():
            await walk(tree, child, path, found)
            continue
        xattrs = {attribute: tree.xattrs.get(child, attribute) for attribute in tree.xattrs.list(child)}
        if stat.S_ISLNK(child.kind):
            target = symlinks.read(tree.volume, child)
            assert symlinks.length(tree.volume, child, status.st_size) == len(target)
            found[path] = ("symlink", target, xattrs)
        else:
            handle, _ = await tree.files.open(child, os.O_RDONLY, Nobody())
            content = bytes(await tree.files.read(handle, 0, 1 << 20))
            tree.files.release(handle)
            assert tree.volume.size(status) == len(content)
            found[path] = ("file", content, xattrs)


def expected(version: Path) -> Found:
    return {
        bytes.fromhex(item["path"]): (
            item["kind"],
            bytes.fromhex(item.get("content", "")),
            {name.encode(): bytes.fromhex(value) for name, value in item.get("xattrs", {}).items()},
        )
        for item in json.loads((version / "tree.json").read_text())["entries"]
    }


def open_frozen(version: Path, root: Path, *, read_only: bool) -> Tree:
    cmk = bytes.fromhex(json.loads((version / "tree.json").read_text())["cmk"])
    return Tree(KnownKey(cmk), root, TreeOptions(read_only=read_only))  # type: ignore[arg-type]


def snapshot(root: Path) -> dict[str, bytes]:
    found = {}
    # Not rglob: that of Python 3.11.2 follows a link to see what it is, and fails.
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            found[str(path)] = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
    return found


def test_there_is_a_frozen_tree() -> None:
    assert [version.name for version in VERSIONS] == ["v1"]


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize("read_only", [True, False], ids=["read-only", "read-write"])
async def test_kmsfs_reads_it(version: Path, tmp_path: Path, read_only: bool) -> None:
    root = lay_out(version, tmp_path / "tree")
    before = snapshot(root)
    tree = open_frozen(version, root, read_only=read_only)
    found: Found = {}
    try:
        await walk(tree, tree.volume.inodes.root, b"", found)
    finally:
        await tree.close()
    assert found == expected(version)
    changed = [path for path, content in snapshot(root).items() if content != before[path]]
    if read_only:
        assert not changed
    else:
        assert len(changed) == 1, "only the dirty file is sealed"
        assert found == expected(version)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
async def test_a_dirty_file_of_it_is_sealed_with_the_same_content(version: Path, tmp_path: Path) -> None:
    root = lay_out(version, tmp_path / "tree")
    for _ in range(2):
        tree = open_frozen(version, root, read_only=False)
        found: Found = {}
        try:
            await walk(tree, tree.volume.inodes.root, b"", found)
        finally:
            await tree.close()
        assert found == expected(version)
