"""``kmsfs info``: which keys a file is encrypted under. Needs no HSM and no key."""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any, Final

import click

from kmsfs.cli.options import HELP_NAMES, json_option
from kmsfs.cli.terminal import print_fields, print_json
from kmsfs.errors import NotMountedError
from kmsfs.storage.mountinfo import MountEntry, mount_of

INFO_XATTR: Final = "user.kmsfs.info"
# The kernel allows user xattrs on files and directories only; nothing else has a key anyway.
_WITHOUT_KEY: Final = {
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


@click.command("info", context_settings=HELP_NAMES)
@click.argument("path", metavar="PATH", type=click.Path(path_type=Path))
@json_option()
def command(path: Path, as_json: bool) -> None:
    """Show which keys a file is encrypted under.

    PATH lies in a mount or in a tree; a symlink is not followed.

    \b
    Example:
      kmsfs info ~/clear/report.txt
      kmsfs info ~/tree --json
    """
    info = _info(path)
    if as_json:
        print_json(info)
        return
    fields = {name.replace("_", " "): _text(value) for name, value in info.items() if name != "slots"}
    for number, slot in enumerate(info.get("slots", []), start=1):
        fields |= {f"slot {number} {name.replace('_', ' ')}": _text(value) for name, value in slot.items()}
    print_fields(fields)


def _text(value: Any) -> str:
    return "-" if value is None else str(value)


def _info(path: Path) -> dict[str, Any]:
    try:
        mount = mount_of(os.fspath(path))
    except OSError as error:
        raise _explained(error, path) from error
    if mount is not None and mount.is_kmsfs:
        return _from_mount(path, mount)
    from kmsfs.tree.inspect import inspect_path

    return inspect_path(path.absolute())


def _from_mount(path: Path, mount: MountEntry) -> dict[str, Any]:
    kind = _WITHOUT_KEY.get(stat.S_IFMT(path.lstat().st_mode))
    if kind is None:
        return _ask(path)
    root = _ask(Path(mount.mount_point))
    return {
        "kind": kind,
        "tree_id": root["tree_id"],
        "file_id": None,
        "chunk_size": root["chunk_size"],
        "sealed_length": None,
        "slots": [],
    }


def _ask(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(os.getxattr(path, INFO_XATTR, follow_symlinks=False)))
    except OSError as error:
        raise _explained(error, path) from error


def _explained(error: OSError, path: Path) -> Exception:
    if error.errno == errno.ENOTCONN:
        return NotMountedError(
            f"the mount that holds {path} is dead", hint="clean it up with 'kmsfs unmount'"
        )
    return error
