"""What goes wrong around the keystore: PINs, modules, tokens that go away, keys that are not here."""

import json
import math
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from ctypes import CDLL
from dataclasses import replace
from pathlib import Path

import pkcs11
import pytest
from pkcs11 import Attribute, KeyType, MechanismFlag
from testkit.tokens import make_token

from kmsfs.errors import (
    HsmUnavailableError,
    InsecureKeyError,
    InvalidCiphertextError,
    KeyNotFoundError,
    MetadataTamperedError,
    MetadataUnavailableError,
    ModuleInvalidError,
    PinIncorrectError,
    PinUnavailableError,
    TokenNotFoundError,
    UnsupportedOperationError,
)
from kmsfs.format.blob import Suite
from kmsfs.ids import KeyId, Region
from kmsfs.keystore import pkcs11_hsm, pkcs11_module
from kmsfs.keystore.home import save_region
from kmsfs.keystore.ledger import Changes
from kmsfs.keystore.metadata_db import SqliteMetadataStore
from kmsfs.keystore.model import AliasEntry, KeySpec, Origin, RegionConfig
from kmsfs.keystore.pkcs11_hsm import Pkcs11Hsm
from kmsfs.keystore.ports import KeyKind
from kmsfs.keystore.region import RegionService, integrity_key_id
from kmsfs.keystore.results import EncryptResult
from kmsfs.keystore.rows import alias_values, key_values, material_values
from kmsfs.keystore.service import Keystore
from kmsfs.keystore.snapshot import Snapshot

US, EU, NORTH = "us-east-1", "eu-west-1", Region("eu-north-1")


def edit_config(home: Path, region: str, **changes: object) -> None:
    path = home / "regions" / f"{region}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def tokens(home: Path) -> Path:
    return home / "softhsm" / "tokens"


# --- PINs ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("content", ["wrong-pin", "x", "1234567890" * 20])
def test_a_wrong_pin(ks_home: Path, content: str) -> None:
    (ks_home / "regions" / f"{US}.pin").write_text(content + "\n")
    with Keystore.open(ks_home) as keystore:
        with pytest.raises(PinIncorrectError) as caught:
            keystore.list_keys(US)
        assert caught.value.hint
        assert content not in str(caught.value) + caught.value.hint
        assert keystore.list_keys(EU)


