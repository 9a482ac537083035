"""Plain and backing sizes are inverse to each other, and sizes only grow."""

from hypothesis import given
from hypothesis import strategies as st

from kmsfs.format import layout

CHUNK_SIZES = st.sampled_from(layout.CHUNK_SIZES)
PLAIN = st.one_of(st.integers(0, 300_000), st.integers(0, layout.max_plain_size(4096)))


@given(PLAIN, CHUNK_SIZES)
def test_plain_size_survives_the_round_trip(plain: int, chunk: int) -> None:
    assert layout.plain_size(layout.backing_size(plain, chunk), chunk) == plain


@given(st.integers(0, 1 << 62), CHUNK_SIZES)
def test_every_backing_size_has_a_plain_size_and_at_most_a_torn_tail(stored: int, chunk: int) -> None:
    plain = layout.plain_size(stored, chunk)
    exact = layout.backing_size(plain, chunk)
    assert exact <= max(stored, layout.HEADER_SIZE)
    assert max(stored, layout.HEADER_SIZE) - exact <= layout.CHUNK_OVERHEAD


@given(st.integers(0, 1 << 62), st.integers(0, 1 << 20), CHUNK_SIZES)
def test_a_longer_backing_file_is_never_shorter_in_the_clear(stored: int, more: int, chunk: int) -> None:
    assert layout.plain_size(stored, chunk) <= layout.plain_size(stored + more, chunk)


@given(PLAIN, CHUNK_SIZES)
def test_the_last_chunk_ends_where_the_file_ends(plain: int, chunk: int) -> None:
    count = layout.chunk_count(plain, chunk)
    stored = layout.backing_size(plain, chunk)
    assert layout.chunk_offset(count, chunk) >= stored
    if count:
        tail = plain - (count - 1) * chunk
        assert 1 <= tail <= chunk
        assert layout.chunk_offset(count - 1, chunk) + layout.CHUNK_OVERHEAD + tail == stored
