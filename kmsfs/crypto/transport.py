"""RSA key pairs under which key material travels to a keystore, and what opens it there.

The one place where the library draws randomness by itself: RSA key generation takes no seed.
"""

from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from kmsfs.errors import IntegrityError

PUBLIC_EXPONENT: Final = 65537

_Unwrap = Callable[[rsa.RSAPrivateKey, bytes], bytes]


def new_transport_key(bits: int) -> tuple[bytes, bytes]:
    """Return a new RSA key pair: private key (PKCS #8, DER) and public key (SubjectPublicKeyInfo, DER)."""
    key = rsa.generate_private_key(public_exponent=PUBLIC_EXPONENT, key_size=bits)
    private = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private, public


def unwrap(private: bytes, algorithm: str, wrapped: bytes) -> bytes:
    """Return what was wrapped under the public key, or raise IntegrityError."""
    key = serialization.load_der_private_key(private, password=None)
    assert isinstance(key, rsa.RSAPrivateKey)  # noqa: S101 - new_transport_key made it
    try:
        return _UNWRAPS[algorithm](key, wrapped)
    except (ValueError, keywrap.InvalidUnwrap):
        raise IntegrityError("wrapped key material does not open") from None


def _oaep(digest: hashes.HashAlgorithm) -> _Unwrap:
    scheme = padding.OAEP(mgf=padding.MGF1(digest), algorithm=digest, label=None)
    return lambda key, wrapped: key.decrypt(wrapped, scheme)


def _oaep_then_kwp(digest: hashes.HashAlgorithm) -> _Unwrap:
    """An AES key under OAEP, and the material under that key (RFC 5649)."""
    open_key = _oaep(digest)

    def unwrap_both(key: rsa.RSAPrivateKey, wrapped: bytes) -> bytes:
        size = key.key_size // 8
        return keywrap.aes_key_unwrap_with_padding(open_key(key, wrapped[:size]), wrapped[size:])

    return unwrap_both


_UNWRAPS: Final[dict[str, _Unwrap]] = {
    "RSAES_OAEP_SHA_1": _oaep(hashes.SHA1()),  # noqa: S303 - OAEP does not need collision resistance
    "RSAES_OAEP_SHA_256": _oaep(hashes.SHA256()),
    "RSA_AES_KEY_WRAP_SHA_1": _oaep_then_kwp(hashes.SHA1()),  # noqa: S303
    "RSA_AES_KEY_WRAP_SHA_256": _oaep_then_kwp(hashes.SHA256()),
}
ALGORITHMS: Final = tuple(_UNWRAPS)
