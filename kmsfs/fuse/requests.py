"""Requests of the control socket, handed to the tree: a few lines each, as for the kernel's in operations.py."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from kmsfs.errors import FormatError
from kmsfs.tree import frames, zones
from kmsfs.tree.mounted_swaps import MountedSwap, put_swaps

if TYPE_CHECKING:
    from kmsfs.fuse.control import Handler
    from kmsfs.tree.tree import Tree


def handlers(tree: Tree) -> dict[str, Handler]:
    """What a mount can be asked for, by operation."""
    requests = {"zone": _zone, "moved": _moved, "reload": _reload, "follow": _follow}
    return {
        "swap": partial(_swap, trio.Lock(), tree),
        **{operation: partial(request, tree) for operation, request in requests.items()},
    }


async def _zone(tree: Tree, request: dict[str, Any]) -> None:
    """``path``: entries from the root; ``key_arn``: the zone's key, or nothing to remove the zone."""
    entries = frames.entry_path(frames.member(request, "path", str))
    await zones.set_zone(tree, entries, frames.member(request, "key_arn", str))


async def _swap(one_at_a_time: trio.Lock, tree: Tree, request: dict[str, Any]) -> list[object]:
    """``files``: what is to get which header; ``touch``: whether mtime tells. Answers for each file.

    What was asked for before is done first: also by a tool that was killed meanwhile.
    """
    touch = frames.member(request, "touch", bool)
    orders = [_order(item) for item in frames.member(request, "files", list)]
    async with one_at_a_time:
        outcomes = await put_swaps(tree, orders, touch=touch)
    return [outcome if isinstance(outcome, str) else frames.failure(outcome) for outcome in outcomes]


def _order(item: object) -> MountedSwap:
    if not isinstance(item, dict):
        raise FormatError("control message names no file")
    return MountedSwap.of(
        frames.entry_path(frames.member(item, "path", str)),
        frames.member(item, "ino", int),
        frames.binary(item, "header"),
        frames.member(item, "newest_copy", int),
        frames.binary(item, "sealed"),
    )


async def _moved(tree: Tree, request: dict[str, Any]) -> list[tuple[int, str]] | None:
    """Inode and path of what has got another name since this was last asked; nothing if that is not known."""
    places = tree.volume.moved.take()
    return None if places is None else [(ino, os.fsdecode(path)) for ino, path in places]


async def _reload(tree: Tree, request: dict[str, Any]) -> None:
    """The superblock was replaced: take over the keys that it declares."""
    await tree.reload()


async def _follow(tree: Tree, request: dict[str, Any]) -> None:
    """What is made from here on is to be under keys' current material."""
    await tree.follow()
