"""Puts computed headers in place, so that no moment leaves a file without a good one.

The other copy first, then, when that is durable, the copy that was newest: after it no slot of the old header is left.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kmsfs.format.layout import HEADER_COPY_SIZE
from kmsfs.storage.backing import TimesKept, write_all

if TYPE_CHECKING:
    from kmsfs.tree.rekey import Swap

TOUCH_NS = 1_000_000_000


def write_other_copy(fd: int, swap: Swap) -> None:
    """First half; leaves the times alone. The old header stays good."""
    with TimesKept(fd):
        write_all(fd, swap.sealed, (1 - swap.newest_copy) * HEADER_COPY_SIZE)


def write_newest_copy(fd: int, swap: Swap, *, touch: bool) -> None:
    """Second half: only when the first is durable. ``touch`` moves mtime on by a second."""
    before = os.fstat(fd)
    write_all(fd, swap.sealed, swap.newest_copy * HEADER_COPY_SIZE)
    os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns + (TOUCH_NS if touch else 0)))
