"""Ready data keys: watermarks, refusal, nothing under old material, and replicas that come and go."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kmsfs.errors import KeyDisabledError, KeyNotFoundError
from kmsfs.format.aad import file_context
from kmsfs.ids import KeyArn, TreeId
from kmsfs.keystore import replica as replica_module
from kmsfs.keystore.model import RotationType
from kmsfs.keystore.pool import HIGH_WATERMARK, LOW_WATERMARK, DataKeyPool, ReadyKey
from kmsfs.keystore.replica import Replica
from kmsfs.keystore.service import Keystore

TREE = TreeId(b"t" * 16)


@pytest.fixture
def arn(keystore: Keystore) -> KeyArn:
    arn = keystore.resolve("alias/main", region="us-east-1").arn
    keystore.generate_data_key(arn, {})  # logs in and reserves uses, which costs calls of its own
    return arn


@pytest.fixture
def pool(keystore: Keystore, arn: KeyArn) -> DataKeyPool:
    return DataKeyPool(keystore, arn, TREE)


def test_an_empty_pool_makes_a_key(keystore: Keystore, pool: DataKeyPool) -> None:
    before = keystore.hsm_calls
    ready = pool.take()
    assert keystore.hsm_calls == before + 1
    assert (len(ready.file_id), len(ready.data_key), len(pool)) == (32, 32, 0)
    assert keystore.decrypt(ready.blobs[0], file_context(TREE, ready.file_id)).plaintext == ready.data_key
    assert repr(ready.data_key) not in repr(ready)


def test_a_filled_pool_gives_keys_without_the_hsm(keystore: Keystore, pool: DataKeyPool) -> None:
    assert pool.fill(3) == 3
    before = keystore.hsm_calls
    taken = [pool.take() for _ in range(3)]
    assert keystore.hsm_calls == before
    assert len({ready.file_id for ready in taken}) == len({ready.data_key for ready in taken}) == 3
    for ready in taken:
        assert keystore.decrypt(ready.blobs[0], file_context(TREE, ready.file_id)).plaintext == ready.data_key


def test_watermarks(pool: DataKeyPool) -> None:
    assert pool.low
    assert pool.fill(LOW_WATERMARK) == LOW_WATERMARK
    assert not pool.low
    assert pool.fill(10_000) == HIGH_WATERMARK - LOW_WATERMARK
    assert pool.fill(10) == 0
    assert len(pool) == HIGH_WATERMARK
    pool.drain()
    assert (len(pool), pool.low) == (0, True)


def test_a_disabled_key_gives_nothing_and_drains(keystore: Keystore, pool: DataKeyPool, arn: KeyArn) -> None:
    pool.fill(3)
    keystore.disable_key(arn)
    with pytest.raises(KeyDisabledError):
        pool.take()
    assert len(pool) == 0
    with pytest.raises(KeyDisabledError):
        pool.fill(1)
    keystore.enable_key(arn)
    assert pool.take()


def test_nothing_under_old_material(keystore: Keystore, pool: DataKeyPool, arn: KeyArn) -> None:
    pool.fill(3)
    renewed = keystore._service("us-east-1").lifecycle.rotate(keystore.resolve(arn), RotationType.AUTOMATIC)
    assert pool.take().slots[0].material_id == renewed.current_material_id
    assert len(pool) == 0


def test_a_key_that_is_not_here(keystore: Keystore) -> None:
    missing = KeyArn("arn:aws:kms:us-east-1:000000000000:key/00000000-0000-0000-0000-000000000000")
    with pytest.raises(KeyNotFoundError):
        DataKeyPool(keystore, missing, TREE).take()


# --- replicas ---------------------------------------------------------------------------------------
@pytest.fixture
def other(keystore: Keystore) -> KeyArn:
    other = keystore.resolve("alias/main", region="eu-west-1").arn
    keystore.generate_data_key(other, {})
    return other


@pytest.fixture
def both(keystore: Keystore, arn: KeyArn, other: KeyArn) -> DataKeyPool:
    """A pool of the key of one region with a replica in the other."""
    return DataKeyPool(keystore, arn, TREE, [Replica(keystore, other, TREE)])


def under(ready: ReadyKey) -> list[KeyArn]:
    return [slot.key_arn for slot in ready.slots]


def test_every_slot_yields_the_data_key(
    keystore: Keystore, both: DataKeyPool, arn: KeyArn, other: KeyArn
) -> None:
    both.fill(3)
    before = keystore.hsm_calls
    taken = [both.take() for _ in range(3)]
    assert keystore.hsm_calls == before
    for ready in [*taken, both.take()]:
        assert under(ready) == list(ready.wanted) == [arn, other]
        for blob, key_arn in zip(ready.blobs, ready.wanted, strict=True):
            opened = keystore.decrypt(blob, file_context(TREE, ready.file_id), ref=key_arn)
            assert opened.plaintext == ready.data_key


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1"])
def test_nothing_under_old_material_of_any_key(keystore: Keystore, both: DataKeyPool, region: str) -> None:
    both.fill(3)
    key = keystore.resolve("alias/main", region=region)
    renewed = keystore._service(region).lifecycle.rotate(key, RotationType.AUTOMATIC)
    ready = both.take()
    assert len(both) == 0
    assert renewed.current_material_id in [slot.material_id for slot in ready.slots]
    assert key.current_material_id not in [slot.material_id for slot in ready.slots]


def test_a_disabled_replica_is_left_out_and_comes_back(
    keystore: Keystore, both: DataKeyPool, arn: KeyArn, other: KeyArn, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kmsfs")
    both.fill(3)
    keystore.disable_key(other)
    assert [under(both.take()) for _ in range(5)] == [[arn]] * 5
    assert both.fill(3) == 3
    keystore.enable_key(other)
    assert under(both.take()) == [arn, other]
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [str(other) in record.getMessage() for record in warnings] == [True]
    assert "again" in caplog.messages[-1]


def test_weeding_leaves_what_take_would_hand_out(
    keystore: Keystore, both: DataKeyPool, other: KeyArn
) -> None:
    both.fill(3)
    both.weed()
    assert len(both) == 3
    keystore.disable_key(other)
    both.weed()
    assert len(both) == 0


def test_a_replica_whose_token_is_away_is_left_out(
    keystore: Keystore, both: DataKeyPool, arn: KeyArn, other: KeyArn, tmp_path: Path
) -> None:
    both.fill(3)
    directory = next(c.token_dir for c in keystore.regions() if c.region == "eu-west-1")
    assert directory is not None
    away = directory.rename(tmp_path / "away")
    assert [under(both.take()) for _ in range(2)] == [[arn]] * 2
    away.rename(directory)
    assert under(both.take()) == [arn, other]


def test_a_replica_that_its_hsm_refuses_is_not_asked_for_each_key(
    keystore: Keystore,
    both: DataKeyPool,
    arn: KeyArn,
    other: KeyArn,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its metadata are in order, but its material is not in the token."""
    keystore._service("eu-west-1").hsm.destroy(keystore.resolve(other).current_material_id)
    assert [under(both.take()) for _ in range(5)] == [[arn]] * 5
    assert sum(record.levelno >= logging.WARNING for record in caplog.records) == 1
    before = keystore.hsm_calls
    both.take()
    assert keystore.hsm_calls == before + 1
    monkeypatch.setattr(replica_module, "RETRY_S", 0.0)
    calls: list[Any] = []
    monkeypatch.setattr(keystore, "wrap_data_keys", _noting(keystore.wrap_data_keys, calls))
    both.take()
    assert len(calls) == 1


def _noting(call: Callable[..., Any], calls: list[Any]) -> Callable[..., Any]:
    def noted(*arguments: Any) -> Any:
        calls.append(arguments)
        return call(*arguments)

    return noted


def test_the_zones_key_is_not_replaced_by_a_replica(
    keystore: Keystore, both: DataKeyPool, arn: KeyArn
) -> None:
    both.fill(3)
    keystore.disable_key(arn)
    with pytest.raises(KeyDisabledError):
        both.take()
    assert len(both) == 0
