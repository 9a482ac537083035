"""What every implementation of the port ``MetadataStore`` does."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kmsfs.ids import Region
from kmsfs.keystore.metadata_db import SqliteMetadataStore
from kmsfs.keystore.metadata_pg import PostgresMetadataStore
from kmsfs.keystore.ports import ConflictError, MetadataStore, Row, Value

US, EU = Region("us-east-1"), Region("eu-west-1")
MAC = "ab" * 32

Connect = Callable[[], MetadataStore]


@pytest.fixture(params=["sqlite", "postgresql"])
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connect]:
    """Opens one more connection to one store."""
    stores: list[MetadataStore] = []
    path, url = tmp_path / "metadata.db", ""
    if request.param == "sqlite":
        SqliteMetadataStore.create(path)
    else:
        postgres = request.getfixturevalue("postgres")
        url = postgres.url(postgres.new_database())
        PostgresMetadataStore(url).create()

    def open_one() -> MetadataStore:
        stores.append(PostgresMetadataStore(url) if url else SqliteMetadataStore(path))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture
def store(connect: Connect) -> MetadataStore:
    return connect()


def state(counter: int, region: Region = US) -> Row:
    values: dict[str, Value] = {
        "region": region, "account": "0" * 12, "counter": counter, "rows_digest": "d" * 64
    }  # fmt: skip
    return Row("region_state", values, MAC)


def alias(name: str, key_id: str = "k1", region: Region = US) -> Row:
    values: dict[str, Value] = {
        "region": region, "name": name, "key_id": key_id, "created_at": 2**60, "updated_at": -1
    }  # fmt: skip
    return Row("aliases", values, MAC)


def key(key_id: str, description: str = "") -> Row:
    values: dict[str, Value] = {
        "region": US, "key_id": key_id, "state": "Enabled", "manager": "CUSTOMER", "description": description,
        "created_at": 1, "current_material": "c" * 64, "deletion_at": None, "rotation_period_days": None,
        "next_rotation_at": None, "key_usage": None, "key_spec": None, "origin": None, "primary_region": None,
        "replica_regions": None, "former_regions": None, "deletion_days": None,
    }  # fmt: skip
    return Row("keys", values, MAC)


def material(material_id: str) -> Row:
    values: dict[str, Value] = {
        "region": US, "material_id": material_id, "key_id": "k1", "suite": 1, "created_at": 1,
        "uses_reserved": 2**32, "rotation_type": None, "expires_at": None, "import_state": None,
        "description": None, "sealed": None, "retirement": None,
    }  # fmt: skip
    return Row("materials", values, MAC)


def by_key(rows: list[Row]) -> dict[tuple[str, Value], Row]:
    return {row.key: row for row in rows}


def test_a_new_store_has_no_rows(store: MetadataStore) -> None:
    assert store.read(US) == []


def test_rows_come_back_as_they_were_written(store: MetadataStore) -> None:
    rows = [state(0), key("k1", "ümläut ' \" ; -- \U0001f511"), material("m" * 64), alias("alias/a")]
    store.write(US, None, rows, [])
    assert by_key(store.read(US)) == by_key(rows)


def test_regions_do_not_mix(store: MetadataStore) -> None:
    store.write(US, None, [state(0), alias("alias/a", "us")], [])
    store.write(EU, None, [state(5, EU), alias("alias/a", "eu", EU)], [])
    assert [row.values["key_id"] for row in store.read(EU) if row.table == "aliases"] == ["eu"]
    assert [row.values["key_id"] for row in store.read(US) if row.table == "aliases"] == ["us"]


def test_a_write_replaces_and_deletes(store: MetadataStore) -> None:
    store.write(US, None, [state(0), alias("alias/a"), alias("alias/b")], [])
    store.write(US, 0, [state(1), alias("alias/a", "k2")], [("aliases", "alias/b")])
    assert by_key(store.read(US)) == by_key([state(1), alias("alias/a", "k2")])


@pytest.mark.parametrize("expected", [None, 0, 2])
def test_a_write_that_another_overtook_changes_nothing(store: MetadataStore, expected: int | None) -> None:
    store.write(US, None, [state(1), alias("alias/a")], [])
    with pytest.raises(ConflictError):
        store.write(US, expected, [state(3), alias("alias/b")], [("aliases", "alias/a")])
    assert by_key(store.read(US)) == by_key([state(1), alias("alias/a")])


def test_a_region_without_state_expects_none(store: MetadataStore) -> None:
    with pytest.raises(ConflictError):
        store.write(US, 0, [state(1)], [])
    store.write(US, None, [state(0)], [])


def test_changes_of_others_are_seen_once(connect: Connect) -> None:
    mine, other = connect(), connect()
    mine.changed()
    assert not mine.changed()
    other.write(US, None, [state(0)], [])
    assert mine.changed()
    assert not mine.changed()
    assert mine.read(US) == [state(0)]


def test_a_change_between_reading_and_asking_is_not_missed(connect: Connect) -> None:
    mine, other = connect(), connect()
    mine.changed()
    other.write(US, None, [state(0)], [])
    mine.read(EU)
    assert mine.changed()


def test_own_writes_are_no_change(store: MetadataStore) -> None:
    store.changed()
    store.write(US, None, [state(0)], [])
    assert not store.changed()


def test_one_of_two_writers_wins(connect: Connect) -> None:
    first, second = connect(), connect()
    first.write(US, None, [state(0)], [])
    first.write(US, 0, [state(1), alias("alias/first")], [])
    with pytest.raises(ConflictError):
        second.write(US, 0, [state(1), alias("alias/second")], [])
    second.write(US, 1, [state(2), alias("alias/second")], [])
    names = {row.values["name"] for row in first.read(US) if row.table == "aliases"}
    assert names == {"alias/first", "alias/second"}


def test_a_closed_store_can_be_used_again(store: MetadataStore) -> None:
    store.write(US, None, [state(0)], [])
    store.close()
    store.close()
    assert store.read(US) == [state(0)]


def test_one_host_at_a_time_holds_what_is_exclusive(connect: Connect) -> None:
    one, two = connect(), connect()
    if not isinstance(one, PostgresMetadataStore):
        with one.exclusively(), two.exclusively():
            return  # the processes of one host have a lock of their own, in the home
    order: list[str] = []
    with ThreadPoolExecutor() as pool:
        with one.exclusively():
            waiting = pool.submit(_note_exclusively, two, order)
            postgres_waits(two)
            one.write(US, None, [state(1)], [])  # ordinary writes go on
            order.append("one")
        waiting.result()
    assert order == ["one", "two"]


def _note_exclusively(store: MetadataStore, order: list[str]) -> None:
    with store.exclusively():
        order.append("two")


def postgres_waits(store: PostgresMetadataStore) -> None:
    """Wait until some session waits for an advisory lock."""
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with store._failures():
        connection = store._open()
        try:
            while not connection.exec_driver_sql(query).scalar():
                pass
        finally:
            connection.close()
