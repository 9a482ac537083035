"""What a server makes of requests that AWS would refuse before it looks for a key."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from testkit.aws_signing import Headers, replaced, value_of, without
from testkit.raw_http import code_of, exchange, request, signed
from testkit.serving import Serving

from kmsfs.api.limits import Throttle

BODY = b"{}"


def test_a_good_one_by_hand(served: Serving) -> None:
    status, answer = exchange(served, request(signed(served), BODY))
    assert status == 200
    assert "Keys" in answer


def at(served: Serving, **ago: float) -> Headers:
    return signed(served, when=datetime.now(UTC) - timedelta(**ago))


@pytest.mark.parametrize("minutes", [4.5, -4.5])
def test_a_request_is_good_for_five_minutes(served: Serving, minutes: float) -> None:
    """A second time, too, as with AWS; the exact edge is tested with a clock of the test's own."""
    headers = at(served, minutes=minutes)
    for _ in range(2):
        assert exchange(served, request(headers, BODY))[0] == 200


def unsigned(served: Serving, name: str) -> Headers:
    """A request one of whose headers is sent and not signed."""
    headers = signed(served)
    authorization = value_of(headers, "authorization")
    names = authorization.partition("SignedHeaders=")[2].partition(",")[0]
    fewer = ";".join(found for found in names.split(";") if found != name)
    return replaced(headers, "authorization", authorization.replace(names, fewer))


def scoped(served: Serving, old: str, new: str) -> Headers:
    """A request whose scope was edited after it was signed."""
    headers = signed(served)
    return replaced(headers, "authorization", value_of(headers, "authorization").replace(old, new))


INVALID, INCOMPLETE = "InvalidSignatureException", "IncompleteSignatureException"
UNRECOGNIZED = "UnrecognizedClientException"

#: name, the headers of the request, how it is refused, words of the message
REFUSED: dict[str, tuple[Callable[[Serving], Headers], str, str]] = {
    "none": (lambda _: [(b"host", b"x")], "MissingAuthenticationTokenException", "Missing Authentication"),
    "late": (lambda served: at(served, minutes=5.1), INVALID, "Signature expired: "),
    "days late": (lambda served: at(served, days=2), INVALID, "Signature expired: "),
    "early": (lambda served: at(served, minutes=-5.1), INVALID, "Signature not yet current: "),
    "stranger": (lambda served: signed(served, access_key_id="A" * 20), UNRECOGNIZED, "is invalid."),
    "wrong secret": (lambda served: signed(served, secret="x"), INVALID, "does not match the signature"),
    "late stranger": (
        lambda served: signed(served, access_key_id="A" * 20, when=datetime(2020, 1, 1, tzinfo=UTC)),
        UNRECOGNIZED,
        "is invalid.",
    ),
    "session token": (lambda served: signed(served, token="FwoGZ"), UNRECOGNIZED, "Session tokens are not"),
    "another service": (lambda served: signed(served, service="s3"), INVALID, "correct service: 'kms'"),
    "region not served": (lambda served: signed(served, region="ap-south-1"), UNRECOGNIZED, "is invalid."),
    "region edited": (
        lambda served: scoped(served, "eu-west-1", "us-east-1"),
        INVALID,
        "does not match the signature",
    ),
    "no region": (lambda served: scoped(served, "eu-west-1", ""), INVALID, "valid region"),
    "another body": (lambda served: signed(served, b'{"Limit": 1}'), INVALID, "does not match the signature"),
    "no host": (
        lambda served: [(b"host", b""), *without(signed(served), "host")],
        INVALID,
        "does not match the signature",
    ),
    "no date": (lambda served: without(signed(served), "x-amz-date"), INCOMPLETE, "'X-Amz-Date' header"),
    "no target": (
        lambda served: without(signed(served), "x-amz-target"),
        INVALID,
        "does not match the signature",
    ),
    **{
        f"{name} not signed": (
            lambda served, name=name: unsigned(served, name),  # type: ignore[misc]
            INVALID,
            f"'{name}' must be a 'SignedHeader'",
        )
        for name in ("host", "x-amz-date", "x-amz-target")
    },
}


@pytest.mark.parametrize(("headers", "code", "words"), REFUSED.values(), ids=REFUSED)
def test_signatures(served: Serving, headers: Callable[[Serving], Headers], code: str, words: str) -> None:
    status, answer = exchange(served, request(headers(served), BODY))
    assert (status, answer["__type"]) == (400, code)
    assert words in answer["message"]


@pytest.mark.parametrize(("target", "body"), [("ListKeys", b"{"), ("Nonsense", BODY), ("Sign", BODY)])
def test_a_stranger_does_not_learn_what_parses(served: Serving, target: str, body: bytes) -> None:
    headers = signed(served, body, target=f"TrentService.{target}", secret="wrong")
    assert code_of(served, request(headers, body)) == INVALID


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"Limit": "1"}', b'{"Limit": 1, "Limit": 2}', b"\xff"])
def test_bodies_that_do_not_parse(served: Serving, body: bytes) -> None:
    assert code_of(served, request(signed(served, body), body)) == "SerializationException"


def test_unknown_actions(served: Serving) -> None:
    headers = signed(served, target="TrentService.Nonsense")
    assert code_of(served, request(headers, BODY)) == "UnknownOperationException"
    assert (
        code_of(served, request(signed(served, target="TrentService.Sign"), BODY))
        == "UnsupportedOperationException"
    )


def test_a_bucket_fills_again() -> None:
    now = [0.0]
    throttle = Throttle(1, lambda: now[0])
    assert [throttle.take("a") for _ in range(3)] == [True, True, False]
    assert throttle.take("b")
    now[0] = 1.0
    assert [throttle.take("a") for _ in range(2)] == [True, False]
