"""What a server makes of clients that are broken, slow or hostile."""

import json
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from testkit.aws_signing import Headers, signed_headers, without
from testkit.certificates import make_certificate
from testkit.home import Home
from testkit.serving import Serving, serving

from kmsfs.api.limits import Limits, Throttle
from kmsfs.api.server import Server
from kmsfs.keystore.service import Keystore

BODY = b"{}"


def request(headers: Headers, body: bytes, line: bytes = b"POST / HTTP/1.1") -> bytes:
    lines = [line, *(name + b": " + value for name, value in headers)]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", b""]) + body


def exchange(served: Serving, data: bytes) -> tuple[int, dict[str, str]]:
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while more := connection.recv(65536):
            answer += more
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"x-amzn-requestid: " in head.lower()
    return int(head.split()[1]), json.loads(body)


def signed(served: Serving, body: bytes = BODY, **more: object) -> Headers:
    wanted = {"when": datetime.now(UTC), "access_key_id": served.access_key_id, "secret": served.secret}
    return signed_headers(body, region="eu-west-1", **{**wanted, **more})  # type: ignore[arg-type]


def code_of(served: Serving, data: bytes) -> str:
    return exchange(served, data)[1]["__type"]


def test_a_good_one_by_hand(served: Serving) -> None:
    status, answer = exchange(served, request(signed(served), BODY))
    assert status == 200
    assert "Keys" in answer


@pytest.mark.parametrize(
    ("line", "status"),
    [(b"GET / HTTP/1.1", 404), (b"POST /other HTTP/1.1", 404), (b"POST /?a=b HTTP/1.1", 404)],
)
def test_one_route(served: Serving, line: bytes, status: int) -> None:
    assert exchange(served, request(signed(served), BODY, line))[0] == status


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


def test_what_is_not_http(served: Serving) -> None:
    assert exchange(served, b"\x16\x03\x01 nonsense\r\n\r\n")[0] == 400
    assert exchange(served, b"POST / HTTP/1.1\r\nX: " + b"x" * 40000)[0] == 431


def test_a_huge_body_is_refused_unread(served: Serving) -> None:
    headers = [*signed(served), (b"content-length", b"600000")]
    head = b"\r\n".join([b"POST / HTTP/1.1", *(name + b": " + value for name, value in headers), b"", b""])
    assert exchange(served, head)[0] == 413


def test_a_huge_chunked_body_is_refused(served: Serving) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert exchange(served, head + b"90000\r\n" + bytes(0x90000) + b"\r\n0\r\n\r\n")[0] == 413


@pytest.fixture
async def impatient(home: Home) -> AsyncIterator[trio.SocketListener]:
    """The listener of a server with no patience."""
    limits = Limits(header_s=0.05, body_s=0.05, idle_s=0.05, linger_s=0.05)
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    with Keystore.open(home.path) as keystore:
        async with trio.open_nursery() as nursery:
            server = Server(keystore, limits)
            await nursery.start(server.run, [listener])
            yield listener
            server.stop()


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b""),
        (b"POST / HT", b"HTTP/1.1 408"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nslow", b"HTTP/1.1 408"),
    ],
    ids=["idle", "slow head", "slow body"],
)
async def test_slow_clients_time_out(impatient: trio.SocketListener, sent: bytes, answer: bytes) -> None:
    stream = await trio.open_tcp_stream(*impatient.socket.getsockname())
    async with stream:
        await stream.send_all(sent or b"")
        got = b""
        with trio.fail_after(30):
            async for part in stream:
                got += part
    assert got[: len(answer) or None] == answer


def test_sigterm_ends_the_server_and_its_idle_clients(home: Home) -> None:
    with serving(home) as served, socket.create_connection(("127.0.0.1", served.port), timeout=30) as idle:
        assert served.client("eu-west-1").list_keys()["Keys"]
        assert served.stop() == 0
        assert idle.recv(1) == b""


def test_tls(home: Home, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    options = ("--bind", "127.0.0.1:0", "--tls-cert", str(cert), "--tls-key", str(key))
    with serving(home, *options) as served:
        assert served.url.startswith("https://")
        assert served.client("eu-west-1", verify=str(cert)).list_keys()["Keys"]


def test_a_bucket_fills_again() -> None:
    now = [0.0]
    throttle = Throttle(1, lambda: now[0])
    assert [throttle.take("a") for _ in range(3)] == [True, True, False]
    assert throttle.take("b")
    now[0] = 1.0
    assert [throttle.take("a") for _ in range(2)] == [True, False]
