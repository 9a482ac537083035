"""FUSE requests, handed to the tree: a few lines each. What they mean is the tree's business."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from typing import TYPE_CHECKING

import pyfuse3
import trio

from kmsfs.fuse.boundary import guarded
from kmsfs.tree import attributes, renames, symlinks
from kmsfs.tree.listing import Listing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyfuse3 import (
        EntryAttributes,
        FileHandleT,
        FileInfo,
        FileNameT,
        FlagT,
        InodeT,
        ModeT,
        ReaddirToken,
        RequestContext,
        SetattrFields,
        StatvfsData,
        XAttrNameT,
    )

    from kmsfs.tree.inodes import Inode
    from kmsfs.tree.tree import Tree
    from kmsfs.tree.volume import Volume

_CACHE_S = 300.0  # nobody else changes the tree while it is mounted
_PREVIEW_LIMIT = 128 << 10  # the kernel's read-ahead
INFO_XATTR = b"user.kmsfs.info"
KEY_XATTR = b"user.kmsfs.key"
STATUS_XATTR = b"user.kmsfs.status"


class Operations(pyfuse3.Operations):
    """The handlers of one mount."""

    supports_dot_lookup = False
    enable_writeback_cache = True
    enable_acl = True

    def __init__(self, tree: Tree, status: Callable[[], dict[str, object]]) -> None:
        super().__init__()
        self._tree = tree
        self._volume: Volume = tree.volume
        self._inodes = tree.volume.inodes
        self._names = tree.namespace
        self._files = tree.files
        self._xattrs = tree.xattrs
        self._status = status
        self._listings: dict[int, Listing] = {}
        self._next_listing = 0

    # --- names ---------------------------------------------------------------------------------------

    @guarded
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        """Look up a name; a missing one is remembered by the kernel."""
        try:
            return self._entry(*self._names.lookup(self._inodes.get(parent_inode), name))
        except FileNotFoundError:
            missing = pyfuse3.EntryAttributes()
            missing.st_ino = 0
            missing.entry_timeout = _CACHE_S
            return missing

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """Give look-ups back."""
        self._volume.forget(list(inode_list))

    @guarded
    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        """mknod(2)."""
        return self._entry(*await self._names.mknod(self._inodes.get(parent_inode), name, mode, rdev, ctx))

    @guarded
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        """mkdir(2)."""
        return self._entry(*await self._names.mkdir(self._inodes.get(parent_inode), name, mode, ctx))

    @guarded
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """symlink(2)."""
        return self._entry(*await self._names.symlink(self._inodes.get(parent_inode), name, target, ctx))

    @guarded
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """link(2)."""
        new_parent = self._inodes.get(new_parent_inode)
        return self._entry(*await self._names.link(self._inodes.get(inode), new_parent, new_name))

    @guarded
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        """unlink(2)."""
        self._names.unlink(self._inodes.get(parent_inode), name)

    @guarded
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        """rmdir(2)."""
        self._names.rmdir(self._inodes.get(parent_inode), name)

    @guarded
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        """renameat2(2)."""
        old, new = self._inodes.get(parent_inode_old), self._inodes.get(parent_inode_new)
        await renames.rename(self._volume, self._files, (old, name_old), (new, name_new), flags, ctx.uid)

    @guarded
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        """readlink(2)."""
        return symlinks.read(self._volume, self._inodes.get(inode))

    # --- attributes ----------------------------------------------------------------------------------

    @guarded
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        """stat(2)."""
        known = self._inodes.get(inode)
        return self._entry(known, self._volume.status(known))

    @guarded
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        """chown(2), chmod(2), truncate(2), utimensat(2)."""
        known = self._inodes.get(inode)
        if fields.update_uid or fields.update_gid:
            uid = attr.st_uid if fields.update_uid else -1
            gid = attr.st_gid if fields.update_gid else -1
            attributes.chown(self._volume, known, uid, gid)
        if fields.update_mode:
            attributes.chmod(self._volume, known, attr.st_mode)
        if fields.update_size and fh is not None:
            await self._files.ftruncate(fh, attr.st_size, ctx)
        elif fields.update_size:
            await self._files.truncate(known, attr.st_size, ctx)
        if fields.update_atime or fields.update_mtime:
            atime = attr.st_atime_ns if fields.update_atime else None
            mtime = attr.st_mtime_ns if fields.update_mtime else None
            attributes.set_times(self._volume, known, atime, mtime)
        return self._entry(known, self._volume.status(known))

    def _entry(self, inode: Inode, status: os.stat_result) -> EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode.number
        entry.st_mode = mode = status.st_mode
        entry.st_nlink = status.st_nlink
        entry.st_uid = status.st_uid
        entry.st_gid = status.st_gid
        entry.st_rdev = status.st_rdev
        if stat.S_ISLNK(mode):
            entry.st_size = symlinks.length(self._volume, inode, status.st_size)
        else:
            entry.st_size = self._volume.size(status)
        entry.st_blksize = 4096
        entry.st_blocks = status.st_blocks
        entry.st_atime_ns = status.st_atime_ns
        entry.st_mtime_ns = status.st_mtime_ns
        entry.st_ctime_ns = status.st_ctime_ns
        entry.entry_timeout = entry.attr_timeout = _CACHE_S
        return entry

    @guarded
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        """statvfs(3) of the backing file system."""
        backing = os.fstatvfs(self._volume.root_fd)
        data = pyfuse3.StatvfsData()
        for name in (
            "f_bsize",
            "f_frsize",
            "f_blocks",
            "f_bfree",
            "f_bavail",
            "f_files",
            "f_ffree",
            "f_favail",
        ):
            setattr(data, name, getattr(backing, name))
        data.f_namemax = 255
        return data

    # --- files ---------------------------------------------------------------------------------------

    @guarded
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        """open(2) without O_CREAT."""
        number, direct = await self._files.open(self._inodes.get(inode), flags, ctx)
        if flags & os.O_ACCMODE == os.O_RDONLY:
            # A small file goes to the page cache with its open: one round trip instead of several.
            content = self._files.preview(number, _PREVIEW_LIMIT)
            if content is not None:
                with contextlib.suppress(OSError):  # a favour: the kernel may not want it
                    pyfuse3.notify_store(inode, 0, content)  # type: ignore[arg-type]
        return pyfuse3.FileInfo(fh=number, direct_io=direct, keep_cache=not direct)

    @guarded
    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        """open(2) with O_CREAT of a name that the kernel has not found."""
        await self._volume.idle.room()
        parent = self._inodes.get(parent_inode)
        (inode, status), fd, ready = await self._names.create(parent, name, mode, ctx)
        number = self._files.create(inode, fd, ready)
        return pyfuse3.FileInfo(fh=number), self._entry(inode, status)

    @guarded
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        """read(2)."""
        return await self._files.read(fh, off, size)  # type: ignore[return-value]

    @guarded
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        """write(2)."""
        return self._files.write(fh, off, buf)

    @guarded
    async def flush(self, fh: FileHandleT) -> None:
        """close(2) of one descriptor."""
        self._files.flush(fh)

    @guarded
    async def release(self, fh: FileHandleT) -> None:
        """The last descriptor of an open(2) is closed."""
        self._files.release(fh)

    @guarded
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        """fsync(2), fdatasync(2)."""
        await self._files.fsync(fh, data_only=datasync)

    # --- directories ---------------------------------------------------------------------------------

    @guarded
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        """opendir(3)."""
        listing = Listing(self._volume, self._inodes.get(inode))
        self._next_listing += 1
        self._listings[self._next_listing] = listing
        return self._next_listing

    @guarded
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        """readdir(3) with attributes. Positions 1 and 2 are after ``.`` and ``..``."""
        listing = self._listings[fh]
        directory = listing.inode
        if start_id == 0:
            await listing.rewind()
        for position, dots in ((1, b"."), (2, b"..")):
            at = directory if position == 1 else directory.parent or directory
            if start_id < position and not pyfuse3.readdir_reply(
                token, dots, self._entry(at, self._volume.status(at)), position
            ):
                return
        told: list[tuple[int, int]] = []
        try:
            for position, name, entry, status in listing.entries(max(0, start_id - 2)):
                inode, _ = self._names.known(directory, entry, status)
                told.append((inode.number, 1))
                if not pyfuse3.readdir_reply(token, name, self._entry(inode, status), position + 2):
                    self._volume.forget([told.pop()])
                    return
        except BaseException:
            self._volume.forget(told)  # the kernel gets the error and none of the names
            raise

    @guarded
    async def releasedir(self, fh: FileHandleT) -> None:
        """closedir(3)."""
        self._listings.pop(fh).close()

    @guarded
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        """fsync(2) of a directory."""
        await trio.to_thread.run_sync(self._listings[fh].sync)

    # --- extended attributes -------------------------------------------------------------------------

    @guarded
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        """getxattr(2), and what the mount says of itself."""
        known = self._inodes.get(inode)
        if name == INFO_XATTR:
            return self._tree.info(known)
        if name == KEY_XATTR:
            return self._tree.key_of(known).encode()
        if name == STATUS_XATTR and known is self._inodes.root:
            return json.dumps(self._status()).encode()
        return self._xattrs.get(known, name)

    @guarded
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        """listxattr(2)."""
        return self._xattrs.list(self._inodes.get(inode))

    @guarded
    async def setxattr(self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext) -> None:
        """setxattr(2)."""
        await self._xattrs.set(self._inodes.get(inode), name, value)

    @guarded
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        """removexattr(2)."""
        self._xattrs.remove(self._inodes.get(inode), name)
