"""What the commands change in the declared keys of a tree, and the order of it: declare, bring the files, let go.

Until every file is under the new keys the tree opens by the old ones as well; a file that could not be brought keeps
them declared, so that no key goes while something still needs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kmsfs.errors import InvalidRequestError, LimitExceededError
from kmsfs.format.header import MAX_SLOTS
from kmsfs.format.superblock import Superblock, wanted_keys
from kmsfs.ids import KeyArn
from kmsfs.tools.convergence import Convergence, Result, WorkTree
from kmsfs.tree.rekey import heads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from kmsfs.keystore.service import Keystore
    from kmsfs.tools.passes import Ledger, Tally
    from kmsfs.tools.runners import Runner
    from kmsfs.tools.walk import FoundDirectory, Wanted


class KeyedTree(WorkTree, Protocol):
    """A tree whose declared keys can be changed."""

    path: Path
    block: Superblock
    touch: bool  # whether the modification times of changed files move on by a second

    def declare(self, key_arns: Sequence[KeyArn], *, renew: bool) -> None:
        """Make these the tree's keys, the default one first; ``renew``: under their current material."""

    def set_zone(self, found: FoundDirectory, zone: str) -> None:
        """Make a directory a zone of another key."""

    def wait_for_swaps(self) -> None:
        """Return when nothing is under way that a tool has asked for which was killed since."""

    def sync(self) -> None:
        """Make everything durable."""


class Way(Protocol):
    """How files are brought under their keys; nothing is done before ``run``."""

    def __call__(
        self,
        tree: KeyedTree,
        runner: Runner,
        ledger: Ledger,
        wanted: Callable[[str], Wanted],
        *,
        on_directory: Callable[[FoundDirectory], None],
        progress: Callable[[Tally], None],
    ) -> Bringing:
        """What is to be run."""


class Bringing(Protocol):
    """One such undertaking."""

    def run(self) -> Result:
        """Bring every file that can be brought."""


@dataclass(frozen=True, slots=True)
class Change:
    """The tree's keys while its files are brought, and after; and what becomes of its zones."""

    during: tuple[KeyArn, ...]
    after: tuple[KeyArn, ...]
    zones: dict[str, KeyArn] | None = (
        None  # new keys by old ones; None: every zone gets the first of ``after``
    )

    def zone(self, zone: str) -> str:
        """The key of a zone after the change; ``""`` stays no zone."""
        if not zone:
            return zone
        return self.after[0] if self.zones is None else self.zones.get(zone, zone)

    def wanted(self, zone: str) -> Wanted:
        """The keys of a zone's files after the change."""
        return wanted_keys(self.zone(zone), self.after)


def rewrap(block: Superblock) -> Change:
    """Everything as declared, under current material."""
    return Change(block.key_arns, block.key_arns, {})


def migrate(block: Superblock, key_arn: KeyArn) -> Change:
    """Everything under one key, zones and replicas included."""
    others = tuple(arn for arn in block.key_arns if arn != key_arn)
    return Change((key_arn, *others), (key_arn,))


def replicate(block: Superblock, key_arn: KeyArn) -> Change:
    """One more key beside the others."""
    keys = tuple(dict.fromkeys((*block.key_arns, key_arn)))
    if len(keys) > MAX_SLOTS:
        raise LimitExceededError(
            f"a tree has at most {MAX_SLOTS} keys", hint="drop one first: kmsfs replicate TREE --drop-key KEY"
        )
    return Change(keys, keys, {})


def drop(block: Superblock, key_arn: KeyArn) -> Change:
    """One key less; its zones, and the tree if it was the default, go on with the next."""
    keys = tuple(arn for arn in block.key_arns if arn != key_arn)
    if len(keys) == len(block.key_arns):
        raise InvalidRequestError(
            f"key {key_arn} is not one of the tree's",
            hint="kmsfs info shows its keys; what a stop has left of one that was dropped, kmsfs rewrap brings",
        )
    if not keys:
        raise InvalidRequestError(
            f"key {key_arn} is the only one of the tree", hint="name another: kmsfs migrate TREE --to-key KEY"
        )
    return Change((*keys, key_arn), keys, {key_arn: keys[0]})


def named(block: Superblock, ref: str, keystore: Keystore, region: str | None) -> KeyArn:
    """The key that is to be dropped: also one whose region cannot be asked any more, by its ARN."""
    if ref in block.key_arns:
        return KeyArn(ref)
    return keystore.resolve(ref, region=region).arn


def apply(
    change: Change,
    tree: KeyedTree,
    runner: Runner,
    ledger: Ledger,
    *,
    progress: Callable[[Tally], None],
    way: Way = Convergence,
) -> Result:
    """Carry a change out, as far as it can be. May be repeated, and goes on where it stopped."""
    for zone in {"", *(change.zones or ())}:
        runner.targets(change.wanted(zone))  # a key that cannot be used is told before anything is touched
    # A key that goes anyway may be that of an HSM that is gone: it is not asked for a new slot.
    tree.declare(change.during, renew=change.during == change.after)

    zone_keys: set[str] = set()

    def rezone(found: FoundDirectory) -> None:
        zone = change.zone(found.record.zone)
        if zone:
            zone_keys.add(zone)
        if zone != found.record.zone:
            tree.set_zone(found, zone)

    def converge() -> Result:
        return way(tree, runner, ledger, change.wanted, on_directory=rezone, progress=progress).run()

    result = converge()
    if result.complete and not result.failures and change.during != change.after:
        tree.declare(change.after, renew=True)
        if not tree.alone:  # what the mount made meanwhile has a slot for each key that was declared
            again = converge()
            again.passes += result.passes
            again.done += result.done
            result = again
    if result.complete and _otherwise_in_superblock(
        tree.block, result.under
    ):  # rotated since it was declared
        tree.declare(tree.block.key_arns, renew=True)
    tree.sync()
    result.zone_keys = zone_keys
    for key_arn in _otherwise_in_superblock(tree.block, result.under):
        del result.under[key_arn]
    return result


def _otherwise_in_superblock(block: Superblock, under: Mapping[str, str]) -> list[KeyArn]:
    """The keys whose slot in the superblock is under other material than said."""
    named = heads([slot.blob for slot in block.slots])
    return [head.key_arn for head in named if under.get(head.key_arn) not in (None, head.material_id.hex())]
