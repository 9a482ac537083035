"""A faithful copy of the store of a tree, for a change that leaves the tree itself as it is. Needs no keys.

The superblock comes last: a copy that was not finished is no tree. A file ``kmsfs.copying`` in the root says, until the
change is complete too, which tree the directory is a copy of, and since when what it holds may have been lost to a
power cut. Whatever stopped it, a copy is gone on with: what it holds already and is still so is not copied again.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from kmsfs.errors import InvalidRequestError, TreeExistsError
from kmsfs.storage import backing, durable
from kmsfs.storage.likeness import copy_attributes, copy_times
from kmsfs.storage.mountinfo import is_within, overlaps
from kmsfs.tools import entries
from kmsfs.tools.walk import join, standing
from kmsfs.tree.directories import COPYING_NAME, SUPERBLOCK_NAME, WORK_NAME
from kmsfs.tree.superblock_file import lock_tree, open_root, read_superblock, read_superblock_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

_NOT_COPIED: Final = frozenset({SUPERBLOCK_NAME, WORK_NAME, COPYING_NAME})  # of the root
_MAX_MARK: Final = 64
_MAX_UNSAFE_FILES: Final = 10_000  # that are copied before all that was copied is made durable
_MAX_UNSAFE_BYTES: Final = 1 << 30


@dataclass(slots=True)
class Copied:
    """How far a copy has come."""

    files: int = 0
    bytes: int = 0


class TreeCopy:
    """The way of an unmounted tree to ``destination``, which is missing or empty, or was begun before.

    A context manager that holds both. The tree may be mounted read-only.
    """

    def __init__(self, source: Path, destination: Path) -> None:
        self.source = source
        self.destination = destination
        self._held = ExitStack()
        try:
            self._source_fd = open_root(source)
            self._held.callback(os.close, self._source_fd)
            self.block = read_superblock_at(self._source_fd, source)
            self._held.callback(os.close, lock_tree(self._source_fd, source, shared=True))
            _refuse_overlap(source, destination)
            destination.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._root_fd = open_root(destination)
            self._held.callback(os.close, self._root_fd)
            self._held.callback(os.close, lock_tree(self._root_fd, destination, shared=False))
            self._mark = _begin(self._root_fd, destination, self.block.tree_id.hex())
        except BaseException:
            self._held.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def make(self, progress: Callable[[Copied], None]) -> Copied:
        """Make the copy, or what is missing of it. Until it is whole the destination is no tree."""
        if self._mark is None:
            return Copied()
        copy = _Copy((self.source, self._source_fd), (self.destination, self._root_fd), self._mark, progress)
        copy.make()
        return copy.copied


def check(source: Path, destination: Path) -> None:
    """Raise if the destination is no place for a copy of the tree; makes and changes nothing."""
    tree_id = read_superblock(source).tree_id.hex()
    _refuse_overlap(source, destination)
    if destination.exists():
        root_fd = open_root(destination)
        try:
            _found_mark(root_fd, destination, tree_id)
        finally:
            os.close(root_fd)


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
        raise _overlap(source, destination)


def _overlap(source: Path, destination: Path) -> InvalidRequestError:
    return InvalidRequestError(
        f"{destination} and {source} lie in one another", hint="copy to a directory beside the tree"
    )


class _Mark(NamedTuple):
    """What ``kmsfs.copying`` says. What was changed in the copy before ``durable_ns`` is durable."""

    tree_id: str
    durable_ns: int = 0

    def put(self, root_fd: int) -> None:
        durable.replace(COPYING_NAME, root_fd, f"{self.tree_id} {self.durable_ns}\n".encode())


def _begin(root_fd: int, destination: Path, tree_id: str) -> _Mark | None:
    """How far the copy has come, in a directory that is marked as one; None if it is whole."""
    mark = _found_mark(root_fd, destination, tree_id)
    if mark is None:
        mark = _Mark(tree_id)
        mark.put(root_fd)
    return None if os.fsdecode(SUPERBLOCK_NAME) in os.listdir(root_fd) else mark


def _found_mark(root_fd: int, destination: Path, tree_id: str) -> _Mark | None:
    """The mark of an unfinished copy of that tree; None in an empty directory. TreeExistsError for anything else."""
    names = {os.fsencode(name) for name in os.listdir(root_fd)}
    if COPYING_NAME in names:
        mark = _read_mark(root_fd)
        if mark is None or mark.tree_id != tree_id:
            raise TreeExistsError(
                f"{destination} is an unfinished copy of another tree", hint="remove it first"
            )
        return mark
    if not all(name.startswith(durable.TEMPORARY_PREFIX) for name in names):
        kind = "is a tree already" if SUPERBLOCK_NAME in names else "is not empty"
        raise TreeExistsError(f"{destination} {kind}", hint="name a new or empty directory")
    return None


def _read_mark(root_fd: int) -> _Mark | None:
    raw = backing.read_small(COPYING_NAME, root_fd, _MAX_MARK)
    try:
        tree_id, durable_ns = raw.decode("ascii").split()
        return _Mark(tree_id, int(durable_ns))
    except ValueError:
        return None


@dataclass(slots=True)
class _Level:
    path: bytes
    source_fd: int
    target_fd: int
    status: os.stat_result  # of the source, before it was listed
    begun: bool  # an earlier run has left something in the target, perhaps
    children: list[bytes] = field(default_factory=list)


class _Copy:
    """One run. Holds two descriptors for each level, and the names of files that have more to come."""

    def __init__(
        self,
        source: tuple[Path, int],
        destination: tuple[Path, int],
        mark: _Mark,
        progress: Callable[[Copied], None],
    ) -> None:
        self._source, self._source_fd = source
        self._destination, self._root_fd = destination
        self._mark = mark
        self._progress = progress
        self._linked: dict[tuple[int, int], bytes] = {}
        self._unsafe = Copied()
        self.copied = Copied()

    def make(self) -> None:
        """Copy everything below the roots, then the superblock."""
        status = os.fstat(self._source_fd)
        root = _Level(b"", os.dup(self._source_fd), os.dup(self._root_fd), status, begun=True)
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
        """Say of which entry a failure is: in the tree if it could not be read, else in the copy."""
        try:
            yield
        except _ReadError as error:
            raise OSError(error.errno, error.strerror, os.fspath(self._source / os.fsdecode(path))) from error
        except OSError as error:
            where = self._destination / os.fsdecode(path)
            raise OSError(error.errno, error.strerror, os.fspath(where)) from error

    def _descend(self, above: _Level, name: bytes) -> _Level:
        path = join(above.path, name)
        with self._naming(path):
            with _reading():
                source_fd = backing.open_listing(name, above.source_fd)
            try:
                if os.path.samestat(os.fstat(source_fd), os.fstat(self._root_fd)):  # through a bind mount
                    raise _overlap(self._source, self._destination)
                begun = not entries.make_directory(name, above.target_fd)
                target_fd = backing.open_listing(name, above.target_fd)
            except BaseException:
                os.close(source_fd)
                raise
        return _Level(path, source_fd, target_fd, os.fstat(source_fd), begun)

    def _fill(self, level: _Level) -> None:
        """Copy what is no directory, note what is, and remove what is not in the tree any more."""
        old = {os.fsencode(name) for name in os.listdir(level.target_fd)} if level.begun else set[bytes]()
        if not level.path:
            old -= _NOT_COPIED
        with os.scandir(level.source_fd) as listing:
            for entry in listing:
                name = os.fsencode(entry.name)
                if name.startswith(durable.TEMPORARY_PREFIX) or (not level.path and name in _NOT_COPIED):
                    continue
                old.discard(name)
                with self._naming(join(level.path, name)):
                    status = os.stat(name, dir_fd=level.source_fd, follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        level.children.append(name)
                    else:
                        self._copy(level, name, status)
        for name in old:
            with self._naming(join(level.path, name)):
                entries.remove(name, level.target_fd)

    def _copy(self, level: _Level, name: bytes, status: os.stat_result) -> None:
        if level.begun and self._is_copied(level, name, status):
            self.copied.files += 1
            self._progress(self.copied)
            return
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
            entries.copy_symlink(level.source_fd, level.target_fd, name, status)
        else:
            entries.copy_special(level.source_fd, level.target_fd, name, status)

    def _is_copied(self, level: _Level, name: bytes, status: os.stat_result) -> bool:
        """Whether an earlier run has copied a file of one name; else nothing of that name is left.

        The time of an inode's last change cannot be set: what is older than its copy has not changed since.
        """
        try:
            there = os.stat(name, dir_fd=level.target_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if (
            stat.S_ISREG(status.st_mode)
            and stat.S_ISREG(there.st_mode)
            and status.st_nlink == there.st_nlink == 1
            and (status.st_size, status.st_mtime_ns) == (there.st_size, there.st_mtime_ns)
            and status.st_ctime_ns < there.st_ctime_ns < self._mark.durable_ns
        ):
            return True
        entries.remove(name, level.target_fd)
        return False

    def _copy_file(self, level: _Level, name: bytes, status: os.stat_result) -> None:
        with _reading():
            fd = entries.open_source(name, level.source_fd)
        try:
            new = backing.create_regular(name, level.target_fd, 0o600)
            try:
                with _reading():
                    entries.copy_content(fd, new, status.st_size, self._copied_bytes)
                copy_attributes(fd, new)
                copy_times(status, new)
                changed_ns = os.fstat(new).st_ctime_ns
            finally:
                os.close(new)
        finally:
            os.close(fd)
        self.copied.files += 1
        self._secure(changed_ns)
        self._progress(self.copied)

    def _copied_bytes(self, count: int) -> None:
        self.copied.bytes += count
        self._progress(self.copied)

    def _secure(self, changed_ns: int) -> None:
        """Make what was copied durable, now and then. All that was changed before ``changed_ns`` was before now."""
        files, size = self.copied.files - self._unsafe.files, self.copied.bytes - self._unsafe.bytes
        if files >= _MAX_UNSAFE_FILES or size >= _MAX_UNSAFE_BYTES:
            backing.syncfs(self._root_fd)
            self._mark = self._mark._replace(durable_ns=changed_ns)
            self._mark.put(self._root_fd)
            self._unsafe = replace(self.copied)

    def _put_superblock(self, root: _Level) -> None:
        """All that it stands for is durable first."""
        with self._naming(SUPERBLOCK_NAME):
            backing.syncfs(self._root_fd)
            status = os.stat(SUPERBLOCK_NAME, dir_fd=root.source_fd, follow_symlinks=False)
            temporary = durable.temporary_name()
            fd = entries.open_source(SUPERBLOCK_NAME, root.source_fd)
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


class _ReadError(OSError):
    """What failed is of the tree, and not of its copy."""


@contextmanager
def _reading() -> Iterator[None]:
    """Tell what fails of the tree from what fails of the copy. Room is lacking only where something is written."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise
        raise _ReadError(error.errno, error.strerror) from error


def _close(level: _Level) -> None:
    os.close(level.source_fd)
    os.close(level.target_fd)
