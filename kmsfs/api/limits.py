"""How much one client may ask for: sizes, times, and a token bucket for each name.

Pure but for the clock, which is an argument.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_BUCKETS: Final = 4096


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server bounds. Times in seconds; each is for the whole of its step, not for one read."""

    header_bytes: int = 16 << 10
    body_bytes: int = 512 << 10  # the largest legal request is a policy of 131,072 characters, escaped
    connections: int = 256  # that are served; as many more may wait
    workers: int = 8
    header_s: float = 10
    body_s: float = 20
    answer_s: float = 20
    idle_s: float = 60
    drain_s: float = 10
    linger_s: float = 1
    requests_per_s: float = 10_000  # of one access key
    failures_per_s: float = 20  # of one address


class Throttle:
    """Token buckets by name, each holding the tokens of two seconds; the least used are forgotten."""

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> bool:
        """Take a token; return whether there was one."""
        now, full = self._clock(), 2 * self._rate
        tokens, at = self._buckets.get(name, (full, now))
        tokens = min(full, tokens + (now - at) * self._rate)
        granted = tokens >= 1
        self._buckets[name] = (tokens - 1 if granted else tokens, now)
        self._buckets.move_to_end(name)
        if len(self._buckets) > _BUCKETS:
            self._buckets.popitem(last=False)
        return granted
