"""Holding a tree for a change of its keys, whether it is mounted or not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kmsfs.cli.mounts import MountState, MountStatus, ask
from kmsfs.errors import NotATreeError, NotMountedError
from kmsfs.storage.mountinfo import kmsfs_mounts, mount_of

if TYPE_CHECKING:
    from kmsfs.keystore.service import Keystore
    from kmsfs.tools.access import ServedTree, UnmountedTree


def tree_and_mount(named: Path) -> tuple[Path, MountStatus | None]:
    """The backing directory of what is named by it or by a mount of it, and the mount that serves it, if any."""
    path = Path(os.path.realpath(named))
    if not path.is_dir():
        raise NotATreeError(f"{named} is no directory", hint="name a tree or a mount")
    entry = mount_of(str(path))
    if entry is not None and entry.is_kmsfs:
        if entry.mount_point != str(path):
            raise NotATreeError(
                f"{named} is a directory in a mount", hint=f"name the whole mount: {entry.mount_point}"
            )
        status = ask(entry)
        if status.state is not MountState.SERVING:
            raise NotMountedError(f"the mount {path} is {status.state.value}", hint="kmsfs status")
        return Path(status.details["tree"]), status
    for other in kmsfs_mounts():
        status = ask(other)
        if status.details.get("tree") == str(path):
            return path, status
    return path, None


def open_tree(keystore: Keystore, named: Path, *, touch: bool) -> UnmountedTree | ServedTree:
    """Hold a tree. TreeBusyError if a mount has it that cannot be asked, or another tool."""
    from kmsfs.tools.access import ServedTree, UnmountedTree
    from kmsfs.tools.mounted import control_of

    path, mount = tree_and_mount(named)
    if mount is None:
        return UnmountedTree(keystore, path, touch=touch)
    return ServedTree(keystore, path, control_of(mount.details), touch=touch)
