"""What every implementation of the port ``Hsm`` does. SoftHSM is the one there is, embedded and by path."""

import hashlib
import hmac
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from testkit.tokens import PIN, make_softhsm, make_token

from kmsfs.crypto import signatures
from kmsfs.crypto.aead import gcm_seal
from kmsfs.errors import HsmError, InsecureKeyError, IntegrityError, KeyNotFoundError, TokenNotFoundError
from kmsfs.format.blob import Suite
from kmsfs.keystore import softhsm
from kmsfs.keystore.pkcs11_hsm import Pkcs11Hsm
from kmsfs.keystore.pkcs11_module import init_softhsm_token, module_at, token_serial
from kmsfs.keystore.ports import Digest, Hsm, KeyKind

ANCHOR, AES, HMAC, PAIR = bytes(32), b"a" * 32, b"h" * 32, b"s" * 32
IV, AAD = b"i" * 12, b"associated data"


@pytest.fixture(params=["embedded", "by path"])
def hsm(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hsm]:
    module = module_at(softhsm.find_module())
    place = None
    if request.param == "embedded":
        softhsm.prepare(tmp_path)
        conf = softhsm.conf_path(tmp_path)
        init_softhsm_token(module, conf, "contract", so_pin="so-pin", pin=PIN)
        serial = token_serial(module, conf, "contract")
        assert serial is not None
        place = softhsm.SoftHsmToken(conf, str(softhsm.token_directory(tmp_path, serial)))
    else:
        conf = make_softhsm(tmp_path / "own")
        monkeypatch.setenv("SOFTHSM2_CONF", str(conf))
        make_token(conf, "contract")
    token = Pkcs11Hsm(module, "contract", lambda: PIN, anchor=ANCHOR, place=place)
    token.generate(KeyKind.HMAC, ANCHOR, "anchor")
    token.generate(KeyKind.AES, AES, "aes")
    token.generate(KeyKind.HMAC, HMAC, "hmac")
    yield token
    token.close()


@pytest.mark.parametrize("size", [1, 16, 32, 4096])
def test_gcm_round_trip(hsm: Hsm, size: int) -> None:
    sealed = hsm.encrypt_gcm(AES, IV, bytes(size), AAD)
    assert len(sealed) == size + 16
    assert hsm.decrypt_gcm(AES, IV, sealed, AAD) == bytes(size)


def test_gcm_takes_the_callers_iv(hsm: Hsm) -> None:
    assert hsm.encrypt_gcm(AES, IV, b"x", AAD) == hsm.encrypt_gcm(AES, IV, b"x", AAD)
    assert hsm.encrypt_gcm(AES, IV, b"x", AAD) != hsm.encrypt_gcm(AES, b"j" * 12, b"x", AAD)


