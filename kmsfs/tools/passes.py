"""One pass over a tree: every file whose header is not as declared gets a new one. No data is touched.

Work goes in batches: read the headers, compute the new ones (the HSM's part, which a ``Runner`` may do elsewhere),
write down what is about to change, put the headers in place. A stop at any point leaves files that open, and the next
pass goes on: what is current already costs one read.
"""

from __future__ import annotations

import gc
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from kmsfs.errors import KmsfsError
from kmsfs.format.layout import HEADER_SIZE
from kmsfs.tree.rekey import Swap, Targets, is_current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kmsfs.tools.runners import Runner
    from kmsfs.tools.walk import FoundFile, Walk, Wanted


_STRIDE: Final = 1024  # files that are looked at between two words of progress


class Outcome(StrEnum):
    """What became of a file whose header was to be replaced."""

    DONE = "done"
    CHANGED = "changed"  # somebody else wrote its header meanwhile: the next pass sees to it
    GONE = "gone"


class Job(NamedTuple):
    """A file with a stale header. ``fd`` belongs to the pass."""

    path: bytes
    fd: int
    raw: bytes
    wanted: Wanted


class Planned(NamedTuple):
    """A job and the header that it is to get."""

    job: Job
    swap: Swap


@dataclass(frozen=True, slots=True)
class Failure:
    """A file or directory that was left as it is, and why."""

    path: bytes
    reason: str


class Store(Protocol):
    """The tree that is changed: directly, or through the mount that serves it."""

    def put(
        self, planned: Sequence[Planned], before_last: Callable[[], None]
    ) -> list[Outcome | KmsfsError | OSError]:
        """Put a batch of headers in place. ``before_last`` is called when every file has its new header beside the
        old one, and before the first of them loses the old one."""

    def open(self, found: FoundFile) -> int:
        """A descriptor of a regular file."""

    def follow(self) -> None:
        """Have whoever else makes files in the tree make them under keys' current material from here on."""


class Ledger(Protocol):
    """Where a pass writes down what it changes."""

    def intend(self, planned: Sequence[Planned]) -> None:
        """What is about to change. Durable when ``Store.put`` calls back."""

    def sync(self) -> None:
        """Make what was intended durable."""

    def settle(self, planned: Sequence[Planned], outcomes: Sequence[Outcome | KmsfsError | OSError]) -> None:
        """What became of it."""


@dataclass(slots=True)
class Tally:
    """The figures of a pass."""

    files: int = 0
    bytes: int = 0
    current: int = 0
    done: int = 0
    changed: int = 0
    gone: int = 0
    failures: list[Failure] = field(default_factory=list)

    @property
    def stale(self) -> int:
        """Files that were not as declared, apart from those that cannot be mended."""
        return self.done + self.changed


class KnownTargets:
    """What a runner says of the wanted keys, asked once; also where the answer is that a zone's key cannot be used."""

    def __init__(self, runner: Runner, follow: Callable[[], None] = lambda: None) -> None:
        """``follow`` is called before what was newly asked is relied upon."""
        self._runner = runner
        self._follow = follow
        self._known: dict[Wanted, Targets | KmsfsError] = {}

    def ask(self, wanted: Wanted) -> Targets | KmsfsError:
        """The wanted keys with their material, or why one of them cannot be used."""
        if wanted not in self._known:
            try:
                self._known[wanted] = self._runner.targets(wanted)
            except KmsfsError as error:
                self._known[wanted] = error
            self._follow()
        return self._known[wanted]

    def of(self, wanted: Wanted) -> Targets:
        """The same, or raise why."""
        targets = self.ask(wanted)
        if isinstance(targets, KmsfsError):
            raise targets
        return targets

    def materials(self) -> dict[str, str]:
        """The material of each key that was asked for, in hex."""
        known = [targets for targets in self._known.values() if isinstance(targets, tuple)]
        return {target.key_arn: target.head.material_id.hex() for targets in known for target in targets}

    def have_changed(self) -> bool:
        """Whether a key was given new material since it was asked for."""
        known = {wanted: targets for wanted, targets in self._known.items() if isinstance(targets, tuple)}
        return any(self._runner.targets(wanted) != targets for wanted, targets in known.items())


