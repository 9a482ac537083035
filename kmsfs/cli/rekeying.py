"""What the commands share that change a tree's keys: opening it, following it, telling what came of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kmsfs.cli.home import home_path, open_keystore
from kmsfs.cli.progress import Progress
from kmsfs.cli.terminal import print_fields, print_json, print_table
from kmsfs.errors import IncompleteError

if TYPE_CHECKING:
    from pathlib import Path

    from kmsfs.format.superblock import Superblock
    from kmsfs.keystore.service import Keystore
    from kmsfs.tools.changes import Change
    from kmsfs.tools.convergence import Result

Decide = Callable[["Keystore", "Superblock"], "Change"]
MAX_SHOWN = 50  # failures on a terminal; --json has all


def change_tree(tree: Path, decide: Decide, *, via: str, touch: bool, as_json: bool) -> None:
    """Carry out a change of a tree's keys and print the result; IncompleteError if files were left behind."""
    from kmsfs.tools import changes
    from kmsfs.tools.access import UnmountedTree
    from kmsfs.tools.change_list import ChangeList
    from kmsfs.tools.passes import InProcess
    from kmsfs.tree.rekey import Rekeyer

    with open_keystore(via=via) as keystore, UnmountedTree(keystore, tree.absolute(), touch=touch) as work:
        change = decide(keystore, work.block)
        keystore.note_tree(work.block.tree_id, tree, {*work.block.key_arns, *change.during})
        changed = ChangeList(home_path(), work.block.tree_id)
        try:
            with Progress("files") as progress:
                result = changes.apply(
                    change,
                    work,
                    InProcess(Rekeyer(keystore, work.block.tree_id)),
                    changed,
                    progress=lambda tally: progress.show(tally.files, len(tally.failures)),
                )
        finally:
            changed.close()
        if result.complete and not result.failures:
            keystore.note_tree(work.block.tree_id, tree, work.block.key_arns)
    tell(result, tree, changed, as_json=as_json)


def tell(result: Result, tree: Path, changed: Any, *, as_json: bool) -> None:
    """Print what came of a change."""
    listed = str(changed.path) if changed.written else None
    failures = [(os.fsdecode(failure.path) or ".", failure.reason) for failure in result.failures]
    if as_json:
        print_json(
            {
                "complete": result.complete and not failures,
                "files": result.files,
                "bytes": result.bytes,
                "changed": result.done,
                "passes": result.passes,
                "failed": [{"path": path, "reason": reason} for path, reason in failures],
                "change_list": listed,
            }
        )
    else:
        print_fields(
            {
                "files": f"{result.files:,}",
                "changed": f"{result.done:,}",
                "failed": f"{len(failures):,}",
                "change list": listed or "-",
            }
        )
        if failures:
            print_table(("PATH", "REASON"), failures[:MAX_SHOWN], empty="")
    if failures or not result.complete:
        raise IncompleteError(
            f"{tree}: {len(failures):,} files keep their old keys",
            hint="mend or remove them, then run the command again: what is done is not done twice",
        )
