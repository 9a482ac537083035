"""How long work is followed on a terminal: one line on stderr, written over itself. Elsewhere nothing is printed."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

_INTERVAL_S: Final = 0.2
_BAR: Final = 24


class Progress:
    """A context manager. ``count`` tells how many things there are; it is asked where somebody looks, and only then."""

    def __init__(self, noun: str, count: Callable[[], int]) -> None:
        self._noun = noun
        self._count = count
        self._total = 0
        self._started = 0.0
        self._shown_at = 0.0
        self._width = 0
        self._on = sys.stderr.isatty()

    def __enter__(self) -> Self:
        if self._on:
            self._total = self._count()
        self._started = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._width:
            self._write("")
            sys.stderr.write("\r")
            sys.stderr.flush()

    def show(self, done: int, failed: int) -> None:
        """Say how far it is."""
        now = time.monotonic()
        if self._on and now - self._shown_at >= _INTERVAL_S:
            self._shown_at = now
            self._write(describe(self._noun, done, failed, now - self._started, self._total))

    def _write(self, line: str) -> None:
        sys.stderr.write("\r" + line.ljust(self._width))
        sys.stderr.flush()
        self._width = len(line)


def describe(noun: str, done: int, failed: int, elapsed_s: float, total: int) -> str:
    """Return the line: a bar, the rate, the time that is left, what failed. Nothing to do has no bar."""
    rate = done / elapsed_s if elapsed_s > 0 else 0.0
    parts = []
    if total:
        share = min(1.0, done / total)
        filled = int(share * _BAR)
        parts.append(f"[{'#' * filled}{'.' * (_BAR - filled)}] {share:4.0%}")
    parts.append(f"{done:,} of {total:,} {noun}" if total else f"{done:,} {noun}")
    parts.append(f"{rate:,.0f}/s")
    if total and rate:
        parts.append(f"{_duration(max(0, total - done) / rate)} left")
    if failed:
        parts.append(f"{failed:,} failed")
    return "  ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
