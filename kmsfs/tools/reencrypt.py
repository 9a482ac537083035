"""A new data key and new ciphertext for every file of an unmounted tree.

For when a rewrap is not enough: a retained copy of the tree, or of its data keys, opens nothing that is written from
here on. The file ids stay, since extended attributes are bound to them. What is done is marked (kmsfs.tools.marks), so
that whatever stops it, it goes on and does nothing twice; a tree that it was stopped in reads completely.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from kmsfs.envelope.file_key import newest_unverified
from kmsfs.errors import FormatError, InvalidRequestError, KmsfsError, TreeBusyError
from kmsfs.format.layout import HEADER_SIZE
from kmsfs.tools.convergence import Convergence, Result
from kmsfs.tools.passes import Failure, Job, KnownTargets, Outcome, Tally, reason
from kmsfs.tools.replacing import Outcomes, Replacements, link_over, remove_leftovers
from kmsfs.tools.throttle import Patience, persistently
from kmsfs.tools.walk import FoundFile, Walk, standing
from kmsfs.tree.rekey import TargetError
from kmsfs.tree.resealing import open_old

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmsfs.format.header import FileHeader
    from kmsfs.tools.changes import KeyedTree
    from kmsfs.tools.marks import Links, Marks
    from kmsfs.tools.passes import Ledger
    from kmsfs.tools.runners import Runner
    from kmsfs.tools.throttle import Rate
    from kmsfs.tools.walk import FoundDirectory, Wanted
    from kmsfs.tree.rekey import Rekeyer

_STRIDE: Final = 1024  # files that are looked at between two words of progress


@dataclass(frozen=True, slots=True)
class Means:
    """What re-encryption needs besides what every way of bringing files under their keys gets."""

    rekeyer: Rekeyer
    marks: Marks
    rate: Rate | None = None
    touch: bool = False


@dataclass(slots=True)
class _Linked:
    """A file of several names; those that were found."""

    wanted: Wanted
    paths: list[bytes] = field(default_factory=list)


class Reencryption:
    """See the module. A way of ``kmsfs.tools.changes``, with the means bound first."""

    def __init__(
        self,
        means: Means,
        tree: KeyedTree,
        runner: Runner,
        ledger: Ledger,
        wanted: Callable[[str], Wanted],
        *,
        on_directory: Callable[[FoundDirectory], None],
        progress: Callable[[Tally], None],
    ) -> None:
        if not tree.alone:
            raise TreeBusyError(f"{tree.path} is mounted", hint="unmount it: files are replaced as a whole")
        self._means = means
        self._tree = tree
        self._wanted = wanted
        self._on_directory = on_directory
        self._progress = progress
        self._targets = KnownTargets(runner)
        self._batch = Replacements(tree.root_fd, ledger, means.marks, touch=means.touch)
        self._paths: list[tuple[bytes, int]] = []  # of the batch, with a descriptor of each old file
        self._linked: dict[tuple[int, int], _Linked] = {}
        self._tally = Tally()
        self._patience = Patience()
        self._converge = partial(
            Convergence, tree, runner, ledger, wanted, on_directory=on_directory, progress=progress
        )

    def run(self) -> Result:
        """Re-encrypt what is not, then see that nothing is stale: a key may have been rotated meanwhile."""
        try:
            for links in self._means.marks.unfinished():
                self._note(links.paths[0], _tried(partial(self._finish, links)))
            walk = Walk(
                self._tree.root_fd,
                self._tree.keys,
                self._wanted,
                on_directory=self._enter,
                on_problem=self._fail,
            )
            for found in walk.files():
                self._bring(found)
            self._put()
            for linked in self._linked.values():
                self._bring_linked(linked)
        finally:
            self._batch.close()
            self._let_go()
        tally = self._tally
        if tally.failures:  # those files keep their keys: a damaged one is not to look as if it were done
            return Result(1, tally.files, tally.bytes, tally.current, tally.done, tally.failures)
        result = self._converge().run()
        result.passes += 1
        result.done += tally.done
        return result

    def _fail(self, path: bytes, error: Exception) -> None:
        self._tally.failures.append(Failure(path, reason(error)))

    def _note(self, path: bytes, error: Exception | None) -> None:
        if error is not None:
            self._fail(path, error)

    def _enter(self, found: FoundDirectory) -> None:
        self._on_directory(found)
        with suppress(
            OSError
        ):  # leftovers do no harm, and what is wrong with the directory is told when it is listed
            remove_leftovers(found.fd)

    # --- files of one name -----------------------------------------------------------------------------------

    def _bring(self, found: FoundFile) -> None:
        self._tally.files += 1
        error = _tried(partial(self._look_at, found))
        if _is_full(error) and len(self._batch):  # there is room once those that wait have replaced theirs
            self._put()
            error = _tried(partial(self._look_at, found))
        self._note(found.path, error)
        if self._batch.full:
            self._put()
        elif self._tally.files % _STRIDE == 0:
            self._progress(self._tally)  # who wants it to stop is heard where nothing is to do

    def _look_at(self, found: FoundFile) -> None:
        fd = self._tree.open(found)
        keep = False
        try:
            status = os.fstat(fd)
            if status.st_nlink > 1:
                key = (status.st_dev, status.st_ino)
                self._linked.setdefault(key, _Linked(found.wanted)).paths.append(found.path)
            else:
                keep = self._renew(found, fd)
            self._tally.bytes += status.st_size
        finally:
            if not keep:
                os.close(fd)

    def _renew(self, found: FoundFile, fd: int) -> bool:
        """Write the new file beside the old one, unless it is done; then the batch keeps ``fd``."""
        if self._is_done(fd):
            self._tally.current += 1
            return False
        targets = self._targets.of(found.wanted)
        rekeyer, rate = self._means.rekeyer, self._means.rate
        if rate is not None:
            rate.take(1 + len(targets))
        old = open_old(
            fd,
            self._tree.block.chunk_size,
            lambda header: self._patience.ask(partial(rekeyer.unwrap, header)),
        )
        assert old.header is not None  # noqa: S101 - it was just adopted
        ready = persistently(partial(rekeyer.fresh, old.header.file_id, targets))
        job = Job(found.path, fd, b"", found.wanted)
        self._batch.write(job, found.name, found.dir_fd, old, ready)
        self._paths.append((found.path, fd))
        return True

    def _is_done(self, fd: int) -> bool:
        """Whether a file needs nothing. Not authenticated: an edited header is found when the file is opened."""
        raw = os.pread(fd, HEADER_SIZE, 0)
        return not raw or self._means.marks.has(newest_unverified(raw).commitment)

    def _put(self) -> None:
        self._settle(self._batch.put())

    def _settle(self, outcomes: Outcomes) -> None:
        for (path, _), outcome in zip(self._paths, outcomes, strict=True):
            if isinstance(outcome, Exception):
                self._fail(path, outcome)
            elif outcome is Outcome.DONE:
                self._tally.done += 1
        self._let_go()
        self._progress(self._tally)

    def _let_go(self) -> None:
        for _, fd in self._paths:
            os.close(fd)
        self._paths.clear()

    # --- files of several names --------------------------------------------------------------------------------

    def _bring_linked(self, linked: _Linked) -> None:
        self._note(linked.paths[0], _tried(partial(self._look_at_linked, linked)))
        if len(self._batch):
            self._settle(self._batch.put_linked(linked.paths))

    def _look_at_linked(self, linked: _Linked) -> None:
        path = linked.paths[0]
        with standing(self._tree.root_fd, path) as (name, dir_fd):
            found = FoundFile(path, name, dir_fd, linked.wanted)
            fd = self._tree.open(found)
            keep = False
            try:
                missing = os.fstat(fd).st_nlink - len(linked.paths)
                if missing and not self._is_done(fd):
                    raise InvalidRequestError(f"{missing} of its names are outside the tree")
                keep = self._renew(found, fd)
            finally:
                if not keep:
                    os.close(fd)

    def _finish(self, links: Links) -> None:
        """Lead the names that a stop has left at the old file to the new one."""
        headers = {path: header for path in links.paths if (header := self._header_at(path)) is not None}
        new = [path for path, header in headers.items() if header.commitment == links.commitment]
        old = [path for path, header in headers.items() if new and _is_old(header, headers[new[0]])]
        changed = any(headers[path].generation != links.old_generation for path in old)
        if old and (changed or headers[new[0]].generation != links.generation):
            for path in old:  # a mount has written to one of the two meanwhile
                self._fail(path, InvalidRequestError("it was changed after the stop: a file of its own now"))
        else:
            for path in old:
                with standing(self._tree.root_fd, new[0]) as (name, dir_fd):
                    link_over(name, dir_fd, self._tree.root_fd, path)
            self._tree.sync()
        self._means.marks.linked(links.commitment)

    def _header_at(self, path: bytes) -> FileHeader | None:
        with suppress(OSError, FormatError):
            with standing(self._tree.root_fd, path) as (name, dir_fd):
                fd = self._tree.open(FoundFile(path, name, dir_fd, ()))
            try:
                return newest_unverified(os.pread(fd, HEADER_SIZE, 0))
            finally:
                os.close(fd)
        return None


def _is_old(header: FileHeader, new: FileHeader) -> bool:
    return header.file_id == new.file_id and header.commitment != new.commitment


def _is_full(error: Exception | None) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _tried(step: Callable[[], None]) -> Exception | None:
    """What is wrong with a file. What is wrong with a wanted key is raised: no other file would fare better."""
    try:
        step()
    except (OSError, KmsfsError) as error:
        return error
    except TargetError as error:
        raise error.reason from error
    return None
