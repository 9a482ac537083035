"""How long a change in the keystore may take to reach a running mount, and waiting for it."""

import errno
import time
from collections.abc import Callable
from pathlib import Path

REACHES_MOUNTS_S = 5.0  # docs/operations.md; design.md section 6


def eventually(call: Callable[[], object], wanted: object) -> None:
    """Repeat ``call`` until it gives ``wanted``, at most as long as a change may take to reach a mount."""
    end = time.monotonic() + REACHES_MOUNTS_S
    while (got := call()) != wanted:
        assert time.monotonic() < end, f"still {got!r}"
        time.sleep(0.02)


def opening(path: Path) -> str:
    """What opening and reading a file gives: ``ok`` or an errno's name."""
    try:
        path.read_bytes()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"
