"""How often each operation asks the HSM. The table of the design; rewrapping is not here."""

import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from testkit.home import ALIAS
from testkit.posix import Posix, opened
from testkit.trees import declare

from kmsfs.errors import KeyDisabledError
from kmsfs.format.blob import parse_blob_head
from kmsfs.ids import KeyArn
from kmsfs.keystore.data_key_cache import DataKeyCache
from kmsfs.keystore.service import Keystore

REGION = "eu-west-1"


@pytest.fixture
async def stocked(posix: Posix) -> Posix:
    """A tree with a few things in it, opened anew, with keys in the pool."""
    await posix.mkdir(b"d")
    await posix.put(b"f", b"abc")
    await posix.put(b"g", b"abc")
    await posix.put(b"d/empty", b"")
    await posix.symlink(b"s", b"target")
    await posix.tree.xattrs.set(posix.find(b"f"), b"user.x", b"1")
    await posix.reopen()
    posix.pool().fill(20)
    return posix


async def _stat(posix: Posix) -> None:
    for path in (b"f", b"d", b"d/empty", b"s"):
        posix.stat(path)
        posix.size(path)


async def _reopen(posix: Posix) -> None:
    await posix.get(b"f")
    posix.evict(b"f")
    before = posix.keystore.hsm_calls
    await posix.get(b"f")
    await posix.put(b"f", b"x")
    assert posix.keystore.hsm_calls == before


async def _read_and_write(posix: Posix) -> None:
    handle = await posix.open(b"f")
    before = posix.keystore.hsm_calls
    for at in range(0, 100_000, 10_000):
        posix.write(handle, at, bytes(10_000))
        await posix.read(handle, 0, at)
    await posix.tree.files.fsync(handle, data_only=False)
    await posix.truncate(b"f", 5)
    posix.close(handle)
    await posix.seal()
    assert posix.keystore.hsm_calls == before


async def _replace(posix: Posix) -> None:
    await posix.rename(b"f", b"h")
    await posix.rename(b"h", b"d/f")
    await posix.rename(b"d", b"e")
    await posix.rename(b"g", b"e/f")


async def _remove(posix: Posix) -> None:
    for path in (b"f", b"g", b"d/empty", b"s"):
        posix.unlink(path)
    posix.rmdir(b"d")


async def _create(posix: Posix) -> None:
    for at in range(10):
        await posix.put(b"new%d" % at, b"abc")


async def _make(posix: Posix) -> None:
    await posix.mkdir(b"m")
    await posix.symlink(b"m/s", b"t")
    await posix.mknod(b"m/p", stat.S_IFIFO | 0o600)
    await posix.link(b"f", b"m/f")


async def _attributes(posix: Posix) -> None:
    posix.chmod(b"f", 0o600)
    posix.utime(b"f", 1, 2)
    posix.tree.xattrs.get(posix.find(b"f"), b"user.x")
    posix.tree.xattrs.list(posix.find(b"f"))
    posix.readlink(b"s")
    posix.tree.info(posix.find(b"f"))


TABLE: list[tuple[str, Callable[[Posix], Awaitable[object]], int]] = [
    ("stat", _stat, 0),
    ("readdir", lambda posix: posix.names(b"d"), 0),
    ("rename", _replace, 0),
    ("remove", _remove, 0),
    ("create, from the pool", _create, 0),
    ("mkdir, symlink, mknod, link", _make, 0),
    ("attributes", _attributes, 0),
    ("open of an empty file for reading", lambda posix: posix.get(b"d/empty"), 0),
    ("first write of an empty file, from the pool", lambda posix: posix.put(b"d/empty", b"x"), 0),
    ("first open", lambda posix: posix.get(b"f"), 1),
    ("first open of two files", lambda posix: _two(posix), 2),
    ("reopen", _reopen, 1),
    ("open once, read and write much", _read_and_write, 1),
]


async def _two(posix: Posix) -> None:
    await posix.get(b"f")
    await posix.get(b"g")


