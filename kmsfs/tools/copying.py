"""A faithful copy of the store of a tree, for a change that leaves the tree itself as it is. Needs no keys.

The superblock comes last: a copy that was not finished is no tree. A file ``kmsfs.copying`` in the root says that the
directory is a copy of which tree, until the change is complete too: whatever stopped it, a copy without a superblock is
begun anew, and one with a superblock is gone on with.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from kmsfs.errors import InvalidRequestError, TreeExistsError
from kmsfs.storage import backing, durable
from kmsfs.storage.lending import lent
from kmsfs.storage.likeness import copy_attributes, copy_times
from kmsfs.storage.mountinfo import is_within, overlaps
from kmsfs.tools.walk import join, standing
from kmsfs.tree.directories import COPYING_NAME, SUPERBLOCK_NAME, WORK_NAME
from kmsfs.tree.superblock_file import lock_tree, open_root, read_superblock_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_RUN: Final = 16 << 20  # bytes that are copied between two words of progress
_NOT_COPIED: Final = frozenset({SUPERBLOCK_NAME, WORK_NAME, COPYING_NAME})  # of the root
_MAX_MARK: Final = 64


@dataclass(slots=True)
class Copied:
    """How far a copy has come."""

    files: int = 0
    bytes: int = 0


def copy_tree(source: Path, destination: Path, progress: Callable[[Copied], None]) -> Copied:
    """Make ``destination``, which is missing or empty, or was begun before, a copy of an unmounted tree.

    The tree may be mounted read-only. On failure the destination is no tree.
    """
    with ExitStack() as held:
        source_fd = open_root(source)
        held.callback(os.close, source_fd)
        tree_id = read_superblock_at(source_fd, source).tree_id.hex().encode()
        held.callback(os.close, lock_tree(source_fd, source, shared=True))
        _refuse_overlap(source, destination)
        destination.mkdir(mode=0o700, parents=True, exist_ok=True)
        root_fd = open_root(destination)
        held.callback(os.close, root_fd)
        held.callback(os.close, lock_tree(root_fd, destination, shared=False))
        copy = _Copy(source_fd, root_fd, destination, progress)
        if _begin(root_fd, destination, tree_id):
            copy.make()
        return copy.copied


def finish(destination: Path) -> None:
    """The change of the copy is complete: it is a tree like any other. Does nothing to one that is."""
    root_fd = open_root(destination)
    try:
        os.unlink(COPYING_NAME, dir_fd=root_fd)
        durable.sync_directory(root_fd)
    except FileNotFoundError:
        pass
    finally:
        os.close(root_fd)


def _refuse_overlap(source: Path, destination: Path) -> None:
    path = destination.resolve()
    above = next(at for at in (path, *path.parents) if at.exists())
    if is_within(above, source) or (above == path and overlaps(path, source)):
        raise InvalidRequestError(
            f"{destination} and {source} lie in one another", hint="copy to a directory beside the tree"
        )


def _begin(root_fd: int, destination: Path, tree_id: bytes) -> bool:
    """Whether there is something to copy, to a directory that holds nothing but the mark."""
    names = {os.fsencode(name) for name in os.listdir(root_fd)}
    if COPYING_NAME in names:
        if backing.read_small(COPYING_NAME, root_fd, _MAX_MARK) != tree_id:
            raise TreeExistsError(
                f"{destination} is an unfinished copy of another tree", hint="remove it first"
            )
        if SUPERBLOCK_NAME in names:
            return False
    elif not all(name.startswith(durable.TEMPORARY_PREFIX) for name in names):
        kind = "is a tree already" if SUPERBLOCK_NAME in names else "is not empty"
        raise TreeExistsError(f"{destination} {kind}", hint="name a new or empty directory")
    for name in names - {COPYING_NAME}:
        _remove(name, root_fd)
    durable.replace(COPYING_NAME, root_fd, tree_id)
    return True


def _remove(name: bytes, dir_fd: int) -> None:
    if stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode):
        shutil.rmtree(os.fsdecode(name), dir_fd=dir_fd)
    else:
        os.unlink(name, dir_fd=dir_fd)


@dataclass(slots=True)
class _Level:
    path: bytes
    source_fd: int
    target_fd: int
    status: os.stat_result  # of the source, before it was listed
    children: list[bytes] = field(default_factory=list)


class _Copy:
    """One run. Holds two descriptors for each level, and the names of files that have more to come."""

    def __init__(
        self, source_fd: int, root_fd: int, destination: Path, progress: Callable[[Copied], None]
    ) -> None:
        self._source_fd = source_fd
        self._root_fd = root_fd
        self._destination = destination
        self._progress = progress
        self._linked: dict[tuple[int, int], bytes] = {}
        self.copied = Copied()

    def make(self) -> None:
        """Copy everything below the roots, then the superblock."""
        root = _Level(b"", os.dup(self._source_fd), os.dup(self._root_fd), os.fstat(self._source_fd))
        levels = [root]
        try:
            self._fill(root)
            while levels:
                top = levels[-1]
                if top.children:
                    levels.append(self._descend(top, top.children.pop()))
                    self._fill(levels[-1])
                    continue
                if top is root:
                    self._put_superblock(root)
                with self._naming(top.path):
                    copy_attributes(top.source_fd, top.target_fd)
                    copy_times(top.status, top.target_fd)
                _close(levels.pop())
        finally:
            for level in levels:
                _close(level)

    @contextmanager
    def _naming(self, path: bytes) -> Iterator[None]:
        """Say of which entry a failure is."""
        try:
            yield
        except OSError as error:
            where = self._destination / os.fsdecode(path)
            raise OSError(error.errno, error.strerror, os.fspath(where)) from error

    def _descend(self, above: _Level, name: bytes) -> _Level:
        path = join(above.path, name)
        with self._naming(path):
            source_fd = backing.open_listing(name, above.source_fd)
            try:
                os.mkdir(name, 0o700, dir_fd=above.target_fd)
                target_fd = backing.open_listing(name, above.target_fd)
            except BaseException:
                os.close(source_fd)
                raise
        return _Level(path, source_fd, target_fd, os.fstat(source_fd))

    def _fill(self, level: _Level) -> None:
        """Copy what is no directory, and note what is."""
        with os.scandir(level.source_fd) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if name.startswith(durable.TEMPORARY_PREFIX) or (not level.path and name in _NOT_COPIED):
                    continue
                with self._naming(join(level.path, name)):
                    status = os.stat(name, dir_fd=level.source_fd, follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        level.children.append(name)
                    else:
                        self._copy(level, name, status)

    def _copy(self, level: _Level, name: bytes, status: os.stat_result) -> None:
        key = (status.st_dev, status.st_ino)
        if key in self._linked:
            with standing(self._root_fd, self._linked[key]) as (first, dir_fd):
                os.link(first, name, src_dir_fd=dir_fd, dst_dir_fd=level.target_fd, follow_symlinks=False)
            return
        if status.st_nlink > 1:
            self._linked[key] = join(level.path, name)
        if stat.S_ISREG(status.st_mode):
            self._copy_file(level, name, status)
        elif stat.S_ISLNK(status.st_mode):
            _copy_symlink(level, name, status)
        else:
            _copy_special(level, name, status)

    def _copy_file(self, level: _Level, name: bytes, status: os.stat_result) -> None:
        fd = _open_source(name, level.source_fd)
        try:
            new = backing.create_regular(name, level.target_fd, 0o600)
            try:
                self._copy_content(fd, new, status.st_size)
                copy_attributes(fd, new)
                copy_times(status, new)
            finally:
                os.close(new)
        finally:
            os.close(fd)
        self.copied.files += 1
        self._progress(self.copied)

    def _copy_content(self, fd: int, new: int, size: int) -> None:
        """Holes stay holes."""
        at = 0
        while (at := _next_data(fd, at, size)) < size:
            stop = os.lseek(fd, at, os.SEEK_HOLE)
            os.lseek(new, at, os.SEEK_SET)
            while at < stop:
                count = os.sendfile(new, fd, at, min(stop - at, _RUN))
                if not count:
                    raise OSError(errno.EIO, "file got shorter while it was copied")
                at += count
                self.copied.bytes += count
                self._progress(self.copied)
        os.ftruncate(new, size)

    def _put_superblock(self, root: _Level) -> None:
        """All that it stands for is durable first."""
        with self._naming(SUPERBLOCK_NAME):
            backing.syncfs(self._root_fd)
            status = os.stat(SUPERBLOCK_NAME, dir_fd=root.source_fd, follow_symlinks=False)
            temporary = durable.temporary_name()
            fd = _open_source(SUPERBLOCK_NAME, root.source_fd)
            try:
                durable.write_new(temporary, root.target_fd, os.pread(fd, status.st_size, 0))
                new = backing.open_regular(temporary, root.target_fd, write=True)
                try:
                    copy_attributes(fd, new)
                    copy_times(status, new)
                finally:
                    os.close(new)
            finally:
                os.close(fd)
            backing.rename(temporary, root.target_fd, SUPERBLOCK_NAME, root.target_fd)
            durable.sync_directory(root.target_fd)


def _close(level: _Level) -> None:
    os.close(level.source_fd)
    os.close(level.target_fd)


def _open_source(name: bytes, dir_fd: int) -> int:
    """A descriptor that reads a file, whatever its mode says."""
    path_fd = backing.open_path(name, dir_fd)
    try:
        with lent(path_fd, stat.S_IRUSR):
            return backing.open_regular(name, dir_fd, write=False, noatime=True)
    finally:
        os.close(path_fd)


def _next_data(fd: int, at: int, size: int) -> int:
    try:
        return os.lseek(fd, at, os.SEEK_DATA) if at < size else size
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return size


def _copy_symlink(level: _Level, name: bytes, status: os.stat_result) -> None:
    os.symlink(os.readlink(name, dir_fd=level.source_fd), name, dir_fd=level.target_fd)
    new = os.stat(name, dir_fd=level.target_fd, follow_symlinks=False)
    if (status.st_uid, status.st_gid) != (new.st_uid, new.st_gid):
        os.chown(name, status.st_uid, status.st_gid, dir_fd=level.target_fd, follow_symlinks=False)
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=level.target_fd, follow_symlinks=False)


def _copy_special(level: _Level, name: bytes, status: os.stat_result) -> None:
    os.mknod(name, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev, dir_fd=level.target_fd)
    old = backing.open_path(name, level.source_fd)
    try:
        new = backing.open_path(name, level.target_fd)
        try:
            copy_attributes(old, new)
            copy_times(status, new)
        finally:
            os.close(new)
    finally:
        os.close(old)
