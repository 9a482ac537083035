"""Hardening, seen from inside a process that asked for it."""

import subprocess
import sys

from kmsfs.cli.hardening import may_lock_memory

SCRIPT = """
import ctypes, resource
from kmsfs.cli.hardening import forbid_inspection, harden_process
print(harden_process())
print(resource.getrlimit(resource.RLIMIT_CORE))
print(len(set(resource.getrlimit(resource.RLIMIT_NOFILE))))
forbid_inspection()
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmLck")][0] != "0")
"""


def test_a_hardened_process() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    locked = str(may_lock_memory())
    assert done.stdout.splitlines() == [locked, "(0, 0)", "1", "0", locked]