def test_a_wrong_pin_is_not_offered_again_at_once(ks_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin_file = ks_home / "regions" / f"{US}.pin"
    right = pin_file.read_text()
    pin_file.write_text("wrong-pin\n")
    now = [1000.0]
    monkeypatch.setattr(pkcs11_module.time, "monotonic", lambda: now[0])
    with Keystore.open(ks_home) as keystore:
        with pytest.raises(PinIncorrectError, match="PinIncorrect"):
            keystore.list_keys(US)
        for _ in range(3):
            with pytest.raises(PinIncorrectError, match="a moment ago"):
                keystore.list_keys(US)
        now[0] += pkcs11_module.PIN_RETRY_S
        with pytest.raises(PinIncorrectError, match="PinIncorrect"):
            keystore.list_keys(US)
        pin_file.write_text(right)
        assert keystore.list_keys(US)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_pin_file_that_others_may_read(ks_home: Path, mode: int) -> None:
    pin_file = ks_home / "regions" / f"{US}.pin"
    pin_file.chmod(mode)
    with Keystore.open(ks_home) as keystore:
        with pytest.raises(PinUnavailableError, match="open to others") as caught:
            keystore.list_keys(US)
        assert caught.value.hint == f"chmod 600 {pin_file}"
        pin_file.chmod(0o600)
        assert keystore.list_keys(US)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe\n", b"a\0b\n", b"x" * 300])
def test_a_pin_file_without_a_pin(ks_home: Path, content: bytes) -> None:
    (ks_home / "regions" / f"{US}.pin").write_bytes(content)
    with Keystore.open(ks_home) as keystore, pytest.raises(PinUnavailableError, match="holds no PIN"):
        keystore.list_keys(US)


def test_a_pin_file_that_is_missing_or_no_file(ks_home: Path) -> None:
    pin_file = ks_home / "regions" / f"{US}.pin"
    pin_file.unlink()
    with Keystore.open(ks_home) as keystore:
        with pytest.raises(PinUnavailableError, match="cannot be read"):
            keystore.list_keys(US)
        pin_file.mkdir()
        with pytest.raises(PinUnavailableError, match="no regular file"):
            keystore.list_keys(US)


def loaded_libc() -> Path:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return Path(next(line.split()[-1] for line in lines if "/libc.so" in line))


# --- modules ------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["missing", "directory", "text", "libc"])
def test_a_path_that_is_no_module(ks_home: Path, tmp_path: Path, kind: str) -> None:
    path = {
        "missing": tmp_path / "missing.so",
        "directory": tmp_path,
        "text": tmp_path / "text.so",
        "libc": loaded_libc(),
    }[kind]
    (tmp_path / "text.so").write_text("no module")
    edit_config(ks_home, US, module=str(path), token_dir=None)
    with Keystore.open(ks_home) as keystore:
        with pytest.raises(ModuleInvalidError) as caught:
            keystore.list_keys(US)
        assert str(path.name) in str(caught.value)
        assert caught.value.hint
        with pytest.raises(ModuleInvalidError):
            keystore.add_region("eu-north-1", module=path, token_label="x")
        assert keystore.list_keys(EU)


def test_softhsm_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmsfs.keystore.softhsm.MODULE_PATHS", (str(tmp_path / "none.so"),))
    with (
        Keystore.open(tmp_path / "home") as keystore,
        pytest.raises(ModuleInvalidError, match="not installed"),
    ):
        keystore.add_region(US)
    assert not (tmp_path / "home" / "regions" / f"{US}.json").exists()


# --- tokens that go away ------------------------------------------------------------------------
@pytest.fixture
def used(ks_home: Path) -> Iterator[tuple[Keystore, str, bytes]]:
    """A keystore in use, a key's ARN and a blob under it."""
    with Keystore.open(ks_home) as keystore:
        made = keystore.generate_data_key("alias/main", {}, region=US)
        keystore.generate_data_key("alias/main", {}, region=EU)
        yield keystore, made.key_arn, made.blob


@pytest.mark.parametrize("what", ["all tokens", "one token"])
def test_a_token_that_is_taken_away_and_put_back(
    used: tuple[Keystore, str, bytes], ks_home: Path, tmp_path: Path, what: str
) -> None:
    keystore, arn, blob = used
    directory = tokens(ks_home)
    if what == "one token":
        config = next(config for config in keystore.regions() if config.region == US)
        assert config.token_dir is not None
        directory = config.token_dir
    for _ in range(3):
        away = directory.rename(tmp_path / "away")
        calls = keystore.hsm_calls
        with pytest.raises(TokenNotFoundError) as caught:
            keystore.check_usable(arn)
        assert keystore.hsm_calls == calls
        assert caught.value.hint
        for use in (
            lambda: keystore.decrypt(blob, {}),
            lambda: keystore.generate_data_key(arn, {}),
            lambda: keystore.create_key(US),
        ):
            with pytest.raises(TokenNotFoundError):
                use()
        if what == "one token":
            assert keystore.generate_data_key("alias/main", {}, region=EU)
        away.rename(directory)
        keystore.check_usable(arn)
        assert keystore.decrypt(blob, {}).plaintext
        assert keystore.generate_data_key(arn, {})
        assert keystore.generate_data_key("alias/main", {}, region=EU)


def test_a_token_that_is_away_when_another_region_starts_the_module(ks_home: Path, tmp_path: Path) -> None:
    with Keystore.open(ks_home) as keystore:
        directory = next(config.token_dir for config in keystore.regions() if config.region == US)
        assert directory is not None
        away = directory.rename(tmp_path / "away")
        assert keystore.list_keys(EU)
        with pytest.raises(TokenNotFoundError):
            keystore.list_keys(US)
        away.rename(directory)
        assert keystore.list_keys(US)
        assert keystore.generate_data_key("alias/main", {}, region=EU)


def test_a_region_that_another_process_adds_is_seen(used: tuple[Keystore, str, bytes], ks_home: Path) -> None:
    keystore, _, _ = used
    run = (
        "import sys; from pathlib import Path; from kmsfs.keystore.service import Keystore\n"
        "with Keystore.open(Path(sys.argv[1])) as k: k.add_region('ap-south-1'); k.create_key('ap-south-1')"
    )
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", run, str(ks_home)]) == 0
    assert len(keystore.list_keys("ap-south-1")) == 1
    assert keystore.generate_data_key("alias/main", {}, region=US)


def test_bad_blobs_during_an_absence_are_not_called_bad(
    used: tuple[Keystore, str, bytes], ks_home: Path, tmp_path: Path
) -> None:
    keystore, _, blob = used
    bad = blob[:-1] + bytes([blob[-1] ^ 1])
    with pytest.raises(InvalidCiphertextError):
        keystore.decrypt(bad, {})
    away = tokens(ks_home).rename(tmp_path / "away")
    with pytest.raises(TokenNotFoundError):
        keystore.decrypt(bad, {})
    away.rename(tokens(ks_home))
    with pytest.raises(InvalidCiphertextError):
        keystore.decrypt(bad, {})


# --- keys that are not here or not as they were made ----------------------------------------------
def material_of(keystore: Keystore, region: str) -> bytes:
    return keystore.resolve("alias/main", region=region).current_material_id


def test_key_material_that_is_gone_from_the_token(used: tuple[Keystore, str, bytes]) -> None:
    keystore, arn, blob = used
    keystore._service(US).hsm.destroy(material_of(keystore, US))
    for _ in range(2):
        with pytest.raises(KeyNotFoundError):
            keystore.decrypt(blob, {})
        with pytest.raises(KeyNotFoundError):
            keystore.generate_data_key(arn, {})
    assert keystore.create_key(US)
    assert keystore.generate_data_key("alias/main", {}, region=EU)


def test_a_token_of_the_same_label_without_the_keys(ks_home: Path, tmp_path: Path) -> None:
    with Keystore.open(tmp_path / "other") as other:
        foreign = other.add_region(US)
    with Keystore.open(ks_home) as keystore:
        own = next(config for config in keystore.regions() if config.region == US)
        blob = keystore.encrypt("alias/main", b"x", {}, region=US).blob
    own_token, own_pin = files_of(own)
    foreign_token, foreign_pin = files_of(foreign)
    shutil.rmtree(own_token)
    shutil.copytree(foreign_token, own_token)
    shutil.copy(foreign_pin, own_pin)
    with Keystore.open(ks_home) as keystore, pytest.raises(MetadataTamperedError):
        keystore.decrypt(blob, {})


@pytest.mark.parametrize("template", [{Attribute.EXTRACTABLE: True}, {Attribute.SENSITIVE: False}])
def test_a_key_that_somebody_replaced_by_a_weak_one(ks_home: Path, template: dict[Attribute, bool]) -> None:
    with Keystore.open(ks_home) as keystore:
        blob = keystore.encrypt("alias/main", b"x", {}, region=US).blob
        material = material_of(keystore, US)
        hsm = keystore._service(US).hsm
        hsm.destroy(material)
        hsm._session.generate_key(  # type: ignore[attr-defined]
            KeyType.AES, 256, id=material, label="weak", store=True,
            capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
            template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, **template},
        )  # fmt: skip
    with Keystore.open(ks_home) as keystore:
        for _ in range(2):
            with pytest.raises(InsecureKeyError):
                keystore.decrypt(blob, {})
        failed = [finding for finding in keystore.check() if not finding.ok]
        assert [finding.name for finding in failed] == [f"{US}: keys"]
        assert failed[0].hint


