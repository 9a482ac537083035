"""The canonical encryption context: injective, bounded, and parsed or refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmsfs.errors import FormatError
from kmsfs.format.context import MAX_CONTEXT_SIZE, decode_context, encode_context

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
contexts = st.dictionaries(text, text, max_size=8)


def test_same_letters_in_other_places_differ() -> None:
    assert encode_context({"a": "bc"}) != encode_context({"ab": "c"})


def test_order_of_insertion_does_not_matter() -> None:
    assert encode_context({"b": "2", "a": "1"}) == encode_context({"a": "1", "b": "2"})


def test_empty_context_is_a_count_of_nothing() -> None:
    assert encode_context({}) == bytes(4)


def test_pairs_are_sorted_by_their_bytes() -> None:
    # U+FFFF sorts before U+10000 by code point and by UTF-8, but not by UTF-16
    encoded = encode_context({"\U00010000": "", "\uffff": ""})
    assert encoded.index("\uffff".encode()) < encoded.index("\U00010000".encode())


@given(contexts)
def test_decoding_gives_the_context_back(context: dict[str, str]) -> None:
    assert decode_context(encode_context(context)) == context


@given(contexts, contexts)
def test_encoding_is_injective(left: dict[str, str], right: dict[str, str]) -> None:
    assert (encode_context(left) == encode_context(right)) == (left == right)


@given(st.binary(max_size=200))
def test_any_bytes_decode_canonically_or_not_at_all(raw: bytes) -> None:
    try:
        context = decode_context(raw)
    except FormatError:
        return
    assert encode_context(context) == raw


@given(contexts, st.data())
def test_damaged_encoding_decodes_canonically_or_not_at_all(
    context: dict[str, str], data: st.DataObject
) -> None:
    raw = bytearray(encode_context(context))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        decoded = decode_context(bytes(raw))
    except FormatError:
        return
    assert encode_context(decoded) == bytes(raw)


@pytest.mark.parametrize(
    "context",
    [
        None,
        5,
        ["a"],
        {"a": 1},
        {1: "a"},
        {"a": b"b"},
        {"a": None},
        {"a": "1", 2: "b"},
        {"a": "\ud800"},
        {"\udfff": ""},
    ],
)
def test_only_maps_of_text_are_contexts(context: object) -> None:
    with pytest.raises(FormatError):
        encode_context(context)  # type: ignore[arg-type]


def test_largest_context_passes_and_one_byte_more_does_not() -> None:
    room = MAX_CONTEXT_SIZE - len(encode_context({"k": ""}))
    largest = {"k": "x" * room}
    assert decode_context(encode_context(largest)) == largest
    with pytest.raises(FormatError):
        encode_context({"k": "x" * (room + 1)})
    with pytest.raises(FormatError):
        decode_context(bytes(MAX_CONTEXT_SIZE + 1))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0\0\0",
        b"\0\0\0\1",
        b"\0\0\0\0x",
        b"\xff\xff\xff\xff",
        bytes.fromhex("00000001 00000001 61 ffffffff 62"),
        bytes.fromhex("00000001 00000001 ff 00000000"),
        bytes.fromhex("00000002 00000001 62 00000000 00000001 61 00000000"),
        bytes.fromhex("00000002 00000001 61 00000000 00000001 61 00000000"),
    ],
    ids=[
        "empty",
        "short",
        "no-pair",
        "trailing",
        "huge-count",
        "huge-length",
        "not-utf8",
        "unsorted",
        "twice",
    ],
)
def test_other_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(FormatError):
        decode_context(raw)
