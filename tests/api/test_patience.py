"""Clients that are slow, greedy or too many: each step has its time, and nobody else waits for them."""

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import trio
from testkit.certificates import make_certificate
from testkit.home import ALIAS, REGION, Home
from testkit.local_server import Local, everything, held, running

from kmsfs.api.limits import Limits

Connect = Callable[[Local], Awaitable[trio.SocketStream]]
NO_PATIENCE = Limits(header_s=0.05, body_s=0.05, answer_s=0.05, idle_s=0.05, drain_s=0.05, linger_s=0.05)


async def until(holds: Callable[[], bool]) -> None:
    """Let the server go on until it is as wanted."""
    with trio.fail_after(30):
        while not holds():
            await trio.sleep(0.001)


def at_work(local: Local) -> int:
    """How many connections are in the middle of a request."""
    return sum(connection.idle_since is None for connection in local.server._connections)


@pytest.fixture
async def impatient(home: Home) -> AsyncIterator[Local]:
    async with running(home, NO_PATIENCE) as local:
        yield local


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b""),
        (b"POST / HT", b"HTTP/1.1 408"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nslow", b"HTTP/1.1 408"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n", b"HTTP/1.1 100"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", b"HTTP/1.1 408"),
    ],
    ids=["idle", "slow head", "slow body", "asked for", "slow chunks"],
)
async def test_slow_clients_time_out(impatient: Local, sent: bytes, answer: bytes) -> None:
    with trio.fail_after(30):
        async with await trio.open_tcp_stream(*impatient.address) as stream:
            await stream.send_all(sent or b"")
            got = await everything(stream)
    assert got[: len(answer) or None] == answer


async def test_a_client_that_does_not_read_is_left(impatient: Local) -> None:
    """It asks and asks; once its answers fill every buffer, the server closes."""
    impatient.listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    asked = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 1000
    with trio.fail_after(60):
        stream = await trio.open_tcp_stream(*impatient.address)
        async with stream:
            with suppress(trio.BrokenResourceError):
                while True:
                    await stream.send_all(asked)
                    assert (await impatient.ask("ListKeys"))[0] == 200


async def test_a_stranger_who_does_not_finish_the_tls_handshake(home: Home, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    async with running(home, NO_PATIENCE, context) as local:
        for sent in (b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"POST / HTTP/1.1\r\n\r\n"):
            with trio.fail_after(30):
                async with await trio.open_tcp_stream(*local.address) as stream:
                    await stream.send_all(sent or b"")
                    assert b"HTTP" not in await everything(stream)


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Make connections that are closed at the end."""
    async with AsyncExitStack() as opened:

        async def connect(local: Local) -> trio.SocketStream:
            return await opened.enter_async_context(await trio.open_tcp_stream(*local.address))

        yield connect


async def test_no_more_connections_than_places(home: Home, connect: Connect) -> None:
    async with running(home, Limits(connections=2)) as local:
        whole = local.request("ListKeys")
        with trio.fail_after(60):
            first, second = await connect(local), await connect(local)
            await first.send_all(whole[:-1])
            await second.send_all(whole[:9])
            await until(lambda: at_work(local) == 2)
            third = await connect(local)
            await third.send_all(whole)
            await until(lambda: local.server._places.statistics().tasks_waiting == 1)
            await first.send_all(whole[-1:])
            answer = await everything(first)
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"connection: close" in answer.lower(), "others wait for the place"
            assert (await third.receive_some()).startswith(b"HTTP/1.1 200")


async def test_no_more_wait_than_places(home: Home, connect: Connect) -> None:
    """Each holds a descriptor: without an end to them, the token's files could not be opened any more."""
    async with running(home, Limits(connections=1)) as local:
        whole = local.request("ListKeys")
        with trio.fail_after(60):
            first = await connect(local)
            await first.send_all(whole[:-1])
            await until(lambda: at_work(local) == 1)
            second = await connect(local)
            await second.send_all(whole)
            await until(lambda: local.server._places.statistics().tasks_waiting == 1)
            assert await (await connect(local)).receive_some() == b""  # closed
            await first.send_all(whole[-1:])
            assert (await everything(first)).startswith(b"HTTP/1.1 200")
            assert (await second.receive_some()).startswith(b"HTTP/1.1 200")


async def test_the_longest_idle_makes_room(home: Home, connect: Connect) -> None:
    async with running(home, Limits(connections=2)) as local:
        whole = local.request("ListKeys")
        with trio.fail_after(60):
            streams = []
            for _ in range(3):
                streams.append(await connect(local))
                await streams[-1].send_all(whole)
                assert (await streams[-1].receive_some()).startswith(b"HTTP/1.1 200")
            assert await streams[0].receive_some() == b""  # closed
            await streams[1].send_all(whole)
            assert (await streams[1].receive_some()).startswith(b"HTTP/1.1 200")


async def test_a_rate_for_each_access_key(home: Home) -> None:
    async with running(home, Limits(requests_per_s=0.5)) as local:
        assert (await local.ask("ListKeys"))[0] == 200
        status, answer = await local.ask("ListKeys")
        assert (status, answer) == (400, b'{"__type":"ThrottlingException","message":"Rate exceeded"}')


async def test_only_who_fails_is_slowed_down(home: Home) -> None:
    async with running(home, Limits(failures_per_s=0.5)) as local:
        stranger = Local(local.server, local.listener, local.keystore, local.access_key_id, "wrong")
        answers = [(await stranger.ask("ListKeys"))[1] for _ in range(2)]
        assert [b"InvalidSignature" in answers[0], b"Throttling" in answers[1]] == [True, True]
        assert (await local.ask("ListKeys"))[0] == 200


async def test_a_request_under_way_is_finished(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(home) as local:
        key = local.keystore.resolve(ALIAS, region=REGION).key_id
        with trio.fail_after(60), held(local.keystore._store, "write", monkeypatch) as holding:
            async with await trio.open_tcp_stream(*local.address) as stream:
                await stream.send_all(local.request("CreateAlias", AliasName="alias/late", TargetKeyId=key))
                await trio.to_thread.run_sync(holding.entered.wait)
                local.server.stop()
                with pytest.raises(OSError, match="connect"):
                    await refuses(local)
                holding.leave.set()
                answer = await everything(stream)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer.lower()
        assert local.keystore.resolve("alias/late", region=REGION).key_id == key


async def refuses(local: Local) -> None:
    """Connect until nobody listens any more."""
    while True:
        await (await trio.open_tcp_stream(*local.address)).aclose()


async def test_a_request_that_does_not_end_holds_up_no_stop(home: Home) -> None:
    async with (
        running(home, Limits(drain_s=0.05)) as local,
        await trio.open_tcp_stream(*local.address) as stream,
    ):
        await stream.send_all(local.request("ListKeys")[:-1])
        await trio.testing.wait_all_tasks_blocked()
        local.server.stop()
        with trio.fail_after(8):  # less than its head and its body may take
            assert await everything(stream) == b""
