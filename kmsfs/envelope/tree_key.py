"""What the tree key protects: superblock, directory records, names, symlinks, extended attributes.

docs/format.md sections 2 and 5 to 8. Pure: nonces are arguments.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

from kmsfs.crypto.kdf import equal, hkdf_sha512, hmac_sha256
from kmsfs.crypto.names import SIV_SIZE, SivCipher
from kmsfs.errors import FormatError, IntegrityError
from kmsfs.format import aad
from kmsfs.format.directory import DirectoryRecord, record_mac
from kmsfs.format.layout import NONCE_SIZE

if TYPE_CHECKING:
    from kmsfs.format.superblock import Superblock
    from kmsfs.ids import DirId, TreeId

MAX_NAME = 255  # bytes, of clear names and of names on the backing file system
LONG_PREFIX = b"kmsfs.long."
SIDECAR_SUFFIX = b".name"
LINK_PREFIX = b"kmsfs.link."
LINK_ID_SIZE = 16
INDIRECT_LINK_SIZE = 33  # no multiple of base64 has this length
MAX_INLINE_TARGET = 3043
_LINK_OVERHEAD = NONCE_SIZE + SIV_SIZE


def b64(raw: bytes) -> bytes:
    """base64url without padding."""
    return urlsafe_b64encode(raw).rstrip(b"=")


def unb64(text: bytes) -> bytes:
    """Inverse of b64; raises FormatError for anything that b64 does not produce."""
    try:
        raw = urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except ValueError:
        raise FormatError("not base64url") from None
    if b64(raw) != text:
        raise FormatError("not canonical base64url")
    return raw


class TreeKeys:
    """Everything that is derived from one tree key."""

    __slots__ = ("_directory_mac", "_names", "_superblock_mac", "_symlinks", "_xattr_names", "_xattr_values")

    def __init__(self, tree_key: bytes, tree_id: TreeId) -> None:
        def derive(purpose: bytes, length: int) -> bytes:
            return hkdf_sha512(tree_key, salt=tree_id, info=b"kmsfs/v1/tree/" + purpose, length=length)

        self._superblock_mac = derive(b"superblock-mac", 32)
        self._directory_mac = derive(b"directory-mac", 32)
        self._xattr_names = derive(b"xattr-names", 32)
        self._names = SivCipher(derive(b"names", 64))
        self._symlinks = SivCipher(derive(b"symlinks", 64))
        self._xattr_values = SivCipher(derive(b"xattr-values", 64))

    def __repr__(self) -> str:
        return "TreeKeys(<keys>)"

    def seal_superblock(self, block: Superblock) -> Superblock:
        """The superblock with its MAC."""
        return replace(block, mac=hmac_sha256(self._superblock_mac, block.covered()))

    def verify_superblock(self, block: Superblock) -> None:
        """Raise IntegrityError unless the MAC verifies; this also commits the slots to one tree key."""
        if not equal(hmac_sha256(self._superblock_mac, block.covered()), block.mac):
            raise IntegrityError("superblock does not verify")

    def seal_directory(self, record: DirectoryRecord) -> bytes:
        """The 384 bytes of a directory record."""
        covered = record.pack()
        return covered + hmac_sha256(self._directory_mac, covered)

    def open_directory(self, raw: bytes, parent: DirId) -> DirectoryRecord:
        """Parse and authenticate the record of a child of ``parent``."""
        record = DirectoryRecord.parse(raw)
        covered, mac = record_mac(raw)
        if not equal(hmac_sha256(self._directory_mac, covered), mac):
            raise IntegrityError("directory record does not verify")
        if not record.stands_in(parent):
            raise IntegrityError("directory record belongs to another parent")
        return record

    def encrypt_name(self, name: bytes, directory: DirId) -> bytes:
        """The encrypted name, which may be longer than a backing name can be (see entry_name)."""
        return b64(self._names.seal(name, [directory]))

    def decrypt_name(self, encrypted: bytes, directory: DirId) -> bytes:
        """The clear name; FormatError or IntegrityError for a foreign one."""
        name = self._names.open(unb64(encrypted), [directory])
        if name in (b".", b"..") or b"/" in name or b"\0" in name:
            raise IntegrityError("encrypted name is not a name")
        return name

    def seal_target(self, target: bytes, nonce: bytes, link_id: bytes = b"") -> bytes:
        """nonce || SIV || ciphertext of a symlink's target."""
        return nonce + self._symlinks.seal(target, aad.symlink(nonce, link_id))

    def open_target(self, sealed: bytes, link_id: bytes = b"") -> bytes:
        """Inverse of seal_target, or IntegrityError."""
        nonce = sealed[:NONCE_SIZE]
        return self._symlinks.open(sealed[NONCE_SIZE:], aad.symlink(nonce, link_id))

    def xattr_name(self, name: bytes, owner: bytes) -> bytes:
        """The backing name of an extended attribute: namespace kept, the rest a keyed hash."""
        namespace, _, _ = name.partition(b".")
        return namespace + b".kmsfs." + b64(hmac_sha256(self._xattr_names, owner + name)[:16])

    def seal_xattr(self, name: bytes, value: bytes, owner: bytes, nonce: bytes) -> bytes:
        """The backing value of an extended attribute; it carries the clear name."""
        plain = len(name).to_bytes(2, "big") + name + value
        return nonce + self._xattr_values.seal(plain, aad.xattr(owner, nonce))

    def open_xattr(self, backing_name: bytes, sealed: bytes, owner: bytes) -> tuple[bytes, bytes]:
        """(clear name, value), or IntegrityError."""
        nonce = sealed[:NONCE_SIZE]
        plain = self._xattr_values.open(sealed[NONCE_SIZE:], aad.xattr(owner, nonce))
        end = 2 + int.from_bytes(plain[:2], "big")
        name = plain[2:end]
        if end > len(plain) or self.xattr_name(name, owner) != backing_name:
            raise IntegrityError("extended attribute stands under another name")
        return name, plain[end:]


def entry_name(encrypted: bytes) -> bytes:
    """The name of the backing entry: the encrypted name, or its hash when it is too long."""
    if len(encrypted) <= MAX_NAME:
        return encrypted
    return LONG_PREFIX + b64(sha256(encrypted).digest())


def target_length(backing_length: int) -> int | None:
    """Clear length of a symlink's target from the backing one, or None when it is kept beside the symlink."""
    if backing_length == INDIRECT_LINK_SIZE:
        return None
    return max(0, backing_length * 3 // 4 - _LINK_OVERHEAD)