def test_a_token_under_another_regions_name_fails_by_its_tag(ks_home: Path, tmp_path: Path) -> None:
    """Even with authentic rows: somebody who holds token and PIN attaches the token as another region."""
    with Keystore.open(ks_home) as keystore:
        blob = keystore.encrypt("alias/main", b"secret", {}, region=US).blob
        config = next(config for config in keystore.regions() if config.region == US)
        snapshot = keystore._service(US).snapshot
    token, pin_file = files_of(config)
    home = tmp_path / "forged"
    (home / "regions").mkdir(parents=True)
    shutil.copytree(token, tokens(home) / token.name)
    SqliteMetadataStore.create(home / "metadata.db")
    save_region(
        home,
        replace(config, region=NORTH, token_dir=tokens(home) / token.name, pin_file=home / "regions" / "pin"),
    )
    shutil.copy(pin_file, home / "regions" / "pin")
    with Keystore.open(home) as forged:
        forge_rows(forged._service(NORTH), snapshot)
        assert forged.describe_key("alias/forged").region == NORTH
        made = forged.encrypt("alias/forged", b"x", {})
        assert forged.decrypt(made.blob, {}).material_id == snapshot.keys[key_id_of(made)].current_material_id
        with pytest.raises(InvalidCiphertextError):
            forged.decrypt(blob, {}, region=NORTH)
        # the same with the ARN edited to fit: one letter more, so one more in its length
        fitted = blob.replace(b":us-east-1:", b":eu-north-1:").replace(b"\x00\x4b", b"\x00\x4c", 1)
        with pytest.raises(InvalidCiphertextError):
            forged.decrypt(fitted, {})


