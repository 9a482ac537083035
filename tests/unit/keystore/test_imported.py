"""Imported material: taken in, destroyed, expired, taken in again, rotated; and what a crash leaves of each."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testkit.audits import records
from testkit.clock import DAY, Clock
from testkit.wrapping import wrap

from kmsfs.errors import (
    AccessDeniedError,
    ExpiredImportTokenError,
    HsmUnavailableError,
    IncorrectKeyMaterialError,
    InvalidCiphertextError,
    InvalidImportTokenError,
    InvalidRequestError,
    KeyExhaustedError,
    KeyPendingDeletionError,
    KeyStateError,
    MaterialNotFoundError,
    MetadataUnavailableError,
    NothingToRotateToError,
    UnsupportedOperationError,
    WrongOriginError,
)
from kmsfs.format.blob import Suite
from kmsfs.ids import MaterialId
from kmsfs.keystore.imported import Arrival
from kmsfs.keystore.ledger import Changes
from kmsfs.keystore.model import ImportState, KeyMetadata, KeySpec, KeyState, Origin
from kmsfs.keystore.rows import material_values
from kmsfs.keystore.service import Keystore
from kmsfs.keystore.uses import USE_LIMIT

US = "us-east-1"
OURS = "alias/ours"
FIRST, SECOND = bytes(range(32)), bytes(range(32, 64))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(ks_home: Path, clock: Clock) -> Iterator[Keystore]:
    with Keystore.open(ks_home, now=clock) as opened:
        yield opened


@pytest.fixture
def key(timed: Keystore) -> KeyMetadata:
    return timed.create_key(US, alias=OURS, origin=Origin.EXTERNAL)


def held(keystore: Keystore, key: KeyMetadata) -> int:
    return sum(found.label == f"kmsfs:{key.key_id}" for found in keystore._service(US).hsm.list_keys())


def actions(home: Path, name: str) -> list[dict[str, Any]]:
    return [record for record in records(home, US) if record["action"] == name]


def test_a_key_without_material_waits_for_it(timed: Keystore, key: KeyMetadata) -> None:
    assert (key.state, key.current_material_id, held(timed, key)) == (KeyState.PENDING_IMPORT, None, 0)
    for use in (
        lambda: timed.encrypt(key.arn, b"x", {}),
        lambda: timed.generate_data_key(key.arn, {}),
        lambda: timed.check_usable(key.arn),
        lambda: timed.enable_key(key.arn),
        lambda: timed.rotate_key(key.arn),
    ):
        with pytest.raises(KeyStateError, match="pending import"):
            use()
    assert timed.delete_imported_material(key.arn).state is KeyState.PENDING_IMPORT
    assert timed.schedule_key_deletion(key.arn).state is KeyState.PENDING_DELETION
    with pytest.raises(KeyPendingDeletionError):
        timed.import_material(key.arn, Arrival(FIRST))
    assert timed.cancel_key_deletion(key.arn).state is KeyState.PENDING_IMPORT


@pytest.mark.parametrize("spec", KeySpec)
def test_material_of_each_spec_is_taken_in(timed: Keystore, spec: KeySpec) -> None:
    key = timed.create_key(US, spec=spec, origin=Origin.EXTERNAL)
    size = 32 if spec is KeySpec.SYMMETRIC_DEFAULT else int(spec.value[-3:]) // 8
    for wrong in (b"", bytes(size - 1), bytes(size + 1)):
        with pytest.raises(IncorrectKeyMaterialError, match=f"has {size} bytes"):
            timed.import_material(key.arn, Arrival(wrong))
    timed.import_material(key.arn, Arrival(bytes(size)))
    assert timed.describe_key(key.arn).state is KeyState.ENABLED
    assert held(timed, key) == 1
    if spec is KeySpec.SYMMETRIC_DEFAULT:
        assert timed.decrypt(timed.encrypt(key.arn, b"x", {}).blob, {}).plaintext == b"x"
    else:
        mac = timed.generate_mac(key.arn, b"x", spec.value.replace("HMAC_", "HMAC_SHA_"))
        assert len(mac) == size


def test_what_was_deleted_comes_back_and_decrypts(timed: Keystore, key: KeyMetadata) -> None:
    material = timed.import_material(key.arn, Arrival(FIRST, description="ours"))
    blob = timed.encrypt(key.arn, b"old", {}).blob
    gone = timed.delete_imported_material(key.arn)
    assert (gone.state, held(timed, key)) == (KeyState.PENDING_IMPORT, 0)
    assert gone.current_material_id == material.material_id
    for use in (lambda: timed.decrypt(blob, {}), lambda: timed.unwrap(blob, {}, ref=key.arn)):
        with pytest.raises(KeyStateError, match="pending import"):
            use()
    assert all(finding.ok for finding in timed.check())
    for wrong in (Arrival(SECOND), Arrival(SECOND, new=False), Arrival(FIRST, new=True)):
        with pytest.raises(IncorrectKeyMaterialError):
            timed.import_material(key.arn, wrong)
    other = MaterialId(bytes(32))
    with pytest.raises(IncorrectKeyMaterialError):
        timed.import_material(key.arn, Arrival(FIRST, material_id=other))
    again = timed.import_material(key.arn, Arrival(FIRST, material_id=material.material_id))
    assert (again.material_id, again.description) == (material.material_id, "ours")
    assert timed.decrypt(blob, {}).plaintext == b"old"
    assert timed.describe_key(key.arn).state is KeyState.ENABLED


def test_one_material_has_another_id_in_another_key(timed: Keystore, key: KeyMetadata) -> None:
    other = timed.create_key(US, origin=Origin.EXTERNAL)
    ids = [timed.import_material(found.arn, Arrival(FIRST)).material_id for found in (key, other)]
    assert ids[0] != ids[1]
    blob = timed.encrypt(key.arn, b"x", {}).blob
    timed.delete_imported_material(other.arn)
    assert timed.decrypt(blob, {}).plaintext == b"x"


def test_uses_of_material_are_counted_on_after_it_came_back(timed: Keystore, key: KeyMetadata) -> None:
    material = timed.import_material(key.arn, Arrival(FIRST))
    assert material.suite is Suite.HSM_GCM
    ledger = timed._service(US).ledger
    timed.encrypt(key.arn, b"x", {})
    reserved = ledger.reload().uses_reserved[material.material_id]
    assert reserved > 0
    timed.delete_imported_material(key.arn)
    timed.import_material(key.arn, Arrival(FIRST))
    assert ledger.reload().uses_reserved[material.material_id] == reserved
    row = material_values(ledger.snapshot.region, key.key_id, material, USE_LIMIT)
    ledger.commit(lambda _: Changes(puts=[("materials", row)]))
    with Keystore.open(timed.home) as other, pytest.raises(KeyExhaustedError):
        other.encrypt(key.arn, b"x", {})


def test_a_disabled_key_stays_disabled(timed: Keystore, key: KeyMetadata) -> None:
    timed.import_material(key.arn, Arrival(FIRST))
    timed.disable_key(key.arn)
    timed.import_material(key.arn, Arrival(FIRST))
    assert timed.describe_key(key.arn).state is KeyState.DISABLED
    assert held(timed, key) == 1


def test_deletion_of_a_key_whose_material_is_gone_can_be_cancelled(timed: Keystore, key: KeyMetadata) -> None:
    timed.import_material(key.arn, Arrival(FIRST))
    timed.schedule_key_deletion(key.arn)
    assert timed.delete_imported_material(key.arn).state is KeyState.PENDING_DELETION
    assert held(timed, key) == 0
    assert timed.cancel_key_deletion(key.arn).state is KeyState.PENDING_IMPORT


def test_only_keys_for_it_take_material(timed: Keystore) -> None:
    for refused in (
        lambda: timed.import_material("alias/main", Arrival(FIRST), region=US),
        lambda: timed.delete_imported_material("alias/main", region=US),
        lambda: timed.import_parameters("alias/main", "RSAES_OAEP_SHA_256", "RSA_2048", region=US),
    ):
        with pytest.raises(UnsupportedOperationError):
            refused()
    timed.managed_key(US)
    with pytest.raises(AccessDeniedError):
        timed.import_material("alias/aws/kmsfs", Arrival(FIRST), region=US)


# --- expiry -------------------------------------------------------------------------------------
def test_material_expires(timed: Keystore, key: KeyMetadata, clock: Clock) -> None:
    until = clock.time + DAY
    timed.import_material(key.arn, Arrival(FIRST, until))
    blob = timed.encrypt(key.arn, b"x", {}).blob
    shown = timed.describe_key(key.arn).to_aws()
    assert (shown["ExpirationModel"], shown["ValidTo"]) == ("KEY_MATERIAL_EXPIRES", until)
    for _ in range(2):
        assert timed.decrypt(blob, {}).plaintext == b"x"
    clock.time = until
    for use in (
        lambda: timed.encrypt(key.arn, b"x", {}),
        lambda: timed.decrypt(blob, {}),
        lambda: timed.check_usable(key.arn),
    ):
        with pytest.raises(KeyStateError, match="has expired"):  # nobody has destroyed it yet
            use()
    timed.refresh()
    assert timed.describe_key(key.arn).state is KeyState.PENDING_IMPORT
    assert held(timed, key) == 0
    assert "ValidTo" not in timed.describe_key(key.arn).to_aws()
    (record,) = actions(timed.home, "DeleteExpiredKeyMaterial")
    assert record["key"] == key.arn
    timed.import_material(key.arn, Arrival(FIRST))
    clock.time += 400 * DAY
    timed.refresh()
    assert timed.decrypt(blob, {}).plaintext == b"x"


@pytest.mark.parametrize("seconds", [1, 365 * DAY])
def test_the_edges_of_validity(timed: Keystore, key: KeyMetadata, clock: Clock, seconds: float) -> None:
    assert timed.import_material(key.arn, Arrival(FIRST, clock.time + seconds)).expires_at is not None


@pytest.mark.parametrize("seconds", [-1, 0, 365 * DAY + 1])
def test_beyond_the_edges_of_validity(
    timed: Keystore, key: KeyMetadata, clock: Clock, seconds: float
) -> None:
    with pytest.raises(InvalidRequestError, match="365 days"):
        timed.import_material(key.arn, Arrival(FIRST, clock.time + seconds))
    assert held(timed, key) == 0


def test_importing_again_moves_the_expiry(timed: Keystore, key: KeyMetadata, clock: Clock) -> None:
    timed.import_material(key.arn, Arrival(FIRST, clock.time + DAY))
    timed.import_material(key.arn, Arrival(FIRST, clock.time + 2 * DAY))
    with Keystore.open(timed.home, now=lambda: clock.time + DAY) as other:
        other.encrypt(key.arn, b"x", {})
    assert held(timed, key) == 1


def test_what_was_imported_again_meanwhile_is_not_destroyed(
    timed: Keystore, key: KeyMetadata, clock: Clock
) -> None:
    """A process whose picture is old has to look again before it condemns the material."""
    timed.import_material(key.arn, Arrival(FIRST, clock.time + DAY))
    seen = timed.describe_key(key.arn)
    with Keystore.open(timed.home, now=clock) as other:
        other.import_material(key.arn, Arrival(FIRST))
    assert timed._service(US).lifecycle.imported.sweep(seen, clock.time + DAY) is False
    assert timed.describe_key(key.arn).state is KeyState.ENABLED
    assert held(timed, key) == 1


def test_a_token_that_fails_when_it_is_due(
    timed: Keystore, key: KeyMetadata, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed.import_material(key.arn, Arrival(FIRST, clock.time + DAY))

    def fail(_: bytes) -> None:
        raise HsmUnavailableError("the token is full")

    clock.time += DAY
    with monkeypatch.context() as patched:
        patched.setattr(timed._service(US).hsm, "destroy", fail)
        timed.refresh()
    assert (timed.resolve(key.arn).state, held(timed, key)) == (KeyState.PENDING_IMPORT, 1)
    with Keystore.open(timed.home, now=clock) as other:
        other.list_keys(US)
        assert held(other, key) == 0
        (material,) = other.resolve(key.arn).materials
    assert material.import_state is ImportState.MISSING


# --- more than one material ----------------------------------------------------------------------
def test_new_material_waits_for_rotation(timed: Keystore, key: KeyMetadata, clock: Clock) -> None:
    with pytest.raises(IncorrectKeyMaterialError):
        timed.import_material(key.arn, Arrival(FIRST, new=False))
    first = timed.import_material(key.arn, Arrival(FIRST, new=True)).material_id
    old = timed.encrypt(key.arn, b"old", {})
    with pytest.raises(NothingToRotateToError, match="waits for rotation"):
        timed.rotate_key(key.arn)
    clock.time += 1
    second = timed.import_material(key.arn, Arrival(SECOND, new=True, description="second")).material_id
    assert timed.encrypt(key.arn, b"x", {}).material_id == old.material_id == first
    with pytest.raises(KeyStateError, match="is pending rotation"):
        timed.import_material(key.arn, Arrival(bytes(32), new=True))
    states = [entry["KeyMaterialState"] for entry in timed.resolve(key.arn).rotations(with_first=True)]
    assert states == ["CURRENT", "PENDING_ROTATION"]
    timed.import_material(key.arn, Arrival(SECOND))
    timed.rotate_key(key.arn)
    assert timed.encrypt(key.arn, b"x", {}).material_id == second
    assert timed.decrypt(old.blob, {}).plaintext == b"old"
    (rotation,) = timed.describe_key(key.arn).rotations()
    assert (rotation["KeyMaterialState"], rotation["ImportState"]) == ("CURRENT", "IMPORTED")
    assert rotation["KeyMaterialDescription"] == "second"
    with pytest.raises(WrongOriginError, match="on demand only"):
        timed.enable_key_rotation(key.arn)


def test_a_key_is_back_when_all_its_material_is(timed: Keystore, key: KeyMetadata) -> None:
    first = timed.import_material(key.arn, Arrival(FIRST)).material_id
    timed.import_material(key.arn, Arrival(SECOND, new=True))
    timed.rotate_key(key.arn)
    blob = timed.encrypt(key.arn, b"x", {}).blob
    timed.delete_imported_material(key.arn, first)
    timed.delete_imported_material(key.arn)
    assert held(timed, key) == 0
    timed.import_material(key.arn, Arrival(SECOND))
    found = timed.describe_key(key.arn)
    assert found.state is KeyState.PENDING_IMPORT
    states = [entry["ImportState"] for entry in found.rotations(with_first=True)]
    assert sorted(map(str, states)) == ["IMPORTED", "PENDING_IMPORT"]
    timed.import_material(key.arn, Arrival(FIRST))
    assert timed.decrypt(blob, {}).plaintext == b"x"


def test_material_that_waits_is_forgotten_when_it_is_deleted(timed: Keystore, key: KeyMetadata) -> None:
    timed.import_material(key.arn, Arrival(FIRST))
    second = timed.import_material(key.arn, Arrival(SECOND, new=True)).material_id
    found = timed.delete_imported_material(key.arn, second)
    assert (found.state, len(found.materials), held(timed, key)) == (KeyState.ENABLED, 1, 1)
    with pytest.raises(MaterialNotFoundError, match="has no material"):
        timed.delete_imported_material(key.arn, second)
    timed.import_material(key.arn, Arrival(bytes(32), new=True))


def test_a_mac_key_takes_one_material(timed: Keystore) -> None:
    key = timed.create_key(US, spec=KeySpec.HMAC_256, origin=Origin.EXTERNAL)
    timed.import_material(key.arn, Arrival(FIRST))
    mac = timed.generate_mac(key.arn, b"m", "HMAC_SHA_256")
    with pytest.raises(UnsupportedOperationError):
        timed.import_material(key.arn, Arrival(SECOND, new=True))
    timed.delete_imported_material(key.arn)
    with pytest.raises(KeyStateError):
        timed.verify_mac(key.arn, b"m", "HMAC_SHA_256", mac)
    timed.import_material(key.arn, Arrival(FIRST))
    timed.verify_mac(key.arn, b"m", "HMAC_SHA_256", mac)


# --- the import token ---------------------------------------------------------------------------
@pytest.mark.parametrize("spec", ["RSA_2048", "RSA_3072", "RSA_4096"])
def test_material_travels_wrapped(timed: Keystore, key: KeyMetadata, spec: str) -> None:
    made = timed.import_parameters(key.arn, "RSAES_OAEP_SHA_256", spec)
    assert len(made.token) <= 6144
    assert f"{FIRST!r}" not in repr(Arrival(FIRST))
    wrapped = wrap(made.public_key, "RSAES_OAEP_SHA_256", FIRST)
    material = timed.import_wrapped_material(key.arn, made.token, wrapped, Arrival(b""))
    assert timed.describe_key(key.arn).current_material_id == material.material_id
    assert timed.import_material(key.arn, Arrival(FIRST)).material_id == material.material_id
    assert all(finding.ok for finding in timed.check())


def test_other_ways_of_wrapping_are_refused(timed: Keystore, key: KeyMetadata) -> None:
    for algorithm, spec in (("RSAES_PKCS1_V1_5", "RSA_2048"), ("SM2PKE", "SM2")):
        with pytest.raises(UnsupportedOperationError):
            timed.import_parameters(key.arn, algorithm, spec)


def test_a_token_is_good_for_its_key_for_a_day(timed: Keystore, key: KeyMetadata, clock: Clock) -> None:
    algorithm = "RSAES_OAEP_SHA_1"
    with pytest.raises(InvalidImportTokenError):  # before there is a key that could open one
        timed.import_wrapped_material(key.arn, bytes(100), b"x", Arrival(b""))
    made = timed.import_parameters(key.arn, algorithm, "RSA_2048")
    wrapped = wrap(made.public_key, algorithm, FIRST)
    other = timed.create_key(US, origin=Origin.EXTERNAL)
    edited = made.token[:-1] + bytes([made.token[-1] ^ 1])
    for name, token in ((other.arn, made.token), (key.arn, edited), (key.arn, b"x"), (key.arn, bytes(500))):
        with pytest.raises(InvalidImportTokenError):
            timed.import_wrapped_material(name, token, wrapped, Arrival(b""))
    with pytest.raises(InvalidCiphertextError):
        timed.import_wrapped_material(key.arn, made.token, wrapped[:-1], Arrival(b""))
    clock.time = made.valid_to - 1
    timed.import_wrapped_material(key.arn, made.token, wrapped, Arrival(b""))
    clock.time = made.valid_to
    with pytest.raises(ExpiredImportTokenError):
        timed.import_wrapped_material(key.arn, made.token, wrapped, Arrival(b""))


# --- what a failure or a crash leaves -----------------------------------------------------------
@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_a_commit_that_fails_takes_material_back(
    timed: Keystore, key: KeyMetadata, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    if again:
        timed.import_material(key.arn, Arrival(FIRST))
        timed.delete_imported_material(key.arn)

    def fail(*_: Any) -> None:
        raise MetadataUnavailableError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(timed._store, "write", fail)
        with pytest.raises(MetadataUnavailableError):
            timed._service(US).lifecycle.imported.put(key.key_id, Arrival(FIRST))
    assert held(timed, key) == 0
    timed.import_material(key.arn, Arrival(FIRST))
    assert held(timed, key) == 1


def _die(home: Path, arn: str, step: str) -> None:
    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with Keystore.open(home) as keystore:
        service = keystore._service(US)
        match step:
            case "before the object is destroyed":
                service.hsm.destroy = die  # type: ignore[method-assign]
                keystore.delete_imported_material(arn)
            case "before its row says so":
                real = service.hsm.destroy
                service.hsm.destroy = lambda name: (real(name), die())[0]  # type: ignore[method-assign]
                keystore.delete_imported_material(arn)
            case "before the import is committed":
                keystore.delete_imported_material(arn)
                keystore._service(US).ledger.commit = die  # type: ignore[method-assign, assignment]
                keystore.import_material(arn, Arrival(FIRST))


@pytest.mark.parametrize("step", ["before the object is destroyed", "before its row says so"])
def test_a_deletion_that_was_cut_off_is_finished(timed: Keystore, key: KeyMetadata, step: str) -> None:
    timed.import_material(key.arn, Arrival(FIRST))
    blob = timed.encrypt(key.arn, b"x", {}).blob
    _killed(timed, key, step)
    with Keystore.open(timed.home) as other:
        assert [found.state for found in other.list_keys(US) if found.key_id == key.key_id] == [
            KeyState.PENDING_IMPORT
        ]
        assert held(other, key) == 0
        other.import_material(key.arn, Arrival(FIRST))
        assert other.decrypt(blob, {}).plaintext == b"x"


def test_an_import_that_was_cut_off_is_found_and_repeated(timed: Keystore, key: KeyMetadata) -> None:
    timed.import_material(key.arn, Arrival(FIRST))
    _killed(timed, key, "before the import is committed")
    with Keystore.open(timed.home) as other:
        assert held(other, key) == 1
        (finding,) = [finding for finding in other.check() if not finding.ok]
        assert "was deleted and is in the token" in finding.detail
        assert finding.hint == f"kmsfs key delete-material {key.arn}"
        other.delete_imported_material(key.arn)
        assert held(other, key) == 0
        assert all(finding.ok for finding in other.check())
        other.import_material(key.arn, Arrival(FIRST))
        assert held(other, key) == 1


def _killed(keystore: Keystore, key: KeyMetadata, step: str) -> None:
    run = multiprocessing.get_context("spawn").Process(target=_die, args=(keystore.home, key.arn, step))
    run.start()
    run.join()
    assert run.exitcode == -signal.SIGKILL


def test_an_import_finishes_a_deletion_that_was_cut_off(
    timed: Keystore, key: KeyMetadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed.import_material(key.arn, Arrival(FIRST))
    hsm = timed._service(US).hsm

    def fail(_: bytes) -> None:
        raise HsmUnavailableError("gone")

    with monkeypatch.context() as patched:
        patched.setattr(hsm, "destroy", fail)
        with pytest.raises(HsmUnavailableError):
            timed.delete_imported_material(key.arn)
    timed._service(US).lifecycle.imported.put(key.key_id, Arrival(FIRST))
    assert (timed.describe_key(key.arn).state, held(timed, key)) == (KeyState.ENABLED, 1)


def test_two_first_imports_without_a_lock(
    own_token: Path, tmp_path: Path, shim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    with Keystore.open(home) as first, Keystore.open(home) as second:
        first.add_region(US, module=shim, token_label="own", pin_file=own_token)
        key = first.create_key(US, origin=Origin.EXTERNAL)
        hsm = first._service(US).hsm
        real: Callable[..., None] = hsm.put

        def overtaken(*arguments: Any) -> None:
            second.import_material(key.arn, Arrival(SECOND))
            real(*arguments)

        monkeypatch.setattr(hsm, "put", overtaken)
        with pytest.raises(KeyStateError, match="meanwhile"):
            first.import_material(key.arn, Arrival(FIRST))
        assert held(first, key) == 1
        assert len(first.describe_key(key.arn).materials) == 1


def test_the_audit_log_tells_of_it(timed: Keystore, key: KeyMetadata) -> None:
    material = timed.import_material(key.arn, Arrival(FIRST)).material_id.hex()
    timed.delete_imported_material(key.arn, MaterialId(bytes.fromhex(material)))
    for action in ("ImportKeyMaterial", "DeleteImportedKeyMaterial"):
        (record,) = actions(timed.home, action)
        assert (record["key"], record["result"]) == (key.arn, "ok")
        assert material in str(record)
