"""One client's slow work holds up no other; what happens at once happens once."""

import logging
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import trio
from botocore.exceptions import ClientError
from testkit.home import ALIAS, REGION, Home
from testkit.local_server import Local, held, running
from testkit.serving import Serving

from kmsfs.errors import MetadataUnavailableError


@pytest.fixture
async def local(home: Home) -> AsyncIterator[Local]:
    async with running(home) as started:
        yield started


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
            with held(local.keystore._store, "write", monkeypatch) as holding:
                nursery.start_soon(change)
                await trio.to_thread.run_sync(holding.entered.wait)
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
                with held(service.hsm, "encrypt_gcm", monkeypatch) as holding:
                    nursery.start_soon(encrypt)
                    await trio.to_thread.run_sync(holding.entered.wait)
                    assert (await local.ask("ListKeys"))[0] == 200
                    assert not statuses
    assert statuses == [200]


async def test_metadata_that_stay_away_are_told_of_once(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def said(words: str) -> int:
        return sum(words in record.getMessage() for record in caplog.records)

    failures = 0

    def fail() -> bool:
        nonlocal failures
        failures += 1
        raise MetadataUnavailableError("the database is away")

    caplog.set_level(logging.INFO, "kmsfs.api")
    monkeypatch.setattr("kmsfs.api.server.REFRESH_S", 0.001)
    async with running(home) as local:
        assert (await local.ask("Encrypt", KeyId=ALIAS, Plaintext="eA=="))[0] == 200
        with monkeypatch.context() as patched:
            patched.setattr(local.keystore._store, "changed", fail)
            with trio.fail_after(60):
                while failures < 10:
                    await trio.sleep(0.001)
            assert said("the metadata cannot be read: the database is away") == 1
        with trio.fail_after(60):
            while not said("the metadata can be read again"):
                await trio.sleep(0.001)
        assert said("cannot be read") <= 2  # and the access keys


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
