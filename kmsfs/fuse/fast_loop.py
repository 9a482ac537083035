"""Waiting for the next FUSE request without a trip through trio's scheduler.

pyfuse3 takes a trio.Lock and calls trio.lowlevel.wait_readable for every request: two checkpoints and an epoll
call, which cost more than most requests. It finds trio through its module attribute (its own asyncio support replaces
it there), so this module puts a thin stand-in there: as long as requests keep coming and no handler is suspended,
they are taken one after the other. It looks ``_LOOKS`` times, for some 0.1 ms, before it sleeps: waking a virtual
core that has gone to sleep costs 35 microseconds and its caches. Every ``_BURST`` requests, and whenever nothing
comes for ``_PATIENCE_MS``, the scheduler runs as usual.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Any

import pyfuse3
import trio

if TYPE_CHECKING:
    from types import TracebackType

_BURST = 64
_PATIENCE_MS = 1
_LOOKS = 100


class InFlight:
    """Counts handlers; those that are suspended must not wait for the next request to arrive."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


in_flight = InFlight()


class _NoLock:
    """Stands for pyfuse3's lock around wait_readable, which does its own locking here."""

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class _LowLevel:
    """trio.lowlevel with another wait_readable."""

    def __init__(self) -> None:
        self._lock = trio.Lock()
        self._poll = select.poll()
        self._registered = -1
        self._burst = 0
        self._closing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(trio.lowlevel, name)

    def notify_closing(self, fd: int) -> None:
        """Wake who waits; who comes later must not wait, for a mount with open files has nothing more to say."""
        self._closing = True
        trio.lowlevel.notify_closing(fd)

    async def wait_readable(self, fd: int) -> None:
        """Return when ``fd`` is readable: at once if it is, or soon becomes so and nobody else has anything to do."""
        if fd != self._registered:
            self._poll.register(fd, select.POLLIN)
            self._registered = fd
        if self._burst < _BURST:
            self._burst += 1
            if self._soon():
                return
        self._burst = 0
        async with self._lock:
            if self._closing:
                raise trio.ClosedResourceError
            await trio.lowlevel.wait_readable(fd)
            while not self._poll.poll(0):  # another task took the request: reading would stop the loop
                await trio.lowlevel.wait_readable(fd)

    def _soon(self) -> bool:
        """Whether a request is there or comes soon. Does not sleep while a handler is suspended."""
        poll = self._poll.poll
        if in_flight.count:
            return bool(poll(0))
        for _ in range(_LOOKS):
            if poll(0):
                return True
            os.sched_yield()
        return bool(poll(_PATIENCE_MS))


class _Trio:
    """trio as pyfuse3 is to see it."""

    def __init__(self) -> None:
        self.lowlevel = _LowLevel()
        self.Lock = _NoLock

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)


def install() -> None:
    """Make pyfuse3 wait this way. Before pyfuse3.init; once for a process."""
    setattr(pyfuse3, "trio", _Trio())  # noqa: B010 - the stubs do not know the attribute
