"""A tree that a tool changes the keys of: held alone while it is unmounted, or through the mount that serves it."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from kmsfs.storage import backing
from kmsfs.storage.lending import open_lent
from kmsfs.tools.passes import Outcome
from kmsfs.tree.directories import put_record
from kmsfs.tree.superblock_file import (
    declare_keys,
    lock_tree,
    lock_work,
    open_root,
    open_tree_keys,
    read_superblock_at,
)
from kmsfs.tree.swaps import write_newest_copy, write_other_copy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType

    from kmsfs.errors import KmsfsError
    from kmsfs.ids import KeyArn
    from kmsfs.keystore.service import Keystore
    from kmsfs.tools.mounted import MountedTree
    from kmsfs.tools.passes import Planned
    from kmsfs.tools.walk import FoundDirectory, FoundFile


class HeldTree:
    """What both have in common. A context manager; no other tool can hold the tree meanwhile."""

    def __init__(self, keystore: Keystore, path: Path, *, touch: bool) -> None:
        self.path = path
        self._keystore = keystore
        self.touch = touch  # changed files' modification times move on
        self._held = ExitStack()
        try:
            self.root_fd = open_root(path)
            self._held.callback(os.close, self.root_fd)
            self.block = read_superblock_at(self.root_fd, path)
            self._held.callback(os.close, lock_work(self.root_fd, path))
            self._lock()
            self.keys, _ = open_tree_keys(keystore, self.block, path)
        except BaseException:
            self._held.close()
            raise

    def _lock(self) -> None:
        """Keep others away as far as the kind of access needs it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def declare(self, key_arns: Sequence[KeyArn], *, renew: bool) -> None:
        """Make these the tree's keys."""
        self.block = declare_keys(self._keystore, self.root_fd, self.path, key_arns, renew=renew)

    def sync(self) -> None:
        """Make everything durable."""
        backing.syncfs(self.root_fd)


class UnmountedTree(HeldTree):
    """A tree that nobody else has: its headers are written here. TreeBusyError if it is mounted."""

    alone = True

    def __init__(self, keystore: Keystore, path: Path, *, touch: bool = False) -> None:
        super().__init__(keystore, path, touch=touch)

    def _lock(self) -> None:
        self._held.callback(os.close, lock_tree(self.root_fd, self.path, shared=False))

    def set_zone(self, found: FoundDirectory, zone: str) -> None:
        """Make a directory a zone of another key."""
        put_record(found.fd, self.keys.seal_directory(replace(found.record, zone=zone)))

    def moved(self) -> list[tuple[int, bytes]]:
        """Nothing: nobody else moves anything."""
        return []

    def follow(self) -> None:
        """Nobody else makes files."""

    def wait_for_swaps(self) -> None:
        """Nobody else puts headers in place."""

    def open(self, found: FoundFile) -> int:
        """A descriptor that reads and writes, whatever the file's mode says."""
        try:
            return backing.open_regular(found.name, found.dir_fd, write=True, noatime=True)
        except PermissionError:
            return open_lent(found.name, found.dir_fd, noatime=True)

    def put(
        self, planned: Sequence[Planned], before_last: Callable[[], None]
    ) -> list[Outcome | KmsfsError | OSError]:
        """One syncfs for the batch, between the two halves of each swap.

        What a crash may undo of the second halves, the next pass does again.
        """
        outcomes: list[Outcome | KmsfsError | OSError] = []
        for plan in planned:
            try:
                write_other_copy(plan.job.fd, plan.swap)
                outcomes.append(Outcome.DONE)
            except OSError as error:
                outcomes.append(error)
        before_last()
        backing.syncfs(self.root_fd)
        for at, plan in enumerate(planned):
            if outcomes[at] is Outcome.DONE:
                try:
                    write_newest_copy(plan.job.fd, plan.swap, touch=self.touch)
                except OSError as error:
                    outcomes[at] = error
        return outcomes


class ServedTree(HeldTree):
    """A mounted tree: read in the store, changed by the process that serves it."""

    alone = False

    def __init__(self, keystore: Keystore, path: Path, mount: MountedTree, *, touch: bool = False) -> None:
        self._mount = mount
        super().__init__(keystore, path, touch=touch)

    def _lock(self) -> None:
        self._mount.require(self.root_fd, self.path)

    def declare(self, key_arns: Sequence[KeyArn], *, renew: bool) -> None:
        """Make these the tree's keys, and have the mount take them over before anything relies on it."""
        super().declare(key_arns, renew=renew)
        self._mount.reload()

    def set_zone(self, found: FoundDirectory, zone: str) -> None:
        """Make a directory a zone of another key."""
        self._mount.set_zone(os.fsdecode(found.path), zone)

    def moved(self) -> list[tuple[int, bytes]] | None:
        """See WorkTree."""
        return self._mount.moved()

    def follow(self) -> None:
        """See Store."""
        self._mount.follow()

    def wait_for_swaps(self) -> None:
        """See KeyedTree."""
        self._mount.wait_for_swaps()

    def open(self, found: FoundFile) -> int:
        """A descriptor that reads."""
        try:
            return backing.open_regular(found.name, found.dir_fd, write=False, noatime=True)
        except PermissionError:
            return open_lent(found.name, found.dir_fd, noatime=True)

    def put(
        self, planned: Sequence[Planned], before_last: Callable[[], None]
    ) -> list[Outcome | KmsfsError | OSError]:
        """Have the mount put the headers in place."""
        before_last()
        return self._mount.swap(planned, touch=self.touch)
