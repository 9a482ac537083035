"""The journal of a migration: what was about to change, and what became of it. Append-only JSON, one record a line.

The headers of the files are the truth about what is done; the journal knows what they were before, and whether the
migration goes on. A batch is in it, durably, before the first of its files loses an old slot. A line that a crash cut
off is of a batch that had changed nothing for good.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Self

from kmsfs.crypto.entropy import random_bytes
from kmsfs.errors import FormatError, InvalidRequestError, UnsupportedFormatError
from kmsfs.format.layout import HEADER_SIZE
from kmsfs.tools.passes import Outcome
from kmsfs.tree.rekey import has_slots

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from kmsfs.errors import KmsfsError
    from kmsfs.format.blob import BlobHead
    from kmsfs.ids import TreeId
    from kmsfs.tools.passes import Failure, Planned

VERSION: Final = 1
NAME: Final = "journal.jsonl"
_MODE: Final = 0o600


class State(StrEnum):
    """Where a migration stands."""

    RUNNING = "running"  # or stopped by force: whether a process is at it, the lock on the tree tells
    PAUSED = "paused"
    CANCELLED = "cancelled"
    DONE = "done"


ENDED: Final = frozenset({State.CANCELLED, State.DONE})


@dataclass(frozen=True, slots=True)
class Task:
    """What a migration is to do, as its first record says."""

    migration_id: str
    tree_id: str
    tree: str
    to_key: str
    from_keys: tuple[str, ...]
    started_at: float
    touch: bool = False
    reencrypt: bool = False  # new data keys and ciphertext, not new slots only
    copy_of: str = ""  # the tree that ``tree`` was copied from for it, which stays as it is
    version: int = VERSION


Slots = tuple[tuple[str, str], ...]  # of one header, each as (key ARN, material id in hex)


@dataclass(frozen=True, slots=True)
class Moved:
    """One file's change: its slots before and after."""

    file_id: str
    path: str
    old: Slots
    new: Slots


