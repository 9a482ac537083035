"""Sets of chunk indices, kept as sorted disjoint extents.

Pure: used for the holes of a file, in memory exactly and in the header coarsened to what fits.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Extents:
    """Half-open ranges [start, stop) of chunk indices; falsy when empty."""

    __slots__ = ("_starts", "_stops")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for start, stop in ranges:
            self.add(start, stop)

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._stops, strict=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Extents) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __contains__(self, index: int) -> bool:
        at = bisect_right(self._starts, index) - 1
        return at >= 0 and index < self._stops[at]

    def add(self, start: int, stop: int) -> None:
        """Add [start, stop), merging what it touches."""
        if start >= stop:
            return
        low = bisect_left(self._stops, start)
        high = bisect_right(self._starts, stop)
        if low < high:
            start = min(start, self._starts[low])
            stop = max(stop, self._stops[high - 1])
        self._starts[low:high] = [start]
        self._stops[low:high] = [stop]

    def remove(self, start: int, stop: int) -> None:
        """Take [start, stop) out, splitting what it cuts."""
        if start >= stop or not self._starts:
            return
        low = bisect_right(self._stops, start)
        high = bisect_left(self._starts, stop)
        if low >= high:
            return
        kept = []
        if self._starts[low] < start:
            kept.append((self._starts[low], start))
        if self._stops[high - 1] > stop:
            kept.append((stop, self._stops[high - 1]))
        self._starts[low:high] = [first for first, _ in kept]
        self._stops[low:high] = [last for _, last in kept]

    def coarsened(self, limit: int) -> Extents:
        """A superset in at most ``limit`` extents; neighbours merge across the smallest gaps."""
        if len(self) <= limit:
            return Extents(self)
        gaps = sorted(range(1, len(self)), key=lambda at: self._starts[at] - self._stops[at - 1])
        bridged = set(gaps[: len(self) - limit])
        result = Extents()
        for at, (start, stop) in enumerate(self):
            result.add(result._stops[-1] if at in bridged else start, stop)
        return result
