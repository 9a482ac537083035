"""The metadata in a PostgreSQL database that several hosts share (port ``MetadataStore``).

Writers take one advisory lock, so that one writes at a time, as on SQLite. A connection that was lost between two
calls is made anew, once; one that is lost within a call fails that call, since nobody knows whether a commit arrived.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from kmsfs.errors import MetadataUnavailableError
from kmsfs.ids import Region
from kmsfs.keystore.metadata_sql import SqlMetadataStore, disconnect, make_tables
from kmsfs.keystore.ports import Row, Value
from kmsfs.keystore.schema import INFO, TABLES

DRIVER = "postgresql+psycopg"
CONNECT = {
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,
    "client_encoding": "utf8",
    "application_name": "kmsfs",
    "prepare_threshold": None,  # a pooler in between may give each transaction another server process
}
SESSION = (
    "SET lock_timeout = '5s'",
    "SET statement_timeout = '30s'",
    # A reserved block of uses that a crash takes back would be used twice.
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
)
_WRITE_LOCK = 5496372151337  # kmsfs's in every version, and the next one

_REFUSALS = {
    "25006": ("is read-only", "name the primary server"),
    "42501": (
        "gives this user no right to its tables",
        "let the owner of the tables grant them, or be that user",
    ),
    "42P01": ("has no tables of kmsfs", "restore it from a backup"),
    "55P03": ("is locked by another process", "wait for it, or look at pg_locks"),
    "57014": ("did not answer in time", "look at the server's log and pg_stat_activity"),
}
_HINT = "see that PostgreSQL runs and lets this user into that database"


class PostgresMetadataStore(SqlMetadataStore):
    """One PostgreSQL database."""

    _begin_read = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    _begin_write = f"BEGIN; SELECT pg_advisory_xact_lock({_WRITE_LOCK})"

    def __init__(self, url: str) -> None:
        self._url = _checked(url)
        super().__init__(f"metadata database {self._url.database} on {_host(self._url)}")
        self._seen: dict[str, int] | None = None

    def create(self) -> None:
        """Make the tables where there are none."""
        with self._failures():
            connection = self._open()
            try:
                connection.exec_driver_sql(self._begin_write)
                if not sa.inspect(connection).has_table(INFO.name):
                    make_tables(connection)
                connection.commit()
            finally:
                disconnect(connection)

    def changed(self) -> bool:
        """Return whether another connection wrote since the last call."""
        state = TABLES["region_state"]
        with self._transaction(self._begin_read) as connection:
            rows = connection.execute(sa.select(state.c.region, state.c.counter))
            found: dict[str, int] = {row.region: row.counter for row in rows}
            seen, self._seen = self._seen, found
            return seen != found

    def write(
        self,
        region: Region,
        expected_counter: int | None,
        puts: Sequence[Row],
        deletes: Sequence[tuple[str, Value]],
    ) -> None:
        """Apply the rows at once if the region's counter is as expected, else raise ConflictError."""
        with self._lock:
            super().write(region, expected_counter, puts, deletes)
            # Own writes are no change, but what somebody else wrote before them is.
            if self._seen is not None and self._seen.get(region) == expected_counter:
                for row in puts:
                    if row.table == "region_state":
                        self._seen[region] = int(str(row.values["counter"]))

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Hold back other hosts that ask for the same."""
        with self._failures():
            connection = self._open()  # of its own: the lock lasts over what the block commits
        try:
            with self._failures():
                connection.exec_driver_sql(f"SELECT pg_advisory_lock({_WRITE_LOCK + 1})")
            yield
        finally:
            disconnect(connection)

    def _begin(self, statement: str) -> sa.Connection:
        try:
            return super()._begin(statement)
        except sa.exc.DBAPIError as error:
            if self._connection is None or not error.connection_invalidated:
                raise
            self._disconnect()
            return super()._begin(statement)

    def _identity(self) -> int:
        return 0

    def _open(self) -> sa.Connection:
        try:
            engine = sa.create_engine(
                self._url, connect_args=CONNECT, poolclass=NullPool, isolation_level="AUTOCOMMIT"
            )
        except ImportError as error:
            raise MetadataUnavailableError(
                f"{self._name} needs psycopg, which is not installed", hint="pip install 'kmsfs[postgresql]'"
            ) from error
        connection = engine.connect()
        for statement in SESSION:
            connection.exec_driver_sql(statement)
        connection.commit()
        return connection

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.DBAPIError as error:
            text = " ".join(str(error.orig).split())
            said, hint = _REFUSALS.get(
                getattr(error.orig, "sqlstate", None) or "", (f"cannot be used: {text}", _HINT)
            )
            raise MetadataUnavailableError(f"{self._name} {said}", hint=hint) from error


def _checked(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.drivername != DRIVER or not parsed.database:
        raise MetadataUnavailableError(
            f"metadata_url is not of the form {DRIVER}://USER@HOST/DATABASE", hint="correct it in config.json"
        )
    if parsed.password is not None or any("password" in name for name in parsed.query):
        raise MetadataUnavailableError(
            "metadata_url holds a password",
            hint="put the password into ~/.pgpass, or a file named by PGPASSFILE",
        )
    return parsed


def _host(url: sa.URL) -> str:
    named = url.host or url.query.get("host") or "this host"
    return named if isinstance(named, str) else ", ".join(named)
