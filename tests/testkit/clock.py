"""Clocks for a keystore: one that a test moves, and one that is days late.

What a late keystore turns on or schedules is due at once for every process that reads the real clock.
"""

import time
from collections.abc import Callable

DAY = 86_400.0


class Clock:
    """The time that the keystore is told."""

    def __init__(self) -> None:
        self.time = 2_000_000_000.0

    def __call__(self) -> float:
        return self.time


def late_by(days: float) -> Callable[[], float]:
    """The real clock, some days ago."""
    return lambda: time.time() - days * DAY