@pytest.mark.parametrize(("use", "calls"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
async def test_hsm_calls(stocked: Posix, use: Callable[[Posix], Awaitable[object]], calls: int) -> None:
    before = stocked.keystore.hsm_calls
    await use(stocked)
    assert stocked.keystore.hsm_calls - before == calls
    assert cache_of(stocked).unwraps == calls


def cache_of(posix: Posix) -> DataKeyCache:
    return posix.tree._cache


async def test_creating_under_the_keys_of_two_regions_costs_no_call(
    keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn
) -> None:
    declare(keystore, store, eu_key, us_key)
    async with opened(keystore, store) as posix:
        await posix.put(b"first", b"abc")
        posix.pool().fill(20)
        before = keystore.hsm_calls
        await _create(posix)
        await posix.put(b"first", b"x")
        assert keystore.hsm_calls == before
        header = posix.copies(b"new1")[0]
        assert [parse_blob_head(blob).key_arn for blob in header.slots] == [eu_key, us_key]
        before = keystore.hsm_calls
        await posix.reopen()
        opening = keystore.hsm_calls - before
        await posix.get(b"new1")
        assert keystore.hsm_calls - before - opening == 1


async def test_a_rename_into_another_zone_costs_a_call_for_each_new_slot(
    stocked: Posix, us_key: KeyArn
) -> None:
    await stocked.put(b"d/h", b"abc")
    await stocked.make_zone(b"d", us_key)
    await stocked.rename(b"g", b"d/g")  # the token's first use reserves a block of uses
    await stocked.get(b"f")
    before = stocked.keystore.hsm_calls
    await stocked.rename(b"f", b"d/f")
    assert stocked.keystore.hsm_calls - before == 1  # the data key was in the cache
    await stocked.reopen()
    before = stocked.keystore.hsm_calls
    await stocked.rename(b"d/f", b"f")
    await stocked.rename(b"d/g", b"g")
    assert stocked.keystore.hsm_calls - before == 4
    before = stocked.keystore.hsm_calls
    await stocked.rename(b"f", b"h")  # within one zone
    await stocked.rename(b"d/h", b"d/f")
    assert stocked.keystore.hsm_calls == before


async def test_create_with_an_empty_pool_costs_one_call(posix: Posix) -> None:
    await posix.put(b"first", b"abc")  # reserves a block of uses, too
    before = posix.keystore.hsm_calls
    await posix.put(b"f", b"abc")
    assert posix.keystore.hsm_calls - before == 1


async def test_a_key_that_was_taken_for_nothing_goes_back(stocked: Posix) -> None:
    pool = stocked.pool()
    held = len(pool)
    await stocked.put(b"never", b"")
    handle = await stocked.open(b"never", os.O_RDWR)
    assert len(pool) == held - 1
    stocked.close(handle)
    assert len(pool) == held


async def test_a_disabled_key_stops_opening_and_creating_but_not_looking(stocked: Posix) -> None:
    handle = await stocked.open(b"f")
    stocked.keystore.disable_key(ALIAS, region=REGION)
    await _stat(stocked)
    await stocked.names(b"d")
    for attempt in (
        stocked.get(b"f"),
        stocked.get(b"g"),
        stocked.put(b"new", b"x"),
        stocked.put(b"d/empty", b"x"),
    ):
        with pytest.raises(KeyDisabledError):
            await attempt
    assert await stocked.names() == [b"d", b"f", b"g", b"s"]
    assert await stocked.read(handle) == b"abc"
    await stocked.rename(b"g", b"d/g")
    stocked.keystore.enable_key(ALIAS, region=REGION)
    assert await stocked.get(b"f") == b"abc"
    assert await stocked.get(b"d/g") == b"abc"
    await stocked.put(b"new", b"x")
    stocked.close(handle)


async def test_a_creation_whose_key_cannot_be_made_leaves_nothing(
    posix: Posix, keystore: Keystore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is looked at first, but the HSM may fail a moment later."""

    def gone(*_: object, **__: object) -> None:
        raise KeyDisabledError("as if just now")

    monkeypatch.setattr(keystore, "generate_data_keys", gone)
    inodes = len(posix.tree.volume.inodes)
    with pytest.raises(KeyDisabledError):
        await posix.create(b"f")
    posix.forget()
    assert await posix.names() == []
    assert len(posix.tree.volume.inodes) == inodes
