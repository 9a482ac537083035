"""What is written is read back, and what is read is written back byte for byte."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from testkit.golden import CHILD_ID, DATA_KEY, FILE_ID, ROOT_ID, TREE_KEYS, file_keys, sample_superblock

from kmsfs.envelope.file_key import derive_file_keys, open_header, seal_header
from kmsfs.envelope.tree_key import b64, entry_name, unb64
from kmsfs.format.directory import DirectoryRecord
from kmsfs.format.header import SUITE_GCM, FileHeader
from kmsfs.format.holes import Extents
from kmsfs.format.layout import CHUNK_OVERHEAD, CHUNK_SIZES, MAX_CHUNKS
from kmsfs.format.superblock import Superblock, TreeSlot
from kmsfs.ids import DirId, FileId, KeyArn

U64 = st.integers(0, (1 << 64) - 1)
ID = st.binary(min_size=16, max_size=16)
NAME = st.binary(min_size=1, max_size=255).filter(
    lambda name: name not in (b".", b"..") and not {0, ord("/")} & set(name)
)


@st.composite
def hole_lists(draw: st.DrawFn) -> tuple[tuple[int, int], ...]:
    edges = draw(st.lists(st.integers(0, MAX_CHUNKS), unique=True, max_size=16))
    edges = sorted(edges[: len(edges) // 2 * 2])
    return tuple(zip(edges[::2], edges[1::2], strict=True))


HEADERS = st.builds(
    FileHeader,
    file_id=st.just(FILE_ID),
    commitment=st.just(file_keys().commitment),
    chunk_size=st.sampled_from(CHUNK_SIZES),
    slots=st.lists(st.binary(min_size=1, max_size=256), min_size=1, max_size=3).map(tuple),
    generation=U64,
    sealed_length=U64,
    chunk_writes=U64,
    dirty=st.booleans(),
    holes=hole_lists(),
    read_only_flags=st.integers(0, 0xFFFF),
    suite=st.just(SUITE_GCM),
)


@given(HEADERS)
def test_header(header: FileHeader) -> None:
    raw = seal_header(header, file_keys())
    assert len(raw) == 1024
    assert FileHeader.parse(raw) == header
    assert open_header(raw + raw, lambda _: DATA_KEY).header == header


@given(HEADERS, HEADERS)
def test_the_higher_generation_is_served(one: FileHeader, other: FileHeader) -> None:
    raw = seal_header(one, file_keys()) + seal_header(other, file_keys())
    expected = one if one.generation >= other.generation else other
    assert open_header(raw, lambda _: DATA_KEY).header == expected


@given(HEADERS, st.integers(0, 1023), st.integers(1, 255))
def test_a_header_that_parses_is_packed_to_the_same_bytes(header: FileHeader, at: int, change: int) -> None:
    raw = bytearray(seal_header(header, file_keys()))
    raw[at] ^= change
    try:
        parsed = FileHeader.parse(bytes(raw))
    except Exception:  # which one, tests/fuzz asks
        return
    assert parsed.pack() == raw[:992]


@given(ID.filter(any), ID, ID, st.text(st.characters(max_codepoint=127), max_size=256))
def test_directory_record(dir_id: bytes, parent: bytes, other: bytes, zone: str) -> None:
    record = DirectoryRecord(DirId(dir_id), DirId(parent), DirId(other), zone)
    raw = TREE_KEYS.seal_directory(record)
    assert len(raw) == 384
    assert TREE_KEYS.open_directory(raw, DirId(parent)) == record


@given(
    st.text(max_size=80),
    st.lists(st.binary(min_size=1, max_size=256), min_size=1, max_size=8),
    st.lists(st.text()),
)
def test_superblock(arn: str, blobs: list[bytes], ro_compat: list[str]) -> None:
    slots = tuple(TreeSlot(KeyArn(arn), blob) for blob in blobs)
    block = replace(sample_superblock(), default_key_arn=KeyArn(arn), slots=slots, ro_compat=tuple(ro_compat))
    block = TREE_KEYS.seal_superblock(block)
    read = Superblock.parse(block.pack())
    TREE_KEYS.verify_superblock(read)
    assert read == block


@given(NAME, ID)
def test_name(name: bytes, directory: bytes) -> None:
    encrypted = TREE_KEYS.encrypt_name(name, DirId(directory))
    assert TREE_KEYS.decrypt_name(encrypted, DirId(directory)) == name
    assert len(encrypted) == -(-(len(name) + 16) * 4 // 3)
    entry = entry_name(encrypted)
    assert len(entry) <= 255
    assert (entry == encrypted) == (len(name) <= 175)
    assert (b"." in entry) == (len(name) > 175)


@given(NAME, NAME)
def test_names_differ_encrypted_as_in_the_clear(one: bytes, other: bytes) -> None:
    encrypted = [TREE_KEYS.encrypt_name(name, ROOT_ID) for name in (one, other)]
    assert (encrypted[0] == encrypted[1]) == (one == other)
    assert TREE_KEYS.encrypt_name(one, CHILD_ID) != encrypted[0]


@given(st.binary(max_size=100))
def test_base64(raw: bytes) -> None:
    assert unb64(b64(raw)) == raw


@given(st.binary(min_size=1, max_size=200), st.binary(max_size=200), st.binary(min_size=12, max_size=12))
def test_symlink_and_attribute(text: bytes, value: bytes, nonce: bytes) -> None:
    assert TREE_KEYS.open_target(TREE_KEYS.seal_target(text, nonce)) == text
    name = b"user." + text
    sealed = TREE_KEYS.seal_xattr(name, value, FILE_ID, nonce)
    assert TREE_KEYS.open_xattr(TREE_KEYS.xattr_name(name, FILE_ID), sealed, FILE_ID) == (name, value)


@given(st.binary(min_size=1, max_size=20_000), st.integers(0, 1 << 40), st.data())
def test_content_opens_whole_and_in_parts(plain: bytes, first: int, data: st.DataObject) -> None:
    chunk = 4096
    count = -(-len(plain) // chunk)
    cipher = derive_file_keys(DATA_KEY, FileId(FILE_ID), 1, chunk).cipher
    nonces = data.draw(st.binary(min_size=12 * count, max_size=12 * count))
    sealed = cipher.seal(first, plain, nonces)
    assert cipher.open(first, sealed, Extents()) == plain
    start = data.draw(st.integers(0, count - 1))
    stop = data.draw(st.integers(start + 1, count))
    stride = chunk + CHUNK_OVERHEAD
    part = cipher.open(first + start, sealed[start * stride : stop * stride], Extents())
    assert part == plain[start * chunk : stop * chunk]
