"""New files beside old ones, and their way into the old one's place, a batch at a time.

Nothing takes a place before it is durable and marked. A stop leaves old files, new files, and leftovers that begin with
``kmsfs.tmp.``; a file of several names is remembered until the last of them leads to the new one.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from kmsfs.format.layout import HEADER_COPY_SIZE
from kmsfs.storage import backing, durable
from kmsfs.storage.lending import lent
from kmsfs.storage.likeness import copy_attributes, copy_times
from kmsfs.tools.marks import Links
from kmsfs.tools.passes import Outcome, Planned
from kmsfs.tools.walk import standing
from kmsfs.tree.rekey import Swap, heads
from kmsfs.tree.resealing import reseal
from kmsfs.tree.swaps import TOUCH_NS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kmsfs.errors import KmsfsError
    from kmsfs.keystore.pool import ReadyKey
    from kmsfs.tools.marks import Marks
    from kmsfs.tools.passes import Job, Ledger
    from kmsfs.tree.open_file import OpenFile

_MAX_FILES: Final = 128
_MAX_BYTES: Final = 64 << 20
_CHANGES: Final = stat.S_IWUSR | stat.S_IXUSR  # what changing a directory takes
Outcomes = list["Outcome | KmsfsError | OSError"]


@dataclass(frozen=True, slots=True)
class _Directory:
    fd: int
    status: os.stat_result  # from before anything was put into it


@dataclass(frozen=True, slots=True)
class _New:
    """A file that waits beside the one that it replaces."""

    planned: Planned
    name: bytes
    temporary: bytes
    dir_fd: int
    commitment: bytes
    generation: int


class Replacements:
    """The batch. ``close`` removes what never took its place."""

    def __init__(self, root_fd: int, ledger: Ledger, marks: Marks, *, touch: bool) -> None:
        self._root_fd = root_fd
        self._ledger = ledger
        self._marks = marks
        self._later_ns = TOUCH_NS if touch else 0
        self._files: list[_New] = []
        self._bytes = 0
        self._directories: dict[tuple[int, int], _Directory] = {}

    def __len__(self) -> int:
        return len(self._files)

    @property
    def full(self) -> bool:
        """Whether it is time to put them in their places."""
        return len(self._directories) >= _MAX_FILES or len(self) >= _MAX_FILES or self._bytes >= _MAX_BYTES

    def write(self, job: Job, name: bytes, dir_fd: int, old: OpenFile, ready: ReadyKey) -> None:
        """Write the new file beside the old one. On failure nothing of it is left."""
        directory = self._directory(dir_fd)
        temporary = durable.temporary_name()
        with lent(directory.fd, _CHANGES):
            fd = backing.create_regular(temporary, directory.fd, 0o600)
            try:
                new = reseal(old, fd, ready)
                sealed = os.pread(fd, HEADER_COPY_SIZE, 0)  # before the times: it moves atime
                copy_attributes(job.fd, fd)
                copy_times(os.fstat(job.fd), fd, self._later_ns)
            except BaseException:
                os.unlink(temporary, dir_fd=directory.fd)
                raise
            finally:
                os.close(fd)
        was, now = old.header, new.header
        assert was is not None and now is not None  # noqa: S101, PT018 - both are files with content
        swap = Swap(was.file_id, was.generation, 0, sealed, heads(was.slots), heads(now.slots))
        planned = Planned(job, swap)
        self._files.append(_New(planned, name, temporary, directory.fd, now.commitment, now.generation))
        self._bytes += new.size

    def put(self) -> Outcomes:
        """Put all of them in their places."""
        if self._files:
            self._announce(None)
        return self._settle([_tried(partial(self._take_place, new)) for new in self._files])

    def put_linked(self, paths: Sequence[bytes]) -> Outcomes:
        """Put the only one in the place of each of these names of the old file."""
        (new,) = self._files
        links = Links(new.commitment, new.generation, new.planned.swap.generation, tuple(paths))
        self._announce(links)
        return self._settle([_tried(partial(self._take_places, new, links))])

    def _announce(self, links: Links | None) -> None:
        self._ledger.intend([new.planned for new in self._files])
        self._ledger.sync()
        backing.syncfs(self._root_fd)
        self._marks.add([new.commitment for new in self._files], links)

    def _settle(self, outcomes: Outcomes) -> Outcomes:
        if outcomes:
            self._ledger.settle([new.planned for new in self._files], outcomes)
        at_work = zip(self._files, outcomes, strict=True)
        self._files = [new for new, outcome in at_work if outcome is not Outcome.DONE]
        self.close()
        return outcomes

    def _take_place(self, new: _New) -> None:
        with lent(new.dir_fd, _CHANGES):
            backing.rename(new.temporary, new.dir_fd, new.name, new.dir_fd)

    def _take_places(self, new: _New, links: Links) -> None:
        for path in links.paths:
            link_over(new.temporary, new.dir_fd, self._root_fd, path)
        with lent(new.dir_fd, _CHANGES):
            os.unlink(new.temporary, dir_fd=new.dir_fd)
        backing.syncfs(self._root_fd)
        self._marks.linked(new.commitment)

    def close(self) -> None:
        """Remove what waits still, and give the directories their times back."""
        for new in self._files:
            with suppress(OSError), lent(new.dir_fd, _CHANGES):
                os.unlink(new.temporary, dir_fd=new.dir_fd)
        self._files.clear()
        self._bytes = 0
        for directory in self._directories.values():
            with suppress(OSError):
                copy_times(directory.status, directory.fd)
            os.close(directory.fd)
        self._directories.clear()

    def _directory(self, dir_fd: int) -> _Directory:
        status = os.fstat(dir_fd)
        key = (status.st_dev, status.st_ino)
        if key not in self._directories:
            self._directories[key] = _Directory(os.dup(dir_fd), status)
        return self._directories[key]


def link_over(source: bytes, source_dir_fd: int, root_fd: int, path: bytes) -> None:
    """Make the name at ``path`` lead to the file ``source``; what it led to loses that name."""
    with standing(root_fd, path) as (name, dir_fd), lent(dir_fd, _CHANGES):
        before = os.fstat(dir_fd)
        temporary = durable.temporary_name()
        os.link(source, temporary, src_dir_fd=source_dir_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
        try:
            backing.rename(temporary, dir_fd, name, dir_fd)
        except BaseException:
            os.unlink(temporary, dir_fd=dir_fd)
            raise
        copy_times(before, dir_fd)


def remove_leftovers(dir_fd: int) -> None:
    """Remove the files in a directory that a stop has left unfinished; nobody else is at work in the tree."""
    before = os.fstat(dir_fd)
    fd = backing.open_listing(b".", dir_fd)
    try:
        with os.scandir(fd) as entries, lent(dir_fd, _CHANGES):
            names = [os.fsencode(entry.name) for entry in entries if _is_leftover(entry)]
            for name in names:
                os.unlink(name, dir_fd=dir_fd)
    finally:
        os.close(fd)
    if names:
        copy_times(before, dir_fd)


def _is_leftover(entry: os.DirEntry[str]) -> bool:
    named = os.fsencode(entry.name).startswith(durable.TEMPORARY_PREFIX)
    return named and entry.is_file(follow_symlinks=False)


def _tried(call: Callable[[], None]) -> Outcome | KmsfsError | OSError:
    try:
        call()
    except OSError as error:
        return error
    return Outcome.DONE