class Pass:
    """See the module. ``progress`` is called after each batch, and while nothing is found to do.

    ``found`` gets the inode number of each file that is current in the end.
    """

    def __init__(
        self,
        store: Store,
        runner: Runner,
        ledger: Ledger,
        progress: Callable[[Tally], None],
        found: set[int] | None = None,
    ) -> None:
        self._store = store
        self._runner = runner
        self._ledger = ledger
        self._progress = progress
        self._found = found
        self._targets = KnownTargets(runner, store.follow)
        self._batch: list[Job] = []
        self._linked: set[tuple[int, int]] = set()  # files of several names that are in the batch
        self._decided: dict[
            tuple[int, int], Wanted
        ] = {}  # what their first names want: those may be in two zones
        self.tally = Tally()

    def run(self, walk: Walk, starts: Sequence[bytes] = (b"",)) -> Tally:
        """Walk what is at and below the given paths once; ``b""`` is the root.

        Raises what makes going on pointless: the HSM or the log failing on the way.
        """
        try:
            with _collected_rarely():
                for start in starts:
                    for found in walk.files(start):
                        self._look_at(found)
                        if len(self._batch) >= self._runner.batch_size:
                            self._flush()
                        elif self.tally.files % _STRIDE == 0:
                            self._progress(self.tally)  # who wants it to stop is heard where nothing is to do
                self._flush()
        finally:
            self._close()
        return self.tally

    def fail(self, path: bytes, error: Exception) -> None:
        """Note what cannot be done."""
        self.tally.failures.append(Failure(path, reason(error)))

    def _look_at(self, found: FoundFile) -> None:
        try:
            fd = self._store.open(found)
        except FileNotFoundError:
            self.tally.gone += 1
            return
        except (OSError, KmsfsError) as error:
            self.fail(found.path, error)
            return
        keep = False
        try:
            keep = self._is_stale(found, fd)
        except (OSError, KmsfsError) as error:
            self.fail(found.path, error)
        finally:
            if not keep:
                os.close(fd)

    def _is_stale(self, found: FoundFile, fd: int) -> bool:
        """Take the file into the batch unless it is current."""
        raw = os.pread(fd, HEADER_SIZE, 0)
        status = os.fstat(fd)
        self.tally.files += 1
        self.tally.bytes += status.st_size
        key = (status.st_dev, status.st_ino)
        wanted = found.wanted if status.st_nlink == 1 else self._decided.setdefault(key, found.wanted)
        if not raw or wanted != found.wanted or is_current(raw, self._targets.of(wanted)):
            self.tally.current += 1  # also a file that was never written, which has no header
            if self._found is not None:
                self._found.add(status.st_ino)
            return False
        if status.st_nlink > 1:
            if key in self._linked:
                return False  # under another name in this batch
            self._linked.add(key)
        self._batch.append(Job(found.path, fd, raw, found.wanted))
        return True

    def expect(self, wanted: Wanted) -> Wanted:
        """To be told before a directory is listed: what comes into it from then on is under what the keys are now."""
        self._targets.ask(wanted)
        return wanted

    def materials(self) -> dict[str, str]:
        """The material of each wanted key, in hex."""
        return self._targets.materials()

    def was_overtaken(self) -> bool:
        """Whether a key was given new material since the pass began: what it found current may not be."""
        return self._targets.have_changed()

    def _flush(self) -> None:
        if not self._batch:
            return
        computed = self._runner.run([(job.raw, job.wanted) for job in self._batch])
        planned = []
        for job, result in zip(self._batch, computed, strict=True):
            if isinstance(result, KmsfsError):
                self.fail(job.path, result)
            elif result is not None:
                planned.append(Planned(job, result))
            else:
                self.tally.current += 1
        self._put(planned)
        self._close()
        self._progress(self.tally)

    def _put(self, planned: list[Planned]) -> None:
        if not planned:
            return
        self._ledger.intend(planned)
        outcomes = self._store.put(planned, self._ledger.sync)
        self._ledger.settle(planned, outcomes)
        for plan, outcome in zip(planned, outcomes, strict=True):
            if outcome is Outcome.DONE:
                self.tally.done += 1
                if self._found is not None:
                    self._found.add(os.fstat(plan.job.fd).st_ino)
            elif outcome is Outcome.CHANGED:
                self.tally.changed += 1
            elif outcome is Outcome.GONE:
                self._note_gone(plan.job.fd)
            elif isinstance(outcome, Exception):
                self.fail(plan.job.path, outcome)

    def _note_gone(self, fd: int) -> None:
        """A file has lost the name that it was found by. Its others were passed over for that one's sake."""
        status = os.fstat(fd)
        if status.st_nlink and (status.st_dev, status.st_ino) in self._linked:
            self.tally.changed += 1
        else:
            self.tally.gone += 1

    def _close(self) -> None:
        for job in self._batch:
            os.close(job.fd)
        self._batch.clear()
        self._linked.clear()


@contextmanager
def _collected_rarely() -> Iterator[None]:
    """A pass makes a dozen objects for a file and no cycles: to look for some at every 700 costs it a twentieth."""
    before = gc.get_threshold()
    gc.set_threshold(20_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def reason(error: Exception) -> str:
    """Why something failed, in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error)
