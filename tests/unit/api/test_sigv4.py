"""The verifier accepts what botocore signs and nothing else."""

import string
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from testkit.aws_signing import (
    ACCESS_KEY_ID,
    NOW,
    SECRET,
    Headers,
    replaced,
    signed_headers,
    value_of,
    without,
)

from kmsfs.api import sigv4
from kmsfs.api.refusal import Refusal
from kmsfs.api.sigv4 import Credential, Verified, Verifier

BODY = b'{"Limit": 10}'
SECOND = timedelta(seconds=1)


def find_credential(access_key_id: str, region: str) -> Credential | None:
    return Credential(ACCESS_KEY_ID, SECRET.encode()) if access_key_id == ACCESS_KEY_ID else None


@pytest.fixture
def verifier() -> Verifier:
    return Verifier(find_credential)


def refused(headers: Headers, body: bytes = BODY, **more: object) -> Refusal:
    with pytest.raises(Refusal) as refusal:
        Verifier(find_credential).verify(headers, body, **{"now": NOW, **more})  # type: ignore[arg-type]
    assert refusal.value.status == 400
    assert SECRET not in refusal.value.message
    return refusal.value


def test_good_signature(verifier: Verifier) -> None:
    verified = verifier.verify(signed_headers(BODY), BODY, now=NOW)
    assert verified == Verified(ACCESS_KEY_ID, "us-east-1", NOW)


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1", "us-gov-west-1", "lab"])
def test_region_comes_from_the_credential_scope(verifier: Verifier, region: str) -> None:
    assert verifier.verify(signed_headers(BODY, region=region), BODY, now=NOW).region == region


HEADER_TEXT = st.text(string.ascii_letters + string.digits + " /;=,-_.", max_size=30)


@given(
    st.binary(max_size=300),
    st.dictionaries(st.sampled_from(["X-Amz-Meta", "X-Other", "Accept"]), HEADER_TEXT),
)
def test_every_request_that_botocore_signs(body: bytes, extra: dict[str, str]) -> None:
    headers = signed_headers(body, extra=extra)
    assert Verifier(find_credential).verify(headers, body, now=NOW).access_key_id == ACCESS_KEY_ID


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_another_body(body: bytes, other: bytes) -> None:
    if body != other:
        assert refused(signed_headers(body), other).code == "InvalidSignatureException"


