"""A decryptor written from docs/format.md alone reads the frozen tree and agrees with every vector it can read."""

import ast
import json
import os
import shutil
from pathlib import Path

import pytest
from testkit import make_vectors
from testkit.second_decryptor import Entry, Tree, read_tree

KNOWN = json.loads((make_vectors.FROZEN / "tree.json").read_text())
TREE_KEY = bytes.fromhex(KNOWN["tree_key"])


def data_key(file_id: bytes) -> bytes | None:
    return bytes.fromhex(KNOWN["data_keys"].get(file_id.hex(), "")) or None


def xattrs_of(root: Path) -> object:
    def read(path: Path) -> dict[str, bytes]:
        listed = KNOWN["xattrs"].get(str(path.relative_to(root)), {})
        return {name: bytes.fromhex(value) for name, value in listed.items()}

    return read


def read_frozen(root: Path) -> dict[bytes, Entry]:
    return read_tree(root, TREE_KEY, data_key, xattrs_of(root))  # type: ignore[arg-type]


def copy_of_the_tree(tmp_path: Path) -> Path:
    shutil.copytree(make_vectors.FROZEN / "tree", tmp_path / "tree", symlinks=True)
    return tmp_path / "tree"


def test_it_imports_nothing_of_kmsfs() -> None:
    source = Path(__file__).parents[1] / "testkit" / "second_decryptor.py"
    imported = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add((node.module or "").split(".")[0])
    assert "cryptography" in imported
    assert not imported & {"kmsfs", "testkit", "importlib"}


def test_frozen_tree_reads_as_it_was_written() -> None:
    found = read_frozen(make_vectors.FROZEN / "tree")
    expected = {
        bytes.fromhex(item["path"]): Entry(
            item["kind"],
            bytes.fromhex(item.get("content", "")),
            {name.encode(): bytes.fromhex(value) for name, value in item.get("xattrs", {}).items()},
        )
        for item in KNOWN["entries"]
    }
    assert len(expected) > 12
    assert found == expected


def test_frozen_tree_holds_one_of_everything() -> None:
    kinds = {item["kind"] for item in KNOWN["entries"]}
    assert kinds == {"directory", "file", "symlink"}
    names = {bytes.fromhex(item["path"]).rpartition(b"/")[2] for item in KNOWN["entries"]}
    assert any(len(name) == 255 for name in names)
    assert {b"empty", b"emptied", b"sparse", b"dirty", b"long symlink"} <= names
    assert KNOWN["xattrs"]


@pytest.mark.parametrize("at", [8, 40, 70, 900, 1000])
def test_one_damaged_header_copy_is_survived(tmp_path: Path, at: int) -> None:
    root = copy_of_the_tree(tmp_path)
    expected = read_frozen(root)
    for path in _files(root):
        raw = bytearray(path.read_bytes())
        raw[at] ^= 1
        path.write_bytes(raw)
    found = read_frozen(root)
    assert found == expected


def test_damage_is_an_error(tmp_path: Path) -> None:
    root = copy_of_the_tree(tmp_path)
    damaged = 0
    for path in _files(root):
        good = path.read_bytes()
        bads = [good[:2047], bytes(2048) + good[2048:]]
        if len(good) > 2048:
            bads += [good[:-1], flipped(good, len(good) - 1)]
        for bad in bads:
            path.write_bytes(bad)
            with pytest.raises(ValueError):
                read_frozen(root)
            damaged += 1
        path.write_bytes(good)
    assert damaged > 20


def flipped(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


def _files(root: Path) -> list[Path]:
    found = []
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory) / name
            if path.is_symlink() or name.endswith(".name") or path.read_bytes()[:8] != b"KMSFSHDR":
                continue
            found.append(path)
    assert found
    return found


def test_another_tree_key_opens_nothing() -> None:
    with pytest.raises(ValueError, match="superblock"):
        Tree(make_vectors.FROZEN / "tree", bytes(32), data_key)


def test_worked_example_was_computed_from_the_page(tmp_path: Path) -> None:
    """The bytes printed in the specification form a tree that this decryptor reads."""
    text = make_vectors.SPECIFICATION.read_text().split(make_vectors.BEGIN)[1].split(make_vectors.END)[0]
    header, chunk, record = (undump(block) for block in text.split("```")[1::2])
    table = {
        line.split("|")[1].strip(): line.split("|")[2].strip().strip("`")
        for line in text.splitlines()
        if line.startswith("| ")
    }
    name = text.split("encrypted name: `")[1].split("`")[0]
    (tmp_path / ".kmsfs.dir").write_bytes(record)
    (tmp_path / name).write_bytes(header * 2 + chunk)
    (tmp_path / "kmsfs.tree").write_text(_superblock(table))
    found = read_tree(
        tmp_path, bytes.fromhex(table["tree key"]), lambda _: bytes.fromhex(table["data key"]), lambda _: {}
    )
    assert found[b"/hello.txt"] == Entry("file", b"abc")


def undump(block: str) -> bytes:
    """The bytes of a hexdump; an asterisk repeats the line of zeros before it."""
    raw = b""
    for line in block.strip().splitlines():
        if line == "*":
            continue
        at = int(line[:4], 16)
        start = int(block.strip()[:4], 16)
        raw = raw.ljust(at - start, b"\0") + bytes.fromhex(line[6:53])
    return raw


def _superblock(table: dict[str, str]) -> str:
    """The example shows no superblock: make one, with the standard library alone."""
    import hashlib
    import hmac

    key, salt = bytes.fromhex(table["tree key"]), bytes.fromhex(table["tree id"])
    extracted = hmac.digest(salt, key, "sha512")
    mac_key = hmac.digest(extracted, b"kmsfs/v1/tree/superblock-mac\x01", "sha512")[:32]
    members = {
        "format": "kmsfs-tree",
        "version": 1,
        "tree_id": salt.hex(),
        "chunk_size": 4096,
        "default_key_arn": "arn",
        "incompat": [],
        "ro_compat": [],
        "slots": [{"blob": "AA==", "key_arn": "arn"}],
    }
    covered = json.dumps(members, sort_keys=True, separators=(",", ":")).encode()
    mac = hmac.new(mac_key, covered, hashlib.sha256).hexdigest()
    return json.dumps(members | {"mac": mac}, sort_keys=True, separators=(",", ":"))
