"""ECDSA on P-256 over SHA-256: a token's signatures and public keys as others read them, and the check of them.

A token speaks in fixed sizes: a point is 65 bytes, a signature is r || s. Others read PEM and DER.
"""

from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from kmsfs.errors import IntegrityError

POINT_SIZE: Final = 65  # uncompressed: 04, x, y
RAW_SIZE: Final = 64

_DIGEST: Final = utils.Prehashed(hashes.SHA256())


def public_key_der(point: bytes) -> bytes:
    """Return a public key as SubjectPublicKeyInfo; IntegrityError if the point is not one of the curve."""
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError:
        raise IntegrityError("public key is no point of P-256") from None
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def pem(der: bytes) -> bytes:
    """Return a public key as a PEM file."""
    return serialization.load_der_public_key(der).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def fingerprint(der: bytes) -> str:
    """Return the SHA-256 of a public key, by which people compare two."""
    return sha256(der).hexdigest()


def encode(raw: bytes) -> bytes:
    """Return a signature as DER."""
    half = RAW_SIZE // 2
    return utils.encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))


def verify(der: bytes, digest: bytes, signature: bytes) -> None:
    """Raise IntegrityError unless ``signature`` (DER) is that of the SHA-256 ``digest`` under the public key."""
    key = serialization.load_der_public_key(der)
    assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101 - public_key_der made it
    try:
        key.verify(signature, digest, ec.ECDSA(_DIGEST))
    except InvalidSignature:
        raise IntegrityError("signature does not verify") from None
