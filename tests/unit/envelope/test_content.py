"""Runs of chunks: what was sealed opens, in its place, in its file, and nowhere else."""

import pytest
from testkit.golden import DATA_KEY, FILE_ID, fixed, flip

from kmsfs.envelope.content import ChunkCipher
from kmsfs.envelope.file_key import derive_file_keys
from kmsfs.errors import IntegrityError
from kmsfs.format.holes import Extents
from kmsfs.format.layout import CHUNK_OVERHEAD, CHUNK_SIZES
from kmsfs.ids import FileId

CHUNK = 4096
STRIDE = CHUNK + CHUNK_OVERHEAD
NONE = Extents()
CIPHER = derive_file_keys(DATA_KEY, FILE_ID, 1, CHUNK).cipher
PLAIN = fixed("content", 3 * CHUNK + 100)
SEALED = bytes(CIPHER.seal(0, PLAIN, fixed("nonces", 48)))
CHUNKS = [SEALED[at : at + STRIDE] for at in range(0, len(SEALED), STRIDE)]


def refuses(sealed: bytes, holes: Extents = NONE, first: int = 0) -> None:
    with pytest.raises(IntegrityError):
        CIPHER.open(first, sealed, holes)


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize("first", [0, 1, (1 << 48) - 8])
def test_what_is_sealed_opens(chunk_size: int, extra: int, first: int) -> None:
    cipher = derive_file_keys(DATA_KEY, FILE_ID, 1, chunk_size).cipher
    for length in (1, 2 * chunk_size + extra):
        plain = fixed("content", length)
        sealed = cipher.seal(first, memoryview(plain), fixed("nonces", 36))
        assert cipher.open(first, sealed, NONE) == plain
        assert plain not in bytes(sealed)


def test_nothing_opens_to_nothing() -> None:
    assert CIPHER.open(0, b"", NONE) == b""
    assert CIPHER.seal(0, b"", b"") == b""


def test_a_run_opens_from_any_chunk() -> None:
    for first in range(4):
        assert CIPHER.open(first, SEALED[first * STRIDE :], NONE) == PLAIN[first * CHUNK :]


def test_nonces_stand_before_their_chunks() -> None:
    assert b"".join(chunk[:12] for chunk in CHUNKS) == fixed("nonces", 48)


@pytest.mark.parametrize("part", ["nonce", "ciphertext", "tag"])
def test_every_byte_counts(part: str) -> None:
    short = CHUNKS[3]
    where = {
        "nonce": range(12),
        "ciphertext": range(12, len(short) - 16),
        "tag": range(len(short) - 16, len(short)),
    }
    for at in where[part]:
        refuses(flip(short, 8 * at + at % 8), first=3)


def test_the_error_names_the_chunk() -> None:
    with pytest.raises(IntegrityError, match="chunk 2 "):
        CIPHER.open(0, flip(SEALED, 8 * (2 * STRIDE + 50)), NONE)


def test_moved_swapped_duplicated_and_removed_chunks_are_refused() -> None:
    a, b, c, d = CHUNKS
    for run in (
        [b, a, c, d],
        [a, a, c, d],
        [b, c, d],
        [a, c, d],
        [a, b, c, c],
        [a, b, b, c, d],
        [a, b, d, c],
    ):
        refuses(b"".join(run))
    refuses(a, first=1)
    refuses(a, first=1 << 32)


def test_a_chunk_of_another_file_is_refused() -> None:
    other = FileId(fixed("other file", 32))
    same_key = derive_file_keys(DATA_KEY, other, 1, CHUNK).cipher
    refuses(bytes(same_key.seal(0, PLAIN, fixed("nonces", 48))))


def test_the_file_id_suite_and_chunk_size_are_bound_even_under_one_content_key() -> None:
    key = fixed("content key", 32)
    base = ChunkCipher(key, FILE_ID, 1, CHUNK)
    for other in (
        ChunkCipher(key, FileId(fixed("other file", 32)), 1, CHUNK),
        ChunkCipher(key, FILE_ID, 2, CHUNK),
        ChunkCipher(key, FILE_ID, 1, 65536),
    ):
        with pytest.raises(IntegrityError):
            other.open(0, base.seal(0, b"text", bytes(12)), NONE)


@pytest.mark.parametrize("size", [1, 12, 28, STRIDE - 1, STRIDE + 1, STRIDE + 28, len(SEALED) - 1])
def test_a_chunk_cut_anywhere_is_refused(size: int) -> None:
    refuses(SEALED[:size])


def test_a_last_chunk_made_whole_with_zeros_is_refused() -> None:
    refuses(SEALED.ljust(4 * STRIDE, b"\0"))


def test_zeros_read_as_zeros_in_a_hole_and_nowhere_else() -> None:
    zeroed = CHUNKS[0] + bytes(STRIDE) + CHUNKS[2] + CHUNKS[3]
    refuses(zeroed)
    for holes in ([(0, 1)], [(2, 9)], [(0, 1), (2, 4)]):
        refuses(zeroed, Extents(holes))
    expected = PLAIN[:CHUNK] + bytes(CHUNK) + PLAIN[2 * CHUNK :]
    assert CIPHER.open(0, zeroed, Extents([(1, 2)])) == expected
    assert CIPHER.open(0, zeroed, Extents([(0, 99)])) == expected


@pytest.mark.parametrize("bit", [0, 8 * 12, 8 * STRIDE - 1])
def test_a_hole_with_one_bit_set_is_refused(bit: int) -> None:
    refuses(flip(bytes(STRIDE), bit), Extents([(0, 1)]))


def test_a_short_hole_reads_as_zeros() -> None:
    assert CIPHER.open(7, bytes(CHUNK_OVERHEAD + 5), Extents([(7, 8)])) == bytes(5)
    refuses(bytes(CHUNK_OVERHEAD), Extents([(0, 1)]))


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_holes_of_every_chunk_size(chunk_size: int) -> None:
    cipher = derive_file_keys(DATA_KEY, FILE_ID, 1, chunk_size).cipher
    stored = bytes(3 * (chunk_size + CHUNK_OVERHEAD))
    assert cipher.open(0, stored, Extents([(0, 3)])) == bytes(3 * chunk_size)
