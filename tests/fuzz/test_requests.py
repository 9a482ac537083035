"""Mutated requests: refused as AWS would, never accepted, never a failure of ours.

A request that the verifier accepts must be the signed one: same body, same signed headers. One that then
parses has only values of the model's types; everything else is a Refusal with status 400.
"""

import json

from hypothesis import given
from hypothesis import strategies as st
from testkit.aws_signing import ACCESS_KEY_ID, NOW, SECRET, Headers, signed_headers

from kmsfs.api.refusal import Refusal
from kmsfs.api.sigv4 import Credential, Verifier
from kmsfs.api.wire import parse_request, render_refusal

BODY = json.dumps(
    {
        "KeyId": "alias/app",
        "Plaintext": "c2VjcmV0",
        "EncryptionContext": {"tenant": "42"},
        "GrantTokens": ["token"],
        "DryRun": False,
    }
).encode()
HEADERS = signed_headers(BODY, target="TrentService.Encrypt")
SIGNED = {b"host", b"content-type", b"x-amz-date", b"x-amz-target"}

EDITS = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 8), st.binary(max_size=8)), max_size=4)
NESTED = st.sampled_from(
    [b"[" * 3000, b'{"a":' * 3000, b'"\\ud800"', b"1e999", b"-0", b"null", b'"x', b"\x00"]
)


def verifier() -> Verifier:
    credential = Credential(ACCESS_KEY_ID, SECRET.encode())
    return Verifier(lambda name, _: credential if name == ACCESS_KEY_ID else None)


def edited(source: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for position, length, replacement in edits:
        at = position % (len(source) + 1)
        source = source[:at] + replacement + source[at + length :]
    return source


def what_is_signed(headers: Headers, body: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    return sorted((name, b" ".join(value.split())) for name, value in headers if name in SIGNED), body


@given(st.dictionaries(st.integers(0, len(HEADERS) - 1), EDITS, max_size=3), EDITS, st.booleans())
def test_only_the_signed_request_is_accepted(
    header_edits: dict[int, list[tuple[int, int, bytes]]],
    body_edits: list[tuple[int, int, bytes]],
    doubled: bool,
) -> None:
    headers = [
        (name, edited(value, header_edits.get(index, []))) for index, (name, value) in enumerate(HEADERS)
    ]
    headers += headers[:1] if doubled else []
    body = edited(BODY, body_edits)
    try:
        verifier().verify(headers, body, now=NOW)
    except Refusal as refusal:
        assert refusal.status == 400  # noqa: PT017
        assert SECRET.encode() not in render_refusal(refusal)  # noqa: PT017
    else:
        assert what_is_signed(headers, body) == what_is_signed(HEADERS, BODY)


@given(EDITS, st.none() | st.tuples(st.integers(0, 200), NESTED))
def test_a_damaged_body_is_read_or_refused(
    edits: list[tuple[int, int, bytes]], insertion: tuple[int, bytes] | None
) -> None:
    body = edited(BODY, edits)
    if insertion is not None:
        body = edited(body, [(insertion[0], 0, insertion[1])])
    try:
        call = parse_request("TrentService.Encrypt", "application/x-amz-json-1.1", body)
    except Refusal as refusal:
        assert refusal.status == 400  # noqa: PT017
        render_refusal(refusal)
    else:
        assert isinstance(call.parameters["Plaintext"], bytes)
        assert 1 <= len(call.parameters["Plaintext"]) <= 4096
