"""A tree in this process, used by path: what the kernel does between a program and a mount, without FUSE.

Look-ups are counted as the kernel counts them and given back by ``forget``, which the kernel calls whenever it likes.
"""

import errno
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from kmsfs.format.blob import parse_blob_head
from kmsfs.format.header import FileHeader
from kmsfs.format.layout import HEADER_COPY_SIZE
from kmsfs.ids import KeyArn
from kmsfs.keystore.pool import DataKeyPool
from kmsfs.keystore.service import Keystore
from kmsfs.tree import attributes, renames, symlinks
from kmsfs.tree.inodes import Inode
from kmsfs.tree.listing import Listing
from kmsfs.tree.tree import Tree
from kmsfs.tree.volume import TreeOptions
from kmsfs.tree.zones import set_zone


@dataclass(frozen=True)
class Caller:
    """Who makes a request."""

    uid: int = 0
    gid: int = 0


ROOT = Caller()


class Posix:
    """Calls by path on an open tree. Paths are bytes without a leading slash; ``b""`` is the root."""

    def __init__(self, keystore: Keystore, path: Path, options: TreeOptions) -> None:
        self.keystore, self.path, self.options = keystore, path, options
        self._seen: list[Inode] = []
        self.tree = Tree(keystore, path, options)

    def abandon(self) -> None:
        """End as a killed process does: nothing is sealed or written any more."""
        volume = self.tree.volume
        for inode in list(volume.inodes._by_number.values()):
            if inode.file is not None:
                inode.file.close()
            if inode.path_fd >= 0:
                os.close(inode.path_fd)
        volume.directories.close()
        os.close(volume.root_fd)
        os.close(self.tree._lock_fd)

    def recover(self, **options: Any) -> None:
        """Stop as a killed process does, and start again."""
        self.abandon()
        self._seen.clear()
        self.tree = Tree(self.keystore, self.path, TreeOptions(**options) if options else self.options)

    async def reopen(self, **options: Any) -> None:
        """Unmount and mount again."""
        await self.tree.close()
        self._seen.clear()
        self.tree = Tree(self.keystore, self.path, TreeOptions(**options) if options else self.options)

    def pool(self, path: bytes = b"") -> DataKeyPool:
        """The pool of ready keys for files of a directory."""
        return self.tree.file_keys.pool(self.tree.volume.wanted_keys(self.find(path)))

    # --- names -------------------------------------------------------------------------------------------
    def find(self, path: bytes) -> Inode:
        """The inode at a path; counts look-ups on the way."""
        inode = self.tree.volume.inodes.root
        for name in [name for name in path.split(b"/") if name]:
            inode = self._seeing(self.tree.namespace.lookup(inode, name)[0])
        return inode

    def parent(self, path: bytes) -> tuple[Inode, bytes]:
        """The directory that holds a path, and the last name."""
        directory, _, name = path.rpartition(b"/")
        return self.find(directory), name

    def forget(self) -> None:
        """Give all look-ups back."""
        self.tree.volume.forget([(inode.number, 1) for inode in reversed(self._seen)])
        self._seen.clear()

    def exists(self, path: bytes) -> bool:
        """Whether something stands at a path."""
        try:
            self.find(path)
        except FileNotFoundError:
            return False
        return True

    async def mkdir(self, path: bytes, mode: int = 0o755, caller: Caller = ROOT) -> Inode:
        """mkdir(2)."""
        parent, name = self.parent(path)
        return self._seeing((await self.tree.namespace.mkdir(parent, name, mode, caller))[0])

    async def mknod(self, path: bytes, mode: int, device: int = 0) -> Inode:
        """mknod(2)."""
        parent, name = self.parent(path)
        return self._seeing((await self.tree.namespace.mknod(parent, name, mode, device, ROOT))[0])

    async def symlink(self, path: bytes, target: bytes) -> Inode:
        """symlink(2)."""
        parent, name = self.parent(path)
        return self._seeing((await self.tree.namespace.symlink(parent, name, target, ROOT))[0])

    def readlink(self, path: bytes) -> bytes:
        """readlink(2)."""
        return symlinks.read(self.tree.volume, self.find(path))

    async def link(self, old: bytes, new: bytes) -> None:
        """link(2)."""
        inode = self.find(old)
        parent, name = self.parent(new)
        if self.exists(new):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        self._seeing((await self.tree.namespace.link(inode, parent, name))[0])

    async def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        """renameat2(2)."""
        await self.rename_found(self.parent(old), self.parent(new), flags)

    async def rename_found(self, old: tuple[Inode, bytes], new: tuple[Inode, bytes], flags: int) -> None:
        """renameat2(2) of what was looked up before."""
        await renames.rename(self.tree.volume, self.tree.files, old, new, flags, ROOT.uid)

    def unlink(self, path: bytes) -> None:
        """unlink(2)."""
        self.tree.namespace.unlink(*self.parent(path))

    def rmdir(self, path: bytes) -> None:
        """rmdir(2)."""
        self.tree.namespace.rmdir(*self.parent(path))

    async def names(self, path: bytes = b"") -> list[bytes]:
        """Names in a directory, sorted."""
        listing = Listing(self.tree.volume, self.find(path))
        try:
            await listing.rewind()
            return sorted(name for _, name, _, _ in listing.entries(0))
        finally:
            listing.close()

    # --- attributes --------------------------------------------------------------------------------------
    def stat(self, path: bytes) -> os.stat_result:
        """lstat(2) of the backing entry."""
        return self.tree.volume.status(self.find(path))

    def size(self, path: bytes) -> int:
        """st_size as a program sees it."""
        inode = self.find(path)
        status = self.tree.volume.status(inode)
        if stat.S_ISLNK(status.st_mode):
            return symlinks.length(self.tree.volume, inode, status.st_size)
        return self.tree.volume.size(status)

    def chmod(self, path: bytes, mode: int) -> None:
        """chmod(2)."""
        attributes.chmod(self.tree.volume, self.find(path), mode)

    def utime(self, path: bytes, atime_ns: int, mtime_ns: int) -> None:
        """utimensat(2)."""
        attributes.set_times(self.tree.volume, self.find(path), atime_ns, mtime_ns)

    # --- files -------------------------------------------------------------------------------------------
    async def create(self, path: bytes, mode: int = 0o644, caller: Caller = ROOT) -> int:
        """open(2) with O_CREAT | O_EXCL; a handle."""
        parent, name = self.parent(path)
        (inode, _), fd, ready = await self.tree.namespace.create(parent, name, mode, caller)
        return self.tree.files.create(self._seeing(inode), fd, ready)

    async def open(self, path: bytes, flags: int = os.O_RDWR, caller: Caller = ROOT) -> int:
        """open(2) without O_CREAT; a handle."""
        return (await self.tree.files.open(self.find(path), flags, caller))[0]

    def close(self, handle: int) -> None:
        """close(2) of the last descriptor."""
        self.tree.files.flush(handle)
        self.tree.files.release(handle)

    def write(self, handle: int, offset: int, data: bytes) -> int:
        """pwrite(2)."""
        return self.tree.files.write(handle, offset, data)

    async def read(self, handle: int, offset: int = 0, length: int = 1 << 30) -> bytes:
        """pread(2), piecewise as the kernel asks."""
        pieces = []
        while length > 0 and (piece := await self.tree.files.read(handle, offset, min(length, 1 << 20))):
            pieces.append(bytes(piece))
            offset, length = offset + len(piece), length - len(piece)
        return b"".join(pieces)

    async def put(self, path: bytes, data: bytes, offset: int = 0) -> None:
        """Write to a file, creating it."""
        handle = await (self.open(path) if self.exists(path) else self.create(path))
        try:
            if data:
                self.write(handle, offset, data)
        finally:
            self.close(handle)

    async def get(self, path: bytes) -> bytes:
        """Everything in a file."""
        handle = await self.open(path, os.O_RDONLY)
        try:
            return await self.read(handle)
        finally:
            self.close(handle)

    async def truncate(self, path: bytes, size: int) -> None:
        """truncate(2)."""
        await self.tree.files.truncate(self.find(path), size, ROOT)

    def evict(self, path: bytes) -> None:
        """Close an idle file, so that the next open reads its header."""
        file = self.find(path).file
        if file is not None:
            self.tree.volume.idle.discard(file)

    # --- beside the calls --------------------------------------------------------------------------------
    def backing(self, path: bytes) -> Path:
        """Where an object stands in the backing directory."""
        inode, names = self.find(path), []
        while inode.parent is not None:
            names.append(os.fsdecode(inode.name))
            inode = inode.parent
        root = os.readlink(f"/proc/self/fd/{self.tree.volume.root_fd}")
        return Path(root, *reversed(names))

    def copies(self, path: bytes) -> list[FileHeader]:
        """Both header copies of a file as they are on the store, not authenticated."""
        raw = self.backing(path).read_bytes()
        return [FileHeader.parse(raw[at : at + HEADER_COPY_SIZE]) for at in (0, HEADER_COPY_SIZE)]

    def slot_keys(self, path: bytes) -> list[KeyArn]:
        """The keys of a file's slots, which are the same in both header copies."""
        first, second = self.copies(path)
        assert first.slots == second.slots
        return [parse_blob_head(blob).key_arn for blob in first.slots]

    async def make_zone(self, path: bytes, key_arn: str) -> None:
        """``kmsfs zone create``, or with an empty name of a key ``zone remove``."""
        entries = self.backing(path).relative_to(self.path).parts
        await set_zone(self.tree, [os.fsencode(entry) for entry in entries], key_arn)

    async def seal(self) -> None:
        """Two rounds: everything idle gets both copies clean."""
        await self.tree.volume.idle.round()
        await self.tree.volume.idle.round()

    def _seeing(self, inode: Inode) -> Inode:
        self._seen.append(inode)
        return inode


@asynccontextmanager
async def opened(keystore: Keystore, path: Path, **options: Any) -> AsyncIterator[Posix]:
    """Open a tree, without its background work, and close it as an unmount does."""
    posix = Posix(keystore, path, TreeOptions(**options))
    try:
        yield posix
    finally:
        with trio.CancelScope(shield=True):
            await posix.tree.close()
