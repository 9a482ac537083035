"""The primitives against published vectors, and errors of ours instead of the library's."""

import hashlib
import hmac

import pytest

from kmsfs.crypto import entropy
from kmsfs.crypto.aead import TAG_SIZE, AesSiv, gcm_open, gcm_seal
from kmsfs.crypto.kdf import begin_hmac, equal, hkdf_sha512, hmac_sha256
from kmsfs.crypto.names import SIV_SIZE, SivCipher
from kmsfs.errors import IntegrityError

KEY = bytes(range(32))


def test_gcm_matches_the_published_vector() -> None:
    """McGrew and Viega, The Galois/Counter Mode of Operation, test case 16 (AES-256, 96-bit IV, AAD)."""
    key = bytes.fromhex("feffe9928665731c6d6a8f9467308308" * 2)
    plain = bytes.fromhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )
    aad = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    nonce = bytes.fromhex("cafebabefacedbaddecaf888")
    sealed = gcm_seal(key, nonce, plain, aad)
    assert sealed.hex() == (
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
        "76fc6ece0f4e1768cddf8853bb2d551b"
    )
    assert gcm_open(key, nonce, sealed, aad) == plain


@pytest.mark.parametrize("part", ["key", "nonce", "sealed", "aad", "cut"])
def test_gcm_refuses_any_other_input(part: str) -> None:
    nonce, aad = bytes(12), b"aad"
    sealed = gcm_seal(KEY, nonce, b"text", aad)
    arguments = {"key": KEY, "nonce": nonce, "sealed": sealed, "aad": aad}
    if part == "cut":
        arguments["sealed"] = sealed[: TAG_SIZE - 1]
    else:
        arguments[part] = bytes([arguments[part][0] ^ 1]) + arguments[part][1:]
    with pytest.raises(IntegrityError):
        gcm_open(**arguments)


def test_siv_matches_the_published_vector() -> None:
    """RFC 5297 appendix A.1."""
    key = bytes.fromhex("fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    associated = bytes.fromhex("101112131415161718191a1b1c1d1e1f2021222324252627")
    plain = bytes.fromhex("112233445566778899aabbccddee")
    sealed = "85632d07c6e8f37f950acd320a2ecc9340c02b9690c4dc04daef7f6afe5c"
    assert AesSiv(key).encrypt(plain, [associated]).hex() == sealed
    assert SivCipher(key).open(bytes.fromhex(sealed), [associated]) == plain


def test_siv_refuses_any_other_input() -> None:
    cipher = SivCipher(bytes(range(64)))
    sealed = cipher.seal(b"name", [b"one", b"two"])
    assert len(sealed) == SIV_SIZE + 4
    assert cipher.open(sealed, [b"one", b"two"]) == b"name"
    for associated in ([b"two", b"one"], [b"onetwo"], [b"one"], [], [b"one", b"two", b""]):
        with pytest.raises(IntegrityError):
            cipher.open(sealed, associated)
    for bad in (b"", sealed[:-1], sealed[:SIV_SIZE], sealed + b"\0", bytes([sealed[0] ^ 1]) + sealed[1:]):
        with pytest.raises(IntegrityError):
            cipher.open(bad, [b"one", b"two"])


def test_siv_is_deterministic_and_hides_its_key() -> None:
    cipher = SivCipher(bytes(range(64)))
    assert cipher.seal(b"name", []) == cipher.seal(b"name", [])
    assert repr(cipher) == "SivCipher(<key>)"


def test_hkdf_is_rfc_5869_with_sha_512() -> None:
    salt, info = b"salt" * 4, b"info"
    extracted = hmac.digest(salt, KEY, "sha512")
    first = hmac.digest(extracted, info + b"\1", "sha512")
    second = hmac.digest(extracted, first + info + b"\2", "sha512")
    assert hkdf_sha512(KEY, salt=salt, info=info, length=96) == (first + second)[:96]


def test_hmac_matches_the_published_vector() -> None:
    """RFC 4231 test case 2."""
    tag = hmac_sha256(b"Jefe", b"what do ya want for nothing?")
    assert tag.hex() == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert equal(tag, bytes(tag))
    assert not equal(tag, hashlib.sha256(b"").digest())
    assert not equal(tag, tag[:-1])


@pytest.mark.parametrize("size", [0, 1, 31, 32, 63, 64, 65, 200])
def test_hmac_is_that_of_the_standard_library(size: int) -> None:
    for message in (b"", b"m", bytes(range(256)) * 5):
        expected = hmac.digest(KEY[:1] * size, message, "sha256")
        assert hmac_sha256(KEY[:1] * size, message) == expected
        inner, outer = begin_hmac(KEY[:1] * size)
        inner.update(message)
        outer.update(inner.digest())
        assert outer.digest() == expected


def test_random_bytes_have_the_length_asked_for_and_differ() -> None:
    assert len(entropy.random_bytes(12)) == entropy.NONCE_SIZE
    assert entropy.random_bytes(0) == b""
    assert entropy.random_bytes(32) != entropy.random_bytes(32)
