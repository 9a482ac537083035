"""Whatever the bytes: parse, or FormatError, nothing else. With a key: IntegrityError as well."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from testkit import make_vectors
from testkit.golden import DATA_KEY, FILE_ID, ROOT_ID, TREE_KEYS, file_keys

from kmsfs.envelope.file_key import open_header
from kmsfs.envelope.tree_key import target_length
from kmsfs.errors import FormatError, IntegrityError
from kmsfs.format.blob import parse_blob
from kmsfs.format.context import decode_context, encode_context
from kmsfs.format.directory import DirectoryRecord
from kmsfs.format.header import FileHeader
from kmsfs.format.holes import Extents
from kmsfs.format.superblock import Superblock


def seeds(structure: str, member: str) -> list[bytes]:
    """What the golden vectors hold: mutations of real structures reach further than random bytes."""
    cases = json.loads((make_vectors.VECTORS / f"{structure}.json").read_text())["cases"]
    found = [case[member] for case in cases if member in case]
    assert found
    return [text.encode() if structure == "superblock" else bytes.fromhex(text) for text in found]


@st.composite
def mutated(draw: st.DrawFn, corpus: list[bytes]) -> bytes:
    raw = bytearray(draw(st.sampled_from(corpus)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(raw) - 1)))
        raw[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(raw)


def bytes_like(structure: str, member: str) -> st.SearchStrategy[bytes]:
    return st.one_of(mutated(seeds(structure, member)), st.binary(max_size=2100))


@given(bytes_like("header", "copy"))
def test_header(raw: bytes) -> None:
    try:
        header = FileHeader.parse(raw)
    except FormatError:
        return
    assert header.pack() == raw[:992]


@given(bytes_like("header", "copy"), bytes_like("header", "copy"))
def test_two_header_copies(one: bytes, other: bytes) -> None:
    try:
        opened = open_header(one + other, lambda _: DATA_KEY)
    except (FormatError, IntegrityError):
        return
    assert opened.header.file_id == FILE_ID


@given(bytes_like("directory", "record"))
def test_directory_record(raw: bytes) -> None:
    try:
        record = DirectoryRecord.parse(raw)
    except FormatError:
        return
    assert record.pack() == raw[:352]


@given(bytes_like("superblock", "text"))
@example(b'{"format":"kmsfs-tree","version":1e400}')
@example(b'{"format":"kmsfs-tree","version":1,"incompat":[[]]}')
def test_superblock(raw: bytes) -> None:
    try:
        block = Superblock.parse(raw)
    except FormatError:
        return
    assert block.pack() == raw


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = json.loads(seeds("superblock", "text")[0])


@given(st.dictionaries(st.sampled_from(sorted(MEMBERS)), JSON, max_size=3))
def test_superblock_members(changes: dict[str, object]) -> None:
    raw = json.dumps(MEMBERS | changes, sort_keys=True, separators=(",", ":")).encode()
    try:
        block = Superblock.parse(raw)
    except FormatError:
        return
    assert block.pack() == raw


@given(bytes_like("blob", "blob"))
def test_ciphertext_blob(raw: bytes) -> None:
    try:
        blob = parse_blob(raw)
    except FormatError:
        return
    assert raw.endswith(blob.nonce + blob.sealed)


CONTEXTS = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4)


@given(st.one_of(mutated([encode_context({"a": "bc", "b": ""}), bytes(4)]), st.binary(max_size=64)))
def test_encryption_context(raw: bytes) -> None:
    try:
        context = decode_context(raw)
    except FormatError:
        return
    assert encode_context(context) == raw


@given(CONTEXTS, CONTEXTS)
def test_encryption_contexts_are_injective(one: dict[str, str], other: dict[str, str]) -> None:
    assert (encode_context(one) == encode_context(other)) == (one == other)


@given(st.one_of(st.binary(max_size=400), st.text("ABCabc012-_", max_size=64).map(str.encode)))
def test_encrypted_name(raw: bytes) -> None:
    with pytest.raises((FormatError, IntegrityError)):
        TREE_KEYS.decrypt_name(raw, ROOT_ID)


@given(st.binary(max_size=200), st.binary(max_size=200), st.booleans())
def test_sealed_values(raw: bytes, name: bytes, link: bool) -> None:
    with pytest.raises(IntegrityError):
        TREE_KEYS.open_target(raw, b"i" * 16 if link else b"")
    with pytest.raises(IntegrityError):
        TREE_KEYS.open_xattr(name, raw, FILE_ID)


@given(st.integers(0, 5000))
def test_length_of_a_symlink(length: int) -> None:
    assert (target_length(length) or 0) >= 0


@given(
    st.binary(min_size=1, max_size=9000),
    st.integers(0, 1 << 48),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=3),
)
@example(bytes(4124 * 2), 0, [(0, 1)])
def test_chunks_that_nobody_sealed(raw: bytes, first: int, holes: list[tuple[int, int]]) -> None:
    try:
        plain = file_keys().cipher.open(first, raw, Extents(holes))
    except IntegrityError:
        return
    assert not any(raw)
    assert not any(plain)
