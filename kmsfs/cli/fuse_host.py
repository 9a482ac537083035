"""What the host offers for FUSE: the device, the helper program, its configuration.

``kmsfs mount`` refuses early with these answers and ``kmsfs doctor`` shows them.
"""

import os
import shutil
from pathlib import Path
from typing import Final

from kmsfs.errors import MountFailedError

DEVICE: Final = Path("/dev/fuse")
HELPER: Final = "fusermount3"
_CONFIGURATION: Final = Path("/etc/fuse.conf")


def require_device() -> None:
    """Raise if there is no FUSE device, or none that this user may open: fusermount3 opens it as the user."""
    if not DEVICE.exists():
        raise MountFailedError(
            f"{DEVICE} is missing",
            hint="load it with 'modprobe fuse'; in a container, pass --device /dev/fuse",
        )
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        raise MountFailedError(
            f"{DEVICE} may not be opened by this user",
            hint=f"let root give access to it: 'chmod 666 {DEVICE}'",
        )


def require_helper() -> None:
    """Raise if this user needs fusermount3 to mount and it is not installed."""
    if os.geteuid() != 0 and shutil.which(HELPER) is None:
        raise MountFailedError(
            f"{HELPER} is not installed", hint="install it, on Debian with 'apt install fuse3'"
        )


def require_allow_other() -> None:
    """Raise if this user may not let others use a mount."""
    if os.geteuid() != 0 and not user_allow_other():
        raise MountFailedError(
            f"allow_other is not permitted by {_CONFIGURATION}",
            hint=f"let root add the line user_allow_other to {_CONFIGURATION}",
        )


def user_allow_other() -> bool:
    """Whether the host lets users other than root mount with allow_other."""
    try:
        lines = _CONFIGURATION.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.split("#")[0].strip() == "user_allow_other" for line in lines)
