"""Requests byte by byte: what no HTTP library would send."""

import json
import socket
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from testkit.aws_signing import Headers, signed_headers
from testkit.home import REGION
from testkit.serving import Serving

POST = b"POST / HTTP/1.1"


def signed(served: Serving, body: bytes = b"{}", **more: Any) -> Headers:
    """Return the headers of a request of the account's root; ListKeys unless another target is named."""
    wanted: dict[str, Any] = {
        "when": datetime.now(UTC),
        "region": REGION,
        "access_key_id": served.access_key_id,
        "secret": served.secret,
    }
    return signed_headers(body, **{**wanted, **more})


def head(headers: Headers, *more: bytes, line: bytes = POST) -> bytes:
    """Return a request's head; ``more`` are further header lines."""
    return b"\r\n".join([line, *(name + b": " + value for name, value in headers), *more, b"", b""])


def request(headers: Headers, body: bytes, line: bytes = POST) -> bytes:
    """Return a whole request."""
    return head(headers, b"Content-Length: %d" % len(body), line=line) + body


def chunked(parts: Iterable[bytes]) -> bytes:
    """Return a body in chunks."""
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def connect(served: Serving) -> socket.socket:
    """Return a connection to a server."""
    return socket.create_connection(("127.0.0.1", served.port), timeout=30)


class Answers:
    """What a server sends on one connection, answer by answer."""

    def __init__(self, connection: socket.socket) -> None:
        self._stream = connection.makefile("rb")

    def next(self) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the next answer."""
        status = int(self._stream.readline().split()[1])
        headers = {}
        while (line := self._stream.readline().strip()) != b"":
            name, _, value = line.decode().partition(": ")
            headers[name.lower()] = value
        return status, headers, self._stream.read(int(headers.get("content-length", 0)))

    def rest(self) -> bytes:
        """Return everything until the server closes."""
        return self._stream.read()


def exchange(served: Serving, data: bytes) -> tuple[int, dict[str, Any]]:
    """Send bytes and no more; return the first answer's status and JSON."""
    with connect(served) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answers = Answers(connection)
        status, headers, body = answers.next()
        answers.rest()
    assert headers["x-amzn-requestid"]
    return status, json.loads(body)


def code_of(served: Serving, data: bytes) -> str:
    """Return the name of the error that some bytes are answered with."""
    return str(exchange(served, data)[1]["__type"])
