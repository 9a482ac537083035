"""Makes, unmakes and finds zones, in mounted and in unmounted trees."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from kmsfs.errors import KmsfsError, TreeBusyError
from kmsfs.storage.backing import proc_path
from kmsfs.tree import frames
from kmsfs.tree.superblock_file import lock_work, open_root, read_superblock_at
from kmsfs.tree.tree import Tree
from kmsfs.tree.volume import TreeOptions
from kmsfs.tree.zones import Zone, directories_below, set_zone, zones_below

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kmsfs.format.superblock import Superblock
    from kmsfs.keystore.service import Keystore
    from kmsfs.tools.mounted import MountedTree

_INFO: Final = "user.kmsfs.info"


def change_zone(
    keystore: Keystore, tree: Path, entry: str, key_arn: str, mounted: MountedTree | None
) -> None:
    """Make the directory at ``entry`` a zone of a key, or with an empty name of a key no zone of its own.

    The register of trees learns of the key before anything can be under it.
    """
    with _work_on(tree) as root_fd:
        if mounted is None:
            trio.run(_change_unmounted, keystore, root_fd, tree, entry, key_arn)
            return
        mounted.require(root_fd, tree)
        _register(keystore, tree, read_superblock_at(root_fd, tree), key_arn)
        mounted.set_zone(entry, key_arn)


def _register(keystore: Keystore, tree: Path, block: Superblock, key_arn: str) -> None:
    if key_arn:
        keystore.note_tree(block.tree_id, tree, {*block.key_arns, key_arn}, besides=True)


@contextmanager
def _work_on(tree: Path) -> Iterator[int]:
    root_fd = open_root(tree)
    try:
        work_fd = lock_work(root_fd, tree)
        try:
            yield root_fd
        finally:
            os.close(work_fd)
    finally:
        os.close(root_fd)


async def _change_unmounted(keystore: Keystore, root_fd: int, path: Path, entry: str, key_arn: str) -> None:
    tree = Tree(keystore, path, TreeOptions())
    try:
        if not os.path.samestat(os.fstat(root_fd), os.fstat(tree.volume.root_fd)):
            raise TreeBusyError(f"{path} was replaced by another tree meanwhile", hint="try again")
        _register(keystore, path, tree.volume.block, key_arn)
        await set_zone(tree, frames.entry_path(entry), key_arn)
    finally:
        await tree.close()


def find_zones(keystore: Keystore, top: Path, *, mounted: bool) -> Iterator[Zone]:
    """The zones at and below a directory, with what keeps files from being made in them now."""
    for zone in _mounted_zones(top) if mounted else zones_below(top):
        yield zone if zone.problem else _examined(keystore, zone)


def _mounted_zones(top: Path) -> Iterator[Zone]:
    """The same as ``zones_below``, by clear names, as a mount tells them."""
    device = top.stat().st_dev
    for place in directories_below(top, partial(_is_on, device)):
        try:
            about: dict[str, Any] = json.loads(os.getxattr(proc_path(place.open()), _INFO))
        except OSError as error:
            yield place.untold(error)
            continue
        if about["is_zone"]:
            yield Zone(place.path, about["zone"])


def _is_on(device: int, entry: os.DirEntry[str]) -> bool:
    """Whether a directory is no other mount's."""
    try:
        return entry.stat(follow_symlinks=False).st_dev == device
    except OSError:
        return False


def _examined(keystore: Keystore, zone: Zone) -> Zone:
    try:
        keystore.check_usable(zone.key_arn, "GenerateDataKey")
    except KmsfsError as error:
        return replace(zone, problem=str(error))
    return zone
