"""How near a region's token is: how long a small call takes, and whether it answers at all.

Measured once, and again after it failed. Whoever asks gets what is known, without a call.
"""

import math
import time
from collections.abc import Callable
from statistics import median
from typing import Final

from kmsfs.errors import HsmError, InsecureKeyError, KmsfsError
from kmsfs.keystore.ports import Hsm

FAST_CALL_S: Final = 0.001
RETRY_S: Final = 5.0  # how often a token that does not answer is called again; one that is away costs a stat
_CALLS: Final = 5


class Nearness:
    """What is known of one token. Thread-safe."""

    def __init__(self, hsm: Hsm, call: Callable[[], object]) -> None:
        self._hsm = hsm
        self._call = call
        self._seconds: float | None = None  # None: not measured yet
        self._failure = ""
        self._away = False
        self._failed_at = -math.inf  # when it was last called to be measured, in vain

    @property
    def distance(self) -> float:
        """Seconds that a small call takes; infinite if the token did not answer, or was not asked yet.

        Tokens that answer within a millisecond are all here, at 0: chance shall not choose between them.
        """
        if self._seconds is None:
            return math.inf
        return 0.0 if self._seconds < FAST_CALL_S else self._seconds

    @property
    def is_fast(self) -> bool:
        """Whether the token answers within a millisecond."""
        return self.distance == 0.0

    @property
    def failed(self) -> bool:
        """Whether the last call failed."""
        return bool(self._failure)

    @property
    def unreachable(self) -> str:
        """Why the token is not there; empty if nothing is known against it."""
        if self._failure:
            return self._failure
        try:
            self._hsm.check_present()
        except KmsfsError as error:
            return str(error)
        return ""

    @property
    def is_away(self) -> bool:
        """Whether the token does not answer: not where it does, and the region's metadata cannot be believed."""
        return self._away if self._failure else bool(self.unreachable)

    def measure(self) -> None:
        """Measure if that was not done yet, or if the token failed and a moment has passed. Never raises."""
        if self._seconds is not None and not self._failure:
            return
        try:
            self._hsm.check_present()
            if time.monotonic() - self._failed_at >= RETRY_S:
                self._measure()
        except KmsfsError as error:
            self.note(error)

    def _measure(self) -> None:
        try:
            self._seconds = median(self._time_one_call() for _ in range(_CALLS))
        except KmsfsError:
            self._failed_at = time.monotonic()
            raise
        self._failure = ""

    def note(self, error: KmsfsError) -> None:
        """A call failed, and not because of one key."""
        if not isinstance(error, InsecureKeyError):
            self._seconds, self._failure, self._away = math.inf, str(error), isinstance(error, HsmError)

    def _time_one_call(self) -> float:
        start = time.perf_counter()
        self._call()
        return time.perf_counter() - start
