"""Which files of a tree got a new header: a list for backup tools, which would take them for unchanged.

A rewrap leaves size and modification time as they are, so that ``rsync`` skips the file and the backup keeps slots of
the old key. The list names encrypted paths, relative to the tree, one a line: what ``rsync --files-from`` takes.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kmsfs.errors import KmsfsError
    from kmsfs.ids import TreeId
    from kmsfs.tools.passes import Outcome, Planned

_MODE = 0o600


class ChangeList:
    """The list of one run; the file is made with its first line. A ledger of passes."""

    def __init__(self, home: Path, tree_id: TreeId) -> None:
        started = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self.path = home / "changes" / tree_id.hex() / f"{started}-{os.getpid()}.list"
        self._fd = -1

    @property
    def written(self) -> bool:
        """Whether anything was listed."""
        return self._fd >= 0

    def intend(self, planned: Sequence[Planned]) -> None:
        """List files whose headers are about to change: rather one too many than one too few."""
        if not self.written:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(self.path, flags, _MODE)
        with open(self._fd, "ab", closefd=False) as file:
            file.writelines(plan.job.path + b"\n" for plan in planned)

    def sync(self) -> None:
        """Make the list durable."""
        os.fdatasync(self._fd)

    def settle(self, planned: Sequence[Planned], outcomes: Sequence[Outcome | KmsfsError | OSError]) -> None:
        """What became of them is not of interest here."""

    def close(self) -> None:
        """Close the file."""
        if self.written:
            os.close(self._fd)
