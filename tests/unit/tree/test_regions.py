"""A tree under the keys of two regions: one of them is gone, slow, or back again."""

import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio
import trio.lowlevel
from testkit.posix import Posix, opened
from testkit.tokens import build_shim, make_softhsm, make_token
from testkit.trees import declare

from kmsfs.errors import HsmUnavailableError, KeyDisabledError, TokenNotFoundError
from kmsfs.format.blob import parse_blob_head
from kmsfs.format.layout import HEADER_SIZE
from kmsfs.ids import KeyArn
from kmsfs.keystore import nearness, pkcs11_hsm
from kmsfs.keystore.service import Keystore
from kmsfs.tree.rekey import Rekeyer
from kmsfs.tree.swaps import write_newest_copy, write_other_copy

EU, US = "eu-west-1", "us-east-1"


@pytest.fixture
async def both(keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn) -> AsyncIterator[Posix]:
    """A tree under a key of each region with a file ``f``, opened anew."""
    declare(keystore, store, eu_key, us_key)
    async with opened(keystore, store) as posix:
        await posix.put(b"f", b"abc")
        await posix.put(b"g", b"abc")
        await posix.reopen()
        yield posix


class Gone:
    """Takes one region's keys away and puts them back."""

    def __init__(self, keystore: Keystore, how: str) -> None:
        self._keystore, self._how = keystore, how
        self._directories = {config.region: config.token_dir for config in keystore.regions()}

    def take(self, region: str, key_arn: KeyArn) -> Callable[[], object]:
        """Take them away; returns what puts them back."""
        if self._how == "disabled":
            self._keystore.disable_key(key_arn)
            return lambda: self._keystore.enable_key(key_arn)
        directory = self._directories[region]
        assert directory is not None
        away = directory.rename(directory.parent.parent / "away")
        return lambda: away.rename(directory)


@pytest.fixture(params=["away", "disabled"])
def gone(both: Posix, request: pytest.FixtureRequest) -> Gone:
    """The tree is made; how a region goes."""
    return Gone(both.keystore, request.param)


def slots(posix: Posix, path: bytes) -> list[KeyArn]:
    return [parse_blob_head(blob).key_arn for blob in posix.copies(path)[0].slots]


async def test_a_replica_goes_and_comes_back(both: Posix, gone: Gone, eu_key: KeyArn, us_key: KeyArn) -> None:
    put_back = gone.take(US, us_key)
    await both.reopen()
    assert await both.get(b"f") == b"abc"
    await both.put(b"new", b"n")
    assert slots(both, b"new") == [eu_key]
    assert both.tree.about()["serving_region"] == EU
    assert list(both.tree.about()["unusable_keys"]) == [us_key]
    put_back()
    both.keystore.measure_again()
    await both.put(b"newer", b"n")
    assert slots(both, b"newer") == [eu_key, us_key]
    assert both.tree.about()["unusable_keys"] == {}


async def test_the_tree_opens_by_its_replica(both: Posix, gone: Gone, eu_key: KeyArn, us_key: KeyArn) -> None:
    """Reading works; a new file takes a data key of its zone, which is not to be had."""
    put_back = gone.take(EU, eu_key)
    await both.reopen()
    assert both.tree.about()["serving_key_arn"] == us_key
    assert await both.get(b"f") == b"abc"
    await both.put(b"f", b"ABC")
    both.evict(b"f")
    assert await both.get(b"f") == b"ABC"
    with pytest.raises((KeyDisabledError, TokenNotFoundError)) as caught:
        await both.put(b"new", b"n")
    assert str(caught.value).endswith(both.tree.about()["unusable_keys"][eu_key])
    assert eu_key in str(caught.value)
    assert not both.exists(b"new")
    put_back()
    both.keystore.measure_again()
    await both.put(b"new", b"n")
    assert slots(both, b"new") == [eu_key, us_key]
    both.evict(b"f")
    assert await both.get(b"f") == b"ABC"
    assert both.tree.about()["serving_key_arn"] == eu_key


async def test_a_region_goes_while_a_file_is_known(both: Posix, gone: Gone, eu_key: KeyArn) -> None:
    """Reopened from memory, it is asked whether some slot may be used."""
    assert await both.get(b"f") == b"abc"
    put_back = gone.take(EU, eu_key)
    before = both.keystore.hsm_calls
    assert await both.get(b"f") == b"abc"
    assert both.keystore.hsm_calls == before
    assert await both.get(b"g") == b"abc"
    assert both.tree.about()["serving_region"] == US
    put_back()


async def test_both_regions_gone(both: Posix, keystore: Keystore, eu_key: KeyArn, us_key: KeyArn) -> None:
    await both.get(b"f")
    for way in (Gone(keystore, "away"), Gone(keystore, "disabled")):
        back = [way.take(US, us_key)] if way._how == "disabled" else []
        back.append(way.take(EU, eu_key))
        if way._how == "away":
            keystore.disable_key(us_key)
            back.append(lambda: keystore.enable_key(us_key))
        for path in (b"f", b"g"):
            with pytest.raises((KeyDisabledError, TokenNotFoundError)):
                await both.get(path)
        for put_back in back:
            put_back()
    assert await both.get(b"g") == b"abc"


