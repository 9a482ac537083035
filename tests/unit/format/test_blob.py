"""The ciphertext blob: parsed or refused, and as docs/ciphertext-blob.md says."""

import hmac
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode
from hypothesis import given
from hypothesis import strategies as st

from kmsfs.errors import FormatError, UnsupportedFormatError
from kmsfs.format.blob import (
    MAX_ARN_SIZE,
    MAX_BLOB_SIZE,
    MAX_PLAINTEXT_SIZE,
    TAG_SIZE,
    Blob,
    BlobHead,
    Suite,
    head_prefix,
    parse_blob,
    parse_blob_head,
)
from kmsfs.ids import KeyArn, MaterialId

PAGE = (Path(__file__).parents[3] / "docs" / "ciphertext-blob.md").read_text()
ARN = KeyArn("arn:aws:kms:us-east-1:000000000000:key/01234567-89ab-cdef-0123-456789abcdef")
MATERIAL = MaterialId(bytes(range(32)))
HEAD = BlobHead(Suite.HSM_GCM, ARN, MATERIAL)

ascii_text = st.text(st.characters(max_codepoint=127), min_size=1, max_size=MAX_ARN_SIZE)
heads = st.builds(
    BlobHead,
    st.sampled_from(Suite),
    ascii_text.map(KeyArn),
    st.binary(min_size=32, max_size=32).map(MaterialId),
)


@st.composite
def blobs(draw: st.DrawFn) -> tuple[bytes, Blob]:
    head = draw(heads)
    size = head.suite.nonce_size
    nonce = draw(st.binary(min_size=size, max_size=size))
    sealed = draw(st.binary(min_size=TAG_SIZE + 1, max_size=80))
    return head_prefix(head) + nonce + sealed, Blob(head, head_prefix(head) + nonce, nonce, sealed)


@given(blobs())
def test_a_blob_parses_into_its_parts(pair: tuple[bytes, Blob]) -> None:
    raw, blob = pair
    assert parse_blob(raw) == blob
    assert parse_blob_head(raw) == blob.head


@given(st.binary(max_size=300))
def test_any_bytes_parse_or_are_refused(raw: bytes) -> None:
    with pytest.raises(FormatError):
        parse_blob(raw)
    with pytest.raises(FormatError):
        parse_blob(b"KMSB\x01" + raw[:40])


@given(blobs(), st.data())
def test_a_changed_blob_rebuilds_to_its_bytes_or_is_refused(
    pair: tuple[bytes, Blob], data: st.DataObject
) -> None:
    raw = bytearray(pair[0])
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(1, len(raw))) :]
    try:
        blob = parse_blob(bytes(raw))
    except FormatError:
        return
    assert blob.raw_head == head_prefix(blob.head) + blob.nonce
    assert blob.raw_head + blob.sealed == bytes(raw)


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize("size", [1, 2, MAX_PLAINTEXT_SIZE - 1, MAX_PLAINTEXT_SIZE])
def test_every_allowed_plaintext_size_parses(suite: Suite, size: int) -> None:
    raw = head_prefix(BlobHead(suite, ARN, MATERIAL)) + bytes(suite.nonce_size + size + TAG_SIZE)
    assert len(parse_blob(raw).sealed) == size + TAG_SIZE


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize("size", [0, MAX_PLAINTEXT_SIZE + 1])
def test_sizes_past_the_edge_are_refused(suite: Suite, size: int) -> None:
    raw = head_prefix(BlobHead(suite, ARN, MATERIAL)) + bytes(suite.nonce_size + size + TAG_SIZE)
    with pytest.raises(FormatError):
        parse_blob(raw)


def test_a_blob_past_the_limit_is_refused() -> None:
    with pytest.raises(FormatError):
        parse_blob(head_prefix(HEAD) + bytes(MAX_BLOB_SIZE))


@pytest.mark.parametrize(("offset", "value"), [(4, 2), (5, 0), (5, 3)], ids=["version", "suite-0", "suite-3"])
def test_what_a_newer_version_writes_is_unsupported(offset: int, value: int) -> None:
    raw = bytearray(head_prefix(HEAD) + bytes(60))
    raw[offset] = value
    with pytest.raises(UnsupportedFormatError):
        parse_blob(bytes(raw))


def test_an_arn_that_is_not_ascii_is_refused() -> None:
    raw = bytearray(head_prefix(HEAD) + bytes(60))
    raw[20] = 0xE9
    with pytest.raises(FormatError):
        parse_blob(bytes(raw))


@pytest.mark.parametrize(
    "head",
    [
        BlobHead(Suite.HSM_GCM, KeyArn(""), MATERIAL),
        BlobHead(Suite.HSM_GCM, KeyArn("a" * (MAX_ARN_SIZE + 1)), MATERIAL),
        BlobHead(Suite.HSM_GCM, ARN, MaterialId(bytes(31))),
    ],
)
def test_a_head_that_does_not_fit_is_not_built(head: BlobHead) -> None:
    with pytest.raises(FormatError):
        head_prefix(head)


@pytest.mark.parametrize("suite", Suite)
def test_the_wrapped_data_key_of_the_longest_arn_fits_a_slot(suite: Suite) -> None:
    head = BlobHead(suite, KeyArn("a" * MAX_ARN_SIZE), MATERIAL)
    assert len(head_prefix(head)) + suite.nonce_size + 32 + TAG_SIZE <= 214
    assert "at most 214 bytes" in PAGE


# --- the page's worked example, opened with ``cryptography`` alone ----------------------------------------
def worked_example(suite: int) -> bytes:
    section = PAGE.split(f"\nSuite {suite}, ")[-1]
    lines = re.match(r".*?\n\n((?:    [0-9a-f]+\n)+)", section, re.DOTALL)
    assert lines is not None
    return bytes.fromhex(lines[1])


CONTEXT = bytes.fromhex("0000000200000001610000000262630000000261620000000163")
KEY_MATERIAL = bytes(range(0x40, 0x60))
PLAINTEXT = bytes(range(0xA0, 0xC0))


def test_worked_example_of_suite_1_opens() -> None:
    raw = worked_example(1)
    blob = parse_blob(raw)
    assert blob.head == HEAD
    aad = raw[: -len(blob.sealed)] + CONTEXT
    assert AESGCM(KEY_MATERIAL).decrypt(blob.nonce, blob.sealed, aad) == PLAINTEXT


def test_worked_example_of_suite_2_opens() -> None:
    raw = worked_example(2)
    blob = parse_blob(raw)
    bound = blob.nonce[:16] + ARN.encode()
    message = bytes.fromhex("00000001") + b"kmsfs/v1/encrypt\0" + bound + bytes.fromhex("00000100")
    one_time_key = hmac.digest(KEY_MATERIAL, message, "sha256")
    kdf = KBKDFHMAC(
        SHA256(), Mode.CounterMode, 32, 4, 4, CounterLocation.BeforeFixed, b"kmsfs/v1/encrypt", bound, None
    )
    assert kdf.derive(KEY_MATERIAL) == one_time_key
    assert one_time_key.hex() in PAGE
    aad = raw[: -len(blob.sealed)] + CONTEXT
    assert AESGCM(one_time_key).decrypt(blob.nonce[16:], blob.sealed, aad) == PLAINTEXT