class Journal:
    """One migration. A ledger of passes. Use as a context manager."""

    def __init__(
        self, directory: Path, task: Task, fd: int, state: State, done: int, unsettled: tuple[Moved, ...] = ()
    ) -> None:
        self.directory = directory
        self.task = task
        self.state = state
        self.done = done  # files that were changed so far
        self.unsettled = unsettled  # the batch that a crash interrupted, until ``settle_read``
        self._fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    @classmethod
    def begin(cls, home: Path, task: Task) -> Self:
        """Start the journal of a new migration."""
        directory = migrations_of(home, task.tree_id) / task.migration_id
        directory.mkdir(mode=0o700, parents=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        journal = cls(directory, task, os.open(directory / NAME, flags, _MODE), State.RUNNING, 0)
        journal._append({"kmsfs_migration": VERSION, **asdict(task)})
        journal._append({"state": State.RUNNING, "at": time.time()})
        journal.sync()
        for at in (directory, *directory.parents[:3]):  # up to the home: a power cut leaves it where it is
            _sync_directory(at)
        return journal

    @classmethod
    def resume(cls, directory: Path, tree_id: TreeId, *, also_done: bool = False) -> Self:
        """Go on with a journal; raises for one of another tree or of a newer version, and for one that has ended.

        ``also_done``: what was done may be looked through again.
        """
        reading = read(directory / NAME)
        if reading.task.tree_id != tree_id.hex():
            raise InvalidRequestError(
                f"journal {directory / NAME} is of another tree",
                hint=f"it is of {reading.task.tree}",
            )
        if reading.state in ENDED and not (also_done and reading.state is State.DONE):
            raise InvalidRequestError(f"the migration in {directory} is {reading.state.value}")
        fd = os.open(directory / NAME, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        os.ftruncate(fd, reading.length)  # a line that was cut off
        journal = cls(directory, reading.task, fd, reading.state, reading.done, reading.unsettled)
        journal.set_state(State.RUNNING)
        return journal

    def set_state(self, state: State) -> None:
        """Write down where the migration stands, durably."""
        self._append({"state": state, "at": time.time()})
        self.sync()
        self.state = state

    def intend(self, planned: Sequence[Planned]) -> None:
        """A batch is about to change."""
        self._append({"intended": [_moved(plan) for plan in planned]})

    def settle(self, planned: Sequence[Planned], outcomes: Sequence[Outcome | KmsfsError | OSError]) -> None:
        """What became of the batch that was last intended: the places in it of what was not done."""
        of_each = enumerate(zip(planned, outcomes, strict=True))
        undone = [
            at for at, (plan, outcome) in of_each if outcome is not Outcome.DONE and not _is_begun(plan)
        ]
        self.done += len(planned) - len(undone)
        self._append({"undone": undone})

    def settle_read(self, undone: list[int]) -> None:
        """The same for the batch that another process had intended."""
        self.done += len(self.unsettled) - len(undone)
        self.unsettled = ()
        self._append({"undone": undone})

    def fail(self, failures: Sequence[Failure]) -> None:
        """What was left as it is."""
        failed = [[os.fsdecode(failure.path), failure.reason] for failure in failures]
        self._append({"failed": failed, "at": time.time()})
        self.sync()

    def sync(self) -> None:
        """Make all of it durable."""
        os.fdatasync(self._fd)

    def _append(self, record: dict[str, Any]) -> None:
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        while line:
            line = line[os.write(self._fd, line) :]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a journal says up to its last whole line, which ends at ``length``."""

    task: Task
    state: State
    done: int
    unsettled: tuple[Moved, ...]  # the batch that a crash interrupted
    failed: tuple[tuple[str, str], ...]  # paths and reasons of what the last run that came to its end left
    at: float  # when its state, or what was left, was last written down
    length: int


def new_task(
    tree_id: TreeId,
    tree: Path,
    to_key: str,
    from_keys: Sequence[str],
    *,
    touch: bool,
    reencrypt: bool = False,
    copy_of: Path | None = None,
) -> Task:
    """A task that begins now."""
    return Task(
        f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{random_bytes(4).hex()}",
        tree_id.hex(),
        str(tree),
        to_key,
        tuple(from_keys),
        time.time(),
        touch,
        reencrypt,
        "" if copy_of is None else str(copy_of),
    )


def migrations_of(home: Path, tree_id: str) -> Path:
    """Where a tree's migrations are kept, a directory each."""
    return home / "migrations" / tree_id


def find_last(home: Path, tree_id: TreeId, tree: Path) -> Path | None:
    """The directory of the last migration of the tree at that place: a copy has the same id as what it is of."""
    parent = migrations_of(home, tree_id.hex())
    found = [path for path in parent.iterdir() if _holds_a_task(path / NAME)] if parent.is_dir() else []
    tasks = [(read_task(path / NAME), path) for path in found]
    place = os.path.realpath(tree)
    begun = [(task.started_at, path) for task, path in tasks if os.path.realpath(task.tree) == place]
    return max(begun)[1] if begun else None


def _holds_a_task(path: Path) -> bool:
    """Whether a journal is there whose first line is whole: one that was stopped before that has changed nothing."""
    try:
        with path.open("rb") as file:
            return file.readline().endswith(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        return False


def find_open(home: Path, tree_id: TreeId, tree: Path) -> Path | None:
    """The same, if that migration has not ended."""
    last = find_last(home, tree_id, tree)
    return None if last is None or read(last / NAME).state in ENDED else last


def read_task(path: Path) -> Task:
    """What the first line of a journal says."""
    return _task(next(iter(_Records(path)), None), path)


def read(path: Path) -> Reading:
    """Read a journal to its last whole line."""
    records = _Records(path)
    first = next(iter(records), None)
    task = _task(first, path)
    state, done, intended = State.RUNNING, 0, list[list[Any]]()
    failed, at = tuple[tuple[str, str], ...](), task.started_at
    for record in records:
        at = record.get("at", at)
        if "state" in record:
            state = State(record["state"])
            failed = () if state is State.DONE else failed
        elif "failed" in record:
            failed = tuple(map(tuple, record["failed"]))
        elif "intended" in record:
            intended = record["intended"]
        elif "undone" in record:
            done, intended = done + len(intended) - len(record["undone"]), []
    unsettled = tuple(map(_parse_moved, intended))
    return Reading(task, state, done, unsettled, failed, at, records.length)


def moves(path: Path) -> Iterator[Moved]:
    """Every change that was made, in order."""
    batch: list[Moved] = []
    for record in _Records(path):
        if "intended" in record:
            batch = [_parse_moved(entry) for entry in record["intended"]]
        elif "undone" in record:
            undone = frozenset(record["undone"])
            yield from (moved for at, moved in enumerate(batch) if at not in undone)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class _Records:
    """The records of a journal, parsed one at a time. ``length`` is how far they have been whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.length = 0
        self._lines = self._read()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._lines

    def _read(self) -> Iterator[dict[str, Any]]:
        with self._path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    return
                try:
                    record = json.loads(line)
                except ValueError:
                    record = None
                if not isinstance(record, dict):
                    raise FormatError(f"journal {self._path} is damaged at byte {self.length}")
                self.length += len(line)
                yield record


def _task(record: dict[str, Any] | None, path: Path) -> Task:
    version = record.get("kmsfs_migration") if record else None
    if record is None or not isinstance(version, int):
        raise FormatError(f"{path} is no journal of a migration")
    if version > VERSION:
        raise UnsupportedFormatError(
            f"journal {path} has version {version}, this kmsfs reads {VERSION}", hint="use a newer kmsfs"
        )
    try:
        fields = {name: record[name] for name in Task.__dataclass_fields__}
    except KeyError as error:
        raise FormatError(f"journal {path} does not say {error.args[0]}") from None
    return Task(**{**fields, "from_keys": tuple(fields["from_keys"])})


def _is_begun(plan: Planned) -> bool:
    """Whether a file that was not settled has new slots all the same: a program wrote to it meanwhile, or it failed.

    The next pass may take it for current, and knows not what it was under before.
    """
    if not plan.job.raw:  # it was to be replaced as a whole
        return False
    try:
        raw = os.pread(plan.job.fd, HEADER_SIZE, 0)
    except OSError:
        return False
    return has_slots(raw, plan.swap.file_id.hex(), _named(plan.swap.new))


def _named(heads: Sequence[BlobHead]) -> Slots:
    return tuple((head.key_arn, head.material_id.hex()) for head in heads)


def _moved(plan: Planned) -> list[Any]:
    swap = plan.swap
    return [swap.file_id.hex(), os.fsdecode(plan.job.path), _slots(swap.old), _slots(swap.new)]


def _slots(heads: Sequence[BlobHead]) -> list[list[str]]:
    return [list(named) for named in _named(heads)]


def _parse_moved(entry: list[Any]) -> Moved:
    file_id, path, old, new = entry
    return Moved(file_id, path, tuple(map(tuple, old)), tuple(map(tuple, new)))
