"""``kmsfs info``: which keys a file is encrypted under. Needs no HSM and no key."""

import stat
from pathlib import Path
from typing import Any, Final

import click

from kmsfs.cli.options import HELP_NAMES, json_option
from kmsfs.cli.places import ask_about, mount_holding
from kmsfs.cli.terminal import print_fields, print_json
from kmsfs.storage.mountinfo import MountEntry

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
    mount = mount_holding(path)
    if mount is not None:
        return _from_mount(path, mount)
    from kmsfs.tree.inspect import inspect_path

    return inspect_path(path.absolute())


def _from_mount(path: Path, mount: MountEntry) -> dict[str, Any]:
    kind = _WITHOUT_KEY.get(stat.S_IFMT(path.lstat().st_mode))
    if kind is None:
        return ask_about(path)
    root = ask_about(Path(mount.mount_point))
    return {
        "kind": kind,
        "tree_id": root["tree_id"],
        "file_id": None,
        "chunk_size": root["chunk_size"],
        "sealed_length": None,
        "zone": ask_about(path.parent)["zone"],
        "key_arn": None,
        "slots": [],
        "entry": None,
    }
