"""HTTP as clients speak it who are no AWS SDK: every way to frame a request, and what is none."""

import json
import socket
from typing import Any

import pytest
from testkit.raw_http import (
    Answers,
    chunked,
    code_of,
    connect,
    exchange,
    head,
    request,
    signed,
)
from testkit.serving import Serving

BODY = b'{"Limit": 1}'


def test_requests_in_one_go_are_answered_in_their_order(served: Serving) -> None:
    """Pipelining; the last one's error closes the connection, the others' do not."""
    unknown = request(signed(served, BODY, target="TrentService.Nonsense"), BODY)
    good = request(signed(served, BODY), BODY)
    with connect(served) as connection:
        connection.sendall(good + unknown + good + b"nonsense\r\n\r\n" + good)
        answers = Answers(connection)
        statuses = [answers.next()[0] for _ in range(4)]
        assert answers.rest() == b""
    assert statuses == [200, 400, 200, 400]


def test_a_request_in_single_bytes(served: Serving) -> None:
    with connect(served) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request(signed(served, BODY), BODY):
            connection.send(bytes([byte]))
        assert Answers(connection).next()[0] == 200


def test_a_connection_lives_through_errors(served: Serving) -> None:
    stranger = request(signed(served, BODY, secret="wrong"), BODY)
    with connect(served) as connection:
        answers = Answers(connection)
        for sent, status in (
            (stranger, 400),
            (request(signed(served, b"["), b"["), 400),
            (request(signed(served, BODY), BODY, b"POST /other HTTP/1.1"), 404),
            (request(signed(served, BODY), BODY), 200),
        ):
            connection.sendall(sent)
            found, headers, _ = answers.next()
            assert found == status
            assert "connection" not in headers


def test_a_body_that_waits_to_be_asked_for(served: Serving) -> None:
    length = b"Content-Length: %d" % len(BODY)
    with connect(served) as connection:
        connection.sendall(head(signed(served, BODY), length, b"Expect: 100-continue"))
        answers = Answers(connection)
        assert answers.next()[0] == 100
        connection.sendall(BODY)
        assert answers.next()[0] == 200


def test_a_body_that_does_not_wait_to_be_asked_for(served: Serving) -> None:
    sent = head(signed(served, BODY), b"Content-Length: %d" % len(BODY), b"Expect: 100-continue") + BODY
    with connect(served) as connection:
        connection.sendall(sent)
        answers = Answers(connection)
        assert [answers.next()[0], answers.next()[0]] == [100, 200]


def test_a_body_that_is_too_large_is_not_asked_for(served: Serving) -> None:
    more = (b"Content-Length: 600000", b"Expect: 100-continue")
    assert exchange(served, head(signed(served), *more))[0] == 413


def test_a_body_in_chunks(served: Serving) -> None:
    start = head(signed(served, BODY), b"Transfer-Encoding: chunked")
    assert exchange(served, start + chunked([BODY[:3], BODY[3:4], BODY[4:]]))[0] == 200
    # The hash is that of what arrived.
    assert code_of(served, start + chunked([BODY, b" "])) == "InvalidSignatureException"


@pytest.mark.parametrize("size", [512 << 10, (512 << 10) + 1])
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_the_largest_body(served: Serving, size: int, framing: str) -> None:
    body = b'{"Unknown": "%s"}' % (b"x" * (size - 15))
    headers = signed(served, body)
    sent = (
        request(headers, body)
        if framing == "length"
        else head(headers, b"Transfer-Encoding: chunked") + chunked([body])
    )
    assert exchange(served, sent)[0] == (200 if size == 512 << 10 else 413)


def test_a_body_that_is_cut_short(served: Serving) -> None:
    sent = head(signed(served, BODY), b"Content-Length: 100") + BODY
    assert exchange(served, sent) == (
        400,
        {"__type": "SerializationException", "message": "The request is not valid HTTP."},
    )