def key_id_of(made: EncryptResult) -> KeyId:
    return KeyId(made.key_arn.rpartition("/")[2])


def forge_rows(service: RegionService, snapshot: Snapshot) -> None:
    """Make the rows of another region the service's own, with proof, as the holder of the token can."""
    integrity_key = integrity_key_id(NORTH)
    hsm = service.hsm
    assert isinstance(hsm, Pkcs11Hsm)
    hsm.generate(KeyKind.HMAC, integrity_key, "forged")
    service.ledger.initialize()
    puts = []
    for key in snapshot.keys.values():
        puts.append(("keys", key_values(replace(key, region=NORTH))))
        puts += [("materials", material_values(NORTH, key.key_id, material, 0)) for material in key.materials]
        puts.append(("aliases", alias_values(AliasEntry("alias/forged", "", NORTH, key.key_id, 0, 0))))
    service.ledger.commit(lambda _: Changes(puts=puts))


def files_of(config: RegionConfig) -> tuple[Path, Path]:
    assert config.token_dir is not None
    assert config.pin_file is not None
    return config.token_dir, config.pin_file


# --- metadata -----------------------------------------------------------------------------------
def test_metadata_that_is_missing_is_not_made_anew(used: tuple[Keystore, str, bytes], ks_home: Path) -> None:
    keystore, arn, _ = used
    for path in ks_home.glob("metadata.db*"):
        path.unlink()
    with pytest.raises(MetadataUnavailableError, match="missing"):
        keystore.refresh()
    with Keystore.open(ks_home) as fresh:
        for use in (
            fresh.list_keys,
            lambda: fresh.resolve(arn),
            lambda: fresh.create_key(US),
            lambda: fresh.add_region("eu-north-1"),
        ):
            with pytest.raises(MetadataUnavailableError, match="missing"):
                use()
        assert len(fresh.regions()) == 2
    assert not (ks_home / "metadata.db").exists()


def test_metadata_that_another_process_locks(used: tuple[Keystore, str, bytes], ks_home: Path) -> None:
    keystore, arn, blob = used
    keystore._store._connected().exec_driver_sql("PRAGMA busy_timeout = 50")
    with closing(sqlite3.connect(ks_home / "metadata.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(MetadataUnavailableError, match="locked"):
            keystore.create_key(US)
        with pytest.raises(MetadataUnavailableError, match="locked"):
            keystore.disable_key(arn)
        assert keystore.decrypt(blob, {}).plaintext
        assert keystore.list_keys(US)
        other.execute("ROLLBACK")
    assert keystore.create_key(US)
    assert [finding.name for finding in keystore.check() if not finding.ok] == []


def test_metadata_edited_under_a_running_keystore_stops_it(
    used: tuple[Keystore, str, bytes], ks_home: Path
) -> None:
    keystore, arn, blob = used
    keystore.disable_key(arn)
    with closing(sqlite3.connect(ks_home / "metadata.db")) as other, other:
        other.execute("UPDATE keys SET state = 'Enabled'")
    for _ in range(2):
        with pytest.raises(MetadataTamperedError):
            keystore.refresh()
        with pytest.raises(MetadataTamperedError):
            keystore.list_keys()
    with Keystore.open(ks_home) as fresh, pytest.raises(MetadataTamperedError):
        fresh.decrypt(blob, {})


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"region": "eu-west-1"}', '{"region": "us-east-1"}', '"us-east-1"']
)
def test_a_damaged_region_configuration(ks_home: Path, content: str) -> None:
    (ks_home / "regions" / f"{US}.json").write_text(content)
    with Keystore.open(ks_home) as keystore:
        with pytest.raises(MetadataUnavailableError, match="is damaged"):
            keystore.resolve("alias/main", region=US)
        assert keystore.resolve("alias/main", region=EU)


