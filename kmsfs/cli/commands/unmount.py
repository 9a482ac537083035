"""``kmsfs unmount``: end a mount and wait until everything is stored."""

import os
from pathlib import Path
from typing import Final

import click

from kmsfs.cli.mounts import MountState, MountStatus, ask, detach
from kmsfs.cli.options import HELP_NAMES
from kmsfs.cli.processes import await_end, open_process
from kmsfs.cli.terminal import print_line
from kmsfs.errors import MountBusyError, NotMountedError
from kmsfs.storage.mountinfo import MountEntry, mount_at, read_mounts

_END_LIMIT_S: Final = 600.0  # a full writeback cache on a slow disk takes minutes to store


@click.command("unmount", context_settings=HELP_NAMES)
@click.argument("mountpoint", metavar="MOUNTPOINT", type=click.Path(path_type=Path))
def command(mountpoint: Path) -> None:
    """Unmount a tree and wait until all is stored.

    Returns when the mount's process has written and sealed everything and is gone. A mount whose
    process died is cleaned up.

    \b
    Example:
      kmsfs unmount ~/clear
    """
    entry = _find(mountpoint)
    status = ask(entry)
    if status.state is MountState.DEAD:
        detach(entry.mount_point, lazy=True)  # nobody is left to store anything
        print_line(f"cleaned up {entry.mount_point}, whose process was gone")
        return
    pid = status.details.get("pid")
    process = open_process(pid) if isinstance(pid, int) else None
    try:
        detach(entry.mount_point)
    except BaseException:
        if process is not None:
            os.close(process)
        raise
    _await_process(status, process)
    print_line(f"unmounted {entry.mount_point}")


def _find(mountpoint: Path) -> MountEntry:
    # realpath does not need the mount itself to answer: a dead one is found too.
    entry = mount_at(os.path.realpath(mountpoint), read_mounts())
    if entry is None:
        raise NotMountedError(f"{mountpoint} is not mounted", hint="'kmsfs status' lists the mounts")
    if not entry.is_kmsfs:
        raise NotMountedError(f"{mountpoint} is not a kmsfs mount", hint="unmount it with 'umount'")
    return entry


def _await_process(status: MountStatus, process: int | None) -> None:
    if process is not None and not await_end(process, _END_LIMIT_S):
        pid = status.details["pid"]
        raise MountBusyError(
            f"{status.entry.mount_point} is unmounted, but process {pid} is still storing its files",
            hint=f"wait until process {pid} ends before you copy the tree",
        )
