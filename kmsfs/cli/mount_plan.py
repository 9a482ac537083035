"""What ``kmsfs mount`` is asked to do, checked before anything is started.

Every refusal here costs no HSM call and leaves nothing behind. The session checks again what a
race could change.
"""

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kmsfs.cli import fuse_host
from kmsfs.errors import MountpointError, NotATreeError, UsageError
from kmsfs.keystore.arn import ROOT
from kmsfs.storage.mountinfo import mount_at, overlaps, read_mounts

# ``rw`` and ``default_permissions`` are what a mount does anyway; fstab lines and habits name them.
KNOWN_OPTIONS: Final = (
    "ro",
    "rw",
    "allow_other",
    "default_permissions",
    "noatime",
    "nodev",
    "nosuid",
    "noexec",
    "principal",
)
_WITH_VALUE: Final = "principal"  # the user, or root, on whose behalf the mount uses keys


@dataclass(frozen=True)
class MountPlan:
    """A mount that may be tried. Both paths are absolute and resolved."""

    tree: Path
    mountpoint: Path
    options: frozenset[str]

    @property
    def principal(self) -> str:
        """On whose behalf the mount uses keys."""
        named = [option for option in self.options if option.startswith(f"{_WITH_VALUE}=")]
        return named[0].partition("=")[2] if named else ROOT


def parse_options(values: Sequence[str]) -> frozenset[str]:
    """Return the options of all ``-o``, comma-separated as mount(8) takes them."""
    options = frozenset(option for value in values for option in value.split(",") if option)
    valued = [option for option in options if option.partition("=")[0] == _WITH_VALUE]
    unknown = sorted(options.difference(KNOWN_OPTIONS, valued))
    if unknown:
        raise UsageError(f"unknown mount option {unknown[0]!r}", hint=f"known are {', '.join(KNOWN_OPTIONS)}")
    if len(valued) > 1 or any(not option.partition("=")[2] for option in valued):
        raise UsageError("the mount option principal takes one name", hint="for example principal=alice")
    if {"ro", "rw"} <= options:
        raise UsageError("the mount options ro and rw exclude each other", hint="give one of them")
    return options


def plan_mount(tree: Path, mountpoint: Path, options: frozenset[str]) -> MountPlan:
    """Check tree, mount point and host, or raise what is wrong with them."""
    resolved_tree = _require_tree(tree)
    resolved_mountpoint = _require_mountpoint(mountpoint)
    if overlaps(resolved_tree, resolved_mountpoint):
        raise MountpointError(
            f"mount point {mountpoint} and tree {tree} overlap", hint="choose a mount point outside the tree"
        )
    _require_empty(mountpoint, resolved_mountpoint)
    fuse_host.require_device()
    fuse_host.require_helper()
    if "allow_other" in options:
        fuse_host.require_allow_other()
    return MountPlan(resolved_tree, resolved_mountpoint, options)


def _require_tree(tree: Path) -> Path:
    from kmsfs.tree.superblock_file import read_superblock

    if not tree.is_dir():
        what = "is not a directory" if tree.exists() else "does not exist"
        raise NotATreeError(f"tree {tree} {what}", hint=f"create it with 'kmsfs init {tree}'")
    resolved = tree.resolve()
    read_superblock(resolved)
    return resolved


def _require_mountpoint(mountpoint: Path) -> Path:
    resolved = Path(os.path.realpath(mountpoint))
    if mount_at(str(resolved), read_mounts()):
        raise MountpointError(
            f"{mountpoint} is a mount already", hint=f"unmount it with 'kmsfs unmount {mountpoint}' first"
        )
    try:
        is_directory = resolved.is_dir()
    except OSError as error:
        if error.errno != errno.EACCES:
            raise
        raise MountpointError(
            f"mount point {mountpoint} cannot be reached", hint="check its parents' modes"
        ) from error
    if not resolved.exists():
        raise MountpointError(
            f"mount point {mountpoint} does not exist", hint=f"make it with 'mkdir {mountpoint}'"
        )
    if not is_directory:
        raise MountpointError(f"mount point {mountpoint} is not a directory", hint="name an empty directory")
    return resolved


def _require_empty(mountpoint: Path, resolved: Path) -> None:
    with os.scandir(resolved) as entries:
        if any(True for _ in entries):
            raise MountpointError(f"mount point {mountpoint} is not empty", hint="name an empty directory")
