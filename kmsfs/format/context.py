"""The canonical bytes of an encryption context.

Pure and injective: two contexts have the same bytes only if they are equal, so ``{"a": "bc"}`` and
``{"ab": "c"}`` differ. Count, then the pairs sorted by the key's UTF-8 bytes, each string behind its length:

    u32 count | (u32 length | key | u32 length | value) * count          all integers big-endian
"""

from collections.abc import Mapping
from functools import lru_cache
from struct import Struct

from kmsfs.errors import FormatError

MAX_CONTEXT_SIZE = 8192  # bytes of the whole encoding; AWS allows 8192 characters

_U32 = Struct(">I")
_pack = _U32.pack


class EncodedContext(dict[str, str]):
    """A context that comes with its canonical encoding, as whoever made it answers for. Not to be changed."""

    __slots__ = ("encoded",)
    encoded: bytes


def encode_context(context: Mapping[str, str]) -> bytes:
    """Return the canonical encoding of ``context``; an empty context is four zero bytes."""
    try:
        if type(context) is EncodedContext:
            return context.encoded
        return _encode(tuple(context.items()))
    except (AttributeError, TypeError):
        raise FormatError("encryption context is not a map of strings to strings") from None
    except UnicodeEncodeError:
        raise FormatError("encryption context holds a lone surrogate") from None


@lru_cache(maxsize=256)  # who uses a key again and again mostly does so with the same few contexts
def _encode(pairs: tuple[tuple[str, str], ...]) -> bytes:
    parts = [_pack(len(pairs))]
    for key, value in sorted(pairs):  # by code point, which is the order of the UTF-8 bytes
        for text in (key, value):
            raw = str.encode(text)
            parts.append(_pack(len(raw)))
            parts.append(raw)
    encoded = b"".join(parts)
    if len(encoded) > MAX_CONTEXT_SIZE:
        raise FormatError(f"encryption context is {len(encoded)} bytes, the limit is {MAX_CONTEXT_SIZE}")
    return encoded


def decode_context(raw: bytes) -> dict[str, str]:
    """Return the context whose canonical encoding is exactly ``raw``, or raise FormatError."""
    if len(raw) > MAX_CONTEXT_SIZE:
        raise FormatError(f"encryption context is {len(raw)} bytes, the limit is {MAX_CONTEXT_SIZE}")
    count, position = _u32(raw, 0)
    context: dict[str, str] = {}
    previous: bytes | None = None
    for _ in range(count):
        key, position = _string(raw, position)
        value, position = _string(raw, position)
        if previous is not None and key <= previous:
            raise FormatError("encryption context keys are not sorted or not unique")
        previous = key
        context[_text(key)] = _text(value)
    if position != len(raw):
        raise FormatError(f"encryption context has {len(raw) - position} trailing bytes")
    return context


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError("encryption context is not UTF-8") from None


def _u32(raw: bytes, position: int) -> tuple[int, int]:
    end = position + _U32.size
    if end > len(raw):
        raise FormatError("encryption context is cut short")
    return _U32.unpack_from(raw, position)[0], end


def _string(raw: bytes, position: int) -> tuple[bytes, int]:
    length, start = _u32(raw, position)
    end = start + length
    if end > len(raw):
        raise FormatError("encryption context is cut short")
    return raw[start:end], end
