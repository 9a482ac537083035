"""What a server makes of requests that AWS would refuse before it looks for a key."""

from datetime import UTC, datetime, timedelta

import pytest
from testkit.aws_signing import without
from testkit.raw_http import code_of, exchange, request, signed
from testkit.serving import Serving

from kmsfs.api.limits import Throttle

BODY = b"{}"


def test_a_good_one_by_hand(served: Serving) -> None:
    status, answer = exchange(served, request(signed(served), BODY))
    assert status == 200
    assert "Keys" in answer


def test_signatures(served: Serving) -> None:
    assert code_of(served, request([(b"host", b"x")], BODY)) == "MissingAuthenticationTokenException"
    late = signed(served, when=datetime.now(UTC) - timedelta(minutes=6))
    assert code_of(served, request(late, BODY)) == "InvalidSignatureException"
    stranger = signed(served, access_key_id="AKIAAAAAAAAAAAAAAAAA")
    assert code_of(served, request(stranger, BODY)) == "UnrecognizedClientException"
    assert code_of(served, request(signed(served), b'{"Limit": 1}')) == "InvalidSignatureException"
    no_target = without(signed(served), "x-amz-target")
    assert code_of(served, request(no_target, BODY)) == "InvalidSignatureException"


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
