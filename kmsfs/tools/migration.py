"""The migration of a tree to another key: begun, paused, resumed after whatever stopped it, cancelled, reported.

What is done is what the headers say; the journal keeps what they said before, so that a report can be made of it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kmsfs.errors import InvalidRequestError, StoppedError
from kmsfs.ids import KeyArn
from kmsfs.tools import changes, report
from kmsfs.tools.convergence import Convergence
from kmsfs.tools.interrupted import settle_interrupted
from kmsfs.tools.journal import NAME, Journal, State, find_last, new_task, read

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from kmsfs.errors import KmsfsError
    from kmsfs.tools.changes import KeyedTree
    from kmsfs.tools.convergence import Result
    from kmsfs.tools.journal import Task
    from kmsfs.tools.passes import Ledger, Outcome, Planned, Tally
    from kmsfs.tools.runners import Runner

_AS: Final = {False: "without new data keys", True: "with new data keys"}
PAUSE: Final = "pause"  # a file of that name beside the journal asks whoever is at it to stop
CANCEL: Final = "cancel"


class Ledgers:
    """Several ledgers as one."""

    def __init__(self, *ledgers: Ledger) -> None:
        self._ledgers = ledgers

    def intend(self, planned: Sequence[Planned]) -> None:
        """See Ledger."""
        for ledger in self._ledgers:
            ledger.intend(planned)

    def sync(self) -> None:
        """See Ledger."""
        for ledger in self._ledgers:
            ledger.sync()

    def settle(self, planned: Sequence[Planned], outcomes: Sequence[Outcome | KmsfsError | OSError]) -> None:
        """See Ledger."""
        for ledger in self._ledgers:
            ledger.settle(planned, outcomes)


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the caller of a migration wants to hear and say. ``stop`` is asked after each batch: true pauses it."""

    progress: Callable[[Tally], None]
    stop: Callable[[], bool]


def open_journal(
    home: Path,
    tree: KeyedTree,
    key_arn: KeyArn,
    *,
    touch: bool,
    reencrypt: bool = False,
    copy_of: Path | None = None,
) -> Journal:
    """Go on with the tree's migration to that key, as it was begun, or begin it.

    One to another key, or one that only wraps where new data keys are asked for, must be ended first.
    """
    directory = find_unreported(home, tree)
    reading = None if directory is None else read(directory / NAME)
    fits = reading is not None and _fits(reading.task, key_arn, reencrypt=reencrypt)
    if directory is None or reading is None or (reading.state is State.DONE and not fits):
        task = new_task(
            tree.block.tree_id,
            tree.path,
            key_arn,
            tree.block.key_arns,
            touch=touch,
            reencrypt=reencrypt,
            copy_of=copy_of,
        )
        return Journal.begin(home, task)
    if not fits:
        raise InvalidRequestError(
            f"{tree.path} is being migrated to {reading.task.to_key} {_AS[reading.task.reencrypt]}",
            hint="resume that with --resume, or end it with --cancel, first",
        )
    return Journal.resume(directory, tree.block.tree_id, also_done=True)


def _fits(task: Task, key_arn: KeyArn, *, reencrypt: bool) -> bool:
    return task.to_key == key_arn and (task.reencrypt or not reencrypt)


def find_unreported(home: Path, tree: KeyedTree) -> Path | None:
    """The tree's migration that has not ended, or that was done and stopped before its report was there."""
    last = find_last(home, tree.block.tree_id, tree.path)
    if last is None:
        return None
    state = read(last / NAME).state
    is_over = state is State.CANCELLED or (state is State.DONE and (last / report.NAME).exists())
    return None if is_over else last


def run(
    journal: Journal,
    tree: KeyedTree,
    runner: Runner,
    ledger: Ledger,
    hooks: Hooks,
    way: changes.Way = Convergence,
) -> Result:
    """Migrate until nothing is left to do. StoppedError if it was paused or cancelled on the way."""
    settle_interrupted(journal, tree)
    tree.touch = tree.touch or journal.task.touch
    change = changes.migrate(tree.block, KeyArn(journal.task.to_key))

    def progress(tally: Tally) -> None:
        hooks.progress(tally)
        state = State.PAUSED if hooks.stop() else asked(journal.directory)
        if state is not None:
            raise _Stop(state)

    try:
        result = changes.apply(change, tree, runner, Ledgers(journal, ledger), progress=progress, way=way)
    except _Stop as stop:
        tree.sync()
        journal.set_state(stop.state)
        _forget_requests(journal.directory)
        raise StoppedError(
            f"migration of {journal.task.tree} is {stop.state.value}; {journal.done:,} files are under the new key",
            hint=_WHAT_NEXT[stop.state],
        ) from None
    if result.failures:
        journal.fail(result.failures)
    if result.complete and not result.failures:
        journal.set_state(State.DONE)
    return result


_WHAT_NEXT: Final = {
    State.PAUSED: "go on: kmsfs migrate TREE --resume",
    State.CANCELLED: "the tree is under its old keys and the new one: migrate it to either",
}


class _Stop(Exception):  # noqa: N818 - control flow
    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.state = state


def ask(directory: Path, state: State) -> None:
    """Ask the process that works on a migration to stop after its batch."""
    (directory / (CANCEL if state is State.CANCELLED else PAUSE)).touch(mode=0o600)


def asked(directory: Path) -> State | None:
    """What somebody asked for."""
    if (directory / CANCEL).exists():
        return State.CANCELLED
    return State.PAUSED if (directory / PAUSE).exists() else None


def cancel(journal: Journal, tree: KeyedTree) -> None:
    """End a migration that nobody works on."""
    settle_interrupted(journal, tree)
    journal.set_state(State.CANCELLED)
    _forget_requests(journal.directory)


def _forget_requests(directory: Path) -> None:
    for name in (PAUSE, CANCEL):
        with suppress(FileNotFoundError):
            (directory / name).unlink()
