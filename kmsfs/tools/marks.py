"""Which files of a tree have got a new data key in one migration, on disk: it costs no memory, however many they are.

A file's commitment names its data key. The new one is marked, durably, before the file that has it takes its place: a
file is done if, and only if, the commitment in its header is marked.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

NAME: Final = "reencrypted.db"

_TABLES: Final = """
    CREATE TABLE IF NOT EXISTS made (commitment BLOB PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS links (
        commitment BLOB PRIMARY KEY, generation INTEGER, old_generation INTEGER, paths BLOB
    ) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Links:
    """A file of several names, and the generations of its new and its old header while they are being replaced."""

    commitment: bytes
    generation: int
    old_generation: int
    paths: tuple[bytes, ...]


class Marks:
    """The marks of one migration. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._failing():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path)
            self._db.executescript(f"PRAGMA synchronous = FULL; {_TABLES}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def has(self, commitment: bytes) -> bool:
        """Whether a data key was made in this migration."""
        with self._failing():
            found = self._db.execute("SELECT 1 FROM made WHERE commitment = ?", (commitment,)).fetchone()
        return found is not None

    def add(self, commitments: Sequence[bytes], links: Links | None = None) -> None:
        """Mark what is about to take its place, and remember the names of a file that has several. Durable."""
        with self._failing(), self._db:
            self._db.executemany("INSERT OR IGNORE INTO made VALUES (?)", ((one,) for one in commitments))
            if links is not None:
                row = (links.commitment, links.generation, links.old_generation, b"\0".join(links.paths))
                self._db.execute("INSERT INTO links VALUES (?, ?, ?, ?)", row)

    def linked(self, commitment: bytes) -> None:
        """All names of a file lead to the new one."""
        with self._failing(), self._db:
            self._db.execute("DELETE FROM links WHERE commitment = ?", (commitment,))

    def unfinished(self) -> list[Links]:
        """The files whose names were being replaced when the migration was stopped."""
        with self._failing():
            rows = self._db.execute("SELECT * FROM links").fetchall()
        return [Links(mark, now, before, tuple(paths.split(b"\0"))) for mark, now, before, paths in rows]

    def _failing(self) -> AbstractContextManager[None]:
        return disk_failures(self._path)


@contextmanager
def disk_failures(path: Path) -> Iterator[None]:
    """What fails of a database at ``path`` is the disk that holds it."""
    try:
        yield
    except sqlite3.Error as error:
        full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
        number = errno.ENOSPC if full else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error
