"""The metadata store on SQL, through SQLAlchemy Core: SQLite in one file (port ``MetadataStore``).

All work goes through one kept connection under one lock, so that ``PRAGMA data_version`` changes only when
somebody else commits.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from kmsfs.errors import MetadataUnavailableError
from kmsfs.ids import Region
from kmsfs.keystore.ports import KEY_COLUMNS, ConflictError, Row, Value
from kmsfs.keystore.schema import INFO, SCHEMA, SCHEMA_VERSION, TABLES, can_upgrade, upgrade

BUSY_TIMEOUT_S = 5.0

_parents_connections: list[sa.Connection] = []  # SQLite forbids a forked child even to close them


class SqliteMetadataStore:
    """One SQLite file in WAL mode."""

    def __init__(self, path: Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self._path = path
        self._busy_timeout_s = busy_timeout_s
        self._lock = RLock()
        self._connection: sa.Connection | None = None
        self._opened = (0, 0)  # process and inode of the kept connection
        self._seen: tuple[int, int] | None = None

    @classmethod
    def create(cls, path: Path) -> None:
        """Make an empty store at ``path`` (0600), where there is none."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            store = cls(temporary)
            with store._failures():
                connection = store._open()
                SCHEMA.create_all(connection)
                connection.execute(sa.insert(INFO).values(version=SCHEMA_VERSION))
                connection.commit()
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                _close(connection)
            os.link(temporary, path)
        finally:
            for suffix in ("", "-wal", "-shm"):
                temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)

    def changed(self) -> bool:
        """Return whether another connection wrote since the last call."""
        with self._lock, self._failures():
            connection = self._connected()
            raw = connection.connection.dbapi_connection
            assert raw is not None  # noqa: S101
            version = raw.execute("PRAGMA data_version").fetchone()[0]
            seen, self._seen = self._seen, (version, self._opened[1])
            return seen != self._seen

    def read(self, region: Region) -> list[Row]:
        """Return the region's rows of all tables, as of one moment."""
        with self._transaction("BEGIN") as connection:
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
        with self._transaction("BEGIN IMMEDIATE") as connection:
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

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sa.Connection]:
        with self._lock, self._failures():
            connection = self._connected()
            try:
                connection.exec_driver_sql(begin)
                yield connection
                connection.commit()
            except BaseException:
                connection.rollback()
                raise

    def _connected(self) -> sa.Connection:
        try:
            here = os.getpid(), os.stat(self._path).st_ino
        except FileNotFoundError:
            raise MetadataUnavailableError(
                f"metadata database {self._path} is missing", hint="restore it from a backup"
            ) from None
        if self._connection is not None and self._opened != here:
            self._disconnect()  # the file was replaced, or this is a forked child
        if self._connection is None:
            connection = self._open()
            try:
                _require_version(self._path, connection)
            except BaseException:
                _close(connection)
                raise
            self._connection, self._opened = connection, here
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._opened[0] == os.getpid():
            _close(connection)
        else:
            _parents_connections.append(connection)

    def _open(self) -> sa.Connection:
        engine = sa.create_engine("sqlite://", creator=self._connect_sqlite, poolclass=StaticPool)
        return engine.connect()

    def _connect_sqlite(self) -> sqlite3.Connection:
        uri = f"{self._path.absolute().as_uri()}?mode=rw"  # never creates
        connection = sqlite3.connect(
            uri, uri=True, timeout=self._busy_timeout_s, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (sa.exc.DatabaseError, sqlite3.DatabaseError, OSError) as error:
            text = str(getattr(error, "orig", None) or error)
            if "locked" in text:
                raise MetadataUnavailableError(
                    f"metadata database {self._path} is locked by another process",
                    hint="wait for it, or find it with fuser",
                ) from error
            raise MetadataUnavailableError(
                f"metadata database {self._path} cannot be used: {text}", hint="restore it from a backup"
            ) from error


def _require_version(path: Path, connection: sa.Connection) -> None:
    """Upgrade an older database; refuse one of a newer version."""
    version = connection.execute(sa.select(INFO.c.version)).scalar()
    connection.commit()
    if version != SCHEMA_VERSION and can_upgrade(version):
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # another process may be at it
        version = connection.execute(sa.select(INFO.c.version)).scalar()
        if version is not None and can_upgrade(version):
            upgrade(connection, version)
            version = SCHEMA_VERSION
        connection.commit()
    if version != SCHEMA_VERSION:
        raise MetadataUnavailableError(
            f"metadata database {path} has schema {version}, not {SCHEMA_VERSION}",
            hint="use the kmsfs version that wrote it",
        )


def _close(connection: sa.Connection) -> None:
    connection.close()
    connection.engine.dispose()
