"""Small files that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import os

from kmsfs.crypto.entropy import random_bytes
from kmsfs.storage import backing

TEMPORARY_PREFIX = b"kmsfs.tmp."


def temporary_name() -> bytes:
    """A name for something unfinished; nobody lists it, and the next cleaner removes it."""
    return TEMPORARY_PREFIX + random_bytes(12).hex().encode()


def write_new(name: bytes, dir_fd: int, content: bytes, mode: int = 0o644) -> None:
    """Create ``name`` and make its content durable. On failure nothing is left behind."""
    fd = backing.create_regular(name, dir_fd, mode)
    try:
        backing.write_all(fd, content, 0)
        os.fsync(fd)
    except BaseException:
        os.unlink(name, dir_fd=dir_fd)
        raise
    finally:
        os.close(fd)


def replace(name: bytes, dir_fd: int, content: bytes) -> None:
    """Replace ``name`` by ``content`` atomically and durably; ownership and mode are kept where possible."""
    temporary = temporary_name()
    write_new(temporary, dir_fd, content)
    try:
        _copy_ownership(name, temporary, dir_fd)
        backing.rename(temporary, dir_fd, name, dir_fd)
    except BaseException:
        os.unlink(temporary, dir_fd=dir_fd)
        raise
    sync_directory(dir_fd)


def sync_directory(dir_fd: int) -> None:
    """Make the entries of a directory durable; ``dir_fd`` may be an O_PATH descriptor."""
    fd = backing.open_listing(b".", dir_fd)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _copy_ownership(name: bytes, temporary: bytes, dir_fd: int) -> None:
    try:
        old = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    new = os.stat(temporary, dir_fd=dir_fd, follow_symlinks=False)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        os.chown(temporary, old.st_uid, old.st_gid, dir_fd=dir_fd, follow_symlinks=False)
