"""Who computes new headers: the part of a pass that asks the HSM."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from kmsfs.errors import KmsfsError
from kmsfs.tools.throttle import Patience
from kmsfs.tree.rekey import TargetError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kmsfs.tools.throttle import Rate
    from kmsfs.tools.walk import Wanted
    from kmsfs.tree.rekey import Rekeyer, Swap, Targets

BATCH_SIZE: Final = 256


class Runner(Protocol):
    """Computes new headers."""

    batch_size: (
        int  # files that a pass hands over at once; each keeps a descriptor until its header is in place
    )

    def targets(self, wanted: Wanted) -> Targets:
        """The wanted keys with their current material. Raises if one of them cannot be used."""

    def run(self, jobs: Sequence[tuple[bytes, Wanted]]) -> list[Swap | KmsfsError | None]:
        """For each header what replaces it, None if nothing need, or why it cannot be."""


class InProcess:
    """Asks the HSM right here, at most at the given rate, and again when it does not answer."""

    def __init__(self, rekeyer: Rekeyer, rate: Rate | None = None) -> None:
        self._rekeyer = rekeyer
        self._rate = rate
        # With a rate, smaller ones, so that who pauses is heard and who watches sees something.
        self.batch_size = BATCH_SIZE if rate is None else max(1, min(BATCH_SIZE, int(rate.per_s / 8)))
        self._known: dict[Wanted, Targets] = {}

    def targets(self, wanted: Wanted) -> Targets:
        """See Runner."""
        targets = self._known[wanted] = self._rekeyer.targets(wanted)
        return targets

    def run(self, jobs: Sequence[tuple[bytes, Wanted]]) -> list[Swap | KmsfsError | None]:
        """See Runner."""
        known = [(raw, self._known[wanted]) for raw, wanted in jobs]
        if self._rate is not None:
            self._rate.take(sum(1 + len(targets) for _, targets in known))
        patience = Patience()
        try:
            swaps = patience.ask(partial(self._rekeyer.swaps, known))
        except KmsfsError:  # of one source key, or its token: each file may have another slot that opens
            swaps = [None] * len(known)
        except TargetError as error:
            raise error.reason from error
        return [swap or self._one(patience, *job) for swap, job in zip(swaps, known, strict=True)]

    def _one(self, patience: Patience, raw: bytes, targets: Targets) -> Swap | KmsfsError | None:
        try:
            return patience.ask(partial(self._rekeyer.swap, raw, targets))
        except KmsfsError as error:
            return error
        except TargetError as error:
            raise error.reason from error