@pytest.mark.parametrize("aad_size", [0, 1, 12, 8192, 1 << 20])
def test_gcm_takes_aad_of_any_size_and_is_what_others_compute(hsm: Hsm, aad_size: int) -> None:
    value = bytes(range(32))
    hsm.put(KeyKind.AES, b"v" * 32, "known", value)
    for aad in (AAD, bytes(range(256)) * (aad_size // 256) + bytes(aad_size % 256), AAD):
        for iv in (IV, b"j" * 12):
            sealed = gcm_seal(value, iv, b"plain", aad)
            assert hsm.encrypt_gcm(b"v" * 32, iv, b"plain", aad) == sealed
            assert hsm.decrypt_gcm(b"v" * 32, iv, sealed, aad) == b"plain"


def test_threads_do_not_mix_their_parameters(hsm: Hsm) -> None:
    value = bytes(range(32))
    hsm.put(KeyKind.AES, b"v" * 32, "known", value)

    def use(number: int) -> bool:
        iv, aad = bytes([number]) * 12, bytes([number]) * (100 * number)
        sealed = gcm_seal(value, iv, b"plain", aad)
        return all(
            hsm.encrypt_gcm(b"v" * 32, iv, b"plain", aad) == sealed
            and hsm.decrypt_gcm(b"v" * 32, iv, sealed, aad) == b"plain"
            for _ in range(50)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(8)))


@pytest.mark.parametrize("change", ["tag", "ciphertext", "iv", "aad", "truncated", "empty"])
def test_what_is_not_authentic_is_an_integrity_error(hsm: Hsm, change: str) -> None:
    sealed = hsm.encrypt_gcm(AES, IV, bytes(32), AAD)
    iv, aad = IV, AAD
    match change:
        case "tag":
            sealed = sealed[:-1] + bytes([sealed[-1] ^ 1])
        case "ciphertext":
            sealed = bytes([sealed[0] ^ 1]) + sealed[1:]
        case "iv":
            iv = b"j" * 12
        case "aad":
            aad = b"other data"
        case "truncated":
            sealed = sealed[:20]
        case "empty":
            sealed = b""
    with pytest.raises(IntegrityError):
        hsm.decrypt_gcm(AES, iv, sealed, aad)
    assert hsm.decrypt_gcm(AES, IV, hsm.encrypt_gcm(AES, IV, b"still works", AAD), AAD) == b"still works"


def test_hmac_is_a_function_of_key_and_message(hsm: Hsm) -> None:
    assert len(hsm.hmac(HMAC, b"message")) == 32
    assert hsm.hmac(HMAC, b"message") == hsm.hmac(HMAC, b"message")
    assert hsm.hmac(HMAC, b"message") != hsm.hmac(HMAC, b"massage")
    assert hsm.hmac(HMAC, b"message") != hsm.hmac(ANCHOR, b"message")
    assert hsm.hmac(HMAC, b"") != hmac.digest(b"", b"", hashlib.sha256)


@pytest.mark.parametrize("digest", Digest)
def test_hmac_with_each_digest(hsm: Hsm, digest: Digest) -> None:
    size = hashlib.new(digest.value).digest_size
    assert hsm.offers_hmac(digest)
    hsm.generate(KeyKind.HMAC, b"m" * 32, "made", size=size)
    made = hsm.hmac(b"m" * 32, b"message", digest)
    assert len(made) == size
    assert made != hsm.hmac(b"m" * 32, b"massage", digest)
    value = hsm.random(size)
    hsm.put(KeyKind.HMAC, b"p" * 32, "put", value)
    assert hsm.hmac(b"p" * 32, b"message", digest) == hmac.digest(value, b"message", digest.value)


def test_signatures_verify_under_the_public_key(hsm: Hsm) -> None:
    assert hsm.offers_signatures()
    hsm.generate_pair(PAIR, "pair")
    hsm.generate_pair(b"o" * 32, "other pair")
    digest = hashlib.sha256(b"message").digest()
    raw = hsm.sign(PAIR, digest)
    assert (len(raw), len(hsm.public_key(PAIR))) == (signatures.RAW_SIZE, signatures.POINT_SIZE)
    public = signatures.public_key_der(hsm.public_key(PAIR))
    signatures.verify(public, digest, signatures.encode(raw))
    with pytest.raises(IntegrityError):
        signatures.verify(public, hashlib.sha256(b"massage").digest(), signatures.encode(raw))
    with pytest.raises(IntegrityError):
        signatures.verify(public, digest, signatures.encode(hsm.sign(b"o" * 32, digest)))


def test_a_pair_is_listed_by_its_private_key_held_and_destroyed_with_it(hsm: Hsm) -> None:
    hsm.generate_pair(PAIR, "pair")
    (key,) = [key for key in hsm.list_keys() if key.object_id == PAIR]
    assert (key.label, key.sensitive, key.extractable, key.local) == ("pair", True, False, True)
    assert hsm.holds(PAIR)
    hsm.sign(PAIR, bytes(32))
    hsm.destroy(PAIR)
    assert not hsm.holds(PAIR)
    for use in (lambda: hsm.sign(PAIR, bytes(32)), lambda: hsm.public_key(PAIR)):
        with pytest.raises(KeyNotFoundError):
            use()
    hsm.generate_pair(PAIR, "made anew")
    assert hsm.public_key(PAIR)


def test_two_pairs_of_one_id_are_refused(hsm: Hsm) -> None:
    for label in ("pair", "twin"):
        hsm.generate_pair(PAIR, label)
    for use in (lambda: hsm.sign(PAIR, bytes(32)), lambda: hsm.public_key(PAIR)):
        with pytest.raises(InsecureKeyError):
            use()


def test_a_pair_is_no_secret_key_and_a_secret_key_no_pair(hsm: Hsm) -> None:
    hsm.generate_pair(PAIR, "pair")
    with pytest.raises(KeyNotFoundError):
        hsm.hmac(PAIR, b"x")
    with pytest.raises(KeyNotFoundError):
        hsm.sign(HMAC, bytes(32))


def test_a_key_of_a_known_value_computes_with_it_and_keeps_it(hsm: Hsm) -> None:
    value = hsm.random(32)
    hsm.put(KeyKind.HMAC, b"p" * 32, "put", value)
    hsm.put(KeyKind.AES, b"q" * 32, "put too", value)
    assert hsm.hmac(b"p" * 32, b"message") == hmac.digest(value, b"message", hashlib.sha256)
    assert hsm.encrypt_gcm(b"q" * 32, IV, b"x", AAD) == gcm_seal(value, IV, b"x", AAD)
    listed = {key.object_id: key for key in hsm.list_keys()}
    assert [listed[name * 32].label for name in (b"p", b"q")] == ["put", "put too"]
    assert all(key.sensitive and not key.extractable for key in listed.values())


def test_the_tokens_random_bytes_do_not_repeat(hsm: Hsm) -> None:
    assert [len(hsm.random(count)) for count in (1, 32)] == [1, 32]
    assert hsm.random(32) != hsm.random(32)


def test_keys_are_listed_as_sensitive_and_not_extractable(hsm: Hsm) -> None:
    listed = {key.object_id: key for key in hsm.list_keys()}
    assert {object_id: key.label for object_id, key in listed.items()} == {
        ANCHOR: "anchor",
        AES: "aes",
        HMAC: "hmac",
    }
    assert all(key.sensitive and not key.extractable for key in listed.values())


def test_a_key_that_is_not_there(hsm: Hsm) -> None:
    assert not hsm.holds(b"n" * 32)
    for use in (
        lambda: hsm.encrypt_gcm(b"n" * 32, IV, b"x", AAD),
        lambda: hsm.decrypt_gcm(b"n" * 32, IV, bytes(32), AAD),
        lambda: hsm.hmac(b"n" * 32, b"x"),
    ):
        with pytest.raises(KeyNotFoundError):
            use()


def test_a_destroyed_key_is_gone_and_destroying_it_again_is_no_error(hsm: Hsm) -> None:
    hsm.encrypt_gcm(AES, IV, b"x", AAD)
    hsm.destroy(AES)
    hsm.destroy(AES)
    assert not hsm.holds(AES)
    with pytest.raises(KeyNotFoundError):
        hsm.encrypt_gcm(AES, IV, b"x", AAD)


def test_a_key_of_another_kind_is_refused(hsm: Hsm) -> None:
    with pytest.raises(InsecureKeyError):
        hsm.hmac(AES, b"x")
    with pytest.raises(InsecureKeyError):
        hsm.encrypt_gcm(HMAC, IV, b"x", AAD)


def test_two_keys_of_one_id_are_refused(hsm: Hsm) -> None:
    hsm.generate(KeyKind.AES, AES, "twin")
    with pytest.raises(InsecureKeyError):
        hsm.encrypt_gcm(AES, IV, b"x", AAD)


def test_values_of_a_wrong_type_never_reach_the_module(hsm: Hsm) -> None:
    with pytest.raises(TypeError):
        hsm.generate(KeyKind.AES, "not bytes", "label")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        hsm.generate(KeyKind.AES, b"n" * 32, 123)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        hsm.generate_pair(b"n" * 32, 123)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        hsm.holds("not bytes")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        hsm.put(KeyKind.AES, b"n" * 32, "label", "not bytes")  # type: ignore[arg-type]


def test_softhsm_can_suite_1(hsm: Hsm) -> None:
    assert hsm.probe_suite() is Suite.HSM_GCM
    assert len(hsm.list_keys()) == 3


def test_operations_are_counted(hsm: Hsm) -> None:
    before = hsm.calls
    sealed = hsm.encrypt_gcm(AES, IV, b"x", AAD)
    hsm.decrypt_gcm(AES, IV, sealed, AAD)
    hsm.hmac(HMAC, b"x")
    assert hsm.calls - before == 3
    hsm.generate_pair(PAIR, "pair")
    hsm.sign(PAIR, bytes(32))
    assert hsm.calls - before == 5


def test_a_token_that_was_away_works_at_once_when_it_is_back(hsm: Hsm, tmp_path: Path) -> None:
    sealed = hsm.encrypt_gcm(AES, IV, b"x", AAD)
    (tokens,) = tmp_path.rglob("tokens")
    for _ in range(2):
        moved = tokens.rename(tmp_path / "moved")
        with pytest.raises(HsmError):
            hsm.decrypt_gcm(AES, IV, sealed, AAD)
        moved.rename(tokens)
        wait_out_recovery_interval(hsm)
        hsm.check_present()
        assert hsm.decrypt_gcm(AES, IV, sealed, AAD) == b"x"


def test_a_token_that_was_away_unseen(hsm: Hsm, tmp_path: Path) -> None:
    sealed = hsm.encrypt_gcm(AES, IV, b"x", AAD)
    (tokens,) = tmp_path.rglob("tokens")
    shutil.copytree(tokens, tmp_path / "copy")
    shutil.rmtree(tokens)
    (tmp_path / "copy").rename(tokens)
    assert hsm.decrypt_gcm(AES, IV, sealed, AAD) == b"x"
    assert hsm.hmac(HMAC, b"x")


def test_a_token_that_is_away_from_the_start(hsm: Hsm, tmp_path: Path) -> None:
    sealed = hsm.encrypt_gcm(AES, IV, b"x", AAD)
    hsm._module.reinitialize(hsm._conf)  # type: ignore[attr-defined]
    (tokens,) = tmp_path.rglob("tokens")
    moved = tokens.rename(tmp_path / "moved")
    with pytest.raises(HsmError):
        hsm.decrypt_gcm(AES, IV, sealed, AAD)
    moved.rename(tokens)
    wait_out_recovery_interval(hsm)
    assert hsm.decrypt_gcm(AES, IV, sealed, AAD) == b"x"


def test_presence_is_known_without_the_module_if_the_token_is_embedded(hsm: Hsm, tmp_path: Path) -> None:
    hsm.check_present()
    (tokens,) = tmp_path.rglob("tokens")
    before = hsm.calls
    tokens.rename(tmp_path / "moved")
    if hsm._place is not None:  # type: ignore[attr-defined]
        with pytest.raises(TokenNotFoundError):
            hsm.check_present()
    assert hsm.calls == before


def wait_out_recovery_interval(hsm: Hsm) -> None:
    """A module given by path is started afresh once a second at most: let that second be over."""
    hsm._recovered_at = float("-inf")  # type: ignore[attr-defined]
