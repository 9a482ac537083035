"""A keystore whose HSM answers when a test lets it."""

from __future__ import annotations

from threading import Event
from typing import TYPE_CHECKING, Any

import trio

from kmsfs.errors import HsmUnavailableError
from kmsfs.keystore.service import Keystore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from testkit.posix import Posix


class SlowKeystore(Keystore):
    """A keystore whose HSM takes as long as a test wants."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.hold = False
        self.fail = False
        self.go = Event()
        self.waiting = 0
        self.unwrapped_as = 0  # the how many-eth call the last unwrap was
        self.started: Callable[[], None] = lambda: None

    def is_fast(self, key_arn: str) -> bool:
        return False

    def _wait(self) -> None:
        if self.hold:
            self.waiting += 1
            self.started()
            assert self.go.wait(30)
            if self.fail:
                raise HsmUnavailableError("the token is tired")

    def unwrap(self, *arguments: Any, **named: Any) -> Any:
        self._wait()
        self.unwrapped_as = self.waiting
        return super().unwrap(*arguments, **named)

    def rewrap(self, *arguments: Any, **named: Any) -> Any:
        self._wait()
        return super().rewrap(*arguments, **named)

    def generate_data_key(self, *arguments: Any, **named: Any) -> Any:
        self._wait()
        return super().generate_data_key(*arguments, **named)

    def generate_data_keys(self, *arguments: Any, **named: Any) -> Any:
        self._wait()
        return super().generate_data_keys(*arguments, **named)


async def started(posix: Posix) -> None:
    """Wait until a call is in the HSM."""
    keystore = posix.keystore
    assert isinstance(keystore, SlowKeystore)
    event, token = trio.Event(), trio.lowlevel.current_trio_token()
    keystore.started = lambda: token.run_sync_soon(event.set)
    if not keystore.waiting:
        await event.wait()


def let_go(posix: Posix, *, fail: bool = False) -> None:
    assert isinstance(posix.keystore, SlowKeystore)
    posix.keystore.fail = fail
    posix.keystore.go.set()
