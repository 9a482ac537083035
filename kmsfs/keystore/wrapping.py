"""How plaintext becomes the sealed part of a blob, for both suites.

The caller gives the head that it built itself (kmsfs.format.blob) and the encoded context; both are the AAD.
"""

import hashlib
from typing import Final

from kmsfs.crypto.aead import gcm_open, gcm_seal
from kmsfs.crypto.entropy import NONCE_SIZE
from kmsfs.format.blob import Suite
from kmsfs.ids import MaterialId
from kmsfs.keystore.ports import Hsm

KDF_LABEL: Final = b"kmsfs/v1/encrypt"
KDF_NONCE_SIZE: Final = 16


def seal(
    hsm: Hsm,
    suite: Suite,
    material_id: MaterialId,
    prefix: bytes,
    nonce: bytes,
    plaintext: bytes,
    context: bytes,
) -> bytes:
    """Return ciphertext || tag."""
    aad = prefix + nonce + context
    if suite is Suite.HSM_GCM:
        return hsm.encrypt_gcm(material_id, nonce, plaintext, aad)
    return gcm_seal(_one_time_key(hsm, material_id, prefix, nonce), nonce[-NONCE_SIZE:], plaintext, aad)


def open_sealed(
    hsm: Hsm,
    suite: Suite,
    material_id: MaterialId,
    prefix: bytes,
    nonce: bytes,
    sealed: bytes,
    context: bytes,
) -> bytes:
    """Return the plaintext, or raise IntegrityError."""
    aad = prefix + nonce + context
    if suite is Suite.HSM_GCM:
        return hsm.decrypt_gcm(material_id, nonce, sealed, aad)
    return gcm_open(_one_time_key(hsm, material_id, prefix, nonce), nonce[-NONCE_SIZE:], sealed, aad)


def kdf_input(prefix: bytes, nonce: bytes) -> bytes:
    """Return the message whose HMAC is the one-time key: SP 800-108 counter mode, one block of 256 bits."""
    bound = nonce[:KDF_NONCE_SIZE] + hashlib.sha256(prefix).digest()
    return b"\x00\x00\x00\x01" + KDF_LABEL + b"\x00" + bound + b"\x00\x00\x01\x00"


def _one_time_key(hsm: Hsm, material_id: MaterialId, prefix: bytes, nonce: bytes) -> bytes:
    return hsm.hmac(material_id, kdf_input(prefix, nonce))
