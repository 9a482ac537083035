"""Key derivation and MACs: HKDF-SHA-512 (RFC 5869), HMAC-SHA-256 (RFC 2104)."""

import hmac
from hashlib import sha256
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

if TYPE_CHECKING:
    from _hashlib import HASH

_BLOCK_SIZE: Final = 64
_INNER: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER: Final = bytes(byte ^ 0x5C for byte in range(256))

BegunHmac: TypeAlias = "tuple[HASH, HASH]"


def hkdf_sha512(key: bytes, *, salt: bytes, info: bytes, length: int) -> bytes:
    """Derive ``length`` bytes from a uniformly random ``key``; ``info`` names the purpose."""
    return HKDF(algorithm=SHA512(), length=length, salt=salt, info=info).derive(key)


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """Return the 32-byte tag.

    Spelled out: OpenSSL looks its HMAC up anew at each call, which takes longer than both hashes of a short message.
    """
    inner, outer = _hmac_blocks(key)
    return sha256(outer + sha256(inner + message).digest()).digest()


def begin_hmac(key: bytes) -> BegunHmac:
    """Return the inner and the outer hash of one HMAC-SHA-256, up to where the message comes.

    The inner hash is updated with the message, the outer one with the inner's digest; its digest is the tag.
    """
    inner, outer = _hmac_blocks(key)
    return sha256(inner), sha256(outer)


def _hmac_blocks(key: bytes) -> tuple[bytes, bytes]:
    """Return the blocks that the two hashes begin with."""
    block = (key if len(key) <= _BLOCK_SIZE else sha256(key).digest()).ljust(_BLOCK_SIZE, b"\0")
    return block.translate(_INNER), block.translate(_OUTER)


def equal(left: bytes, right: bytes) -> bool:
    """Compare in constant time; callers raise when this is False."""
    return hmac.compare_digest(left, right)
