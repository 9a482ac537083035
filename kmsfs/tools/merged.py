"""The changes of a migration, one for each file: what it was under at first, and what it is under now.

On disk, in a database that goes when it is done with: it costs no memory, however many files there are.
"""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, Final, Self

from kmsfs.tools.journal import Moved
from kmsfs.tools.marks import disk_failures

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from kmsfs.tools.journal import Slots

_TABLE: Final = """
    PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -16384;
    CREATE TABLE files (file_id BLOB PRIMARY KEY, path BLOB, old INTEGER, new INTEGER) WITHOUT ROWID;
    BEGIN;
"""
_AT_ONCE: Final = 1000
_CHANGE: Final = """
    INSERT INTO files VALUES (?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET path = excluded.path, new = excluded.new
"""


class Merged:
    """See the module. Iterates by file id. Use as a context manager; ``path`` is its own."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._path = path
        self._kinds: list[Slots] = []  # few, as keys and their material are: a row names two by number
        self._numbers: dict[Slots, int] = {}
        self._path.unlink(missing_ok=True)  # what a kill has left
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self._db = sqlite3.connect(path, isolation_level=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()
        self._path.unlink()

    def __iter__(self) -> Iterator[Moved]:
        rows = self._db.execute("SELECT file_id, path, old, new FROM files ORDER BY file_id")
        while True:
            with disk_failures(self._path):
                some = rows.fetchmany(_AT_ONCE)
            if not some:
                return
            for file_id, path, old, new in some:
                yield Moved(file_id.hex(), os.fsdecode(path), self._kinds[old], self._kinds[new])

    def add(self, changes: Iterable[Moved]) -> None:
        """Take all changes in, in the order in which they were made. Once only."""
        with disk_failures(self._path):
            self._db.executescript(_TABLE)
            self._db.executemany(_CHANGE, map(self._row, changes))
            self._db.execute("COMMIT")
            (self.count,) = self._db.execute("SELECT count(*) FROM files").fetchone()

    def _row(self, change: Moved) -> tuple[bytes, bytes, int, int]:
        file_id, path = bytes.fromhex(change.file_id), os.fsencode(change.path)
        return file_id, path, self._number(change.old), self._number(change.new)

    def _number(self, slots: Slots) -> int:
        number = self._numbers.setdefault(slots, len(self._kinds))
        if number == len(self._kinds):
            self._kinds.append(slots)
        return number
