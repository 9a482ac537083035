"""Extended attributes: encrypted (docs/format.md section 8), except POSIX ACLs, which the kernel must read.

Attributes that begin with ``user.kmsfs.`` are answered by the mount itself and cannot be set.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from kmsfs.crypto.entropy import NONCE_SIZE, random_bytes
from kmsfs.envelope.file_key import newest_unverified
from kmsfs.format.layout import HEADER_SIZE
from kmsfs.storage import backing
from kmsfs.storage.lending import lent
from kmsfs.tree.attributes import open_path

if TYPE_CHECKING:
    from kmsfs.tree.files import Files
    from kmsfs.tree.inodes import Inode
    from kmsfs.tree.volume import Volume

OWN_PREFIX = b"user.kmsfs."
_NAMESPACES = (b"user", b"trusted", b"security")
_ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")
_MAX_NAME = 255


class Xattrs:
    """The extended attributes of one mount."""

    def __init__(self, volume: Volume, files: Files) -> None:
        self._volume = volume
        self._files = files

    def get(self, inode: Inode, name: bytes) -> bytes:
        """getxattr(2). ENODATA if there is none. No checkpoint."""
        if inode.bare:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        with _Object(self._volume, inode) as at:
            # Most objects have none, and most questions are the kernel's, for ACLs and security.capability.
            stored = os.listxattr(at.path)
            inode.bare = not stored
            if name in _ACLS:
                return os.getxattr(at.path, name)
            self._check(inode, name)
            owner = self._owner(inode, at) if any(".kmsfs." in entry for entry in stored) else None
            if owner is None:
                raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
            backing_name = self._volume.keys.xattr_name(name, owner)
            return self._volume.keys.open_xattr(backing_name, os.getxattr(at.path, backing_name), owner)[1]

    def list(self, inode: Inode) -> list[bytes]:
        """listxattr(2). Who may only write may list, but the names are in the values. No checkpoint."""
        with _Object(self._volume, inode) as at, lent(at.fd, stat.S_IRUSR):
            if stat.S_ISLNK(inode.kind):
                return []
            names = [os.fsencode(name) for name in os.listxattr(at.path)]
            clear = [name for name in names if name in _ACLS]
            owner = self._owner(inode, at)
            for name in names:
                namespace, _, rest = name.partition(b".")
                if owner is not None and namespace in _NAMESPACES and rest.startswith(b"kmsfs."):
                    clear.append(self._volume.keys.open_xattr(name, os.getxattr(at.path, name), owner)[0])
            return clear

    async def set(self, inode: Inode, name: bytes, value: bytes) -> None:
        """setxattr(2). A file that was never written gets its header, and with it its id, first."""
        if name not in _ACLS:
            self._check_change(inode, name)
        inode.bare = False
        with _Object(self._volume, inode) as at:
            if name in _ACLS:
                os.setxattr(at.path, name, value)
                return
            owner = self._owner(inode, at)
        if owner is None:
            await self._files.materialise(inode)
        with _Object(self._volume, inode) as at:
            owner = self._owner(inode, at)
            if owner is None:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            keys = self._volume.keys
            sealed = keys.seal_xattr(name, value, owner, random_bytes(NONCE_SIZE))
            os.setxattr(at.path, keys.xattr_name(name, owner), sealed)

    def remove(self, inode: Inode, name: bytes) -> None:
        """removexattr(2). No checkpoint."""
        with _Object(self._volume, inode) as at:
            if name in _ACLS:
                os.removexattr(at.path, name)
                return
            self._check_change(inode, name)
            owner = self._owner(inode, at)
            if owner is None:
                raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
            os.removexattr(at.path, self._volume.keys.xattr_name(name, owner))

    def _check_change(self, inode: Inode, name: bytes) -> None:
        self._check(inode, name)
        if name.startswith(OWN_PREFIX):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    def _check(self, inode: Inode, name: bytes) -> None:
        namespace, _, rest = name.partition(b".")
        if namespace in _NAMESPACES and not rest:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if namespace not in _NAMESPACES or inode.kind not in (stat.S_IFREG, stat.S_IFDIR):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        if len(name) > _MAX_NAME:
            raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))

    def _owner(self, inode: Inode, at: _Object) -> bytes | None:
        """The id that the attributes are bound to, or None for a file that was never written."""
        if inode.is_directory():
            return self._volume.directories.record(inode).dir_id
        if inode.kind != stat.S_IFREG:
            return None
        if inode.file is not None:
            return inode.file.header.file_id if inode.file.header is not None else None
        with lent(at.fd, stat.S_IRUSR):
            fd = os.open(at.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            raw = os.pread(fd, HEADER_SIZE, 0)
        finally:
            os.close(fd)
        return newest_unverified(raw).file_id if raw else None


class _Object:
    """Context manager: a path that names exactly the inode's backing object."""

    __slots__ = ("_inode", "_volume", "fd", "path")

    def __init__(self, volume: Volume, inode: Inode) -> None:
        self._volume, self._inode = volume, inode

    def __enter__(self) -> _Object:
        self.fd = open_path(self._volume, self._inode)
        self.path = backing.proc_path(self.fd)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)
