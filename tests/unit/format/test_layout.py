"""Where chunks lie: the table of docs/format.md section 4, and the edges."""

import re
from pathlib import Path

import pytest

from kmsfs.errors import FormatError
from kmsfs.format import layout

SPECIFICATION = Path(__file__).parents[3] / "docs" / "format.md"


def table() -> list[tuple[int, int]]:
    section = SPECIFICATION.read_text().split("## 4. Chunks")[1].split("## 5.")[0]
    rows = re.findall(r"^\| ([\d,]+)(?:, written once)? \| ([\d,]+) \|$", section, re.MULTILINE)
    return [(int(plain.replace(",", "")), int(stored.replace(",", ""))) for plain, stored in rows]


def test_the_specification_has_its_table() -> None:
    assert len(table()) >= 5


@pytest.mark.parametrize(("plain", "stored"), table())
def test_sizes_are_those_of_the_specification(plain: int, stored: int) -> None:
    assert layout.backing_size(plain, 4096) == stored
    assert layout.plain_size(stored, 4096) == plain


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 2047, 2048])
def test_a_file_within_its_header_is_empty(size: int) -> None:
    assert layout.plain_size(size, 4096) == 0


@pytest.mark.parametrize("chunk_size", layout.CHUNK_SIZES)
@pytest.mark.parametrize("torn", [1, 12, 28])
def test_a_torn_tail_counts_as_nothing(chunk_size: int, torn: int) -> None:
    whole = layout.backing_size(2 * chunk_size, chunk_size)
    assert layout.plain_size(whole + torn, chunk_size) == 2 * chunk_size
    assert layout.plain_size(whole + 29, chunk_size) == 2 * chunk_size + 1


@pytest.mark.parametrize("chunk_size", [0, 1, 4095, 8192, 131072, -4096])
def test_other_chunk_sizes_are_refused(chunk_size: int) -> None:
    with pytest.raises(FormatError):
        layout.check_chunk_size(chunk_size)


@pytest.mark.parametrize("chunk_size", layout.CHUNK_SIZES)
def test_the_largest_file_fits_a_signed_size_and_48_bit_chunks(chunk_size: int) -> None:
    assert layout.check_chunk_size(chunk_size) == chunk_size
    largest = layout.max_plain_size(chunk_size)
    assert layout.backing_size(largest, chunk_size) < 1 << 63
    assert layout.chunk_count(largest, chunk_size) <= layout.MAX_CHUNKS
    assert layout.MAX_CHUNKS.bit_length() == 48
    assert layout.chunk_offset(layout.chunk_count(largest, chunk_size), chunk_size) == layout.backing_size(
        largest, chunk_size
    )
