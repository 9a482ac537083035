"""Unwrapped data keys of open files, so that reopening a file costs no HSM call.

Bounded by count and age. One thread unwraps a key while others that want it wait. Failures are not kept. The
keys are immutable bytes that Python cannot wipe: the bounds are all that limits how long they stay.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

from kmsfs.format.context import encode_context
from kmsfs.keystore.service import Keystore

MAX_ENTRIES: Final = 4096
MAX_AGE_S: Final = 300.0

_Name = tuple[bytes, bytes]  # blob, encoded context


@dataclass(frozen=True, slots=True)
class _Entry:
    key_arn: str
    data_key: bytes = field(repr=False)
    since: float


class DataKeyCache:
    """Data keys by blob and context. Thread-safe.

    The caller asks ``Keystore.check_usable`` first: a cached key of a disabled CMK is still returned.
    """

    def __init__(
        self,
        keystore: Keystore,
        *,
        max_entries: int = MAX_ENTRIES,
        max_age_s: float = MAX_AGE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.unwraps = 0  # decrypt calls made, for tests and for status
        self._keystore = keystore
        self._max_entries = max_entries
        self._max_age_s = max_age_s
        self._clock = clock
        self._lock = Lock()
        self._entries: OrderedDict[_Name, _Entry] = OrderedDict()  # oldest use first
        self._pending: dict[tuple[str, _Name], Future[bytes]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def peek(self, blob: bytes, context: Mapping[str, str]) -> bytes | None:
        """Return the data key in ``blob`` if it is at hand. Never calls the HSM."""
        with self._lock:
            entry = self._lookup((blob, encode_context(context)))
        return None if entry is None else entry.data_key

    def unwrap(self, blob: bytes, context: Mapping[str, str], key_arn: str) -> bytes:
        """Return the data key in ``blob``, which must be under ``key_arn``."""
        name = (blob, encode_context(context))
        with self._lock:
            entry = self._lookup(name)
            if entry is not None and entry.key_arn == key_arn:
                return entry.data_key
            pending = self._pending.get((key_arn, name))
            if pending is None:
                mine: Future[bytes] = Future()
                self._pending[key_arn, name] = mine
                self.unwraps += 1
        if pending is not None:
            return pending.result()
        return self._unwrap(name, context, key_arn, mine)

    def key_arns(self) -> set[str]:
        """Return the CMKs that some data key here is under."""
        with self._lock:
            return {entry.key_arn for entry in self._entries.values()}

    def purge(self, key_arn: str | None = None) -> None:
        """Forget the data keys under one CMK, or all."""
        with self._lock:
            for name in [name for name, entry in self._entries.items() if key_arn in (None, entry.key_arn)]:
                del self._entries[name]
            # What is being unwrapped now must not be kept either; its waiters still get it.
            for wanted in [wanted for wanted in self._pending if key_arn in (None, wanted[0])]:
                del self._pending[wanted]

    def expire(self) -> None:
        """Forget the data keys that are too old; look-ups only see to the one that they want."""
        with self._lock:
            limit = self._clock() - self._max_age_s
            for name in [name for name, entry in self._entries.items() if entry.since < limit]:
                del self._entries[name]

    def _lookup(self, name: _Name) -> _Entry | None:
        entry = self._entries.get(name)
        if entry is None:
            return None
        if self._clock() - entry.since > self._max_age_s:
            del self._entries[name]
            return None
        self._entries.move_to_end(name)
        return entry

    def _unwrap(self, name: _Name, context: Mapping[str, str], key_arn: str, mine: Future[bytes]) -> bytes:
        try:
            data_key = self._keystore.unwrap(name[0], context, ref=key_arn)
        except BaseException as error:
            with self._lock:
                self._settle((key_arn, name), mine)
            mine.set_exception(error)
            raise
        with self._lock:
            if self._settle((key_arn, name), mine):
                self._entries[name] = _Entry(key_arn, data_key, self._clock())
                self._entries.move_to_end(name)
                while len(self._entries) > self._max_entries:
                    self._entries.popitem(last=False)
        mine.set_result(data_key)
        return data_key

    def _settle(self, wanted: tuple[str, _Name], mine: Future[bytes]) -> bool:
        """Take ``mine`` off the pending list; False if a purge did so before."""
        if self._pending.get(wanted) is not mine:
            return False
        del self._pending[wanted]
        return True
