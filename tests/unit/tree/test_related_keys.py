"""A tree under a multi-region key opens and is written where either region is, and only there."""

import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from testkit.audits import records
from testkit.posix import Posix, opened
from testkit.trees import declare

from kmsfs.errors import KeyDisabledError, KeyNotFoundError, MetadataTamperedError, TokenNotFoundError
from kmsfs.format.blob import parse_blob_head
from kmsfs.ids import KeyArn, Region
from kmsfs.keystore.ledger import Changes
from kmsfs.keystore.rows import key_values, material_values
from kmsfs.keystore.service import Keystore
from kmsfs.keystore.shared_material import new_shared_material
from kmsfs.tree.file_keys import CREATE_FILE, OPEN_FILE
from kmsfs.tree.superblock_file import create_tree
from kmsfs.tree.tree import Tree
from kmsfs.tree.volume import TreeOptions

EU, US = "eu-west-1", "us-east-1"


@pytest.fixture
def eu_shared(keystore: Keystore, us_key: KeyArn) -> KeyArn:
    return keystore.create_key(EU, multi_region=True).arn


@pytest.fixture
def us_shared(keystore: Keystore, eu_shared: KeyArn) -> KeyArn:
    return keystore.replicate_key(eu_shared, US).arn


@pytest.fixture
async def store(keystore: Keystore, tmp_path: Path, eu_shared: KeyArn, us_shared: KeyArn) -> Path:
    """The backing directory of a tree under the key of the EU, with a file ``f``."""
    path = tmp_path / "shared"
    create_tree(keystore, path, eu_shared)
    async with opened(keystore, path) as posix:
        await posix.put(b"f", b"abc")
    return path


@pytest.fixture
async def shared(keystore: Keystore, store: Path) -> AsyncIterator[Posix]:
    """The tree, open."""
    async with opened(keystore, store) as posix:
        yield posix


def slots(posix: Posix, path: bytes) -> list[KeyArn]:
    return [parse_blob_head(blob).key_arn for blob in posix.copies(path)[0].slots]


async def test_its_files_open_and_are_made_in_the_other_region(
    shared: Posix, keystore: Keystore, eu_shared: KeyArn, us_shared: KeyArn, tmp_path: Path
) -> None:
    directory = keystore._service(EU).config.token_dir
    assert directory is not None
    away = directory.rename(tmp_path / "away")
    assert await shared.get(b"f") == b"abc"
    await shared.reopen()
    assert await shared.get(b"f") == b"abc"
    assert shared.tree.about()["serving_region"] == US
    await shared.put(b"g", b"def")
    assert slots(shared, b"g") == [us_shared]
    made = [record for record in records(keystore.home, US) if record["key"] == us_shared]
    assert {"Decrypt", "GenerateDataKey"} <= {record["action"] for record in made}
    counted = shared.tree.file_keys._uses
    assert {(action, key_arn) for _, action, key_arn, _ in counted} == {
        (OPEN_FILE, us_shared),
        (CREATE_FILE, us_shared),
    }

    away.rename(directory)
    keystore.measure_again()
    await shared.reopen()
    assert [await shared.get(name) for name in (b"f", b"g")] == [b"abc", b"def"]
    await shared.put(b"h", b"ghi")
    assert slots(shared, b"h") == [eu_shared]


async def test_it_opens_where_its_own_region_is_not_configured(
    store: Path, keystore: Keystore, us_shared: KeyArn
) -> None:
    (keystore.home / "regions" / f"{EU}.json").rename(keystore.home / "eu-configuration")
    with Keystore.open(keystore.home) as other:
        async with opened(other, store) as posix:
            assert await posix.get(b"f") == b"abc"
            await posix.put(b"g", b"def")
            assert slots(posix, b"g") == [us_shared]


async def test_it_opens_after_its_own_region_lost_the_key(
    shared: Posix, keystore: Keystore, eu_shared: KeyArn, us_shared: KeyArn
) -> None:
    keystore.update_primary_region(eu_shared, US)
    service = keystore._service(EU)
    keystore.schedule_key_deletion(eu_shared, days=7)
    service.lifecycle._now = lambda: 1e12
    service.lifecycle.sweep()
    assert eu_shared not in [key.arn for key in keystore.list_keys(EU)]
    await shared.reopen()
    assert await shared.get(b"f") == b"abc"
    assert keystore.serving_key(eu_shared) == us_shared


