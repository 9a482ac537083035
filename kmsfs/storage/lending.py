"""Permissions that a process lends itself on its own objects for the moment of one call.

A file cannot be written without its header being read, and a directory cannot be removed without its record: more than
the modes of the objects may allow, and more than the kernel asks of the program that it has already let through. Root
needs no loan. A stop within the call leaves an object whose owner may do more with it than before; nobody else may.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kmsfs.storage import backing
from kmsfs.storage.backing import proc_path

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def lent(fd: int, bits: int) -> Iterator[None]:
    """Add ``bits`` to the mode of an object of ours while the block runs. ``fd`` may be an O_PATH descriptor."""
    user = os.geteuid()
    status = os.fstat(fd) if user else None
    if status is None or status.st_uid != user or not bits & ~status.st_mode:
        yield
        return
    lent_mode = stat.S_IMODE(status.st_mode) | bits
    os.chmod(proc_path(fd), lent_mode)
    try:
        yield
    finally:
        if stat.S_IMODE(os.fstat(fd).st_mode) == lent_mode:  # else somebody has changed it meanwhile
            os.chmod(proc_path(fd), stat.S_IMODE(status.st_mode))


def open_lent(name: bytes, dir_fd: int, *, noatime: bool) -> int:
    """Open a regular file of ours for reading and writing, which its mode does not allow."""
    path_fd = backing.open_path(name, dir_fd)
    try:
        with lent(path_fd, stat.S_IRUSR | stat.S_IWUSR):
            return backing.open_regular(name, dir_fd, write=True, noatime=noatime)
    finally:
        os.close(path_fd)
