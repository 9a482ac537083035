"""Nothing can be done to a segment's bytes that is not found, but for cutting its tail behind the checkpoint."""

from hypothesis import given
from hypothesis import strategies as st
from testkit.audits import FIRST_KEY, segment

from kmsfs.errors import IntegrityError
from kmsfs.keystore.audit import Chain
from kmsfs.keystore.audit_files import follow

COUNT = 8
LINES, END = segment(COUNT)
RAW = b"".join(LINES)


def authentic(raw: bytes) -> tuple[int, bytes] | None:
    """How many records verify and what is left behind them; None if something is not authentic."""
    chain = Chain(FIRST_KEY)
    try:
        rest = follow(chain, raw)
    except IntegrityError:
        return None
    return chain.records, rest


def test_as_it_was_written() -> None:
    assert authentic(RAW) == (COUNT, b"")


@given(st.integers(0, len(RAW) * 8 - 1))
def test_every_flipped_bit_is_found(bit: int) -> None:
    flipped = bytearray(RAW)
    flipped[bit // 8] ^= 1 << bit % 8
    assert authentic(bytes(flipped)) is None


@given(st.permutations(range(COUNT)))
def test_every_reordering_is_found(order: list[int]) -> None:
    found = authentic(b"".join(LINES[number] for number in order))
    assert found == ((COUNT, b"") if order == sorted(order) else None)


@given(st.sets(st.integers(0, COUNT - 1)))
def test_every_missing_record_is_found(missing: set[int]) -> None:
    left = [line for number, line in enumerate(LINES) if number not in missing]
    found = authentic(b"".join(left))
    if missing == set(range(len(left), COUNT)):  # the tail: the checkpoint says how long a segment must be
        assert found == (len(left), b"")
    else:
        assert found is None


@given(st.integers(0, COUNT - 1), st.integers(0, COUNT))
def test_every_repeated_record_is_found(which: int, where: int) -> None:
    assert authentic(b"".join([*LINES[:where], LINES[which], *LINES[where:]])) is None


@given(st.integers(0, len(RAW)))
def test_a_cut_leaves_fewer_records_and_perhaps_an_unfinished_one(size: int) -> None:
    found = authentic(RAW[:size])
    assert found is not None
    records, rest = found
    assert b"".join(LINES[:records]) + rest == RAW[:size]


@given(st.binary(min_size=1), st.integers(0, COUNT))
def test_nothing_can_be_put_in(extra: bytes, where: int) -> None:
    found = authentic(b"".join([*LINES[:where], extra, *LINES[where:]]))
    # Behind the end, what has no line break looks like the beginning of a record.
    assert found is None or (where == COUNT and b"\n" not in extra and found == (COUNT, extra))
