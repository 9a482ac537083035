"""What the metadata stores on SQL have in common: rows in and out, through SQLAlchemy Core.

All work goes through one kept connection under one lock. A store says how it connects, how its transactions
begin and what its failures mean.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from threading import RLock
from typing import ClassVar

import sqlalchemy as sa

from kmsfs.errors import MetadataUnavailableError
from kmsfs.ids import Region
from kmsfs.keystore.ports import KEY_COLUMNS, ConflictError, Row, Value
from kmsfs.keystore.schema import INFO, SCHEMA, SCHEMA_VERSION, TABLES, can_upgrade, upgrade

_parents_connections: list[sa.Connection] = []  # a forked child must not even close them


class SqlMetadataStore(ABC):
    """One database. Thread-safe; usable in a forked child."""

    _begin_read: ClassVar[str] = "BEGIN"
    _begin_write: ClassVar[str]  # one writer at a time

    def __init__(self, name: str) -> None:
        self._name = name  # what messages call it
        self._lock = RLock()
        self._connection: sa.Connection | None = None
        self._opened = (0, 0)  # process and database of the kept connection

    def read(self, region: Region) -> list[Row]:
        """Return the region's rows of all tables, as of one moment."""
        with self._transaction(self._begin_read) as connection:
            rows = []
            for name, table in TABLES.items():
                for found in connection.execute(sa.select(table).where(table.c.region == region)).mappings():
                    values = dict(found)
                    mac = values.pop("mac")
                    rows.append(Row(name, values, mac))
            return rows

    def write(
        self,
        region: Region,
        expected_counter: int | None,
        puts: Sequence[Row],
        deletes: Sequence[tuple[str, Value]],
    ) -> None:
        """Apply the rows at once if the region's counter is as expected, else raise ConflictError."""
        state = TABLES["region_state"]
        with self._transaction(self._begin_write) as connection:
            counter = connection.execute(sa.select(state.c.counter).where(state.c.region == region)).scalar()
            if counter != expected_counter:
                raise ConflictError
            for name, key in [*deletes, *(row.key for row in puts)]:
                table = TABLES[name]
                connection.execute(
                    sa.delete(table).where(table.c.region == region, table.c[KEY_COLUMNS[name]] == key)
                )
            for row in puts:
                connection.execute(sa.insert(TABLES[row.table]).values(**row.values, mac=row.mac))

    def close(self) -> None:
        """Release the store."""
        with self._lock:
            self._disconnect()

    @abstractmethod
    def _identity(self) -> int:
        """Return what differs once another database took this one's place."""

    @abstractmethod
    def _open(self) -> sa.Connection:
        """Connect, in autocommit mode."""

    @abstractmethod
    def _failures(self) -> AbstractContextManager[None]:
        """Turn what the database refuses into MetadataUnavailableError."""

    def _begin(self, statement: str) -> sa.Connection:
        connection = self._connected()
        connection.exec_driver_sql(statement)
        return connection

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sa.Connection]:
        with self._lock, self._failures():
            try:
                connection = self._begin(begin)
                yield connection
                connection.commit()
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            connection.rollback()
        finally:
            if connection.invalidated:  # it would come back by itself, without what ``_open`` sets
                self._disconnect()

    def _connected(self) -> sa.Connection:
        here = os.getpid(), self._identity()
        if self._connection is not None and self._opened != here:
            self._disconnect()  # the database was replaced, or this is a forked child
        if self._connection is None:
            connection = self._open()
            try:
                self._require_version(connection)
            except BaseException:
                disconnect(connection)
                raise
            self._connection, self._opened = connection, here
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._opened[0] == os.getpid():
            disconnect(connection)
        else:
            _parents_connections.append(connection)

    def _require_version(self, connection: sa.Connection) -> None:
        """Upgrade an older database; refuse one of a newer version."""
        version = connection.execute(sa.select(INFO.c.version)).scalar()
        connection.commit()
        if version != SCHEMA_VERSION and can_upgrade(version):
            connection.exec_driver_sql(self._begin_write)  # another process may be at it
            version = connection.execute(sa.select(INFO.c.version)).scalar()
            if version is not None and can_upgrade(version):
                upgrade(connection, version)
                version = SCHEMA_VERSION
            connection.commit()
        if version != SCHEMA_VERSION:
            raise MetadataUnavailableError(
                f"{self._name} has schema {version}, not {SCHEMA_VERSION}",
                hint="use the kmsfs version that wrote it",
            )


def make_tables(connection: sa.Connection) -> None:
    """Make the tables of this version, empty."""
    SCHEMA.create_all(connection)
    connection.execute(sa.insert(INFO).values(version=SCHEMA_VERSION))


def disconnect(connection: sa.Connection) -> None:
    """Close a connection and what SQLAlchemy keeps for it."""
    connection.close()
    connection.engine.dispose()
