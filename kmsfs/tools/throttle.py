"""How hard the HSM may be asked: never more than so many calls a second, and again after a failure that may pass."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final, TypeVar

from kmsfs.errors import HsmTimeoutError, HsmUnavailableError, KmsfsError
from kmsfs.tree.rekey import TargetError

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

TRANSIENT: Final = (HsmUnavailableError, HsmTimeoutError)
ATTEMPTS: Final = 6
FIRST_WAIT_S: Final = 0.1  # doubled each time; about 3 s in all


class Rate:
    """Spreads calls out so that no second sees more than ``per_s`` of them."""

    def __init__(
        self,
        per_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.per_s = per_s
        self._clock = clock
        self._sleep = sleep
        self._next = clock()

    def take(self, calls: int) -> None:
        """Wait until ``calls`` more may be made."""
        now = self._clock()
        if self._next > now:
            self._sleep(self._next - now)
        self._next = max(self._next, now) + calls / self.per_s


def is_transient(error: Exception) -> bool:
    """Whether a failure is of an HSM that may answer later."""
    return isinstance(error.reason if isinstance(error, TargetError) else error, TRANSIENT)


def persistently(call: Callable[[], _T], sleep: Callable[[float], None] = time.sleep) -> _T:
    """Make a call, again and again while the HSM does not answer, a while apart; its last failure is raised.

    The waits are drawn at random, so that many workers do not come back at the same moment.
    """
    for attempt in range(ATTEMPTS - 1):
        try:
            return call()
        except (KmsfsError, TargetError) as error:
            if not is_transient(error):
                raise
            sleep(FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
    return call()


class Patience:
    """Asks persistently for each of many files, until the HSM did not answer in the end: then once, until it does."""

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep
        self._is_away = False

    def ask(self, call: Callable[[], _T]) -> _T:
        """Make a call; its last failure is raised."""
        try:
            result = call() if self._is_away else persistently(call, self._sleep)
        except (KmsfsError, TargetError) as error:
            self._is_away = self._is_away or is_transient(error)
            raise
        self._is_away = False
        return result
