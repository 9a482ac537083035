"""New headers computed by the workers of a Dask cluster.

What travels is headers and keys' names, never a data key or a PIN: each worker opens its own sessions, from the
KMSFS_HOME of its own machine. The tree, its lock and the journal stay with the coordinator. A result only counts when
the coordinator has put it in place, so a task may run twice: one whose worker died is given to another, one that takes
far longer than its like is started once more, and whichever is first counts.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final, Self

from kmsfs.errors import KmsfsError, SchedulerUnavailableError, UnsupportedOperationError
from kmsfs.ids import TreeId
from kmsfs.keystore.service import Keystore
from kmsfs.tools.runners import InProcess
from kmsfs.tree.rekey import Rekeyer, Swap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kmsfs.tools.throttle import Rate
    from kmsfs.tools.walk import Wanted
    from kmsfs.tree.rekey import Targets

TASK_SIZE: Final = 64  # files
TASKS_PER_WORKER: Final = 4  # under way at once: one is computed while others travel
MAX_BATCH: Final = 768  # files, each with a descriptor
CONNECT_LIMIT_S: Final = 15
STRAGGLER_FACTOR: Final = 10
STRAGGLER_LEAST_S: Final = 10.0

Result = Swap | KmsfsError | None


@dataclass(frozen=True, slots=True)
class Unusable:
    """A wanted key that a worker cannot use: no other file would fare better."""

    reason: KmsfsError


def swap_batch(tree_id: bytes, jobs: list[tuple[bytes, Wanted]]) -> list[Result] | Unusable:
    """Compute the new headers of a few files; runs on a worker."""
    runner = InProcess(Rekeyer(_keystore(os.environ.get("KMSFS_HOME", "")), TreeId(tree_id)))
    try:
        for wanted in dict.fromkeys(wanted for _, wanted in jobs):
            runner.targets(wanted)
        return runner.run(jobs)
    except KmsfsError as error:
        return Unusable(error)


@lru_cache(maxsize=1)
def _keystore(home: str) -> Keystore:
    """The worker's keystore, for its lifetime. After the worker has forked for the last time."""
    if not home:
        raise UnsupportedOperationError(
            "a worker has no KMSFS_HOME", hint="set it where the worker is started"
        )
    return Keystore.open(Path(home), via="migrate")


class Cluster:
    """A runner. A context manager; SchedulerUnavailableError if there is none, or no worker."""

    def __init__(self, address: str, local: InProcess, tree_id: TreeId, rate: Rate | None = None) -> None:
        self._local = local  # tells targets; the workers tell theirs
        self._tree_id = bytes(tree_id)
        self._rate = rate
        self._client = _connect(address)
        workers = len(self._client.scheduler_info()["workers"])
        self.batch_size = min(MAX_BATCH, max(1, workers) * TASK_SIZE * TASKS_PER_WORKER)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def targets(self, wanted: Wanted) -> Targets:
        """See Runner."""
        return self._local.targets(wanted)

    def run(self, jobs: Sequence[tuple[bytes, Wanted]]) -> list[Result]:
        """See Runner."""
        if self._rate is not None:
            self._rate.take(sum(1 + len(wanted) for _, wanted in jobs))
        parts = [list(jobs[start : start + TASK_SIZE]) for start in range(0, len(jobs), TASK_SIZE)]
        results: list[Result] = []
        for answer in _Round(self._client, self._tree_id, parts).results():
            if isinstance(answer, Unusable):
                raise answer.reason
            results += answer
        return results


class _Round:
    """The tasks of one batch."""

    def __init__(self, client: Any, tree_id: bytes, parts: list[list[tuple[bytes, Wanted]]]) -> None:
        self._client = client
        self._tree_id = tree_id
        self._parts = parts
        self._pending: dict[Any, int] = {}  # part by future
        self._doubled: set[int] = set()
        self._took: list[float] = []
        self._started = time.monotonic()

    def results(self) -> list[list[Result] | Unusable]:
        """What came of each part, in order."""
        import distributed

        found: dict[int, list[Result] | Unusable] = {}
        for number in range(len(self._parts)):
            self._start(number)
        while len(found) < len(self._parts):
            try:
                with self._client.as_current():
                    done, _ = distributed.wait(  # type: ignore[no-untyped-call]
                        list(self._pending), timeout=1.0, return_when="FIRST_COMPLETED"
                    )
            except TimeoutError:
                done = set()
            for future in done:
                number = self._pending.pop(future)
                if number not in found:
                    found[number] = self._answer(future)
                    self._took.append(time.monotonic() - self._started)
            self._double_stragglers(found)
        self._client.cancel(list(self._pending))
        return [found[number] for number in range(len(self._parts))]

    def _start(self, number: int) -> None:
        # Not pure: a second try must not be answered with the first.
        future = self._client.submit(swap_batch, self._tree_id, self._parts[number], pure=False, retries=2)
        self._pending[future] = number

    def _answer(self, future: Any) -> list[Result] | Unusable:
        try:
            answer: list[Result] | Unusable = future.result()
        except KmsfsError:
            raise
        except Exception as error:  # of the cluster: it gave up on the task
            raise SchedulerUnavailableError(
                f"the cluster could not finish a task: {type(error).__name__}",
                hint="see the logs of scheduler and workers, then resume",
            ) from error
        return answer

    def _double_stragglers(self, found: dict[int, list[Result] | Unusable]) -> None:
        if not self._took:
            return
        limit = max(STRAGGLER_LEAST_S, STRAGGLER_FACTOR * median(self._took))
        if time.monotonic() - self._started < limit:
            return
        for number in set(self._pending.values()) - found.keys() - self._doubled:
            self._doubled.add(number)
            self._start(number)


def _connect(address: str) -> Any:
    try:
        import distributed
    except ImportError as error:
        raise UnsupportedOperationError(
            "a scheduler needs Dask, which is not installed", hint="pip install 'kmsfs[cluster]'"
        ) from error
    try:
        client = distributed.Client(  # type: ignore[no-untyped-call]
            address, timeout=CONNECT_LIMIT_S, set_as_default=False
        )
        client.wait_for_workers(1, timeout=CONNECT_LIMIT_S)
    except (OSError, ValueError, TimeoutError) as error:
        raise SchedulerUnavailableError(
            f"no scheduler with a worker answers at {address}", hint="start them: dask scheduler, dask worker"
        ) from error
    return client
