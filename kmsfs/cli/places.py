"""What a path in a mount or in a tree names: the tree, and the entry in its store."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kmsfs.cli.mounts import MountState, MountStatus, ask
from kmsfs.errors import NotATreeError, NotMountedError
from kmsfs.storage.mountinfo import mount_of

if TYPE_CHECKING:
    from kmsfs.storage.mountinfo import MountEntry

INFO_XATTR: Final = "user.kmsfs.info"


@dataclass(frozen=True, slots=True)
class DirectoryPlace:
    """A directory of a tree, looked at through a mount or in the store itself."""

    path: Path  # resolved
    tree: Path
    mount: MountStatus | None
    entry: str  # encrypted names from the tree's root; nothing for the root
    is_zone: bool


def mount_holding(path: Path) -> MountEntry | None:
    """The kmsfs mount that a path lies in; a symlink is not followed. NotMountedError if the mount is dead."""
    try:
        mount = mount_of(os.fspath(path))
    except OSError as error:
        raise _explained(error, path) from error
    return mount if mount is not None and mount.is_kmsfs else None


def ask_about(path: Path) -> dict[str, Any]:
    """What a mount says of a file or directory in it."""
    try:
        return dict(json.loads(os.getxattr(path, INFO_XATTR, follow_symlinks=False)))
    except OSError as error:
        raise _explained(error, path) from error


def directory_place(directory: Path) -> DirectoryPlace:
    """Where a directory of a tree is. A symlink stands for what it leads to, which may be in another mount."""
    from kmsfs.tree.inspect import find_root, inspect_path

    path = directory.resolve()
    entry = mount_holding(path)
    if not path.is_dir():
        raise NotATreeError(f"{directory} is no directory", hint="name a directory in a mount or in a tree")
    if entry is None:
        about = inspect_path(path)
        return DirectoryPlace(path, find_root(path), None, about["entry"], about["is_zone"])
    status = ask(entry)
    if status.state is not MountState.SERVING:
        raise NotMountedError(f"the mount {entry.mount_point} is {status.state.value}", hint="kmsfs status")
    about = ask_about(path)
    return DirectoryPlace(path, Path(status.details["tree"]), status, about["entry"], about["is_zone"])


def _explained(error: OSError, path: Path) -> Exception:
    if error.errno == errno.ENOTCONN:
        return NotMountedError(
            f"the mount that holds {path} is dead", hint="clean it up with 'kmsfs unmount'"
        )
    return error
