"""A database that schema 1 made is brought to today's schema when it is opened, with every row still authentic."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from kmsfs.crypto.kdf import hmac_sha256
from kmsfs.errors import MetadataUnavailableError
from kmsfs.format.blob import Suite
from kmsfs.ids import Region
from kmsfs.keystore import schema
from kmsfs.keystore.ledger import Changes, Ledger
from kmsfs.keystore.metadata_db import SqliteMetadataStore
from kmsfs.keystore.model import KeyState, RegionConfig
from kmsfs.keystore.rows import tag_values
from kmsfs.keystore.schema import SCHEMA_VERSION

US = Region("us-east-1")
SCHEMA_1 = Path(__file__).with_name("schema1.sql")  # two keys, their material and aliases


def _mac(message: bytes) -> bytes:
    return hmac_sha256(b"k" * 32, message)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "metadata.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCHEMA_1.read_text())
    return path


def _ledger(store: SqliteMetadataStore) -> Ledger:
    config = RegionConfig(US, Path("module"), "token", None, Suite.HSM_GCM, "0" * 12, None)
    return Ledger(config, store, _mac)


def _version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT version FROM schema_info").fetchone()[0])


def test_it_is_upgraded_and_can_be_written(path: Path) -> None:
    assert _version(path) == 1
    with closing(SqliteMetadataStore(path)) as store, closing(SqliteMetadataStore(path)) as other:
        snapshot = _ledger(store).snapshot
        assert [key.state for key in snapshot.keys.values()] == [KeyState.ENABLED] * 2
        assert all(key.deletion_at is key.next_rotation_at is None for key in snapshot.keys.values())
        first = min(snapshot.keys)
        _ledger(store).commit(lambda _: Changes(puts=[("tags", tag_values(US, first, "team", "blue"))]))
        assert _ledger(other).snapshot.tags == {first: {"team": "blue"}}
    assert _version(path) == SCHEMA_VERSION


def test_the_columns_are_those_of_a_new_database(path: Path, tmp_path: Path) -> None:
    SqliteMetadataStore.create(tmp_path / "new.db")
    with closing(SqliteMetadataStore(path)) as store:
        store.read(US)
    columns = []
    for database in (path, tmp_path / "new.db"):
        with closing(sqlite3.connect(database)) as connection:
            tables = [
                name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
            ]
            columns.append(
                {
                    (table, row[1], row[2], row[3])
                    for table in tables
                    for row in connection.execute(f"PRAGMA table_info({table})")
                }
            )
    assert columns[0] == columns[1]


def test_an_upgrade_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setitem(schema._UPGRADES, 2, lambda c: c.exec_driver_sql("ALTER TABLE nothing ADD COLUMN x"))
        with closing(SqliteMetadataStore(path)) as store, pytest.raises(MetadataUnavailableError) as caught:
            store.read(US)
        assert isinstance(caught.value.__cause__, OperationalError)
    assert _version(path) == 1
    with closing(SqliteMetadataStore(path)) as store:
        assert len(_ledger(store).snapshot.keys) == 2
