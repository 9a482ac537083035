"""Every structure reads as its golden vector says, and kmsfs still writes the same bytes."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from testkit import make_vectors
from testkit.golden import CMK, DATA_KEY, FILE_ID, TREE_KEY, TREE_KEYS, file_keys

from kmsfs.crypto.aead import gcm_open
from kmsfs.crypto.kdf import hkdf_sha512
from kmsfs.envelope.content import ChunkCipher
from kmsfs.envelope.file_key import OpenedHeader, open_header, seal_header
from kmsfs.envelope.tree_key import TreeKeys, b64, entry_name, target_length
from kmsfs.errors import FormatError, IntegrityError, UnsupportedFormatError
from kmsfs.format import layout
from kmsfs.format.blob import parse_blob
from kmsfs.format.directory import DirectoryRecord
from kmsfs.format.header import FileHeader
from kmsfs.format.holes import Extents
from kmsfs.format.superblock import Superblock
from kmsfs.ids import DirId, FileId, TreeId

Case = dict[str, Any]
OUTCOMES: dict[str, type[Exception]] = {
    "format": FormatError,
    "unsupported": UnsupportedFormatError,
    "integrity": IntegrityError,
}


def _hex(case: Case, name: str) -> bytes:
    return bytes.fromhex(case[name])


def check_keys(case: Case) -> None:
    if "data_key" in case:
        material = hkdf_sha512(
            _hex(case, "data_key"), salt=_hex(case, "file_id"), info=b"kmsfs/v1/file\0\1", length=96
        )
        assert material.hex() == case["content_key"] + case["header_mac_key"] + case["commitment"]
        assert file_keys().commitment.hex() == case["commitment"]
    else:
        info = b"kmsfs/v1/tree/" + case["name"].encode()
        derived = _hex(case, "derived")
        made = hkdf_sha512(_hex(case, "tree_key"), salt=_hex(case, "tree_id"), info=info, length=len(derived))
        assert made == derived


def check_superblock(case: Case) -> None:
    block = Superblock.parse(case["text"].encode())
    TreeKeys(TREE_KEY, TreeId(block.tree_id)).verify_superblock(block)
    assert block.pack() == case["text"].encode()
    assert block.read_only == bool(block.ro_compat)


def check_header(case: Case) -> OpenedHeader:
    copy = _hex(case, "copy")
    FileHeader.parse(copy)
    opened = open_header(copy + copy, lambda _: DATA_KEY)
    assert seal_header(opened.header, opened.keys) == copy
    return opened


def check_layout(case: Case) -> None:
    assert layout.backing_size(case["plain"], case["chunk_size"]) == case["backing"]
    assert layout.plain_size(case["backing"], case["chunk_size"]) == case["plain"]


def check_chunks(case: Case) -> None:
    content_key = hkdf_sha512(DATA_KEY, salt=FILE_ID, info=b"kmsfs/v1/file\0\1", length=96)[:32]
    cipher = ChunkCipher(content_key, FileId(_hex(case, "file_id")), 1, case["chunk_size"])
    holes = Extents((start, stop) for start, stop in case["holes"])
    assert cipher.open(case["index"], _hex(case, "chunk"), holes) == _hex(case, "plain")
    if "nonce" in case:
        sealed = cipher.seal(case["index"], _hex(case, "plain"), _hex(case, "nonce"))
        assert sealed == _hex(case, "chunk")


def check_names(case: Case) -> None:
    directory, encrypted = DirId(_hex(case, "directory")), case["encrypted"].encode()
    clear = TREE_KEYS.decrypt_name(encrypted, directory)
    assert clear == _hex(case, "clear")
    assert TREE_KEYS.encrypt_name(clear, directory) == encrypted
    assert entry_name(encrypted).decode() == case["entry"]


def check_directory(case: Case) -> None:
    record = TREE_KEYS.open_directory(_hex(case, "record"), DirId(_hex(case, "parent")))
    assert TREE_KEYS.seal_directory(record) == _hex(case, "record")
    assert DirectoryRecord.parse(_hex(case, "record")) == record


def check_symlinks(case: Case) -> None:
    sealed, link_id = _hex(case, "sealed"), _hex(case, "link_id")
    target = TREE_KEYS.open_target(sealed, link_id)
    assert target == _hex(case, "target")
    assert TREE_KEYS.seal_target(target, sealed[:12], link_id) == sealed
    assert target_length(len(case["backing"])) == (None if link_id else len(target))
    assert link_id or b64(sealed).decode() == case["backing"]


def check_xattrs(case: Case) -> None:
    sealed, owner = _hex(case, "sealed"), _hex(case, "owner")
    name, value = TREE_KEYS.open_xattr(case["backing"].encode(), sealed, owner)
    assert (name.decode(), value) == (case["clear_name"], _hex(case, "value"))
    assert TREE_KEYS.seal_xattr(name, value, owner, sealed[:12]) == sealed


def check_blob(case: Case) -> None:
    blob = parse_blob(_hex(case, "blob"))
    head = _hex(case, "blob")[: -len(blob.sealed)]
    assert gcm_open(CMK, blob.nonce, blob.sealed, head + _hex(case, "context")) == _hex(case, "plaintext")


CHECKS: dict[str, Callable[[Case], object]] = {
    "keys": check_keys,
    "superblock": check_superblock,
    "header": check_header,
    "layout": check_layout,
    "chunks": check_chunks,
    "names": check_names,
    "directory": check_directory,
    "symlinks": check_symlinks,
    "xattrs": check_xattrs,
    "blob": check_blob,
}


def _corpus() -> list[tuple[str, Case]]:
    found = []
    for path in sorted(make_vectors.VECTORS.glob("*.json")):
        found += [(path.stem, case) for case in json.loads(path.read_text())["cases"]]
    return found


CORPUS = _corpus()


@pytest.mark.parametrize(
    ("structure", "case"), CORPUS, ids=[f"{structure}: {case['name']}" for structure, case in CORPUS]
)
def test_vector_has_its_outcome(structure: str, case: Case) -> None:
    check = CHECKS[structure]
    if case["outcome"] == "ok":
        check(case)
        return
    with pytest.raises(OUTCOMES[case["outcome"]]) as caught:
        check(case)
    assert caught.type is OUTCOMES[case["outcome"]]


@pytest.mark.parametrize("structure", sorted(CHECKS))
def test_every_structure_has_good_and_bad_vectors(structure: str) -> None:
    outcomes = {case["outcome"] for name, case in CORPUS if name == structure}
    assert "ok" in outcomes
    if structure not in ("keys", "layout"):  # functions of their input: nothing to refuse
        assert len(outcomes) > 1
    names = [case["name"] for name, case in CORPUS if name == structure]
    assert len(names) == len(set(names))


def test_making_the_vectors_again_leaves_no_difference() -> None:
    on_disk = {path.name: path.read_text() for path in make_vectors.VECTORS.iterdir()}
    assert make_vectors.vector_files() == on_disk


def test_worked_example_in_the_specification_is_what_the_code_writes() -> None:
    assert make_vectors.specification() == make_vectors.SPECIFICATION.read_text()


def test_an_edited_worked_example_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_vectors, "worked_example", lambda: "another\n")
    assert make_vectors.specification() != make_vectors.SPECIFICATION.read_text()
