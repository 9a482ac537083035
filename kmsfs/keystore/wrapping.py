"""How plaintext becomes a blob and comes back, for both suites.

The rule: the head that is authenticated is made of this keystore's own names (``MaterialEntry.prefixes``). What a
blob says of itself only has to agree with it; of a multi-region key, with one of the heads of its regions.
"""

from typing import Final

from kmsfs.crypto.aead import gcm_open, gcm_seal
from kmsfs.crypto.entropy import NONCE_SIZE
from kmsfs.errors import IntegrityError
from kmsfs.format.blob import Blob, Suite
from kmsfs.ids import KeyArn
from kmsfs.keystore.ports import Hsm
from kmsfs.keystore.snapshot import MaterialEntry

KDF_LABEL: Final = b"kmsfs/v1/encrypt"
KDF_NONCE_SIZE: Final = 16
_HSM_GCM: Final = Suite.HSM_GCM


def seal(hsm: Hsm, entry: MaterialEntry, nonce: bytes, plaintext: bytes, context: bytes) -> bytes:
    """Return the whole blob."""
    arn = entry.key.arn
    head = entry.prefixes[arn] + nonce
    if entry.material.suite is _HSM_GCM:
        return head + hsm.encrypt_gcm(entry.material.material_id, nonce, plaintext, head + context)
    return head + gcm_seal(
        _one_time_key(hsm, entry, arn, nonce), nonce[-NONCE_SIZE:], plaintext, head + context
    )


def open_blob(hsm: Hsm, entry: MaterialEntry, blob: Blob, context: bytes) -> bytes:
    """Return the plaintext of a blob that names this material, or raise IntegrityError."""
    (suite, arn, material_id), raw_head, nonce, sealed = blob
    if suite is not entry.material.suite:
        raise IntegrityError("ciphertext blob is not of its key material's suite")
    if arn not in entry.prefixes:
        arn = entry.key.arn
    head = entry.prefixes[arn] + nonce
    if suite is _HSM_GCM:
        plaintext = hsm.decrypt_gcm(material_id, nonce, sealed, head + context)
    else:
        key = _one_time_key(hsm, entry, arn, nonce)
        plaintext = gcm_open(key, nonce[-NONCE_SIZE:], sealed, head + context)
    # A blob of another region's key failed above, by its tag. What is left is a genuine one whose own copy of
    # the head was edited: nothing trusted that copy, but every bit of a blob shall count.
    if raw_head != head:
        raise IntegrityError("ciphertext blob's head is not the one it was made with")
    return plaintext


def kdf_input(key_arn: KeyArn, nonce: bytes) -> bytes:
    """Return the message whose HMAC is the one-time key: SP 800-108 counter mode, one block of 256 bits."""
    context = nonce[:KDF_NONCE_SIZE] + key_arn.encode("ascii")
    return b"\x00\x00\x00\x01" + KDF_LABEL + b"\x00" + context + b"\x00\x00\x01\x00"


def _one_time_key(hsm: Hsm, entry: MaterialEntry, arn: KeyArn, nonce: bytes) -> bytes:
    return hsm.hmac(entry.material.material_id, kdf_input(arn, nonce))
