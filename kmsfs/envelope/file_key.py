"""Binds a data key to a file header: derivation, commitment, MAC (docs/format.md sections 1 and 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kmsfs.crypto.kdf import equal, hkdf_sha512, hmac_sha256
from kmsfs.envelope.content import ChunkCipher
from kmsfs.errors import (
    FormatError,
    IncorrectKeyError,
    IntegrityError,
    InvalidCiphertextError,
    KeyNotFoundError,
    KmsfsError,
    RegionNotFoundError,
    UnsupportedFormatError,
)
from kmsfs.format.header import FileHeader, header_mac, with_slots
from kmsfs.format.layout import HEADER_COPY_SIZE, HEADER_SIZE

if TYPE_CHECKING:
    from kmsfs.ids import FileId

Unwrap = Callable[[FileHeader], bytes]
_DAMAGE = (FormatError, IntegrityError, InvalidCiphertextError)
# What a damaged slot can lead to. Anything else (a disabled key, an HSM that does not answer) says nothing
# against the copy: an older one must not be served in its place.
_COPY_IS_BAD = (*_DAMAGE, IncorrectKeyError, KeyNotFoundError, RegionNotFoundError)


@dataclass(frozen=True, slots=True, repr=False)
class FileKeys:
    """What a data key yields for one file."""

    cipher: ChunkCipher
    header_mac_key: bytes
    commitment: bytes


@dataclass(frozen=True, slots=True)
class OpenedHeader:
    """An authentic header, its keys, and the state of the two copies."""

    header: FileHeader
    keys: FileKeys
    newest_copy: int  # 0 = A, 1 = B
    copies_agree: bool  # both copies hold the same bytes
    may_be_clean: bool  # some parsed copy says clean: a shrink must make a dirty header durable first


def gravest(problems: Sequence[KmsfsError]) -> KmsfsError:
    """What to tell of slots of which none yields the key: the first that says the least against them.

    A slot whose HSM does not answer may be good, whatever is wrong with the others.
    """
    return max(problems, key=_gravity)


def _gravity(problem: KmsfsError) -> int:
    if isinstance(problem, _DAMAGE):
        return 0
    return 1 if isinstance(problem, _COPY_IS_BAD) else 2


def derive_file_keys(data_key: bytes, file_id: FileId, suite: int, chunk_size: int) -> FileKeys:
    """HKDF-SHA-512 with the file id as salt: content key, header MAC key, commitment."""
    material = _derive(data_key, file_id, suite)
    return FileKeys(ChunkCipher(material[:32], file_id, suite, chunk_size), material[32:64], material[64:])


def _derive(data_key: bytes, file_id: FileId, suite: int) -> bytes:
    return hkdf_sha512(data_key, salt=file_id, info=b"kmsfs/v1/file" + suite.to_bytes(2, "big"), length=96)


def with_new_slots(copy: bytes, header: FileHeader, data_key: bytes, slots: Sequence[bytes]) -> bytes:
    """The next header copy, which differs from ``copy``, parsed as ``header``, in its slots only.

    IntegrityError unless the copy is one of the file with this data key. The content key is not needed, nor made.
    """
    material = _derive(data_key, header.file_id, header.suite)
    mac_key, commitment = material[32:64], material[64:]
    _check(copy, header, mac_key, commitment)
    covered = with_slots(copy, header.generation + 1, slots)
    return covered + hmac_sha256(mac_key, covered)


def seal_header(header: FileHeader, keys: FileKeys) -> bytes:
    """One header copy of 1,024 bytes."""
    covered = header.pack()
    return covered + hmac_sha256(keys.header_mac_key, covered)


def open_header(raw: bytes, unwrap: Unwrap) -> OpenedHeader:
    """Authenticate the two header copies; the newest that verifies wins.

    ``unwrap`` turns a parsed (not yet authentic) header into the data key that one of its slots wraps. When
    no copy is good, raises what was wrong with the newest: FormatError, IntegrityError, or what ``unwrap``
    raised. When ``unwrap`` fails for a reason other than damage, raises that at once.
    """
    if len(raw) != HEADER_SIZE:
        raise FormatError(f"file is cut off inside its header ({len(raw)} bytes)")
    copies, parse_problem = _parse_copies(raw)
    problems: list[KmsfsError] = []
    for position, header in sorted(copies, key=lambda item: -item[1].generation):
        try:
            keys = _authenticate(_copy(raw, position), header, unwrap(header))
        except _COPY_IS_BAD as error:  # the other copy may still be good
            problems.append(error)
            continue
        return OpenedHeader(
            header,
            keys,
            position,
            copies_agree=_copy(raw, 0) == _copy(raw, 1),
            may_be_clean=any(not other.dirty for _, other in copies),
        )
    raise problems[0] if problems else parse_problem


def newest_unverified(raw: bytes) -> FileHeader:
    """The parsed copy of the highest generation, for those who have no keys; FormatError if none parses.

    IntegrityError if the copies name two files: else a planted copy could lend a file another one's attributes
    while its content still opens through the good copy.
    """
    copies, problem = _parse_copies(raw)
    if not copies:
        raise problem
    newest = max(copies, key=lambda item: item[1].generation)[1]
    if any(header.file_id != newest.file_id for _, header in copies):
        raise IntegrityError(
            "copies of the file header name two files", hint="open the file to mend its header"
        )
    return newest


def check_header(copy: bytes, header: FileHeader, keys: FileKeys) -> None:
    """Raise IntegrityError unless a copy, parsed as ``header``, is one of the file with these keys."""
    _check(copy, header, keys.header_mac_key, keys.commitment)


def _check(copy: bytes, header: FileHeader, mac_key: bytes, commitment: bytes) -> None:
    covered, mac = header_mac(copy)
    if not equal(commitment, header.commitment):
        raise IntegrityError("data key does not match the commitment in the file header")
    if not equal(hmac_sha256(mac_key, covered), mac):
        raise IntegrityError("file header does not verify")


def _authenticate(copy: bytes, header: FileHeader, data_key: bytes) -> FileKeys:
    keys = derive_file_keys(data_key, header.file_id, header.suite, header.chunk_size)
    check_header(copy, header, keys)
    return keys


def next_header(header: FileHeader, **changes: object) -> FileHeader:
    """The header that follows ``header``: one generation on, with ``changes``."""
    return header._replace(generation=header.generation + 1, **changes)  # type: ignore[arg-type]


def _copy(raw: bytes, position: int) -> bytes:
    return raw[position * HEADER_COPY_SIZE : (position + 1) * HEADER_COPY_SIZE]


def _parse_copies(raw: bytes) -> tuple[list[tuple[int, FileHeader]], KmsfsError]:
    copies = []
    problem: KmsfsError = FormatError("no copy of the file header parses")
    same = raw[:HEADER_COPY_SIZE] == raw[HEADER_COPY_SIZE:]  # as in every sealed file
    for position in (0,) if same else (0, 1):
        try:
            copies.append((position, FileHeader.parse(_copy(raw, position))))
        except UnsupportedFormatError as error:
            problem = error
        except FormatError as error:
            if not isinstance(problem, UnsupportedFormatError):
                problem = error
    return copies, problem
