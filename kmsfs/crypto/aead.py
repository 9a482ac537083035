"""AES-256-GCM and AES-256-SIV with library errors translated. Nonces are arguments.

Hot paths (kmsfs.envelope.content) keep an ``AesGcm`` object per key; everything else uses the functions.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV

from kmsfs.errors import IntegrityError

__all__ = ["AesGcm", "AesSiv", "InvalidTag", "gcm_open", "gcm_seal"]

TAG_SIZE = 16

AesGcm = AESGCM  # methods used: encrypt, decrypt, encrypt_into, decrypt_into; a failed tag raises InvalidTag
AesSiv = AESSIV  # RFC 5297; the SIV stands before the ciphertext


def gcm_seal(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Return ciphertext || tag (NIST SP 800-38D, 96-bit nonce, 128-bit tag)."""
    return AESGCM(key).encrypt(nonce, plaintext, aad)


def gcm_open(key: bytes, nonce: bytes, sealed: bytes, aad: bytes) -> bytes:
    """Return the plaintext of ciphertext || tag, or raise IntegrityError."""
    try:
        return AESGCM(key).decrypt(nonce, sealed, aad)
    except InvalidTag:
        raise IntegrityError("authentication tag does not verify") from None
