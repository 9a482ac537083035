"""What the commands share that change a tree's keys: opening it, following it, telling what came of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from kmsfs.cli.home import home_path, open_keystore
from kmsfs.cli.progress import Progress
from kmsfs.cli.terminal import print_fields, print_json, print_table
from kmsfs.cli.trees import open_tree
from kmsfs.errors import IncompleteError

if TYPE_CHECKING:
    from pathlib import Path

    from kmsfs.format.superblock import Superblock
    from kmsfs.keystore.service import Keystore
    from kmsfs.tools.change_list import ChangeList
    from kmsfs.tools.changes import Change, KeyedTree, Way
    from kmsfs.tools.cluster import Cluster
    from kmsfs.tools.convergence import Result
    from kmsfs.tools.journal import Journal
    from kmsfs.tools.passes import Failure
    from kmsfs.tools.runners import Runner
    from kmsfs.tools.throttle import Rate

Decide = Callable[["Keystore", "Superblock"], "Change"]
MAX_SHOWN: Final = 50  # failures for a person; --json has all


def runner(keystore: Keystore, work: KeyedTree, rate: Rate | None = None) -> Runner:
    """Who asks the HSM."""
    from kmsfs.tools.runners import InProcess
    from kmsfs.tree.rekey import Rekeyer

    return InProcess(Rekeyer(keystore, work.block.tree_id), rate)


def cluster(address: str, keystore: Keystore, work: KeyedTree, rate: Rate | None) -> Cluster:
    """Have a cluster ask the HSM."""
    from kmsfs.tools.cluster import Cluster
    from kmsfs.tools.runners import InProcess
    from kmsfs.tree.rekey import Rekeyer

    tree_id = work.block.tree_id
    return Cluster(address, InProcess(Rekeyer(keystore, tree_id)), tree_id, rate)


@contextmanager
def way(journal: Journal, keystore: Keystore, work: KeyedTree, rate: Rate | None) -> Iterator[Way]:
    """How a migration brings files under its key: with new slots, or with new data keys."""
    from kmsfs.tools.convergence import Convergence
    from kmsfs.tools.marks import NAME, Marks
    from kmsfs.tools.reencrypt import Means, Reencryption
    from kmsfs.tree.rekey import Rekeyer

    if not journal.task.reencrypt:
        yield Convergence
        return
    with Marks(journal.directory / NAME) as marks:
        means = Means(Rekeyer(keystore, work.block.tree_id), marks, rate, journal.task.touch)
        yield partial(Reencryption, means)


def change_tree(tree: Path, decide: Decide, *, via: str, touch: bool, as_json: bool) -> None:
    """Carry out a change of a tree's keys and print the result; IncompleteError if files were left behind."""
    from kmsfs.tools import changes, survey
    from kmsfs.tools.change_list import ChangeList

    with open_keystore(via=via) as keystore, open_tree(keystore, tree, touch=touch) as work:
        change = decide(keystore, work.block)
        keystore.note_tree(
            work.block.tree_id, work.path, {*work.block.key_arns, *change.during}, besides=True, under={}
        )
        changed = ChangeList(home_path(), work.block.tree_id)
        try:
            with Progress("files", partial(survey.count_files, work.path)) as progress:
                result = changes.apply(
                    change,
                    work,
                    runner(keystore, work),
                    changed,
                    progress=lambda tally: progress.show(tally.files, len(tally.failures)),
                )
        finally:
            changed.close()
        if result.complete and not result.failures:
            keystore.note_tree(
                work.block.tree_id, work.path, {*work.block.key_arns, *result.zone_keys}, under=result.under
            )
    tell(result, tree, changed, as_json=as_json)


def tell(result: Result, tree: Path, changed: ChangeList, *, as_json: bool, **more: str | None) -> None:
    """Print what came of a change."""
    listed = str(changed.path) if changed.written else None
    if as_json:
        print_json(
            {
                "complete": result.complete and not result.failures,
                "files": result.files,
                "bytes": result.bytes,
                "changed": result.done,
                "passes": result.passes,
                "failed": rows(result.failures),
                "change_list": listed,
                **more,
            }
        )
    else:
        print_fields(
            {
                "files": f"{result.files:,}",
                "changed": f"{result.done:,}",
                "failed": f"{len(result.failures):,}",
                "change list": listed or "-",
                **{name: value or "-" for name, value in more.items()},
            }
        )
        print_failures(result.failures)
    if not result.failures and not result.complete:
        raise IncompleteError(
            f"{tree}: files went on moving and changing for {result.passes} passes",
            hint="run the command again, best when less goes on: what is done is not done twice",
        )
    if result.failures:
        raise IncompleteError(
            f"{tree}: {len(result.failures):,} files keep their old keys",
            hint="mend or remove them, then run the command again: what is done is not done twice",
        )


def rows(failures: Sequence[Failure]) -> list[dict[str, str]]:
    """Failures for programs."""
    return [{"path": _path(failure), "reason": failure.reason} for failure in failures]


def print_failures(failures: Sequence[Failure]) -> None:
    """Failures for people."""
    shown = [(_path(failure), failure.reason) for failure in failures[:MAX_SHOWN]]
    if shown:
        print_table(("PATH", "REASON"), shown, empty="")


def text(value: Any) -> str:
    """A value for people."""
    if value is None:
        return "-"
    return ", ".join(value) if isinstance(value, list) else str(value)


def _path(failure: Failure) -> str:
    return os.fsdecode(failure.path) or "."
