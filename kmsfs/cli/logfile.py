"""Where a mount logs: a private file that rotates by size, or stderr in the foreground.

Lines carry file ids and key ARNs, never clear names; even the file's name is a hash.
"""

import faulthandler
import hashlib
import logging
import os
import sys
import threading
import time
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

from kmsfs.cli.boundary import redacted_traceback

_MAX_SIZE: Final = 4 << 20
_OLD_FILES: Final = 3

_log = logging.getLogger(__name__)


def log_path(home: Path, tree: Path, mountpoint: Path) -> Path:
    """Return the log file of the mount of ``tree`` on ``mountpoint`` (both resolved)."""
    digest = hashlib.sha256(os.fsencode(tree) + b"\0" + os.fsencode(mountpoint)).hexdigest()
    return home / "log" / f"mount-{digest[:16]}.log"


def log_to_file(path: Path) -> None:
    """Send the log, thread failures and crash traces to ``path``, mode 0600."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    _install(_PrivateRotatingFile(path, maxBytes=_MAX_SIZE, backupCount=_OLD_FILES, encoding="utf-8"))
    # A PKCS#11 module that crashes takes the process with it: leave at least the Python frames.
    faulthandler.enable(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))


def log_to_stderr() -> None:
    """Send the log to stderr."""
    _install(logging.StreamHandler(sys.stderr))


class _PrivateRotatingFile(RotatingFileHandler):
    """Creates its files with mode 0600 whatever the umask is."""

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", errors="backslashreplace", opener=_private)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _install(handler: logging.Handler) -> None:
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("kmsfs").setLevel(logging.INFO)
    logging.captureWarnings(True)
    threading.excepthook = _log_thread_failure
    sys.unraisablehook = _log_unraisable


def _log_thread_failure(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_value is not None:
        _log.error("a thread failed: %s", redacted_traceback(failure.exc_value))


def _log_unraisable(failure: "sys.UnraisableHookArgs") -> None:
    if failure.exc_value is not None:
        _log.error("an error had nowhere to go: %s", redacted_traceback(failure.exc_value))
