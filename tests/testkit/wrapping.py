"""What somebody does who imports key material: wraps it under the public key that the server gave."""

import os

from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa


def wrap(public: bytes, algorithm: str, material: bytes) -> bytes:
    """Return ``material`` wrapped by AWS's ``algorithm`` under a public key in DER."""
    key = serialization.load_der_public_key(public)
    assert isinstance(key, rsa.RSAPublicKey)
    digest = hashes.SHA1() if algorithm.endswith("SHA_1") else hashes.SHA256()
    scheme = padding.OAEP(mgf=padding.MGF1(digest), algorithm=digest, label=None)
    if algorithm.startswith("RSAES_OAEP"):
        return key.encrypt(material, scheme)
    once = os.urandom(32)
    return key.encrypt(once, scheme) + keywrap.aes_key_wrap_with_padding(once, material)
