"""Metadata with proof: whatever is edited, removed, added, moved or replayed is refused."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmsfs.crypto.kdf import hmac_sha256
from kmsfs.errors import MetadataTamperedError, MetadataUnavailableError
from kmsfs.format.blob import Suite
from kmsfs.ids import KeyArn, KeyId, MaterialId, Region
from kmsfs.keystore.ledger import ATTEMPTS, Changes, Ledger
from kmsfs.keystore.metadata_db import SqliteMetadataStore
from kmsfs.keystore.model import (
    AliasEntry,
    ImportState,
    KeyManager,
    KeyMetadata,
    KeySpec,
    KeyState,
    KeyUsage,
    Material,
    Origin,
    RegionConfig,
    Retirement,
    RotationType,
)
from kmsfs.keystore.ports import ConflictError, Row
from kmsfs.keystore.rows import (
    alias_values,
    key_values,
    material_values,
    row_bytes,
    rows_digest,
    tag_values,
)
from kmsfs.keystore.snapshot import Snapshot

US, EU = Region("us-east-1"), Region("eu-west-1")
KEY = b"k" * 32


def config(region: Region = US) -> RegionConfig:
    return RegionConfig(region, Path("module"), "token", None, Suite.HSM_GCM, "0" * 12, None)


class Mac:
    """The token's HMAC, counted."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, message: bytes) -> bytes:
        self.calls += 1
        return hmac_sha256(KEY, message)


