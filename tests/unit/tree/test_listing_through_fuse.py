"""Listing through the FUSE handlers: what the kernel does not get to see is not counted as looked up."""

import errno
import os
from typing import Any

import pyfuse3
import pytest
from testkit.posix import Posix

from kmsfs.fuse.operations import Operations


async def test_a_listing_that_fails_midway_counts_no_look_ups(
    posix: Posix, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel drops the whole answer, and never gives back what it has not seen."""
    for name in (b"a", b"b", b"c"):
        await posix.put(name, b"")
    await posix.reopen()
    operations = Operations(posix.tree, dict)
    number = await operations.opendir(pyfuse3.ROOT_INODE, None)  # type: ignore[arg-type]
    told: list[bytes] = []
    stat = os.stat

    def reply(token: object, name: bytes, *_: object) -> bool:
        told.append(name)
        return True

    def failing_stat(path: Any, **options: Any) -> os.stat_result:
        if len(told) == 4 and "dir_fd" in options:  # ".", ".." and two names
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return stat(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pyfuse3, "readdir_reply", reply)
        patch.setattr(os, "stat", failing_stat)
        with pytest.raises(pyfuse3.FUSEError):
            await operations.readdir(number, 0, None)  # type: ignore[arg-type]
    assert len(told) == 4
    await operations.releasedir(number)
    assert len(posix.tree.volume.inodes) == 1
