"""Ready data keys: watermarks, refusal, and nothing under old material."""

import pytest

from kmsfs.errors import KeyDisabledError, KeyNotFoundError
from kmsfs.format.aad import file_context
from kmsfs.ids import KeyArn, TreeId
from kmsfs.keystore.model import RotationType
from kmsfs.keystore.pool import HIGH_WATERMARK, LOW_WATERMARK, DataKeyPool
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
    assert keystore.decrypt(ready.blob, file_context(TREE, ready.file_id)).plaintext == ready.data_key
    assert repr(ready.data_key) not in repr(ready)


def test_a_filled_pool_gives_keys_without_the_hsm(keystore: Keystore, pool: DataKeyPool) -> None:
    assert pool.fill(3) == 3
    before = keystore.hsm_calls
    taken = [pool.take() for _ in range(3)]
    assert keystore.hsm_calls == before
    assert len({ready.file_id for ready in taken}) == len({ready.data_key for ready in taken}) == 3
    for ready in taken:
        assert keystore.decrypt(ready.blob, file_context(TREE, ready.file_id)).plaintext == ready.data_key


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
    assert pool.take().material_id == renewed.current_material_id
    assert len(pool) == 0


def test_a_key_that_is_not_here(keystore: Keystore) -> None:
    missing = KeyArn("arn:aws:kms:us-east-1:000000000000:key/00000000-0000-0000-0000-000000000000")
    with pytest.raises(KeyNotFoundError):
        DataKeyPool(keystore, missing, TREE).take()
