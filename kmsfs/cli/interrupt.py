"""Ctrl-C and SIGTERM for work that must end between two batches, not inside one."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from kmsfs.tools.journal import State


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], State | None]]:
    """Yield what says whether a signal has asked to pause. A second one ends the process as ever."""
    asked: list[State] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(State.PAUSED)
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked[0] if asked else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
