"""The file header's bytes: offsets as specified, nothing that cannot be read back is written."""

import pytest
from testkit.golden import sample_header

from kmsfs.errors import FormatError, UnsupportedFormatError
from kmsfs.format.header import FileHeader, header_mac, with_slots
from kmsfs.format.layout import MAX_CHUNKS

HEADER = sample_header()
RAW = HEADER.pack() + bytes(32)


def test_fields_lie_where_the_specification_says() -> None:
    covered, mac = header_mac(RAW)
    assert (len(covered), len(mac)) == (992, 32)
    assert RAW[0:8] == b"KMSFSHDR"
    assert RAW[8:24] == bytes.fromhex("0001 0001 0c 00 0000 0000 01 02 00000000")
    assert int.from_bytes(RAW[24:32]) == HEADER.generation
    assert RAW[32:64] == HEADER.file_id
    assert RAW[64:96] == HEADER.commitment
    assert int.from_bytes(RAW[96:104]) == HEADER.sealed_length
    assert int.from_bytes(RAW[104:112]) == HEADER.chunk_writes
    assert RAW[112:136].hex() == "000000000001000000000004000000000009000000000001"
    assert not any(RAW[136:208])
    assert RAW[208:210] == len(HEADER.slots[0]).to_bytes(2)
    assert RAW[210:466] == HEADER.slots[0].ljust(256, b"\0")
    assert not any(RAW[466:992])


def test_dirty_and_flags_are_kept() -> None:
    header = HEADER._replace(dirty=True, read_only_flags=0x8001)
    assert FileHeader.parse(header.pack() + bytes(32)) == header


@pytest.mark.parametrize(
    "changes",
    [
        {"slots": ()},
        {"slots": HEADER.slots * 4},
        {"slots": (b"",)},
        {"slots": (bytes(257),)},
        {"holes": tuple((2 * n, 2 * n + 1) for n in range(9))},
        {"holes": ((0, MAX_CHUNKS + 1),)},
    ],
    ids=["no slot", "four slots", "empty blob", "blob too long", "nine holes", "hole past 2^48 - 1"],
)
def test_what_would_not_parse_is_not_written(changes: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        HEADER._replace(**changes).pack()  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 1, 1023, 1025, 2048])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(FormatError, match=f"is {size} bytes"):
        FileHeader.parse(bytes(size))


def test_a_newer_version_is_told_from_damage() -> None:
    with pytest.raises(UnsupportedFormatError, match="version 2") as caught:
        FileHeader.parse(RAW[:8] + b"\0\2" + RAW[10:])
    assert caught.value.hint


@pytest.mark.parametrize("count", [1, 2, 3])
def test_other_slots_are_put_into_the_bytes_as_packing_would(count: int) -> None:
    slots = tuple(bytes([number]) * (100 * number) for number in range(1, count + 1))[:count]
    slots = tuple(slot[:256] for slot in slots)
    old = sample_header()
    raw = old.pack() + bytes(32)
    assert with_slots(raw, 77, slots) == old._replace(generation=77, slots=slots).pack()


@pytest.mark.parametrize("slots", [(), (b"",), (b"x" * 257,), (b"x",) * 4])
def test_slots_that_do_not_fit_are_refused(slots: tuple[bytes, ...]) -> None:
    with pytest.raises(FormatError):
        with_slots(sample_header().pack() + bytes(32), 1, slots)
