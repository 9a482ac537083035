"""A program that moves a file into another zone and ends after the first system call of it, after the second, ...

Run with the home, a tree, a directory for copies of it and the name of a case. For each call there is a copy of the
tree in which a process of its own made the move up to there; ``done`` is the copy in which nothing stopped it.
"""

import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from kmsfs.keystore.service import Keystore
from kmsfs.storage import backing
from kmsfs.storage.backing import RENAME_EXCHANGE
from kmsfs.tree.volume import TreeOptions
from testkit.posix import Posix

STOPPED = 77
SHORT, LONG, LONG2 = b"f", b"n" * 200, b"m" * 255
OLD, NEW = b"eu/", b"us/"
CASES = {
    "a sealed file": (SHORT, SHORT, 0),
    "an open file that was just written": (SHORT, SHORT, 0),
    "long names, in place of another file": (LONG, LONG2, 0),
    "two files for one another": (SHORT, LONG, RENAME_EXCHANGE),
}
# What the parts of a move could ask of the system, whether it changes anything or only looks.
_CALLS = (
    *(
        "access",
        "chmod",
        "chown",
        "close",
        "dup",
        "fchmod",
        "fchown",
        "fdatasync",
        "fstat",
        "fsync",
        "ftruncate",
    ),
    *(
        "getxattr",
        "link",
        "listdir",
        "listxattr",
        "lstat",
        "mkdir",
        "mknod",
        "open",
        "posix_fadvise",
        "pread",
    ),
    *("preadv", "pwrite", "readlink", "rename", "rmdir", "scandir", "setxattr", "stat", "symlink", "unlink"),
    "utime",
)


class Stopper:
    """Ends the process after the n-th call from now on."""

    def __init__(self, after: int) -> None:
        self._left = after
        for name in _CALLS:
            setattr(os, name, self._stopping(getattr(os, name)))
        backing._libc = _Library(backing._libc, self)  # type: ignore[assignment]

    def _stopping(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            try:
                return call(*arguments, **named)
            finally:
                self._left -= 1
                if not self._left:
                    os._exit(STOPPED)

        return counted


class _Library:
    """The C library, whose calls count as well."""

    def __init__(self, library: Any, stopper: Stopper) -> None:
        self._library, self._stopper = library, stopper

    def __getattr__(self, name: str) -> Any:
        return self._stopper._stopping(getattr(self._library, name))


async def move(home: Path, tree: Path, case: str, after: int) -> None:
    """Make the move, or as much of it as ``after`` allows."""
    old, new, flags = CASES[case]
    posix = Posix(Keystore.open(home), tree, TreeOptions())
    if case == "an open file that was just written":
        handle = await posix.open(OLD + old)
        posix.write(handle, 0, b"A" * 5000)
    ends = posix.parent(OLD + old), posix.parent(NEW + new)
    rename = partial(posix.rename_found, *ends, flags)
    Stopper(after)
    await rename()
    os._exit(0)


def _one(home: Path, tree: Path, case: str, after: int) -> bool:
    """Whether the move was stopped. In a process of its own: a PKCS#11 module does not survive a fork."""
    child = os.fork()
    if not child:
        try:
            trio.run(move, home, tree, case, after)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, STOPPED):
        raise SystemExit(f"the move ended with {code}")
    return code == STOPPED


def main(home: Path, tree: Path, copies: Path, case: str) -> None:
    """Make all the copies."""
    after = 1
    while True:
        copy = copies / str(after)
        shutil.copytree(tree, copy, symlinks=True)
        if not _one(home, copy, case, after):
            copy.rename(copies / "done")
            return
        after += 1


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), sys.argv[4])  # type: ignore[call-arg]
