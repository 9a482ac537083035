"""The files of the audit log: KMSFS_HOME/audit/REGION/SEGMENT.jsonl, each appended to by one process at a time.

The rule: a record is in the file whole, or the file ends where it ended before.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kmsfs.errors import IntegrityError
from kmsfs.keystore.audit import Chain, Checkpoint
from kmsfs.keystore.home import make_private

SUFFIX: Final = ".jsonl"
_MODE: Final = 0o600
_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


class SegmentFile:
    """A segment that this process writes: it holds the file's lock until ``close``."""

    def __init__(
        self, segment_id: str, opened_at: float, fd: int, chain: Chain, checkpoint: Checkpoint | None
    ) -> None:
        self.segment_id = segment_id
        self.opened_at = opened_at
        self.fd = fd
        self.chain = chain
        self.checkpoint = checkpoint  # what the metadata know of it
        self.durable = chain.records  # records that were fsynced

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self.chain.size

    def append(self, body: bytes) -> None:
        """Write one record. Raises OSError and leaves no part of it behind."""
        chain = self.chain
        line = chain.line(body)
        try:
            if os.write(self.fd, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except BaseException:
            os.ftruncate(self.fd, chain.size)
            raise
        chain.advance(line)

    def is_torn(self) -> bool:
        """Whether a part of a record may be left at the end of the file after all."""
        try:
            return os.fstat(self.fd).st_size != self.size
        except OSError:
            return True

    def close(self) -> None:
        """Give the file to whoever writes next."""
        os.close(self.fd)


def create_file(directory: Path, segment_id: str) -> int:
    """Return a locked descriptor of a new, empty segment file whose name is durable."""
    make_private(directory)
    fd = os.open(directory / f"{segment_id}{SUFFIX}", _FLAGS | os.O_CREAT | os.O_EXCL, _MODE)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(place)
        finally:
            os.close(place)
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_file(directory: Path, segment_id: str) -> int | None:
    """Return a locked descriptor of a segment file; None if it is missing or another process writes it."""
    try:
        fd = os.open(directory / f"{segment_id}{SUFFIX}", _FLAGS)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


def continued(fd: int, first_key: bytes, checkpoint: Checkpoint) -> Chain:
    """Return the chain behind a file's last record, and cut off one that a crash left unfinished.

    What follows the checkpoint is verified; raises IntegrityError if it is not authentic or the file is too short.
    """
    size = os.fstat(fd).st_size
    if size < checkpoint.size:
        raise IntegrityError("segment is cut off")
    chain = Chain(first_key, checkpoint)
    rest = follow(chain, os.pread(fd, size - checkpoint.size, checkpoint.size))
    if rest:
        os.ftruncate(fd, chain.size)
    return chain


def follow(chain: Chain, raw: bytes) -> bytes:
    """Check the records in ``raw``; return the unfinished one at its end, empty if there is none."""
    for line in whole_lines(raw):
        chain.check(line)
    rest = raw[raw.rfind(b"\n") + 1 :]
    if rest and chain.is_next(rest[:-1] + b"\n"):  # else it is taken for what a crash left, and cut off
        raise IntegrityError(f"record {chain.records + 1} does not end as it was written")
    return rest


def whole_lines(raw: bytes) -> Iterator[bytes]:
    """Yield the lines that are complete, each with its line break."""
    start = 0
    while (end := raw.find(b"\n", start) + 1) > 0:
        yield raw[start:end]
        start = end


def segment_sizes(directory: Path) -> dict[str, int]:
    """Return the segment files that are there, oldest first, with their sizes."""
    if not directory.is_dir():
        return {}
    found = sorted(path for path in directory.iterdir() if path.suffix == SUFFIX)
    return {path.stem: path.stat().st_size for path in found}


def segment_times(directory: Path) -> dict[str, float]:
    """Return when each segment file that is there was last written."""
    return {name: (directory / f"{name}{SUFFIX}").stat().st_mtime for name in segment_sizes(directory)}


def read_file(directory: Path, segment_id: str) -> bytes:
    """Return a segment's content."""
    return (directory / f"{segment_id}{SUFFIX}").read_bytes()
