"""Making one object of the store look like another: owner, mode, extended attributes, ACLs, times."""

from __future__ import annotations

import os
import stat
from typing import Final

from kmsfs.storage.backing import proc_path

_ACLS: Final = frozenset({"system.posix_acl_access", "system.posix_acl_default"})


def copy_attributes(source_fd: int, target_fd: int) -> None:
    """Give a file, directory or special file all that ``source_fd`` has but its content and its times.

    Both may be O_PATH descriptors. An attribute that cannot be set raises: the target would not be what it stands for.
    """
    source, target = os.fstat(source_fd), os.fstat(target_fd)
    path = proc_path(target_fd)
    if (source.st_uid, source.st_gid) != (target.st_uid, target.st_gid):
        os.chown(path, source.st_uid, source.st_gid)  # first: it takes away capabilities and set-user-ID
    _copy_xattrs(proc_path(source_fd), path)
    os.chmod(path, stat.S_IMODE(source.st_mode))


def copy_times(source: os.stat_result, target_fd: int, later_ns: int = 0) -> None:
    """Give an object the times that ``source`` had; the modification time ``later_ns`` later."""
    os.utime(proc_path(target_fd), ns=(source.st_atime_ns, source.st_mtime_ns + later_ns))


def _copy_xattrs(source: str, target: str) -> None:
    wanted = {name: os.getxattr(source, name) for name in os.listxattr(source)}
    there = set(os.listxattr(target))
    for name in there & _ACLS - wanted.keys():  # inherited from the directory
        os.removexattr(target, name)
    for name, value in wanted.items():
        if name not in there or os.getxattr(target, name) != value:
            os.setxattr(target, name, value)