async def test_a_disabled_key_is_not_gone_round(store: Path, keystore: Keystore, eu_shared: KeyArn) -> None:
    async with opened(keystore, store) as posix:
        keystore.disable_key(eu_shared)
        with pytest.raises(KeyDisabledError):
            await posix.get(b"f")
    with pytest.raises(KeyDisabledError):
        Tree(keystore, store, TreeOptions())


async def test_a_key_that_another_region_only_claims_does_not_stand_in(
    keystore: Keystore, us_key: KeyArn, tmp_path: Path
) -> None:
    """Else who holds that region's token could wait until this one is away, and read what is written then."""
    single = keystore.create_key(EU, multi_region=True)
    create_tree(keystore, tmp_path / "single", single.arn)
    hsm = keystore._service(US).hsm
    known = new_shared_material(hsm, Region(US), single.key_id, f"kmsfs:{single.key_id}", 32, 0)
    claimed = replace(
        single,
        region=Region(US),
        arn=single.arn_in(Region(US)),
        current_material_id=known.material_id,
        primary_region=Region(US),
        replica_regions=(Region(EU),),
    )
    puts = [
        ("keys", key_values(claimed)),
        ("materials", material_values(Region(US), single.key_id, known, 0)),
    ]
    async with opened(keystore, tmp_path / "single") as posix:
        keystore._service(US).ledger.commit(lambda _: Changes(puts=puts))
        directory = keystore._service(EU).config.token_dir
        assert directory is not None
        away = directory.rename(tmp_path / "away")
        assert keystore.serving_key(single.arn) == single.arn
        with pytest.raises(TokenNotFoundError):
            await posix.put(b"g", b"def")
        away.rename(directory)


async def test_a_region_whose_metadata_were_edited_is_not_gone_round(
    store: Path, keystore: Keystore, eu_shared: KeyArn
) -> None:
    """Else who can edit them could undo what they say: here that the key is disabled."""
    keystore.disable_key(eu_shared)
    with sqlite3.connect(keystore.home / "metadata.db") as database:
        database.execute("UPDATE keys SET state = 'Enabled' WHERE region = ?", (EU,))
    with Keystore.open(keystore.home) as other:
        assert other.serving_key(eu_shared) == eu_shared
        with pytest.raises(MetadataTamperedError):
            other.check_usable(eu_shared)
        with pytest.raises(MetadataTamperedError):
            Tree(other, store, TreeOptions())


async def test_no_stand_in_where_none_is_related(
    shared: Posix, keystore: Keystore, eu_key: KeyArn, us_shared: KeyArn, tmp_path: Path
) -> None:
    single = keystore.create_key(EU, multi_region=True).arn
    directory = keystore._service(EU).config.token_dir
    assert directory is not None
    directory.rename(tmp_path / "away")
    for key_arn in (eu_key, single):
        assert keystore.serving_key(key_arn) == key_arn
        with pytest.raises(TokenNotFoundError):
            keystore.check_usable(key_arn)
    foreign = KeyArn(us_shared.replace(US, "ap-south-1"))  # a region that never had the key
    assert keystore.serving_key(foreign) == foreign
    with pytest.raises(KeyNotFoundError):
        keystore.check_usable(KeyArn(us_shared.replace("mrk-", "mrk-0")[:-1]))


async def test_related_keys_of_one_tree_while_a_region_is_away(
    keystore: Keystore, eu_shared: KeyArn, us_shared: KeyArn, us_key: KeyArn, tmp_path: Path
) -> None:
    """One stands in for the other, and a file is under it once: also in the pool, and when it moves."""
    path = tmp_path / "both"
    create_tree(keystore, path, eu_shared)
    declare(keystore, path, eu_shared, us_shared)
    async with opened(keystore, path) as posix:
        await posix.mkdir(b"zone")
        await posix.make_zone(b"zone", us_key)
        await posix.put(b"f", b"abc")
        assert slots(posix, b"f") == [eu_shared, us_shared]
        directory = keystore._service(EU).config.token_dir
        assert directory is not None
        away = directory.rename(tmp_path / "away")
        pool = posix.pool()
        pool.weed()
        assert pool.fill(20) == 20
        before = keystore.hsm_calls
        await posix.put(b"g", b"def")
        assert (len(pool), keystore.hsm_calls) == (19, before)
        assert slots(posix, b"g") == [us_shared]
        await posix.put(b"zone/h", b"ghi")
        await posix.rename(b"zone/h", b"h")
        assert slots(posix, b"h") == [us_shared]
        away.rename(directory)
