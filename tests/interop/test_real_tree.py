"""The second decryptor reads a tree that a real mount wrote, and finds what was put there, byte for byte."""

import os
from pathlib import Path

from testkit.mounting import Mount
from testkit.second_decryptor import Entry, read_tree

from kmsfs.envelope.file_key import newest_unverified
from kmsfs.format import aad
from kmsfs.format.superblock import Superblock
from kmsfs.ids import FileId
from kmsfs.keystore.service import Keystore

CHUNK = 4096
LONG_NAME = b"n" * 250 + b"\xff\xfe\n ~"
LONG_TARGET = b"d/" * 1700 + b"x"


def unwrap_everything(home: Path, tree: Path) -> tuple[bytes, dict[bytes, bytes]]:
    """What an auditor with the HSM takes along: the tree key and the data key of each file."""
    block = Superblock.parse((tree / "kmsfs.tree").read_bytes())
    data_keys = {}
    with Keystore.open(home) as keystore:
        tree_key = keystore.decrypt(block.slots[0].blob, aad.tree_context(block.tree_id)).plaintext
        for path in tree.rglob("*"):
            if path.is_symlink() or not path.is_file() or path.read_bytes()[:8] != b"KMSFSHDR":
                continue
            header = newest_unverified(path.read_bytes()[:2048])
            context = aad.file_context(block.tree_id, FileId(header.file_id))
            data_keys[bytes(header.file_id)] = keystore.decrypt(header.slots[0], context).plaintext
    return tree_key, data_keys


def populate(root: Path) -> dict[bytes, Entry]:
    """One of everything; returns what a reader must find."""
    content = os.urandom(3 * CHUNK + 17)
    base = os.fsencode(root)
    found = {
        b"": Entry("directory"),
        b"/empty": Entry("file"),
        b"/small": Entry("file", b"abc"),
        b"/multi-chunk": Entry("file", content),
        b"/" + LONG_NAME: Entry("directory"),
        b"/" + LONG_NAME + b"/" + LONG_NAME: Entry("file", b"nested"),
        b"/overwritten": Entry("file", content[:100] + b"X" * 5000 + content[5100:]),
        b"/grown": Entry("file", b"head" + bytes(9 * CHUNK) + b"tail"),
        b"/shrunk": Entry("file", content[: CHUNK + 5]),
        b"/all hole": Entry("file", bytes(100_000)),
    }
    for path, entry in found.items():
        if entry.kind == "directory" and path:
            os.mkdir(base + path)
        elif entry.kind == "file" and path not in (b"/overwritten", b"/grown", b"/shrunk", b"/all hole"):
            Path(os.fsdecode(base + path)).write_bytes(entry.content)
    (root / "overwritten").write_bytes(content)
    (root / "shrunk").write_bytes(content)
    with (root / "overwritten").open("r+b") as file:
        file.seek(100)
        file.write(b"X" * 5000)
    with (root / "grown").open("wb") as file:
        file.write(b"head")
        file.seek(4 + 9 * CHUNK)
        file.write(b"tail")
    os.truncate(root / "shrunk", CHUNK + 5)
    (root / "all hole").touch()
    os.truncate(root / "all hole", 100_000)
    for name, target in ((b"/symlink", b"small"), (b"/long symlink", LONG_TARGET)):
        os.symlink(target, base + name)
        found[name] = Entry("symlink", target)
    os.mkfifo(root / "fifo")
    found[b"/fifo"] = Entry("other")
    return found


def add_xattrs(root: Path, found: dict[bytes, Entry]) -> None:
    for path, name, value in (
        (b"/small", b"user.mime_type", b"text/plain"),
        (b"/" + LONG_NAME, b"user.note", b""),
        (b"", b"user.of.the.root", b"\0\xff"),
    ):
        os.setxattr(os.fsencode(root) + path, name, value)
        found[path].xattrs[name] = value


def test_a_tree_that_a_mount_wrote_reads_from_the_specification_alone(mounted: Mount) -> None:
    expected = populate(mounted.path)
    add_xattrs(mounted.path, expected)
    os.mkdir(mounted.path / "moved from")
    os.mkdir(mounted.path / "moved from" / "child")
    (mounted.path / "moved from" / "child" / "file").write_bytes(b"moved")
    os.mkdir(mounted.path / "moved to")
    os.rename(mounted.path / "moved from" / "child", mounted.path / "moved to" / "child")
    expected |= {b"/moved from": Entry("directory"), b"/moved to": Entry("directory")}
    expected |= {b"/moved to/child": Entry("directory"), b"/moved to/child/file": Entry("file", b"moved")}
    mounted.unmount()
    tree_key, data_keys = unwrap_everything(mounted.home.path, mounted.tree)
    assert len(data_keys) == len({*data_keys.values()}) >= 8
    found = read_tree(mounted.tree, tree_key, data_keys.get)
    assert set(found) == set(expected)
    for path, entry in expected.items():
        assert found[path] == entry, path


def test_sealed_files_have_two_equal_clean_copies(mounted: Mount) -> None:
    populate(mounted.path)
    mounted.unmount()
    checked = 0
    for path in mounted.tree.rglob("*"):
        if path.is_symlink() or not path.is_file() or path.read_bytes()[:8] != b"KMSFSHDR":
            continue
        raw = path.read_bytes()
        assert raw[:1024] == raw[1024:2048], path
        header = newest_unverified(raw[:2048])
        assert not header.dirty
        assert header.chunk_size == CHUNK
        checked += 1
    assert checked >= 7