async def test_an_older_header_is_not_served_while_the_newest_may_be_good(
    both: Posix, keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn
) -> None:
    """Of the newest copy's keys one is gone for good and the other's token away; the older copy would open."""
    third = keystore.create_key(region=EU).arn
    block = declare(keystore, store, third, eu_key, us_key)
    rekeyer = Rekeyer(keystore, block.tree_id)
    with both.backing(b"f").open("rb+") as file:
        for wanted, write in (((third,), write_newest_copy), ((eu_key, us_key), None)):
            swap = rekeyer.swap(os.pread(file.fileno(), HEADER_SIZE, 0), rekeyer.targets(wanted))
            assert swap is not None
            write_other_copy(file.fileno(), swap)
            if write is not None:
                write(file.fileno(), swap, touch=False)
    keystore._service(EU).hsm.destroy(keystore.resolve(eu_key).current_material_id or b"")
    put_back = Gone(keystore, "away").take(US, us_key)
    with pytest.raises(TokenNotFoundError):
        await both.get(b"f")
    put_back()
    assert await both.get(b"f") == b"abc"


# --- a module that misbehaves in one region ----------------------------------------------------------
@pytest.fixture
async def odd(
    keystore: Keystore, store: Path, eu_key: KeyArn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Posix, KeyArn, pytest.MonkeyPatch]]:
    """A tree whose default key is in a module that misbehaves, with a replica in SoftHSM."""
    conf = make_softhsm(tmp_path / "own")
    monkeypatch.setenv("SOFTHSM2_CONF", str(conf))
    monkeypatch.setattr(pkcs11_hsm, "RECOVERY_INTERVAL_S", 0.0)
    monkeypatch.setattr(nearness, "RETRY_S", 0.0)
    keystore.add_region(
        US,
        module=build_shim(tmp_path, beside_softhsm=True),
        token_label="own",
        pin_file=make_token(conf, "own"),
    )
    odd_key = keystore.create_key(region=US).arn
    declare(keystore, store, odd_key, eu_key)
    async with opened(keystore, store) as posix:
        await posix.put(b"f", b"abc")
        await posix.put(b"g", b"abc")
        await posix.reopen()
        yield posix, odd_key, monkeypatch


async def test_the_nearest_slot_is_tried_first(
    odd: tuple[Posix, KeyArn, pytest.MonkeyPatch], keystore: Keystore, store: Path, eu_key: KeyArn
) -> None:
    posix, odd_key, patch = odd
    await posix.get(b"f")
    assert posix.tree.about()["serving_key_arn"] == odd_key, "both are here: the order of the slots counts"
    await posix.reopen(read_only=True)  # lets others in
    patch.setenv("KMSFS_SHIM", "slow")
    with Keystore.open(keystore.home) as fresh:
        async with opened(fresh, store, read_only=True) as other:
            assert other.tree.about()["serving_key_arn"] == eu_key
            before = fresh._service(US).hsm.calls
            assert await other.get(b"f") == b"abc"
            assert other.tree.about()["serving_key_arn"] == eu_key
            assert fresh._service(US).hsm.calls == before


async def test_a_module_that_breaks(
    odd: tuple[Posix, KeyArn, pytest.MonkeyPatch], keystore: Keystore, eu_key: KeyArn
) -> None:
    posix, odd_key, patch = odd
    patch.setenv("KMSFS_SHIM", "broken")
    assert await posix.get(b"f") == b"abc"
    assert posix.tree.about()["serving_key_arn"] == eu_key
    before = keystore._service(US).hsm.calls
    assert await posix.get(b"g") == b"abc"
    assert keystore._service(US).hsm.calls == before, "it is not asked again before it was measured again"
    with pytest.raises(HsmUnavailableError):
        await posix.put(b"new", b"n")
    patch.delenv("KMSFS_SHIM")
    keystore.measure_again()
    posix.evict(b"f")
    assert await posix.get(b"f") == b"abc"
    assert posix.tree.about()["serving_key_arn"] == odd_key


async def test_a_replica_whose_module_breaks_is_left_out(
    odd: tuple[Posix, KeyArn, pytest.MonkeyPatch],
    keystore: Keystore,
    store: Path,
    eu_key: KeyArn,
    caplog: pytest.LogCaptureFixture,
) -> None:
    posix, odd_key, patch = odd
    declare(keystore, store, eu_key, odd_key)
    await posix.tree.reload()
    patch.setenv("KMSFS_SHIM", "broken")
    for name in (b"1", b"2", b"3"):
        await posix.put(name, b"n")
        assert slots(posix, name) == [eu_key]
    assert sum(str(odd_key) in message for message in caplog.messages) == 1
    patch.delenv("KMSFS_SHIM")
    keystore.measure_again()
    await posix.put(b"4", b"n")
    assert slots(posix, b"4") == [eu_key, odd_key]


async def test_what_was_made_before_a_replica_came_is_made_anew(
    both: Posix, gone: Gone, eu_key: KeyArn, us_key: KeyArn
) -> None:
    """In the background, so that nobody who creates a file waits for it."""
    put_back = gone.take(US, us_key)
    both.pool().fill(500)
    put_back()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(both.tree.file_keys.follow, 0.01)
        while len(both.pool()):
            await trio.lowlevel.checkpoint()
        nursery.start_soon(both.tree.file_keys.keep_filled)
        while len(both.pool()) < 500:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    before = both.keystore.hsm_calls
    await both.put(b"new", b"n")
    assert both.keystore.hsm_calls == before
    assert slots(both, b"new") == [eu_key, us_key]


async def test_what_stops_and_begins_to_answer_is_logged_once(
    both: Posix, us_key: KeyArn, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kmsfs.tree")
    both.pool()
    put_back = Gone(both.keystore, "away").take(US, us_key)

    async def logged(text: str) -> None:
        while not any(text in message for message in caplog.messages):
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(both.tree.file_keys.follow, 0.01)
        await logged("does not answer: token")
        put_back()
        await logged("answers again")
        nursery.cancel_scope.cancel()
    told = [message for message in caplog.messages if message.startswith(f"region {US} ")]
    assert len(told) == 2
