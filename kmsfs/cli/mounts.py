"""Asking mounts about themselves, and undoing them.

A mount answers through a virtual xattr of its root. One whose process died or hangs must not hang
the command that wants to say so.
"""

import ctypes
import errno
import json
import os
import subprocess
import threading
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from kmsfs.cli.fuse_host import HELPER
from kmsfs.errors import MountBusyError, MountFailedError
from kmsfs.storage.mountinfo import MountEntry

STATUS_XATTR: Final = "user.kmsfs.status"
_ANSWER_LIMIT_S: Final = 5.0
_BUSY_WAITS_S: Final = (0.05, 0.1, 0.2, 0.4, 0.8)
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8


class MountState(StrEnum):
    """Whether a mount answers."""

    SERVING = "serving"
    DEAD = "dead"  # its process is gone: "transport endpoint is not connected"
    SILENT = "not answering"
    UNKNOWN = "unknown"  # another user's, most likely


@dataclass(frozen=True)
class MountStatus:
    """A mount and what its process says about itself; ``details`` is empty unless it serves."""

    entry: MountEntry
    state: MountState
    details: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return what ``kmsfs status --json`` prints of this mount."""
        return {
            "mountpoint": self.entry.mount_point,
            "tree": self.entry.source,
            "read_only": self.entry.read_only,
            **self.details,
            "state": self.state.value,
        }


def ask(entry: MountEntry) -> MountStatus:
    """Ask a mount for its status, for a few seconds at most.

    Who may mount for others could say anything: that is believed only of a mount of this user, of root's, or of one
    whose user owns the tree.
    """
    answers: list[bytes | OSError] = []

    def read() -> None:
        try:
            answers.append(os.getxattr(entry.mount_point, STATUS_XATTR))
        except OSError as error:
            answers.append(error)

    # A daemon thread: one that the kernel never answers must not keep the command alive.
    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(_ANSWER_LIMIT_S)
    if not answers:
        return MountStatus(entry, MountState.SILENT, {})
    answer = answers[0]
    if isinstance(answer, OSError):
        dead = answer.errno in (errno.ENOTCONN, errno.ECONNABORTED)
        return MountStatus(entry, MountState.DEAD if dead else MountState.UNKNOWN, {})
    details = _parsed(answer)
    if not _may_speak(entry, details):
        return MountStatus(entry, MountState.UNKNOWN, {})
    return MountStatus(entry, MountState.SERVING, details)


def _parsed(answer: bytes) -> dict[str, Any]:
    """What a mount has said, or nothing."""
    try:
        details = json.loads(answer)
    except (ValueError, RecursionError):
        return {}
    return details if isinstance(details, dict) else {}


def _may_speak(entry: MountEntry, details: dict[str, Any]) -> bool:
    tree = details.get("tree")
    if not isinstance(tree, str):
        return False
    if entry.user in (0, os.geteuid()):
        return True
    try:
        return os.stat(tree).st_uid == entry.user
    except (OSError, ValueError):
        return False


def detach(mountpoint: str, *, lazy: bool = False) -> None:
    """Unmount; raise MountBusyError if in use.

    The kernel gives a file back a little after the program has closed it: a mount that is busy while nobody is seen
    to use it is asked again for a moment.
    """
    for wait_s in _BUSY_WAITS_S:
        try:
            _detach(mountpoint, lazy=lazy)
        except MountBusyError:
            if users_of(mountpoint, limit=1):
                raise
            time.sleep(wait_s)
        else:
            return
    _detach(mountpoint, lazy=lazy)


def _detach(mountpoint: str, *, lazy: bool) -> None:
    """As root by the system call and otherwise by fusermount3."""
    if os.geteuid() == 0:
        flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.umount2(os.fsencode(mountpoint), flags) == 0:
            return
        code = ctypes.get_errno()
        if code == errno.EBUSY:
            raise _busy(mountpoint)
        if code != errno.EPERM:
            raise MountFailedError(f"{mountpoint} cannot be unmounted: {os.strerror(code).lower()}")
    _detach_by_helper(mountpoint, lazy=lazy)


def _detach_by_helper(mountpoint: str, *, lazy: bool) -> None:
    command = [HELPER, "-u", *(["-z"] if lazy else []), "--", mountpoint]
    try:
        done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"})
    except FileNotFoundError as error:
        raise MountFailedError(
            f"{HELPER} is not installed", hint="install it, on Debian with 'apt install fuse3'"
        ) from error
    if done.returncode == 0:
        return
    said = done.stderr.decode(errors="replace").strip()
    if "busy" in said:
        raise _busy(mountpoint)
    raise MountFailedError(f"{mountpoint} cannot be unmounted: {said.removeprefix(f'{HELPER}: ')}")


def _busy(mountpoint: str) -> MountBusyError:
    users = users_of(mountpoint)
    who = f"in use by {', '.join(users)}; " if users else ""
    return MountBusyError(
        f"{mountpoint} is busy", hint=f"{who}close the programs that use it, or leave the directory"
    )


def users_of(mountpoint: str, *, limit: int = 5) -> list[str]:
    """Name other processes that have something below the mount open; only links in /proc are read."""
    found = []
    for process in Path("/proc").iterdir():
        other = process.name.isdigit() and int(process.name) != os.getpid()
        if other and _uses(process, mountpoint):
            found.append(f"{_name_of(process)} (pid {process.name})")
            if len(found) == limit:
                break
    return found


def _uses(process: Path, mountpoint: str) -> bool:
    try:
        links = [process / "cwd", process / "root", process / "exe", *(process / "fd").iterdir()]
    except OSError:
        return False  # another user's, or gone
    for link in links:
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target == mountpoint or target.startswith(f"{mountpoint}/"):
            return True
    return False


def _name_of(process: Path) -> str:
    try:
        return (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "a process"
