"""The PostgreSQL store when the server is away, restarted, read-only, locked, foreign or of another version."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from testkit.postgres import Postgres

from kmsfs.errors import MetadataUnavailableError
from kmsfs.ids import Region
from kmsfs.keystore import metadata_pg
from kmsfs.keystore.metadata_pg import PostgresMetadataStore
from kmsfs.keystore.ports import Row
from kmsfs.keystore.schema import SCHEMA_VERSION
from kmsfs.keystore.service import Keystore

US = Region("us-east-1")


def state(counter: int) -> Row:
    values = {"region": US, "account": "0" * 12, "counter": counter, "rows_digest": "d" * 64}
    return Row("region_state", values, "ab" * 32)


@pytest.fixture
def database(postgres: Postgres) -> str:
    name = postgres.new_database()
    PostgresMetadataStore(postgres.url(name)).create()
    return name


@pytest.fixture
def store(postgres: Postgres, database: str) -> Iterator[PostgresMetadataStore]:
    with closing(PostgresMetadataStore(postgres.url(database))) as store:
        store.write(US, None, [state(0)], [])
        yield store


def refusal(store: PostgresMetadataStore) -> str:
    with closing(store), pytest.raises(MetadataUnavailableError) as caught:
        store.read(US)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_tables_that_are_there_stay(postgres: Postgres, database: str, store: PostgresMetadataStore) -> None:
    PostgresMetadataStore(postgres.url(database)).create()
    assert store.read(US) == [state(0)]


def test_a_database_that_is_missing(postgres: Postgres) -> None:
    assert "database nowhere on " in refusal(PostgresMetadataStore(postgres.url("nowhere")))


def test_a_server_that_is_missing(tmp_path: Path) -> None:
    url = f"postgresql+psycopg:///kms?host={tmp_path}"
    assert "cannot be used" in refusal(PostgresMetadataStore(url))


def test_a_database_without_tables(postgres: Postgres) -> None:
    url = postgres.url(postgres.new_database())
    assert "has no tables of kmsfs" in refusal(PostgresMetadataStore(url))


def test_a_user_without_rights(postgres: Postgres, database: str) -> None:
    postgres.sql(database, f"CREATE ROLE guest_{database} LOGIN")
    url = postgres.url(database, f"guest_{database}")
    assert "no right" in refusal(PostgresMetadataStore(url))


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1])
def test_another_schema_version_is_refused(postgres: Postgres, database: str, version: int) -> None:
    postgres.sql(database, f"UPDATE schema_info SET version = {version}")
    assert "schema" in refusal(PostgresMetadataStore(postgres.url(database)))


def test_a_read_only_server(postgres: Postgres, database: str) -> None:
    postgres.sql(database, f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    with closing(PostgresMetadataStore(postgres.url(database))) as store:
        assert store.read(US) == []
        with pytest.raises(MetadataUnavailableError, match="read-only"):
            store.write(US, None, [state(0)], [])


def test_a_failed_write_leaves_nothing(store: PostgresMetadataStore) -> None:
    broken = Row("aliases", {"region": US, "name": "alias/a"}, "ab" * 32)
    with pytest.raises(MetadataUnavailableError):
        store.write(US, 0, [broken, state(1)], [])
    assert store.read(US) == [state(0)]
    store.write(US, 0, [state(1)], [])


def test_a_restarted_server_is_connected_again(postgres: Postgres, store: PostgresMetadataStore) -> None:
    store.changed()
    postgres.stop()
    postgres.start()
    assert not store.changed()
    postgres.stop()
    try:
        with pytest.raises(MetadataUnavailableError):
            store.read(US)
    finally:
        postgres.start()
    store.write(US, 0, [state(1)], [])
    assert store.read(US) == [state(1)]


def test_a_connection_lost_in_the_middle_fails_that_call_only(
    postgres: Postgres, database: str, store: PostgresMetadataStore
) -> None:
    end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"

    def lose() -> None:
        with store._transaction(store._begin_write) as connection:
            postgres.sql("postgres", end)
            connection.exec_driver_sql("SELECT 1")

    with pytest.raises(MetadataUnavailableError, match="cannot be used"):
        lose()
    assert store.read(US) == [state(0)]
    with store._transaction(store._begin_read) as connection:
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "5s"


def test_a_writer_that_holds_the_lock_too_long_fails_that_call_only(
    postgres: Postgres, database: str, store: PostgresMetadataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata_pg, "SESSION", ("SET lock_timeout = '100ms'",))
    with closing(PostgresMetadataStore(postgres.url(database))) as other:
        with store._transaction(store._begin_write):
            with pytest.raises(MetadataUnavailableError, match="is locked by another process"):
                other.write(US, 0, [state(1)], [])
            assert other.read(US) == [state(0)]
        other.write(US, 0, [state(1)], [])


def test_a_change_before_an_own_write_is_not_missed(
    postgres: Postgres, database: str, store: PostgresMetadataStore
) -> None:
    store.changed()
    with closing(PostgresMetadataStore(postgres.url(database))) as other:
        other.write(US, 0, [state(1)], [])
    store.write(US, 1, [state(2)], [])
    assert store.changed()


def test_a_forked_child_opens_its_own_connection(store: PostgresMetadataStore) -> None:
    store.read(US)
    child = os.fork()
    if not child:
        try:
            store.write(US, 0, [state(1)], [])
            store.close()
            os._exit(0)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert store.read(US) == [state(1)]


@pytest.mark.parametrize(
    "url", ["postgresql+psycopg://kms:geheim@db/kms", "postgresql+psycopg:///kms?password=geheim"]
)
def test_a_password_in_the_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(MetadataUnavailableError, match="holds a password") as caught:
        PostgresMetadataStore(url)
    assert "geheim" not in f"{caught.value} {caught.value.hint}"
    assert "pgpass" in str(caught.value.hint)


@pytest.mark.parametrize(
    "url", ["", "sqlite:///kms", "postgresql+psycopg2://db/kms", "postgresql+psycopg://db"]
)
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(MetadataUnavailableError, match="not of the form"):
        PostgresMetadataStore(url)


def test_hosts_are_named() -> None:
    for tail, named in (("/kms", "this host"), ("/kms?host=a&host=b", "a, b"), ("db/kms", "db")):
        assert PostgresMetadataStore(f"postgresql+psycopg://{tail}")._name.endswith(f" on {named}")


def test_without_psycopg(postgres: Postgres, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert "needs psycopg" in refusal(PostgresMetadataStore(postgres.url(database)))


@pytest.mark.parametrize("content", ["", "[]", '"text"', '{"metadata_url": 1}'])
def test_settings_that_are_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(MetadataUnavailableError, match=r"config\.json"):
        Keystore.open(tmp_path)


def test_settings_without_a_url_mean_sqlite(ks_home: Path) -> None:
    (ks_home / "config.json").write_text(json.dumps({}))
    with Keystore.open(ks_home) as keystore:
        assert keystore.resolve("alias/main", region=US).arn
