"""A token's signatures and public keys as others read them."""

import subprocess
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kmsfs.crypto import signatures
from kmsfs.errors import IntegrityError

MESSAGE = b"a report\n"
DIGEST = sha256(MESSAGE).digest()


@pytest.fixture(scope="module")
def signed() -> tuple[bytes, bytes]:
    """A point and a signature r || s of the digest, as a token gives them."""
    key = ec.generate_private_key(ec.SECP256R1())
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    der = key.sign(DIGEST, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    return point, b"".join(half.to_bytes(32) for half in utils.decode_dss_signature(der))


def test_openssl_reads_both(signed: tuple[bytes, bytes], tmp_path: Path) -> None:
    point, raw = signed
    der = signatures.public_key_der(point)
    for name, content in {"pem": signatures.pem(der), "sig": signatures.encode(raw), "txt": MESSAGE}.items():
        (tmp_path / f"report.{name}").write_bytes(content)
    names = ("-verify", "report.pem", "-signature", "report.sig", "report.txt")
    assert subprocess.check_output(["openssl", "dgst", "-sha256", *names], cwd=tmp_path) == b"Verified OK\n"
    there = subprocess.check_output(
        ["openssl", "pkey", "-pubin", "-in", "report.pem", "-outform", "DER"], cwd=tmp_path
    )
    assert there == der
    assert signatures.fingerprint(der) == sha256(there).hexdigest()


def test_what_was_not_signed_does_not_verify(signed: tuple[bytes, bytes]) -> None:
    der, signature = signatures.public_key_der(signed[0]), signatures.encode(signed[1])
    signatures.verify(der, DIGEST, signature)
    with pytest.raises(IntegrityError):
        signatures.verify(der, sha256(b"another").digest(), signature)
    for wrong in (b"", signature[:-1], signature + b"\0", signed[1]):
        with pytest.raises(IntegrityError):
            signatures.verify(der, DIGEST, wrong)


@pytest.mark.parametrize("bit", range(0, 70 * 8, 13))
def test_a_flipped_bit_of_a_signature(signed: tuple[bytes, bytes], bit: int) -> None:
    flipped = bytearray(signatures.encode(signed[1]))
    flipped[bit // 8 % len(flipped)] ^= 1 << bit % 8
    with pytest.raises(IntegrityError):
        signatures.verify(signatures.public_key_der(signed[0]), DIGEST, bytes(flipped))


@pytest.mark.parametrize("wrong", [b"", bytes(65), b"\4" + bytes(63), b"\4" + b"\1" * 64])
def test_what_is_no_point_of_the_curve(wrong: bytes) -> None:
    with pytest.raises(IntegrityError, match="no point"):
        signatures.public_key_der(wrong)
