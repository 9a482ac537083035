"""The metadata in one SQLite file, in WAL mode (port ``MetadataStore``).

``PRAGMA data_version`` of the one kept connection changes only when somebody else commits.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from kmsfs.errors import MetadataUnavailableError
from kmsfs.keystore.metadata_sql import SqlMetadataStore, disconnect, make_tables

BUSY_TIMEOUT_S = 5.0


class SqliteMetadataStore(SqlMetadataStore):
    """One SQLite file in WAL mode."""

    _begin_write = "BEGIN IMMEDIATE"

    def __init__(self, path: Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        super().__init__(f"metadata database {path}")
        self._path = path
        self._busy_timeout_s = busy_timeout_s
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
                make_tables(connection)
                connection.commit()
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                disconnect(connection)
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

    def exclusively(self) -> AbstractContextManager[None]:
        """Nobody: the file is one host's, whose processes hold one another back by a lock in the home."""
        return nullcontext()

    def _identity(self) -> int:
        try:
            return os.stat(self._path).st_ino
        except FileNotFoundError:
            raise MetadataUnavailableError(
                f"{self._name} is missing", hint="restore it from a backup"
            ) from None

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
                    f"{self._name} is locked by another process",
                    hint="wait for it, or find it with fuser",
                ) from error
            raise MetadataUnavailableError(
                f"{self._name} cannot be used: {text}", hint="restore it from a backup"
            ) from error
