"""One client's slow work holds up no other; what happens at once happens once."""

import json
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
import trio
from botocore.exceptions import ClientError
from testkit.aws_signing import signed_headers
from testkit.home import ALIAS, REGION, Home
from testkit.serving import Serving

from kmsfs.api.server import Server
from kmsfs.keystore.service import Keystore


@dataclass
class Local:
    """A server in this process, so that a test can hold what it does."""

    keystore: Keystore
    address: tuple[str, int]
    access_key_id: str
    secret: str

    async def ask(self, action: str, **parameters: object) -> tuple[int, bytes]:
        """Sign and send one request; return status and body."""
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
        head = b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"Connection: close", b"", b""])
        async with await trio.open_tcp_stream(*self.address) as stream:
            await stream.send_all(head + body)
            answer = b"".join([bytes(part) async for part in stream])
        head, _, content = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), content


@asynccontextmanager
async def running(home: Home) -> AsyncIterator[Local]:
    """Serve a home in this process."""
    made = home.json("credential", "create", "root")
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    with Keystore.open(home.path, via="server") as keystore:
        async with trio.open_nursery() as nursery:
            server = Server(keystore)
            await nursery.start(server.run, [listener])
            yield Local(keystore, listener.socket.getsockname(), made["AccessKeyId"], made["SecretAccessKey"])
            server.stop()


@pytest.fixture
async def local(home: Home) -> AsyncIterator[Local]:
    async with running(home) as started:
        yield started


@contextmanager
def held(owner: object, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Hold a method until the block ends; the event is set once somebody waits in it."""
    entered, leave, real = threading.Event(), threading.Event(), getattr(owner, name)

    def wait(*arguments: object, **named: object) -> object:
        entered.set()
        leave.wait()
        return real(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, wait)
        try:
            yield entered
        finally:
            leave.set()


async def test_a_held_commit_holds_up_no_use(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    status, _ = await local.ask("Encrypt", KeyId=ALIAS, Plaintext="eA==")
    assert status == 200
    statuses: list[int] = []

    key_id = local.keystore.resolve(ALIAS, region=REGION).key_id

    async def change() -> None:
        status, _ = await local.ask("CreateAlias", AliasName="alias/new", TargetKeyId=key_id)
        statuses.append(status)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            with held(local.keystore._store, "write", monkeypatch) as entered:
                nursery.start_soon(change)
                await trio.to_thread.run_sync(entered.wait)
                assert (await local.ask("Encrypt", KeyId=ALIAS, Plaintext="eA=="))[0] == 200
                assert not statuses
    assert statuses == [200]


async def test_a_slow_token_that_is_held_holds_up_nobody_else(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmsfs.keystore.nearness.FAST_CALL_S", 0.0)
    statuses: list[int] = []
    async with running(home) as local:
        service = local.keystore._service(REGION)

        async def encrypt() -> None:
            statuses.append((await local.ask("Encrypt", KeyId=ALIAS, Plaintext="eA=="))[0])

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                with held(service.hsm, "encrypt_gcm", monkeypatch) as entered:
                    nursery.start_soon(encrypt)
                    await trio.to_thread.run_sync(entered.wait)
                    assert (await local.ask("ListKeys"))[0] == 200
                    assert not statuses
    assert statuses == [200]


def test_one_alias_is_created_once(served: Serving) -> None:
    client = served.client(REGION)
    key = client.create_key()["KeyMetadata"]["KeyId"]

    def create(_: int) -> str:
        try:
            client.create_alias(AliasName="alias/contested", TargetKeyId=key)
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        return "created"

    with ThreadPoolExecutor(6) as pool:
        outcomes = sorted(pool.map(create, range(6)))
    assert outcomes == ["AlreadyExistsException"] * 5 + ["created"]


def test_rotation_in_a_burst_of_encryptions(served: Serving) -> None:
    client = served.client(REGION)
    key = client.create_key()["KeyMetadata"]["KeyId"]
    go = threading.Barrier(5)

    def burst(number: int) -> list[bytes]:
        go.wait()
        texts = [b"%d-%d" % (number, index) for index in range(40)]
        blobs = [client.encrypt(KeyId=key, Plaintext=text)["CiphertextBlob"] for text in texts]
        assert [client.decrypt(CiphertextBlob=blob)["Plaintext"] for blob in blobs] == texts
        return blobs

    with ThreadPoolExecutor(4) as pool:
        bursts = [pool.submit(burst, number) for number in range(4)]
        go.wait()
        served.home.ok("key", "rotate", key, "--region", REGION)
        blobs = [blob for found in bursts for blob in found.result()]
    materials = {client.decrypt(CiphertextBlob=blob)["KeyMaterialId"] for blob in blobs}
    now = client.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    assert (
        client.decrypt(CiphertextBlob=now)["KeyMaterialId"]
        == client.describe_key(KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"]
    )
    assert materials
