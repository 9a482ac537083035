"""File systems for tests: small ones that fill up, ones that cannot be written. Need root."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_filesystem(path: Path, size: int, inodes: int = 0) -> Iterator[Path]:
    """A tmpfs of ``size`` bytes on the new directory ``path``."""
    path.mkdir()
    options = f"size={size}" + (f",nr_inodes={inodes}" if inodes else "")
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "kmsfs-test", path], check=True)
    try:
        yield path
    finally:
        _unmount(path)


@contextmanager
def losing_disk(path: Path) -> Iterator[Path]:
    """An ext4 on ``path / "disk"`` that promises 64 MiB and has a few: once ``path`` is full, it loses what is written.

    Needs a loop device.
    """
    with small_filesystem(path, 24 << 20) as small:
        image, disk = small / "image", small / "disk"
        image.touch()
        os.truncate(image, 64 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", image], check=True)
        disk.mkdir()
        subprocess.run(["mount", "-o", "loop", image, disk], check=True)
        try:
            yield disk
        finally:
            _unmount(disk)


@contextmanager
def read_only_view(source: Path, path: Path) -> Iterator[Path]:
    """``source`` on the new directory ``path``, where nobody can write it."""
    path.mkdir()
    subprocess.run(["mount", "--bind", source, path], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", path], check=True)
        yield path
    finally:
        _unmount(path)


def _unmount(path: Path) -> None:
    """Unmount; what keeps it busy is a leak, but the mount must not outlive the test."""
    if subprocess.run(["umount", path], check=False).returncode:
        subprocess.run(["umount", "-l", path], check=True)
        raise AssertionError(f"{path} was still in use")


def fill(path: Path, *, leave: int = 0) -> Path:
    """Take all space of a file system but ``leave`` bytes (rounded down to pages); returns the file to remove."""
    filler = path / "filler"
    status = os.statvfs(path)
    take = max(0, status.f_bavail * status.f_bsize - leave)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(take, 1))
    return filler