def sample_changes(region: Region, number: int) -> Changes:
    material = Material(MaterialId(bytes([number]) * 32), Suite.HSM_GCM, 1.5)
    key_id = KeyId(f"key-{number}")
    key = KeyMetadata(
        key_id, KeyArn(""), region, "0" * 12, "a description", KeyState.ENABLED, KeyManager.CUSTOMER, 1.25,
        material.material_id, (material,),
    )  # fmt: skip
    alias = AliasEntry(f"alias/{number}", "", region, key_id, 1.0, 2.0)
    return Changes(
        puts=[
            ("keys", key_values(key)),
            ("materials", material_values(region, key_id, material, 7)),
            ("aliases", alias_values(alias)),
            ("tags", tag_values(region, key_id, "team", "blue")),
        ]
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "metadata.db"
    SqliteMetadataStore.create(path)
    return path


@pytest.fixture
def connect(path: Path) -> Iterator[Callable[..., Ledger]]:
    stores = []

    def open_one(region: Region = US, mac: Mac | None = None) -> Ledger:
        stores.append(SqliteMetadataStore(path))
        return Ledger(config(region), stores[-1], mac or Mac())

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture
def ledger(connect: Callable[..., Ledger]) -> Ledger:
    ledger = connect()
    ledger.initialize()
    ledger.commit(lambda _: sample_changes(US, 1))
    ledger.commit(lambda _: sample_changes(US, 2))
    return ledger


def edit(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        assert database.execute(statement, values).rowcount


def columns(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as database:
        return [
            (table, column[1])
            for table in ("region_state", "keys", "materials", "aliases", "tags")
            for column in database.execute(f"PRAGMA table_info({table})")
        ]


def test_what_was_written_is_read_and_proved(ledger: Ledger, connect: Callable[..., Ledger]) -> None:
    snapshot = connect().snapshot
    assert snapshot == ledger.snapshot
    assert snapshot.counter == 2
    key = snapshot.keys[KeyId("key-1")]
    assert (key.description, key.created_at, key.state) == ("a description", 1.25, KeyState.ENABLED)
    assert key.arn == "arn:aws:kms:us-east-1:000000000000:key/key-1"
    assert snapshot.materials[MaterialId(b"\2" * 32)].key.key_id == "key-2"
    assert snapshot.aliases["alias/2"].updated_at == 2.0
    assert snapshot.uses_reserved[MaterialId(b"\1" * 32)] == 7


def test_a_key_of_every_kind_is_read_as_it_was_written(
    ledger: Ledger, connect: Callable[..., Ledger]
) -> None:
    material = Material(
        MaterialId(b"\3" * 32),
        Suite.HSM_GCM,
        1.5,
        RotationType.ON_DEMAND,
        expires_at=9.5,
        import_state=ImportState.MISSING,
        description="from the vault",
        sealed="c0ffee",
        retirement=Retirement.RETIRING,
    )
    key = replace(
        ledger.snapshot.keys[KeyId("key-1")],
        key_id=KeyId("key-3"),
        arn=KeyArn("arn:aws:kms:us-east-1:000000000000:key/key-3"),
        usage=KeyUsage.GENERATE_VERIFY_MAC,
        spec=KeySpec.HMAC_384,
        origin=Origin.EXTERNAL,
        current_material_id=None,
        materials=(material,),
        primary_region=EU,
        replica_regions=(US, Region("ap-south-1")),
        former_regions=(Region("us-west-2"),),
        deletion_days=7,
    )
    row = material_values(US, key.key_id, material, 0)
    ledger.commit(lambda _: Changes(puts=[("keys", key_values(key)), ("materials", row)]))
    assert connect().snapshot.keys[key.key_id] == key


def test_usual_values_are_those_of_rows_that_do_not_have_them(ledger: Ledger) -> None:
    """So the MACs of rows that an older version wrote stay valid."""
    key = ledger.snapshot.keys[KeyId("key-1")]
    rows = [key_values(key), material_values(US, key.key_id, key.materials[0], 0)]
    assert [name for row in rows for name, value in row.items() if value is None] == [
        *("deletion_at", "rotation_period_days", "next_rotation_at", "key_usage", "key_spec", "origin"),
        *("primary_region", "replica_regions", "former_regions", "deletion_days"),
        *("rotation_type", "expires_at", "import_state", "description", "sealed", "retirement"),
    ]


def test_there_are_columns_of_five_tables(path: Path) -> None:
    assert len(columns(path)) == 46


TABLE_COLUMNS = [
    (table, column)
    for table, names in {
        "region_state": "region account counter rows_digest mac",
        "keys": "region key_id state manager description created_at current_material deletion_at"
        " rotation_period_days next_rotation_at key_usage key_spec origin primary_region replica_regions"
        " former_regions deletion_days mac",
        "materials": "region material_id key_id suite created_at uses_reserved rotation_type expires_at"
        " import_state description sealed retirement mac",
        "aliases": "region name key_id created_at updated_at mac",
        "tags": "region tag_id tag_value mac",
    }.items()
    for column in names.split()
]


def test_every_column_is_in_the_table_of_edits(path: Path) -> None:
    assert columns(path) == TABLE_COLUMNS


@pytest.mark.parametrize(
    "value",
    ["'edited'", "5", "-1", "0", "''", "1.5", "X'00'"],
    ids=["text", "5", "-1", "0", "empty", "float", "bytes"],
)
@pytest.mark.parametrize(("table", "column"), TABLE_COLUMNS)
def test_an_edit_of_any_column_is_refused(
    ledger: Ledger, connect: Callable[..., Ledger], path: Path, table: str, column: str, value: str
) -> None:
    edit(path, f"UPDATE {table} SET {column} = {value} WHERE rowid = (SELECT min(rowid) FROM {table})")
    with pytest.raises(MetadataTamperedError):
        _ = connect().snapshot
    with pytest.raises(MetadataTamperedError):
        ledger.reload()


@pytest.mark.parametrize("table", ["keys", "materials", "aliases", "region_state"])
def test_a_removed_row_is_missed(
    ledger: Ledger, connect: Callable[..., Ledger], path: Path, table: str
) -> None:
    edit(path, f"DELETE FROM {table} WHERE rowid = (SELECT min(rowid) FROM {table})")
    for reader in (ledger, connect()):
        with pytest.raises(MetadataTamperedError):
            reader.reload()


def test_a_removed_region_is_missed(ledger: Ledger, connect: Callable[..., Ledger], path: Path) -> None:
    for table in ("keys", "materials", "aliases", "region_state"):
        edit(path, f"DELETE FROM {table}")
    with pytest.raises(MetadataTamperedError):
        _ = connect().snapshot


def test_an_older_row_is_not_taken_back(ledger: Ledger, connect: Callable[..., Ledger], path: Path) -> None:
    key = ledger.snapshot.keys[KeyId("key-1")]
    with closing(sqlite3.connect(path)) as database:
        (mac,) = database.execute("SELECT mac FROM keys WHERE key_id = 'key-1'").fetchone()
    ledger.commit(lambda _: Changes(puts=[("keys", key_values(replace(key, state=KeyState.DISABLED)))]))
    edit(path, "UPDATE keys SET state = 'Enabled', mac = ? WHERE key_id = 'key-1'", mac)
    with pytest.raises(MetadataTamperedError, match="removed or replayed"):
        _ = connect().snapshot


def test_a_removed_row_is_not_put_back(ledger: Ledger, connect: Callable[..., Ledger], path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        row = database.execute("SELECT * FROM aliases WHERE name = 'alias/1'").fetchone()
    ledger.commit(lambda _: Changes(deletes=[("aliases", "alias/1")]))
    assert set(connect().snapshot.aliases) == {"alias/2"}
    edit(path, "INSERT INTO aliases VALUES (?, ?, ?, ?, ?, ?)", *row)
    with pytest.raises(MetadataTamperedError):
        _ = connect().snapshot


def test_a_row_of_another_region_is_refused(
    ledger: Ledger, connect: Callable[..., Ledger], path: Path
) -> None:
    other = connect(EU)
    other.initialize()
    edit(path, "UPDATE keys SET region = 'eu-west-1' WHERE key_id = 'key-1'")
    for region in (US, EU):
        with pytest.raises(MetadataTamperedError):
            _ = connect(region).snapshot


def test_another_account_in_the_configuration_is_refused(ledger: Ledger, path: Path) -> None:
    with closing(SqliteMetadataStore(path)) as store:
        other = Ledger(replace(config(), account="1" * 12), store, Mac())
        with pytest.raises(MetadataTamperedError, match="account"):
            _ = other.snapshot


def test_another_token_cannot_vouch_for_the_rows(ledger: Ledger, path: Path) -> None:
    with closing(SqliteMetadataStore(path)) as store:
        other = Ledger(config(), store, lambda message: hmac_sha256(b"x" * 32, message))
        with pytest.raises(MetadataTamperedError):
            _ = other.snapshot


def test_a_database_that_was_set_back_is_refused_by_whoever_saw_more(
    ledger: Ledger, connect: Callable[..., Ledger], path: Path
) -> None:
    with closing(sqlite3.connect(path)) as database, closing(sqlite3.connect(path.with_name("old"))) as old:
        database.backup(old)
    ledger.commit(lambda _: sample_changes(US, 3))
    with closing(sqlite3.connect(path)) as database, closing(sqlite3.connect(path.with_name("old"))) as old:
        old.backup(database)
    with pytest.raises(MetadataTamperedError, match="older state"):
        ledger.reload()
    # This is what docs/keystore.md says is not detected: a process that saw no later counter.
    assert connect().snapshot.counter == 2


def test_a_database_that_was_set_back_and_changed_as_often_again_is_refused(
    ledger: Ledger, connect: Callable[..., Ledger], path: Path
) -> None:
    with closing(sqlite3.connect(path)) as database, closing(sqlite3.connect(path.with_name("old"))) as old:
        database.backup(old)
    ledger.commit(lambda _: sample_changes(US, 3))
    with closing(sqlite3.connect(path)) as database, closing(sqlite3.connect(path.with_name("old"))) as old:
        old.backup(database)
    assert connect().commit(lambda _: sample_changes(US, 4)).counter == ledger.snapshot.counter
    with pytest.raises(MetadataTamperedError, match="older state"):
        ledger.reload()


def test_unchanged_rows_cost_no_hsm_call(ledger: Ledger, connect: Callable[..., Ledger]) -> None:
    mac = Mac()
    reader = connect(US, mac)
    assert reader.counter is None
    _ = reader.snapshot
    assert mac.calls == 9
    reader.reload()
    assert (mac.calls, reader.counter) == (9, 2)
    ledger.commit(lambda _: Changes(deletes=[("aliases", "alias/1")]))
    reader.reload()
    assert (mac.calls, reader.counter) == (10, 3)


def test_initializing_twice_changes_nothing(ledger: Ledger) -> None:
    ledger.initialize()
    assert ledger.counter == 2


def test_two_writers_lose_nothing(ledger: Ledger, connect: Callable[..., Ledger]) -> None:
    other = connect()
    _ = other.snapshot
    ledger.commit(lambda _: sample_changes(US, 3))
    other.commit(lambda _: sample_changes(US, 4))
    assert set(connect().snapshot.keys) == {"key-1", "key-2", "key-3", "key-4"}


def test_a_change_is_decided_again_when_another_was_first(
    ledger: Ledger, connect: Callable[..., Ledger]
) -> None:
    other = connect()
    seen: list[int] = []

    def decide(snapshot: Snapshot) -> Changes:
        seen.append(snapshot.counter)
        if len(seen) == 1:
            other.commit(lambda _: sample_changes(US, 3))
        return sample_changes(US, 4)

    assert ledger.commit(decide).counter == 4
    assert seen == [2, 3]


def test_a_change_that_is_always_overtaken_gives_up(ledger: Ledger, path: Path) -> None:
    class Overtaken(SqliteMetadataStore):
        def write(self, *_: Any) -> None:
            raise ConflictError

    with closing(Overtaken(path)) as store:
        tries = []
        with pytest.raises(MetadataUnavailableError, match="busy"):
            Ledger(config(), store, Mac()).commit(lambda s: tries.append(s) or sample_changes(US, 9))  # type: ignore[func-returns-value]
        assert len(tries) == ATTEMPTS


def test_what_changes_nothing_is_not_written(ledger: Ledger) -> None:
    before = ledger.reload()
    assert ledger.commit(lambda _: Changes()).counter == before.counter == ledger.reload().counter


def test_a_refused_change_changes_nothing(ledger: Ledger, connect: Callable[..., Ledger]) -> None:
    def refuse(_: Snapshot) -> Changes:
        raise ValueError

    with pytest.raises(ValueError):
        ledger.commit(refuse)
    assert connect().snapshot == ledger.snapshot


def test_a_key_may_stand_without_material(ledger: Ledger, path: Path) -> None:
    ledger.commit(lambda _: Changes(deletes=[("materials", "01" * 32)]))
    assert ledger.snapshot.keys[KeyId("key-1")].materials == ()


# --- the encoding under the MAC -----------------------------------------------------------------
values = st.dictionaries(
    st.text("abc_", min_size=1, max_size=6),
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=6),
    max_size=5,
)


@given(values, values, st.sampled_from(["keys", "aliases"]), st.sampled_from(["keys", "aliases"]))
def test_encoding_of_rows_is_injective(left: dict, right: dict, left_table: str, right_table: str) -> None:  # type: ignore[type-arg]
    present = [{name: value for name, value in row.items() if value is not None} for row in (left, right)]
    same = left_table == right_table and present[0] == present[1]
    assert (row_bytes(left_table, left) == row_bytes(right_table, right)) == same


def test_a_number_is_not_its_text_and_null_is_absence() -> None:
    assert row_bytes("t", {"a": 1}) != row_bytes("t", {"a": "1"})
    assert row_bytes("t", {"a": ""}) != row_bytes("t", {"a": None}) == row_bytes("t", {})


@pytest.mark.parametrize("value", [1.5, b"x", True])
def test_no_other_types_are_encoded(value: object) -> None:
    with pytest.raises(MetadataTamperedError):
        row_bytes("t", {"a": value})  # type: ignore[dict-item]


def test_the_digest_is_over_the_set_of_rows() -> None:
    rows = [Row("keys", {"key_id": name}, name * 4) for name in "abc"]
    assert rows_digest(rows) == rows_digest(rows[::-1])
    assert len({rows_digest(rows[:count]) for count in range(4)}) == 4
