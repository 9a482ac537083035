"""An open tree: the parts put together. What a mount, and nothing else, serves."""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio

from kmsfs.envelope.file_key import newest_unverified
from kmsfs.errors import KmsfsError, MountFailedError
from kmsfs.format.blob import parse_blob_head
from kmsfs.format.layout import HEADER_SIZE
from kmsfs.keystore.data_key_cache import DataKeyCache
from kmsfs.storage.backing import proc_path
from kmsfs.storage.lending import lent
from kmsfs.tree import attributes
from kmsfs.tree.file_keys import FileKeys
from kmsfs.tree.files import Files
from kmsfs.tree.inspect import describe_directory, describe_file
from kmsfs.tree.moved import entry_path
from kmsfs.tree.namespace import Namespace
from kmsfs.tree.superblock_file import (
    lock_tree,
    open_root,
    open_tree_keys,
    read_superblock_at,
    reread_superblock,
)
from kmsfs.tree.volume import TreeOptions, Volume
from kmsfs.tree.xattrs import Xattrs

if TYPE_CHECKING:
    from pathlib import Path

    from kmsfs.keystore.service import Keystore
    from kmsfs.tree.inodes import Inode

FOLLOW_INTERVAL_S = 1.0  # how soon another process's changes to keys reach a mount


class Tree:
    """One tree, open. ``run`` does the background work; ``close`` seals everything."""

    def __init__(self, keystore: Keystore, path: Path, options: TreeOptions) -> None:
        """Open and lock the tree; raises NotATreeError, FormatError, IntegrityError, TreeBusyError or HSM errors."""
        self._keystore, self._path = keystore, path
        self._lock_fd = -1
        root_fd = open_root(path)
        try:
            block = read_superblock_at(root_fd, path)
            if block.read_only:
                options = replace(options, read_only=True)
            if not options.read_only and os.fstatvfs(root_fd).f_flag & os.ST_RDONLY:
                raise MountFailedError(f"the file system of {path} is read-only", hint="mount with -o ro")
            self._lock_fd = lock_tree(root_fd, path, shared=options.read_only)
            # A tool may have held the lock until a moment ago: what it changed is known before anything is made.
            block = read_superblock_at(root_fd, path)
            with suppress(KmsfsError):  # a region that cannot be asked is refused when it is used
                keystore.refresh()
            keys, opened = open_tree_keys(keystore, block, path)
            keystore.measure(block.key_arns)
            self._cache = DataKeyCache(keystore)
            self.file_keys = FileKeys(keystore, self._cache, block.tree_id, serving=opened.key_arn)
            self.volume = Volume(root_fd, block, keys, self.file_keys, options)
        except BaseException:
            if self._lock_fd >= 0:
                os.close(self._lock_fd)
            os.close(root_fd)
            raise
        self.options = options
        self.files = Files(self.volume)
        self.namespace = Namespace(self.volume)
        self.xattrs = Xattrs(self.volume, self.files)

    async def run(self) -> None:
        """Background work, for ever: fill the pool, follow the keystore, keep the audit log, seal idle files."""
        if not self.options.read_only:
            self.file_keys.pool(self.volume.wanted_keys(self.volume.inodes.root))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.file_keys.keep_filled)
            nursery.start_soon(self.file_keys.follow, FOLLOW_INTERVAL_S)
            nursery.start_soon(self.files.follow_keys, FOLLOW_INTERVAL_S)
            nursery.start_soon(self.file_keys.keep_audit, FOLLOW_INTERVAL_S)
            nursery.start_soon(self.volume.idle.run)

    async def reload(self) -> None:
        """Take over the keys of a superblock that a tool has put in the place of this tree's.

        What is made from now on is under them. IntegrityError, and nothing has changed, if it is not an authentic one
        of this tree. What the keystore raises leaves open files that were never written with data keys under the old
        keys: then ask again.
        """
        volume = self.volume
        block = await volume.on_disk(reread_superblock, volume.root_fd, self._path, volume.keys, volume.block)
        if block != volume.block:
            volume.block = block
            self.file_keys.forget_pools()
        await trio.to_thread.run_sync(self._keystore.measure, block.key_arns)
        self.file_keys.serve_under(block.key_arns)
        if not self.options.read_only:
            self.file_keys.pool(volume.wanted_keys(volume.inodes.root))
        await self.files.exchange_keys()

    async def follow(self) -> None:
        """Take over what others have changed of the keys: what is made from now on is under their current material.

        A region whose metadata cannot be read makes nothing until they can. Raises what the keystore says of a new
        data key for an open file that was never written.
        """
        with suppress(KmsfsError):
            await trio.to_thread.run_sync(self._keystore.refresh)
        self.file_keys.epoch += 1
        await self.files.exchange_keys()

    async def close(self) -> None:
        """Seal what is open and give everything back."""
        self.files.release_all()
        self.file_keys.report_uses()
        await self.volume.close()
        os.close(self._lock_fd)

    def about(self) -> dict[str, Any]:
        """Figures for ``kmsfs status``."""
        block = self.volume.block
        return {
            "tree_id": block.tree_id.hex(),
            "root": list(self.volume.inodes.root.key),
            "key_arn": block.default_key_arn,
            "region": block.default_key_arn.split(":")[3],
            "serving_key_arn": self.file_keys.serving,
            "serving_region": self.file_keys.serving.split(":")[3],
            "unusable_keys": self.file_keys.unusable(block.key_arns),
            "read_only": self.options.read_only,
            "open_handles": len(self.files),
            "idle_files": len(self.volume.idle),
            "unsealed_files": self.volume.idle.unsealed,
            "inodes": len(self.volume.inodes),
            "ready_data_keys": self.file_keys.ready_count,
            "cached_data_keys": len(self._cache),
        }

    def info(self, inode: Inode) -> bytes:
        """``kmsfs info`` of an inode, as JSON."""
        volume = self.volume
        entry = os.fsdecode(entry_path(inode))
        if inode.is_directory():
            about = describe_directory(volume.directories.fd(inode), volume.block, volume.zone(inode))
        else:
            mode = volume.status(inode).st_mode
            about = describe_file(mode, self._header(inode), volume.block, volume.zone_of(inode))
        return json.dumps(about | {"entry": entry}).encode()

    def key_of(self, inode: Inode) -> str:
        """The key of a file's first slot; what is not written yet, and a directory, tells what a file would get."""
        volume = self.volume
        if inode.is_directory():
            return volume.wanted_keys(inode)[0]
        raw = self._header(inode)
        if raw:
            return parse_blob_head(newest_unverified(raw).slots[0]).key_arn
        return volume.block.wanted_keys(volume.zone_of(inode))[0]

    def _header(self, inode: Inode) -> bytes:
        """The header of a regular file as it is stored; nothing for what has none."""
        if inode.file is not None:
            return os.pread(inode.file.fd, HEADER_SIZE, 0)
        if inode.kind != stat.S_IFREG or not self.volume.status(inode).st_size:
            return b""
        path_fd = attributes.open_path(self.volume, inode)
        try:
            with lent(path_fd, stat.S_IRUSR):
                fd = os.open(proc_path(path_fd), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        finally:
            os.close(path_fd)
        try:
            return os.pread(fd, HEADER_SIZE, 0)
        finally:
            os.close(fd)
