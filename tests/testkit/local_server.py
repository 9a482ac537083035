"""A server in the test's own process, so that a test can hold what it does and choose its limits."""

import json
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
import trio

from kmsfs.api.limits import Limits
from kmsfs.api.server import Listener, Server
from kmsfs.keystore.service import Keystore
from testkit.aws_signing import signed_headers
from testkit.home import REGION, Home


@dataclass
class Local:
    """A running server."""

    server: Server
    listener: trio.SocketListener
    keystore: Keystore
    access_key_id: str
    secret: str

    def __post_init__(self) -> None:
        self.address: tuple[str, int] = self.listener.socket.getsockname()

    def request(self, action: str, *more: bytes, **parameters: object) -> bytes:
        """Return the bytes of one signed request; ``more`` are further header lines."""
        body = json.dumps(parameters).encode()
        headers = signed_headers(
            body,
            region=REGION,
            when=datetime.now(UTC),
            target=f"TrentService.{action}",
            access_key_id=self.access_key_id,
            secret=self.secret,
        )
        lines = [b"POST / HTTP/1.1", *(name + b": " + value for name, value in headers)]
        return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), *more, b"", b""]) + body

    async def ask(self, action: str, **parameters: object) -> tuple[int, bytes]:
        """Sign and send one request; return status and body."""
        async with await trio.open_tcp_stream(*self.address) as stream:
            await stream.send_all(self.request(action, b"Connection: close", **parameters))
            answer = await everything(stream)
        head, _, content = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), content


async def everything(stream: trio.abc.Stream) -> bytes:
    """Return what comes until the other side closes."""
    return b"".join([bytes(part) async for part in stream])


@asynccontextmanager
async def running(
    home: Home, limits: Limits | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Local]:
    """Serve a home in this process."""
    made = home.json("credential", "create", "root")
    plain = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    listener: Listener = trio.SSLListener(plain, tls, https_compatible=True) if tls else plain
    with Keystore.open(home.path, via="server") as keystore:
        async with trio.open_nursery() as nursery:
            server = Server(keystore, limits)
            await nursery.start(server.run, [listener])
            yield Local(server, plain, keystore, made["AccessKeyId"], made["SecretAccessKey"])
            server.stop()


class Held:
    """A method that somebody waits in, once ``entered`` is set, until ``leave`` is."""

    def __init__(self) -> None:
        self.entered, self.leave = threading.Event(), threading.Event()


@contextmanager
def held(owner: object, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """Hold a method until the block ends, or until it is let go."""
    holding, real = Held(), getattr(owner, name)

    def wait(*arguments: object, **named: object) -> object:
        holding.entered.set()
        holding.leave.wait()
        return real(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, wait)
        try:
            yield holding
        finally:
            holding.leave.set()
