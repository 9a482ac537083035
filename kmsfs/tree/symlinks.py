"""Targets of symlinks: in the backing symlink, or beside it when too long (docs/format.md section 7)."""

from __future__ import annotations

import contextlib
import errno
import os
from functools import partial
from typing import TYPE_CHECKING

import trio

from kmsfs.crypto.entropy import random_bytes
from kmsfs.envelope.tree_key import (
    INDIRECT_LINK_SIZE,
    LINK_ID_SIZE,
    LINK_PREFIX,
    MAX_INLINE_TARGET,
    b64,
    target_length,
    unb64,
)
from kmsfs.errors import FormatError, IntegrityError
from kmsfs.storage import backing, durable
from kmsfs.tree.directories import LINKS_NAME

if TYPE_CHECKING:
    from kmsfs.tree.inodes import Inode
    from kmsfs.tree.volume import Volume

_PATH_MAX = 4096


async def seal(volume: Volume, target: bytes, nonce: bytes) -> bytes:
    """What the backing symlink is to hold. A very long target is put beside it first, durably."""
    if len(target) >= _PATH_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    if len(target) <= MAX_INLINE_TARGET:
        return b64(volume.keys.seal_target(target, nonce))
    return await seal_beside(volume, target, nonce)


async def seal_beside(volume: Volume, target: bytes, nonce: bytes) -> bytes:
    """What the backing symlink is to hold when it is too short for the target: the target is put beside it."""
    link_id = random_bytes(LINK_ID_SIZE)
    sealed = volume.keys.seal_target(target, nonce, link_id)
    await trio.to_thread.run_sync(partial(_put_link_file, volume.root_fd, b64(link_id), sealed))
    return LINK_PREFIX + b64(link_id)


def read(volume: Volume, inode: Inode) -> bytes:
    """The clear target of a symlink."""
    if inode.parent is None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    name, dir_fd = volume.place(inode, inode.parent)
    return _open(volume, os.readlink(name, dir_fd=dir_fd))


def length(volume: Volume, inode: Inode, stored_length: int) -> int:
    """Clear length of the target of a symlink, from st_size."""
    clear = target_length(stored_length)
    if clear is not None:
        return clear
    try:
        return len(read(volume, inode))
    except (OSError, FormatError, IntegrityError):
        return 0  # reading the link says what is wrong


def link_file(volume: Volume, parent: Inode, entry: bytes) -> bytes | None:
    """The name of the file that holds the target of an indirect symlink."""
    stored = os.readlink(entry, dir_fd=volume.directories.fd(parent))
    return stored.removeprefix(LINK_PREFIX) if _is_indirect(stored) else None


def remove_link_file(volume: Volume, name: bytes) -> None:
    """The last name of an indirect symlink was removed."""
    with contextlib.suppress(OSError):  # the symlink is gone, and one that lost its target can go
        links_fd = backing.open_directory(LINKS_NAME, volume.root_fd)
        try:
            os.unlink(name, dir_fd=links_fd)
        finally:
            os.close(links_fd)


def _is_indirect(stored: bytes) -> bool:
    return len(stored) == INDIRECT_LINK_SIZE and stored.startswith(LINK_PREFIX) and b"/" not in stored


def _open(volume: Volume, stored: bytes) -> bytes:
    try:
        if not _is_indirect(stored):
            return volume.keys.open_target(unb64(stored))
        name = stored.removeprefix(LINK_PREFIX)
        links_fd = backing.open_directory(LINKS_NAME, volume.root_fd)
        try:
            sealed = backing.read_small(name, links_fd, _PATH_MAX + 64)
        finally:
            os.close(links_fd)
        return volume.keys.open_target(sealed, unb64(name))
    except FileNotFoundError:
        raise IntegrityError(
            "a symlink has lost its target", hint="restore kmsfs.links from a backup"
        ) from None


def _put_link_file(root_fd: int, name: bytes, sealed: bytes) -> None:
    try:
        os.mkdir(LINKS_NAME, 0o755, dir_fd=root_fd)
        durable.sync_directory(root_fd)
    except FileExistsError:
        pass
    links_fd = backing.open_directory(LINKS_NAME, root_fd)
    try:
        durable.write_new(name, links_fd, sealed)
        durable.sync_directory(links_fd)
    finally:
        os.close(links_fd)
