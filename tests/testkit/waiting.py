"""Waiting for what another process does by itself, where it gives no sign of its own."""

import time
from collections.abc import Callable

WAIT_S = 30.0  # no measurement: only an end for what never comes


def await_true(holds: Callable[[], bool]) -> None:
    """Ask again and again until it holds."""
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)
