"""Passes over a tree until every file that can be mended is as declared.

An unmounted tree is held alone: one pass is enough. In a mounted one files come, change and move meanwhile. What the
mount creates is as declared from the start; what it moves could dodge a pass, so it tells what it moved and that is
looked at again, until each such file was found current at one of its places, or is at none.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from kmsfs.tools.passes import Failure, Ledger, Pass, Store, Tally
from kmsfs.tools.walk import FoundDirectory, Walk, Wanted

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmsfs.envelope.tree_key import TreeKeys
    from kmsfs.tools.runners import Runner

_MAX_PASSES: Final = 20  # of a tree whose every pass finds something new: it is told, not walked for ever


class WorkTree(Store, Protocol):
    """A tree that passes run on."""

    root_fd: int
    keys: TreeKeys
    alone: bool  # nobody else can change it meanwhile

    def moved(self) -> list[tuple[int, bytes]] | None:
        """Inode and path of what was given another name since the last call; None if that was too much to remember."""


@dataclass(slots=True)
class Result:
    """What all passes together did."""

    passes: int = 0
    files: int = 0  # of the last whole pass, as the next two
    bytes: int = 0
    current: int = 0
    done: int = 0
    failures: list[Failure] = field(
        default_factory=list
    )  # of the last whole pass, and of what moved after it
    zone_keys: set[str] = field(default_factory=set)  # of the zones that the tree has now
    under: dict[str, str] = field(
        default_factory=dict
    )  # by key, the material in hex that all its slots are under, failures apart
    complete: bool = False  # nothing but the failures is left


class Convergence:
    """See the module. Does nothing before ``run``."""

    def __init__(
        self,
        tree: WorkTree,
        runner: Runner,
        ledger: Ledger,
        wanted: Callable[[str], Wanted],
        *,
        on_directory: Callable[[FoundDirectory], None],
        progress: Callable[[Tally], None],
    ) -> None:
        self._tree = tree
        self._runner = runner
        self._ledger = ledger
        self._wanted = wanted
        self._on_directory = on_directory
        self._progress = progress
        self.result = Result()

    def run(self) -> Result:
        """Run passes until nothing stale is found."""
        self._tree.moved()  # from here on
        left: set[Failure] = set()
        for _ in range(_MAX_PASSES):
            self.result.under.clear()
            tally, overtaken = self._pass([b""])
            self.result.files, self.result.bytes = tally.files, tally.bytes
            self.result.current = tally.current
            self.result.failures = tally.failures
            before, left = left, set(tally.failures)
            settled = not overtaken and (self._tree.alone or (not tally.stale and before == left))
            if self._look_at_moved() and settled:
                self.result.complete = True
                break
        return self.result

    def _look_at_moved(self) -> bool:
        """Whether all that moved during the last pass is current, or fails twice for the same reason.

        What was not where it was told to be has moved again, and is told of again, or is no more.
        """
        found: set[int] = set()
        failed: dict[bytes, Failure] = {}
        again: list[bytes] = []
        for _ in range(_MAX_PASSES):
            moved = self._tree.moved()
            if moved is None:
                return False
            starts = [*again, *(path for ino, path in moved if ino not in found)]
            if not starts:
                self.result.failures = list(dict.fromkeys([*self.result.failures, *failed.values()]))
                return True
            tally, overtaken = self._pass(starts, found)
            if overtaken:
                return False
            now = {failure.path: failure for failure in tally.failures}
            again = starts if tally.changed else [path for path in now if now[path] != failed.get(path)]
            failed = {path: one for path, one in failed.items() if path not in starts} | now
        return False

    def _pass(self, starts: list[bytes], found: set[int] | None = None) -> tuple[Tally, bool]:
        one = Pass(self._tree, self._runner, self._ledger, self._progress, found)
        told, entered = frozenset(starts), set[int]()

        def on_directory(directory: FoundDirectory) -> None:
            self._on_directory(directory)
            if found is not None and directory.path in told:
                entered.add(os.fstat(directory.fd).st_ino)

        walk = Walk(
            self._tree.root_fd,
            self._tree.keys,
            lambda zone: one.expect(self._wanted(zone)),
            on_directory=on_directory,
            on_problem=one.fail,
        )
        tally = one.run(walk, starts)
        if found is not None and not tally.changed and not tally.gone:
            found |= entered
        self.result.passes += 1
        self.result.done += tally.done
        for key_arn, material in one.materials().items():
            if self.result.under.setdefault(key_arn, material) != material:
                self.result.under[key_arn] = ""  # it was rotated between two looks
        return tally, one.was_overtaken()
