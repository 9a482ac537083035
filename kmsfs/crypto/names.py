"""AES-256-SIV (RFC 5297) for names, symlink targets and extended attributes."""

from kmsfs.crypto.aead import AesSiv, InvalidTag
from kmsfs.errors import IntegrityError

SIV_SIZE = 16


class SivCipher:
    """One 64-byte AES-256-SIV key. The synthetic IV stands before the ciphertext."""

    __slots__ = ("_siv",)

    def __init__(self, key: bytes) -> None:
        self._siv = AesSiv(key)

    def __repr__(self) -> str:
        return "SivCipher(<key>)"

    def seal(self, plaintext: bytes, associated: list[bytes]) -> bytes:
        """Return SIV || ciphertext; ``plaintext`` is not empty."""
        return self._siv.encrypt(plaintext, associated)

    def open(self, sealed: bytes, associated: list[bytes]) -> bytes:
        """Return the plaintext, or raise IntegrityError."""
        if len(sealed) <= SIV_SIZE:
            raise IntegrityError("sealed value is cut off")
        try:
            return self._siv.decrypt(sealed, associated)
        except InvalidTag:
            raise IntegrityError("sealed value does not verify") from None
