"""Keeping keys of a running mount out of core dumps, other processes and swap.

What is not possible without privilege is left out without a word; ``kmsfs doctor`` says what holds.
"""

import ctypes
import resource
from pathlib import Path
from typing import Final

_PR_SET_DUMPABLE: Final = 4
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_CAP_IPC_LOCK: Final = 14


def harden_process() -> bool:
    """Allow no core dumps, lock memory where permitted, raise the descriptor limit.

    To be called before the first key is in memory. Returns whether memory is locked.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return may_lock_memory() and _libc().mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0


def forbid_inspection() -> None:
    """Let no process of the same user attach to or read this one.

    To be called after the mount is up: it also hides /proc/self from fusermount3.
    """
    _libc().prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def may_lock_memory() -> bool:
    """Whether all memory may be locked: a finite limit would make later allocations fail."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return soft == resource.RLIM_INFINITY or _has_capability(_CAP_IPC_LOCK)


def _has_capability(number: int) -> bool:
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
