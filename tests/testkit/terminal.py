"""``kmsfs`` on a terminal: a pseudo terminal as its stdin, stdout and stderr."""

import os
import pty
import subprocess
from pathlib import Path

from testkit.home import KMSFS, Home


def on_terminal(home: Home, *arguments: str | Path) -> tuple[int, str]:
    """Run ``kmsfs`` on a terminal that nobody types at; return its exit code and what it showed."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [KMSFS, *arguments], env=home.env(), stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        shown = b"".join(iter(lambda: _read(ours), b""))
        return process.wait(), shown.decode().replace("\r\n", "\n")
    finally:
        os.close(ours)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # EIO: the last process has closed its side
        return b""
