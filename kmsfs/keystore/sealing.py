"""Secrets that lie in a region's metadata sealed under a key of the region's token that no listing shows.

The token derives a key for each secret, and the host seals it with AES-256-GCM. The metadata alone do not yield
it, and neither does another token: the context names the region.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from kmsfs.crypto.aead import TAG_SIZE, gcm_open, gcm_seal
from kmsfs.crypto.entropy import NONCE_SIZE, random_bytes
from kmsfs.format.context import encode_context
from kmsfs.ids import KeyId, Region
from kmsfs.keystore.ports import Hsm, KeyKind

_SALT_SIZE: Final = 16
MIN_SEALED_SIZE: Final = _SALT_SIZE + NONCE_SIZE + TAG_SIZE


@dataclass(frozen=True, slots=True)
class SealingKey:
    """One owned key in the token of every region that needs it; ``purpose`` is part of its id, label and uses."""

    purpose: str
    label: str

    def object_id(self, region: Region) -> bytes:
        """Return its CKA_ID in a region's token."""
        return hashlib.sha256(f"kmsfs {self.purpose} key\0{region}".encode()).digest()

    def make(self, hsm: Hsm, region: Region) -> None:
        """Make the key unless the token holds it: regions get it when they are set up. One process at a time."""
        if not hsm.holds(self.object_id(region)):
            hsm.generate(KeyKind.HMAC, self.object_id(region), f"kmsfs:{self.label}:{region}")

    def seal(self, hsm: Hsm, region: Region, secret: bytes, **names: str) -> str:
        """Return the secret sealed, in hex; ``names`` say which one it is."""
        salt, nonce = random_bytes(_SALT_SIZE), random_bytes(NONCE_SIZE)
        key = self._one_time_key(hsm, region, salt)
        return (salt + nonce + gcm_seal(key, nonce, secret, self._context(region, names))).hex()

    def open(self, hsm: Hsm, region: Region, sealed: str, **names: str) -> bytes:
        """Return the secret, or raise IntegrityError."""
        raw = bytes.fromhex(sealed)
        salt, nonce, rest = raw[:_SALT_SIZE], raw[_SALT_SIZE:][:NONCE_SIZE], raw[_SALT_SIZE + NONCE_SIZE :]
        return gcm_open(self._one_time_key(hsm, region, salt), nonce, rest, self._context(region, names))

    def _one_time_key(self, hsm: Hsm, region: Region, salt: bytes) -> bytes:
        return hsm.hmac(self.object_id(region), f"kmsfs/v1/{self.purpose}\0".encode() + salt)

    def _context(self, region: Region, names: dict[str, str]) -> bytes:
        named = {f"kmsfs:{name.replace('_', '-')}": value for name, value in names.items()}
        return encode_context({"kmsfs:purpose": self.purpose, "kmsfs:region": region, **named})


CREDENTIAL_KEY: Final = SealingKey("credential", "credentials")  # the secrets of access keys
IMPORT_KEY: Final = SealingKey("import", "imports")  # the wrapping keys in import tokens
SEALING_KEYS: Final = (CREDENTIAL_KEY, IMPORT_KEY)


def sharing_key(key_id: KeyId) -> SealingKey:
    """Return the one for the material of a multi-region key: it goes with that key, and all that it sealed with it."""
    return SealingKey(f"multi-region {key_id}", f"multi-region:{key_id}")
