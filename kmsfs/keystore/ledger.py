"""A region's metadata with proof: every row read is verified, every row written is authenticated.

The MAC key lives in the region's token. A row's MAC covers table, primary key and all columns; the state row
covers a change counter and a digest over the set of rows. So an edited, moved, removed or replayed row is
refused. What goes unnoticed is a rollback of the whole database to an older moment, except by a process that
has already seen a later counter.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from threading import RLock

from kmsfs.crypto.kdf import equal
from kmsfs.errors import MetadataTamperedError, MetadataUnavailableError
from kmsfs.keystore.model import RegionConfig
from kmsfs.keystore.ports import ConflictError, MetadataStore, Row, Value
from kmsfs.keystore.rows import Values, row_bytes, rows_digest, state_values
from kmsfs.keystore.snapshot import Snapshot, build_snapshot

ATTEMPTS = 50  # of a change that other writers overtake

_STATE = "region_state"


@dataclass(frozen=True, slots=True)
class Changes:
    """What one change does to the rows: (table, values) to put, (table, primary key) to remove."""

    puts: Sequence[tuple[str, Values]] = field(default=())
    deletes: Sequence[tuple[str, Value]] = field(default=())


class Ledger:
    """The rows of one region. Thread-safe."""

    def __init__(self, config: RegionConfig, store: MetadataStore, mac: Callable[[bytes], bytes]) -> None:
        self._config = config
        self._store = store
        self._mac = mac
        self._lock = RLock()
        self._rows: dict[tuple[str, Value], Row] = {}
        self.latest: Snapshot | None = None  # None until it is first read

    @property
    def snapshot(self) -> Snapshot:
        """The metadata as last read; reads it the first time."""
        return self.latest or self.reload()

    @property
    def counter(self) -> int | None:
        """The change counter as last read; None if nothing was read yet."""
        return None if self.latest is None else self.latest.counter

    def fingerprint(self, message: bytes) -> bytes:
        """Return what nobody can compute without the token. ``message`` must not look like a row's bytes."""
        return self._mac(message)

    def reload(self) -> Snapshot:
        """Read and verify the region's rows; those that did not change cost no HSM call."""
        with self._lock:
            rows = self._store.read(self._config.region)
            for row in rows:
                if self._rows.get(row.key) != row:
                    self._verify(row)
            return self._accept(rows)

    def initialize(self) -> None:
        """Write the state row of a region that has none; leave one that is there alone."""
        with self._lock:
            if self._store.read(self._config.region):
                self.reload()
                return
            self._store.write(self._config.region, None, [self._state_row(0, [])], [])

    def commit(self, decide: Callable[[Snapshot], Changes]) -> Snapshot:
        """Apply what ``decide`` makes of the current metadata; asked again if another writer was first."""
        with self._lock:
            for _ in range(ATTEMPTS):
                snapshot = self.reload()
                changes = decide(snapshot)
                if not changes.puts and not changes.deletes:
                    return snapshot
                try:
                    return self._write(snapshot.counter, changes)
                except ConflictError:
                    continue
        raise MetadataUnavailableError(
            f"metadata of region {self._config.region} is busy with other writers", hint="try again"
        )

    def _write(self, counter: int, changes: Changes) -> Snapshot:
        puts = [self._sign(table, values) for table, values in changes.puts]
        gone = set(changes.deletes)
        after = {key: row for key, row in self._rows.items() if key not in gone}
        after |= {row.key: row for row in puts}
        after.pop((_STATE, self._config.region))
        state = self._state_row(counter + 1, after.values())
        self._store.write(self._config.region, counter, [*puts, state], changes.deletes)
        return self._accept([*after.values(), state])

    def _accept(self, rows: Sequence[Row]) -> Snapshot:
        region = self._config.region
        state = next((row for row in rows if row.table == _STATE), None)
        others = [row for row in rows if row is not state]
        if state is None or state.values["rows_digest"] != rows_digest(others):
            raise MetadataTamperedError(
                f"metadata of region {region}: rows were removed or replayed", hint=_HINT
            )
        if state.values["account"] != self._config.account:
            raise MetadataTamperedError(
                f"account in the configuration of region {region} was changed", hint=_HINT
            )
        snapshot = build_snapshot(state, others)
        if self._is_older(state):
            raise MetadataTamperedError(
                f"metadata of region {region} was set back to an older state", hint=_HINT
            )
        self._rows = {row.key: row for row in rows}
        self.latest = snapshot
        return snapshot

    def _is_older(self, state: Row) -> bool:
        """Whether what was seen before came later, or at the same count of changes and differs: one was set back."""
        if self.latest is None:
            return False
        seen = self._rows[_STATE, self._config.region]
        before, now = self.latest.counter, int(str(state.values["counter"]))
        return now < before or (now == before and state != seen)

    def _state_row(self, counter: int, rows: Iterable[Row]) -> Row:
        config = self._config
        return self._sign(_STATE, state_values(config.region, config.account, counter, rows_digest(rows)))

    def _sign(self, table: str, values: Values) -> Row:
        return Row(table, values, self._mac(row_bytes(table, values)).hex())

    def _verify(self, row: Row) -> None:
        authentic = self._mac(row_bytes(row.table, row.values)).hex()
        if not isinstance(row.mac, str) or not equal(authentic.encode(), row.mac.encode()):
            raise MetadataTamperedError(
                f"metadata of region {self._config.region}: a row of table {row.table} is not authentic",
                hint=_HINT,
            )


_HINT = "somebody edited the metadata database: restore it from a backup"
