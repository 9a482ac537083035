"""Unwrapped data keys of open files, so that reopening a file costs no HSM call.

Bounded by count and age. One thread unwraps a key while others that want it wait. Failures are not kept. The
keys are immutable bytes that Python cannot wipe: the bounds are all that limits how long they stay.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from threading import Lock
from typing import Final

from kmsfs.format.context import encode_context
from kmsfs.keystore.service import Keystore

MAX_ENTRIES: Final = 4096
MAX_AGE_S: Final = 300.0

_CacheKey = tuple[str, bytes, bytes]  # key ARN, blob, encoded context


class DataKeyCache:
    """Data keys by key ARN, blob and context. Thread-safe.

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
        self._entries: OrderedDict[_CacheKey, tuple[bytes, float]] = OrderedDict()  # oldest use first
        self._pending: dict[_CacheKey, Future[bytes]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def unwrap(self, blob: bytes, context: Mapping[str, str], key_arn: str) -> bytes:
        """Return the data key in ``blob``, which must be under ``key_arn``."""
        wanted = (key_arn, blob, encode_context(context))
        with self._lock:
            found = self._lookup(wanted)
            if found is not None:
                return found
            pending = self._pending.get(wanted)
            if pending is None:
                mine: Future[bytes] = Future()
                self._pending[wanted] = mine
                self.unwraps += 1
        if pending is not None:
            return pending.result()
        return self._unwrap(wanted, context, mine)

    def purge(self, key_arn: str | None = None) -> None:
        """Forget the data keys under one CMK, or all."""
        with self._lock:
            for key in [key for key in self._entries if key_arn in (None, key[0])]:
                del self._entries[key]
            # What is being unwrapped now must not be kept either; its waiters still get it.
            for key in [key for key in self._pending if key_arn in (None, key[0])]:
                del self._pending[key]

    def expire(self) -> None:
        """Forget the data keys that are too old; ``unwrap`` only looks at the one it wants."""
        with self._lock:
            limit = self._clock() - self._max_age_s
            for key in [key for key, (_, since) in self._entries.items() if since < limit]:
                del self._entries[key]

    def _lookup(self, wanted: _CacheKey) -> bytes | None:
        entry = self._entries.get(wanted)
        if entry is None:
            return None
        data_key, since = entry
        if self._clock() - since > self._max_age_s:
            del self._entries[wanted]
            return None
        self._entries.move_to_end(wanted)
        return data_key

    def _unwrap(self, wanted: _CacheKey, context: Mapping[str, str], mine: Future[bytes]) -> bytes:
        key_arn, blob, _ = wanted
        try:
            data_key = self._keystore.decrypt(blob, context, ref=key_arn).plaintext
        except BaseException as error:
            with self._lock:
                self._forget(wanted, mine)
            mine.set_exception(error)
            raise
        with self._lock:
            if self._forget(wanted, mine):
                self._entries[wanted] = data_key, self._clock()
                while len(self._entries) > self._max_entries:
                    self._entries.popitem(last=False)
        mine.set_result(data_key)
        return data_key

    def _forget(self, wanted: _CacheKey, mine: Future[bytes]) -> bool:
        if self._pending.get(wanted) is not mine:
            return False
        del self._pending[wanted]
        return True