def test_a_client_that_leaves_in_the_middle_harms_nobody(served: Serving) -> None:
    whole = request(signed(served, BODY), BODY)
    for size in (1, len(whole) // 2, len(whole) - 1, len(whole)):
        with connect(served) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close: reset
            connection.sendall(whole[:size])
    assert exchange(served, whole)[0] == 200


@pytest.mark.parametrize(
    "line",
    [
        *(b"%s / HTTP/1.1" % method for method in (b"GET", b"PUT", b"OPTIONS", b"DELETE", b"post", b"TRACE")),
        *(
            b"POST %s HTTP/1.1" % target
            for target in (b"/other", b"//", b"/?a=b", b"/.", b"*", b"http://kms/")
        ),
        b"CONNECT kms:443 HTTP/1.1",
    ],
)
def test_one_route(served: Serving, line: bytes) -> None:
    assert exchange(served, request(signed(served, BODY), BODY, line)) == (
        404,
        {"__type": "UnknownOperationException"},
    )


def test_head_is_answered_without_a_body(served: Serving) -> None:
    with connect(served) as connection:
        connection.sendall(request([(b"host", b"x")], b"", b"HEAD / HTTP/1.1"))
        connection.shutdown(socket.SHUT_WR)
        answer = Answers(connection).rest()
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert answer.endswith(b"\r\n\r\n")


def test_an_upgrade_is_not_taken(served: Serving) -> None:
    assert (
        exchange(served, head(signed(served, BODY), b"Content-Length: 12", b"Upgrade: h2c") + BODY)[0] == 200
    )


def test_http_1_0(served: Serving) -> None:
    with connect(served) as connection:
        connection.sendall(request(signed(served, BODY), BODY, b"POST / HTTP/1.0"))
        answers = Answers(connection)
        status, headers, body = answers.next()
        assert (status, headers["connection"], answers.rest()) == (200, "close", b"")
        assert json.loads(body)["Truncated"] in (True, False)


NOT_HTTP: dict[str, tuple[bytes, int]] = {
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/9": (b"POST / HTTP/9.9\r\nHost: x\r\n\r\n", 505),
    "no version": (b"POST /\r\n\r\n", 400),
    "no host": (b"POST / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"POST / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
    "two lengths": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n12", 400),
    "length and chunks": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "length below zero": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
    "length of many digits": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %s\r\n\r\n" % (b"9" * 19), 413),
    "length of more digits": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %s\r\n\r\n" % (b"9" * 5000),
        400,
    ),
    "another coding": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    "bad chunk": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
    "bad name": (b"POST / HTTP/1.1\r\nHost: x\r\nBad Name: y\r\n\r\n", 400),
    "bad value": (b"POST / HTTP/1.1\r\nHost: x\r\nName: a\x00b\r\n\r\n", 400),
    "long line": (b"POST / HTTP/1.1\r\nHost: x\r\nName: " + b"x" * 40_000, 431),
    "long line in one go": (b"POST / HTTP/1.1\r\nHost: x\r\nName: " + b"x" * 17_000 + b"\r\n\r\n", 431),
    "long target": (b"POST /" + b"x" * 17_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
    "many lines": (
        b"POST / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"a%d: b\r\n" % n for n in range(2000)) + b"\r\n",
        431,
    ),
    "endless chunk line": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 40_000,
        431,
    ),
}


@pytest.mark.parametrize(("sent", "status"), NOT_HTTP.values(), ids=NOT_HTTP)
def test_what_is_not_http(served: Serving, sent: bytes, status: int) -> None:
    found, answer = exchange(served, sent)
    code = "RequestEntityTooLargeException" if status == 413 else "SerializationException"
    assert (found, answer["__type"]) == (status, code)


def test_many_headers_within_the_limit(served: Serving) -> None:
    more = [b"x-number-%d: y" % number for number in range(500)]
    assert exchange(served, head(signed(served, BODY), b"Content-Length: 12", *more) + BODY)[0] == 200


DOUBLED: dict[str, tuple[str, str]] = {
    "authorization": ("IncompleteSignatureException", "more than one 'authorization'"),
    "x-amz-date": ("IncompleteSignatureException", "more than one 'x-amz-date'"),
    "x-amz-target": ("IncompleteSignatureException", "more than one 'x-amz-target'"),
    "content-type": ("InvalidSignatureException", "does not match the signature"),
}


@pytest.mark.parametrize(("name", "code", "words"), [(name, *told) for name, told in DOUBLED.items()])
def test_headers_that_are_there_twice(served: Serving, name: str, code: str, words: str) -> None:
    headers = signed(served, BODY)
    again = [(found, value) for found, value in headers if found == name.encode()]
    answer: dict[str, Any] = exchange(served, request([*headers, *again], BODY))[1]
    assert answer["__type"] == code
    assert words in answer["message"]
