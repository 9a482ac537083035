"""Key derivation and MACs: HKDF-SHA-512 (RFC 5869), HMAC-SHA-256 (RFC 2104)."""

import hmac

from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def hkdf_sha512(key: bytes, *, salt: bytes, info: bytes, length: int) -> bytes:
    """Derive ``length`` bytes from a uniformly random ``key``; ``info`` names the purpose."""
    return HKDF(algorithm=SHA512(), length=length, salt=salt, info=info).derive(key)


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """Return the 32-byte tag."""
    return hmac.digest(key, message, "sha256")


def equal(left: bytes, right: bytes) -> bool:
    """Compare in constant time; callers raise when this is False."""
    return hmac.compare_digest(left, right)