def test_an_account_edited_in_the_configuration(ks_home: Path) -> None:
    edit_config(ks_home, US, account="123456789012")
    with Keystore.open(ks_home) as keystore, pytest.raises(MetadataTamperedError):
        keystore.list_keys(US)


# --- a module that misbehaves ---------------------------------------------------------------------
@pytest.fixture
def odd(
    shim: Path, own_token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Keystore, pytest.MonkeyPatch]]:
    """A keystore with a region on the module that misbehaves, and the way to make it do so."""
    with Keystore.open(tmp_path / "odd-home") as keystore:
        keystore.add_region(US, module=shim, token_label="own", pin_file=own_token)
        keystore.create_key(US, alias="alias/main")
        yield keystore, monkeypatch


def test_a_module_of_ones_own(odd: tuple[Keystore, pytest.MonkeyPatch]) -> None:
    keystore, _ = odd
    (config,) = keystore.regions()
    assert (config.suite, config.token_dir) == (Suite.HSM_GCM, None)
    made = keystore.generate_data_key("alias/main", {})
    assert keystore.decrypt(made.blob, {}).plaintext == made.plaintext
    assert all(finding.ok for finding in keystore.check())


@pytest.mark.parametrize("how", ["broken", "fails", "confused"])
def test_a_module_that_fails_for_a_while(odd: tuple[Keystore, pytest.MonkeyPatch], how: str) -> None:
    keystore, patch = odd
    made = keystore.generate_data_key("alias/main", {})
    patch.setenv("KMSFS_SHIM", how)
    patch.setattr(pkcs11_hsm, "RECOVERY_INTERVAL_S", 0.0)
    for use in (
        lambda: keystore.generate_data_key("alias/main", {}),
        lambda: keystore.encrypt("alias/main", b"x", {}),
        lambda: keystore.decrypt(made.blob, {}),
    ):
        with pytest.raises(HsmUnavailableError):
            use()
    patch.delenv("KMSFS_SHIM")
    assert keystore.decrypt(made.blob, {}).plaintext == made.plaintext


def test_a_module_whose_session_died(odd: tuple[Keystore, pytest.MonkeyPatch], shim: Path) -> None:
    keystore, _ = odd
    made = keystore.generate_data_key("alias/main", {})
    CDLL(str(shim)).kmsfs_shim_die()
    assert keystore.decrypt(made.blob, {}).plaintext == made.plaintext


def test_a_token_of_ones_own_that_goes_away(odd: tuple[Keystore, pytest.MonkeyPatch]) -> None:
    keystore, patch = odd
    made = keystore.generate_data_key("alias/main", {})
    patch.setenv("KMSFS_SHIM", "gone broken")
    patch.setattr(pkcs11_hsm, "RECOVERY_INTERVAL_S", 1000.0)
    for _ in range(3):
        with pytest.raises(TokenNotFoundError) as caught:
            keystore.decrypt(made.blob, {})
        assert caught.value.hint
    patch.delenv("KMSFS_SHIM")
    patch.setattr(pkcs11_hsm, "RECOVERY_INTERVAL_S", 0.0)
    assert keystore.decrypt(made.blob, {}).plaintext == made.plaintext


def test_a_token_that_goes_away_while_nobody_looks(odd: tuple[Keystore, pytest.MonkeyPatch]) -> None:
    keystore, patch = odd
    made = keystore.generate_data_key("alias/main", {})
    patch.setenv("KMSFS_SHIM", "removed")
    with pytest.raises(TokenNotFoundError):
        keystore.decrypt(made.blob, {})
    with pytest.raises(TokenNotFoundError):
        keystore._service(US).hsm.list_keys()
    patch.delenv("KMSFS_SHIM")
    patch.setattr(pkcs11_hsm, "RECOVERY_INTERVAL_S", 0.0)
    assert keystore.decrypt(made.blob, {}).plaintext == made.plaintext