@given(st.integers(0), st.integers(0, 255))
def test_a_changed_byte_of_a_signed_header_or_the_signature(position: int, byte: int) -> None:
    headers = signed_headers(BODY)
    index = position % len(headers)
    name, value = headers[index]
    at = (position // len(headers)) % len(value)
    changed = value[:at] + bytes([byte]) + value[at + 1 :]
    # White space around a value and its amount within is not signed; the authorization's is, by its grammar.
    if (
        b" ".join(changed.split()) == b" ".join(value.split())
        or changed.decode("latin-1").strip() == value.decode()
    ):
        return
    assert refused([*headers[:index], (name, changed), *headers[index + 1 :]]).code.endswith("Exception")


@pytest.mark.parametrize("skew", [timedelta(0), timedelta(minutes=5), -timedelta(minutes=5)])
def test_clock_skew_at_its_edge(verifier: Verifier, skew: timedelta) -> None:
    verifier.verify(signed_headers(BODY), BODY, now=NOW + skew)


def test_expired() -> None:
    refusal = refused(signed_headers(BODY), now=NOW + timedelta(minutes=5) + SECOND)
    assert refusal.code == "InvalidSignatureException"
    assert refusal.message == (
        "Signature expired: 20260314T150926Z is now earlier than 20260314T150927Z (20260314T151427Z - 5 min.)"
    )


def test_from_the_future() -> None:
    refusal = refused(signed_headers(BODY), now=NOW - timedelta(minutes=5) - SECOND)
    assert refusal.message.startswith("Signature not yet current: 20260314T150926Z is still later than")


def test_skew_is_told_only_to_those_who_know_the_secret() -> None:
    headers = signed_headers(BODY, secret="not the secret")
    assert "does not match the signature" in refused(headers, now=NOW + timedelta(days=1)).message


def test_wrong_secret() -> None:
    refusal = refused(signed_headers(BODY, secret="not the secret"))
    assert (refusal.code, refusal.message[:37]) == (
        "InvalidSignatureException",
        "The request signature we calculated d",
    )


def test_unknown_access_key() -> None:
    refusal = refused(signed_headers(BODY, access_key_id="AKIDUNKNOWN"))
    assert refusal.code == "UnrecognizedClientException"
    assert refusal.message == "The security token included in the request is invalid."


def test_unknown_access_key_with_the_stand_in_secret() -> None:
    headers = signed_headers(BODY, access_key_id="AKIDUNKNOWN", secret="no such access key has this secret")
    assert refused(headers).code == "UnrecognizedClientException"


def test_session_token() -> None:
    refusal = refused(signed_headers(BODY, token="FwoGZXIvYXdzEXAMPLE"))
    assert refusal.code == "UnrecognizedClientException"
    assert "Session tokens are not issued here" in refusal.message


def test_presigned() -> None:
    assert (
        refused(signed_headers(BODY), query=b"X-Amz-Signature=00").code
        == "MissingAuthenticationTokenException"
    )


@pytest.mark.parametrize("name", ["x-amz-target", "x-amz-date", "host", "content-type"])
def test_signed_header_that_was_not_sent(name: str) -> None:
    assert refused(without(signed_headers(BODY), name)).code in (
        "InvalidSignatureException",
        "IncompleteSignatureException",
    )


@pytest.mark.parametrize("name", ["x-amz-target", "x-amz-date", "host", "authorization"])
def test_header_sent_twice(name: str) -> None:
    headers = signed_headers(BODY)
    assert "more than one" in refused([*headers, (name.encode(), b"again")]).message


@pytest.mark.parametrize("name", ["x-amz-target", "x-amz-date", "host"])
def test_required_header_that_is_not_signed(name: str) -> None:
    headers = signed_headers(BODY)
    authorization = value_of(headers, "authorization")
    names = authorization.partition("SignedHeaders=")[2].partition(",")[0]
    fewer = ";".join(signed for signed in names.split(";") if signed != name)
    refusal = refused(replaced(headers, "authorization", authorization.replace(names, fewer)))
    assert refusal.message == f"'{name}' must be a 'SignedHeader' in the AWS Authorization."


def test_unsigned_header_may_be_added(verifier: Verifier) -> None:
    verifier.verify([*signed_headers(BODY), (b"x-forwarded-for", b"198.51.100.1")], BODY, now=NOW)


@pytest.mark.parametrize("claimed", ["UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "0" * 64])
def test_content_hash_is_never_taken_from_the_header(claimed: str) -> None:
    headers = signed_headers(BODY, extra={"X-Amz-Content-SHA256": claimed})
    assert "does not match what was computed" in refused(headers).message


Edit = Callable[[str], str]
SCOPE = "20260314/us-east-1/kms/aws4_request"
EDITS: dict[str, tuple[Edit, str, str]] = {
    "empty": (lambda header: "", "MissingAuthenticationTokenException", "Missing Authentication Token"),
    "basic": (
        lambda header: "Basic dXNlcjpwYXNz",
        "IncompleteSignatureException",
        "requires 'Credential' parameter",
    ),
    "version 2": (
        lambda header: "AWS AKID:c2ln",
        "IncompleteSignatureException",
        "requires 'Signature' parameter",
    ),
    "sigv4a": (
        lambda header: header.replace("AWS4-HMAC", "AWS4-ECDSA-P256"),
        "IncompleteSignatureException",
        "requires",
    ),
    "no signature": (
        lambda header: header.partition(", Signature")[0],
        "IncompleteSignatureException",
        "'Signature'",
    ),
    "space in the key id": (
        lambda header: header.replace("Credential=", "Credential,"),
        "IncompleteSignatureException",
        "missing equal-sign",
    ),
    "parameter twice": (
        lambda header: header + ", Signature=00",
        "IncompleteSignatureException",
        "two 'Signature'",
    ),
    "scope too short": (
        lambda header: header.replace(SCOPE, "us-east-1/kms/aws4_request"),
        "IncompleteSignatureException",
        "exactly 5 slash-delimited elements",
    ),
    "another service": (
        lambda header: header.replace("/kms/", "/s3/"),
        "InvalidSignatureException",
        "correct service: 'kms'",
    ),
    "another terminator": (
        lambda header: header.replace("aws4_request", "aws5_request"),
        "InvalidSignatureException",
        "valid terminator",
    ),
    "no region": (
        lambda header: header.replace("us-east-1", ""),
        "InvalidSignatureException",
        "valid region",
    ),
    "odd region": (
        lambda header: header.replace("us-east-1", "../x"),
        "IncompleteSignatureException",
        "exactly 5",
    ),
    "region in upper case": (
        lambda header: header.replace("us-east-1", "US-EAST-1"),
        "InvalidSignatureException",
        "valid region",
    ),
    "long region": (
        lambda header: header.replace("us-east-1", "us-" + "e" * 28 + "-1"),
        "InvalidSignatureException",
        "valid region",
    ),
    "another date": (
        lambda header: header.replace("20260314/", "20260313/"),
        "InvalidSignatureException",
        "'20260313' != '20260314', from '20260314T150926Z'",
    ),
    "another region": (
        lambda header: header.replace("us-east-1", "eu-west-1"),
        "InvalidSignatureException",
        "does not match the signature you provided",
    ),
    "headers not sorted": (
        lambda header: header.replace("content-type;host", "host;content-type"),
        "IncompleteSignatureException",
        "not sorted",
    ),
    "headers in upper case": (
        lambda header: header.replace("content-type;host", "Content-Type;Host"),
        "InvalidSignatureException",
        "'host' must be",
    ),
    "too long": (lambda header: header + "0" * 5000, "IncompleteSignatureException", "longer than 4096"),
    "signature in upper case": (
        lambda header: header[:-64] + header[-64:].upper(),
        "InvalidSignatureException",
        "does not match the signature you provided",
    ),
    "signature not ascii": (
        lambda header: header[:-1] + "é",
        "InvalidSignatureException",
        "does not match the signature you provided",
    ),
}


@pytest.mark.parametrize(("edit", "code", "words"), EDITS.values(), ids=EDITS)
def test_authorization_header(edit: Edit, code: str, words: str) -> None:
    headers = signed_headers(BODY)
    refusal = refused(replaced(headers, "authorization", edit(value_of(headers, "authorization"))))
    assert refusal.code == code
    assert words in refusal.message


def test_no_space_after_commas(verifier: Verifier) -> None:
    headers = signed_headers(BODY)
    tight = value_of(headers, "authorization").replace(", ", ",")
    verifier.verify(replaced(headers, "authorization", tight), BODY, now=NOW)


@pytest.mark.parametrize(
    "date",
    [
        "",
        "2026-03-14T15:09:26Z",
        "20260314T150926",
        "20261314T150926Z",
        "\u0662\u0660\u0662\u06660314T150926Z",
    ],
)
def test_malformed_date(date: str) -> None:
    assert refused(replaced(signed_headers(BODY), "x-amz-date", date)).code == "IncompleteSignatureException"


class CountedDerivations:
    """Counts how often a signing key is derived: the part of the work that differs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._derive = sigv4.derive_signing_key
        monkeypatch.setattr(sigv4, "derive_signing_key", self)

    def __call__(self, secret: bytes, date: str, region: str) -> bytes:
        self.count += 1
        return self._derive(secret, date, region)


def test_signing_key_is_derived_once_a_day_and_region(
    verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    derivations = CountedDerivations(monkeypatch)
    for _ in range(3):
        verifier.verify(signed_headers(BODY), BODY, now=NOW)
    assert derivations.count == 1
    verifier.verify(signed_headers(BODY, region="eu-west-1"), BODY, now=NOW)
    verifier.verify(signed_headers(BODY, when=NOW + timedelta(days=1)), BODY, now=NOW + timedelta(days=1))
    assert derivations.count == 3


@pytest.mark.parametrize("warm", [False, True])
def test_refusals_take_the_same_work(verifier: Verifier, monkeypatch: pytest.MonkeyPatch, warm: bool) -> None:
    derivations = CountedDerivations(monkeypatch)
    if warm:
        verifier.verify(signed_headers(BODY), BODY, now=NOW)
    counts = []
    for headers in (signed_headers(BODY, access_key_id="AKIDUNKNOWN"), signed_headers(BODY, secret="wrong")):
        before = derivations.count
        with pytest.raises(Refusal):
            verifier.verify(headers, BODY, now=NOW)
        counts.append(derivations.count - before)
    assert counts == [1, 1]


def test_cache_is_bounded_and_strangers_stay_out(verifier: Verifier) -> None:
    for day in range(1100):
        when = NOW + timedelta(days=day)
        verifier.verify(signed_headers(BODY, when=when), BODY, now=when)
    assert len(verifier._signing_keys) == 1024
    fresh = Verifier(find_credential)
    with pytest.raises(Refusal):
        fresh.verify(signed_headers(BODY, access_key_id="AKIDUNKNOWN"), BODY, now=NOW)
    assert not fresh._signing_keys
    assert SECRET not in repr(find_credential(ACCESS_KEY_ID, "us-east-1"))
