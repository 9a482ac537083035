"""The SQLite store when the file is missing, locked, damaged, replaced or of another version."""

import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kmsfs.errors import MetadataUnavailableError
from kmsfs.ids import Region
from kmsfs.keystore.metadata_db import SqliteMetadataStore
from kmsfs.keystore.ports import Row
from kmsfs.keystore.schema import SCHEMA_VERSION

US = Region("us-east-1")
STATE = Row(
    "region_state", {"region": US, "account": "0" * 12, "counter": 0, "rows_digest": "d" * 64}, "ab" * 32
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a home" / "metadata#1.db"
    path.parent.mkdir()
    SqliteMetadataStore.create(path)
    return path


@pytest.fixture
def store(path: Path) -> Iterator[SqliteMetadataStore]:
    store = SqliteMetadataStore(path, busy_timeout_s=0.05)
    store.write(US, None, [STATE], [])
    yield store
    store.close()


def test_only_the_owner_may_read_it_and_nothing_else_is_left(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == [path.name]


def test_a_store_is_not_made_over_another(path: Path, store: SqliteMetadataStore) -> None:
    with pytest.raises(FileExistsError):
        SqliteMetadataStore.create(path)
    assert store.read(US) == [STATE]


def test_a_store_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        SqliteMetadataStore.create(tmp_path / "nowhere" / "metadata.db")


def test_a_missing_file_is_never_made_anew(path: Path, store: SqliteMetadataStore) -> None:
    for opened in (store, SqliteMetadataStore(path)):
        for name in os.listdir(path.parent):
            (path.parent / name).unlink()
        for use in (opened.changed, lambda opened=opened: opened.read(US)):
            with pytest.raises(MetadataUnavailableError, match="missing") as caught:
                use()
            assert caught.value.hint
        assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"not a database, only text that is long enough" * 100])
def test_a_damaged_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(MetadataUnavailableError, match="cannot be used"):
        SqliteMetadataStore(path).read(US)


def test_a_damaged_page(path: Path, store: SqliteMetadataStore) -> None:
    store.close()
    raw = bytearray(path.read_bytes())
    raw[4096:] = bytes([0xA5]) * (len(raw) - 4096)
    path.write_bytes(raw)
    with pytest.raises(MetadataUnavailableError):
        SqliteMetadataStore(path).read(US)


def test_text_that_is_no_text(path: Path, store: SqliteMetadataStore) -> None:
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE region_state SET account = CAST(X'ff' AS TEXT)")
    with pytest.raises(MetadataUnavailableError):
        store.read(US)


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1])
def test_another_schema_version_is_refused(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE schema_info SET version = ?", (version,))
    for use in (lambda s: s.read(US), lambda s: s.write(US, None, [STATE], [])):
        with (
            closing(SqliteMetadataStore(path)) as opened,
            pytest.raises(MetadataUnavailableError, match="schema"),
        ):
            use(opened)


def test_a_locked_database_says_so_and_reading_goes_on(path: Path, store: SqliteMetadataStore) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(MetadataUnavailableError, match="locked by another process") as caught:
            store.write(US, 0, [STATE], [])
        assert caught.value.hint
        assert store.read(US) == [STATE]
        assert not store.changed() or store.read(US) == [STATE]
        other.execute("ROLLBACK")
    store.write(US, 0, [STATE], [])


def test_a_database_that_nobody_else_may_read(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with (
            closing(SqliteMetadataStore(path, busy_timeout_s=0.05)) as blocked,
            pytest.raises(MetadataUnavailableError, match="locked"),
        ):
            blocked.read(US)


def test_a_restored_file_is_opened_again(path: Path, store: SqliteMetadataStore) -> None:
    store.changed()
    with closing(SqliteMetadataStore(path)) as other:
        other.write(US, 0, [Row("region_state", {**STATE.values, "counter": 1}, STATE.mac)], [])
    store.close()
    shutil.copy(path, path.with_name("backup"))
    store.changed()
    store.write(US, 1, [Row("region_state", {**STATE.values, "counter": 2}, STATE.mac)], [])
    path.with_name("backup").replace(path)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    assert store.changed()
    assert [row.values["counter"] for row in store.read(US)] == [1]


def test_a_failed_write_leaves_nothing(store: SqliteMetadataStore) -> None:
    broken = Row("aliases", {"region": US, "name": "alias/a"}, "ab" * 32)
    with pytest.raises(MetadataUnavailableError):
        store.write(US, 0, [broken], [])
    assert store.read(US) == [STATE]
    store.write(US, 0, [STATE], [])


def test_a_forked_child_opens_its_own_connection(path: Path, store: SqliteMetadataStore) -> None:
    store.read(US)
    child = os.fork()
    if not child:
        try:
            counted = [row.values["counter"] for row in store.read(US)]
            store.write(US, 0, [Row("region_state", {**STATE.values, "counter": 1}, STATE.mac)], [])
            store.close()
            os._exit(0 if counted == [0] else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert store.changed()
    assert [row.values["counter"] for row in store.read(US)] == [1]