def test_a_module_whose_configuration_is_gone(
    odd: tuple[Keystore, pytest.MonkeyPatch], own_token: Path
) -> None:
    keystore, _ = odd
    own_token.with_name("softhsm2.conf").unlink()
    with Keystore.open(keystore.home) as fresh:
        keystore.close()
        with pytest.raises((HsmUnavailableError, TokenNotFoundError)):
            fresh.list_keys()


def test_two_tokens_of_one_label(odd: tuple[Keystore, pytest.MonkeyPatch], own_token: Path) -> None:
    keystore, _ = odd
    keystore.close()
    make_token(own_token.with_name("softhsm2.conf"), "own")
    with pytest.raises(TokenNotFoundError, match="2 tokens labelled 'own'"):
        keystore.list_keys()


def test_a_slow_module_is_not_called_fast(odd: tuple[Keystore, pytest.MonkeyPatch]) -> None:
    keystore, patch = odd
    patch.setenv("KMSFS_SHIM", "slow")
    arn = keystore.resolve("alias/main").arn
    keystore.measure([arn])
    assert not keystore.is_fast(arn)
    assert 0.001 < keystore.distance(arn) < math.inf


@pytest.mark.parametrize("how", ["no-gcm", "own-iv"])
def test_a_module_without_usable_gcm_gets_suite_2(
    shim: Path, own_token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("KMSFS_SHIM", how)
    with Keystore.open(tmp_path / "odd-home") as keystore:
        assert (
            keystore.add_region(US, module=shim, token_label="own", pin_file=own_token).suite is Suite.HSM_KDF
        )
        keystore.create_key(US, alias="alias/main")
        made = keystore.generate_data_key("alias/main", {})
        assert keystore.decrypt(made.blob, {}).plaintext == made.plaintext


def test_a_module_that_can_do_neither_suite(
    shim: Path, own_token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KMSFS_SHIM", "no-gcm no-hmac")
    with Keystore.open(tmp_path / "odd-home") as keystore:
        with pytest.raises(ModuleInvalidError, match="HMAC"):
            keystore.add_region(US, module=shim, token_label="own", pin_file=own_token)
        assert keystore.regions() == []


def test_a_module_without_the_hmac_of_a_key(
    shim: Path, own_token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KMSFS_SHIM", "no-512")
    with Keystore.open(tmp_path / "odd-home") as keystore:
        keystore.add_region(US, module=shim, token_label="own", pin_file=own_token)
        for origin in Origin:
            with pytest.raises(UnsupportedOperationError, match="does not offer HMAC with sha512"):
                keystore.create_key(US, spec=KeySpec.HMAC_512, origin=origin)
        assert keystore.list_keys() == []
        key = keystore.create_key(US, spec=KeySpec.HMAC_384)
        assert len(keystore.generate_mac(key.arn, b"m", "HMAC_SHA_384")) == 48


def test_a_forked_child_does_not_use_its_parents_module(used: tuple[Keystore, str, bytes]) -> None:
    keystore, _, blob = used
    child = os.fork()
    if not child:
        code = 1
        try:
            keystore.decrypt(blob, {})
        except HsmUnavailableError as error:
            code = 0 if "forked" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert keystore.decrypt(blob, {}).plaintext


def test_a_module_that_was_not_used_yet_may_be_used_after_a_fork(ks_home: Path) -> None:
    with Keystore.open(ks_home) as keystore:
        assert keystore.regions()
        assert all(module._library is None for module in pkcs11_module._modules.values())
        child = os.fork()
        if not child:
            code = 1
            try:
                code = 0 if keystore.list_keys(US) else 1
                keystore.close()
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert keystore.list_keys(US)


def test_the_modules_error_without_words_is_named() -> None:
    assert pkcs11_module.reason(pkcs11.DeviceRemoved()) == "DeviceRemoved"
