"""Uses of suite 1 keys are reserved before they are made, and never exceed the limit."""

from pathlib import Path
from threading import Thread

import pytest

from kmsfs.errors import KeyExhaustedError
from kmsfs.keystore.ledger import Changes
from kmsfs.keystore.model import RotationType
from kmsfs.keystore.rows import material_values
from kmsfs.keystore.service import Keystore
from kmsfs.keystore.uses import FIRST_BLOCK, LARGEST_BLOCK, USE_LIMIT, UseCounter

US = "us-east-1"


def reserved(keystore: Keystore) -> int:
    service = keystore._service(US)
    return service.ledger.reload().uses_reserved[
        keystore.resolve("alias/main", region=US).current_material_id
    ]


def set_reserved(keystore: Keystore, count: int) -> None:
    service = keystore._service(US)
    key = keystore.resolve("alias/main", region=US)
    values = material_values(key.region, key.key_id, key.materials[-1], count)
    service.ledger.commit(lambda _: Changes(puts=[("materials", values)]))


def test_the_limit_keeps_a_block_away_from_nists() -> None:
    assert USE_LIMIT + LARGEST_BLOCK == 2**32


def test_blocks_grow(keystore: Keystore) -> None:
    start = reserved(keystore)
    blocks = [FIRST_BLOCK]
    while blocks[-1] < LARGEST_BLOCK:
        blocks.append(min(blocks[-1] * 4, LARGEST_BLOCK))
    assert blocks == [64, 256, 1024, 4096, 16384, 65536]
    counter = UseCounter(
        keystore.resolve("alias/main", region=US).current_material_id, keystore._service(US).ledger
    )
    for block in (64, 256, 1024):
        counter.take()
        start += block
        assert reserved(keystore) == start
        for _ in range(block - 1):
            counter.take()
        assert reserved(keystore) == start


def test_each_process_reserves_its_own(ks_home: Path) -> None:
    with Keystore.open(ks_home) as first, Keystore.open(ks_home) as second:
        before = reserved(first)
        for keystore in (first, second):
            keystore.encrypt("alias/main", b"x", {}, region=US)
        assert reserved(first) == before + 2 * FIRST_BLOCK


def test_decrypting_is_no_use(keystore: Keystore) -> None:
    blob = keystore.encrypt("alias/main", b"x", {}, region=US).blob
    before = reserved(keystore)
    for _ in range(2 * FIRST_BLOCK):
        keystore.decrypt(blob, {})
    assert reserved(keystore) == before


def test_threads_share_a_block(keystore: Keystore) -> None:
    before = reserved(keystore)
    threads = [
        Thread(target=lambda: [keystore.encrypt("alias/main", b"x", {}, region=US) for _ in range(16)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reserved(keystore) == before + FIRST_BLOCK


def test_used_up_material_is_refused(keystore: Keystore) -> None:
    set_reserved(keystore, USE_LIMIT - FIRST_BLOCK)
    counter = UseCounter(
        keystore.resolve("alias/main", region=US).current_material_id, keystore._service(US).ledger
    )
    for _ in range(FIRST_BLOCK):
        counter.take()
    for _ in range(2):
        with pytest.raises(KeyExhaustedError):
            counter.take()
    assert reserved(keystore) == USE_LIMIT


def test_a_used_up_key_gets_new_material_and_the_old_decrypts(keystore: Keystore) -> None:
    old = keystore.encrypt("alias/main", b"old", {}, region=US)
    keystore._service(US)._counters.clear()
    set_reserved(keystore, USE_LIMIT)
    new = keystore.encrypt("alias/main", b"new", {}, region=US)
    assert new.key_arn == old.key_arn
    assert new.material_id != old.material_id
    key = keystore.describe_key(new.key_arn)
    assert [material.material_id for material in key.materials] == [old.material_id, new.material_id]
    assert key.current_material_id == new.material_id
    assert keystore.encrypt("alias/main", b"x", {}, region=US).material_id == new.material_id
    assert keystore.decrypt(old.blob, {}).plaintext == b"old"
    assert keystore.decrypt(new.blob, {}).plaintext == b"new"
    assert all(finding.ok for finding in keystore.check())


def test_two_threads_renew_once(keystore: Keystore) -> None:
    key = keystore.resolve("alias/main", region=US)
    service = keystore._service(US)
    renewed = [service.lifecycle.rotate(key, RotationType.AUTOMATIC) for _ in range(2)]
    assert renewed[0] == renewed[1]
    assert len(service.key(key.key_id).materials) == 2
