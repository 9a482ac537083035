"""What a test may leave behind by mistake: mounts and processes that name its directory."""

import os
from pathlib import Path

from kmsfs.storage.mountinfo import read_mounts


def mounts_below(base: Path) -> set[str]:
    """Return the mounts below ``base``, as readable strings."""
    prefix = f"{base.resolve()}/"
    return {f"mount {entry.mount_point}" for entry in read_mounts() if entry.mount_point.startswith(prefix)}


def processes_naming(base: Path, *, but: int | None = None) -> set[str]:
    """Return the live processes whose command line names a path below ``base``, except this one and ``but``."""
    needle = os.fsencode(f"{base}/")
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in (os.getpid(), but):
            continue
        try:
            cmdline = (entry / "cmdline").read_bytes()
        except OSError:
            continue  # it ended in between
        if needle in cmdline:
            found.add(f"process {entry.name}: {cmdline.replace(bytes(1), b' ').decode(errors='replace')}")
    return found
