"""What an unprivileged user is told about the FUSE device, in a mount namespace with a device of the test's own."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

# Imported first, unprivileged afterwards: the interpreter may lie where that user cannot go.
SCRIPT = """
import os
from kmsfs.cli import fuse_host
from kmsfs.errors import MountFailedError
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    fuse_host.require_device()
    print("fine")
except MountFailedError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("mode", "said"),
    [(0o666, "fine"), (0o600, "/dev/fuse may not be opened by this user")],
    ids=["open", "closed"],
)
def test_a_device_that_a_user_may_or_may_not_open(tmp_path: Path, mode: int, said: str) -> None:
    node = tmp_path / "fuse"
    os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(10, 229))
    node.chmod(mode)
    script = 'mount --bind "$0" /dev/fuse && exec "$1" -c "$2"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, node, sys.executable, SCRIPT],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{said}\n"
