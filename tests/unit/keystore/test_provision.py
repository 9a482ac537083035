"""Setting up regions: permissions, repetition, interruption, several homes in one process."""

import shutil
import stat
from pathlib import Path
from threading import Thread

import pytest

from kmsfs.errors import (
    AlreadyExistsError,
    HsmUnavailableError,
    InvalidRequestError,
    KmsfsError,
    PinIncorrectError,
    TokenNotFoundError,
)
from kmsfs.format.blob import Suite
from kmsfs.keystore import provision
from kmsfs.keystore.home import write_new
from kmsfs.keystore.service import Keystore

US, EU = "us-east-1", "eu-west-1"


def modes(home: Path) -> dict[str, int]:
    return {str(path.relative_to(home)): stat.S_IMODE(path.stat().st_mode) for path in home.rglob("*")}


def test_a_new_home_is_open_to_its_owner_only(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    with Keystore.open(home) as keystore:
        config = keystore.add_region(US)
        assert keystore.regions() == [config]
    assert (config.suite, config.account, config.token_label) == (Suite.HSM_GCM, "0" * 12, f"kmsfs-{US}")
    assert {stat.S_IMODE(path.stat().st_mode) for path in (home, home.parent)} == {0o700}
    found = modes(home)
    assert found["regions/us-east-1.pin"] == found["regions/us-east-1.json"] == found["metadata.db"] == 0o600
    assert found["regions"] == found["softhsm"] == found["softhsm/tokens"] == 0o700
    assert not any(mode & 0o077 for name, mode in found.items() if name.startswith("softhsm/tokens"))


def test_what_is_printed_of_a_region_holds_no_pin(keystore: Keystore) -> None:
    for config in keystore.regions():
        assert config.pin_file is not None
        assert config.pin_file.read_text().strip() not in str(config.to_json())
        assert config.to_json()["embedded"] is True


def test_a_region_is_not_added_twice(keystore: Keystore) -> None:
    before = modes(keystore.home)
    with pytest.raises(AlreadyExistsError):
        keystore.add_region(US)
    assert set(modes(keystore.home)) == set(before) | {"regions/.lock"}


@pytest.mark.parametrize(
    "arguments",
    [
        {"token_label": "x"},
        {"pin_file": Path("x")},
        {"module": Path("x")},
        {"module": Path("x"), "pin_file": Path("x")},
    ],
)
def test_arguments_that_contradict_each_other(tmp_path: Path, arguments: dict[str, object]) -> None:
    with Keystore.open(tmp_path / "home") as keystore, pytest.raises(InvalidRequestError):
        keystore.add_region(US, **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("step", ["init_softhsm_token", "Pkcs11Hsm", "RegionService", "save_region"])
def test_an_interrupted_set_up_is_simply_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    home = tmp_path / "home"
    with Keystore.open(home) as keystore:
        with monkeypatch.context() as patch:
            patch.setattr(provision, step, interrupt)
            with pytest.raises(KeyboardInterrupt):
                keystore.add_region(US)
        assert keystore.regions() == []
        keystore.add_region(US)
        keystore.create_key(US)
        assert all(finding.ok for finding in keystore.check())
    assert len(list((home / "softhsm/tokens").iterdir())) == 1


def test_a_token_without_a_user_pin_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    with Keystore.open(home) as keystore:
        with monkeypatch.context() as patch:
            patch.setattr(provision, "read_pin_file", lambda _: "")  # init_pin refuses an empty PIN
            with pytest.raises(HsmUnavailableError, match="was not created"):
                keystore.add_region(US)
        assert len(list((home / "softhsm/tokens").iterdir())) == 1
        keystore.add_region(US)
        assert keystore.create_key(US)
        assert all(finding.ok for finding in keystore.check())


def test_a_token_of_ones_own(own_token: Path, tmp_path: Path, shim: Path) -> None:
    with Keystore.open(tmp_path / "home") as keystore:
        with pytest.raises(TokenNotFoundError, match="no token labelled 'other'"):
            keystore.add_region(US, module=shim, token_label="other", pin_file=own_token)
        config = keystore.add_region(US, module=shim, token_label="own", pin_file=own_token)
        assert (config.module, config.pin_file, config.token_dir) == (shim, own_token, None)
        assert keystore.regions() == [config]
        with pytest.raises(InvalidRequestError, match="region us-east-1 already"):
            keystore.add_region(EU, module=shim, token_label="own", pin_file=own_token)
    with Keystore.open(tmp_path / "another") as keystore:
        with pytest.raises(InvalidRequestError, match="another region already"):
            keystore.add_region(EU, module=shim, token_label="own", pin_file=own_token)
        # the same region of a second home shares token and integrity key
        keystore.add_region(US, module=shim, token_label="own", pin_file=own_token)
        assert keystore.create_key(US)


def test_a_pin_from_the_environment(
    own_token: Path, tmp_path: Path, shim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Keystore.open(tmp_path / "home") as keystore:
        monkeypatch.setenv("KMSFS_PIN_US_EAST_1", "wrong")
        with pytest.raises(PinIncorrectError):
            keystore.add_region(US, module=shim, token_label="own")
        monkeypatch.setenv("KMSFS_PIN_US_EAST_1", own_token.read_text().strip())
        keystore.add_region(US, module=shim, token_label="own")
        assert all(finding.ok for finding in keystore.check())


def test_two_homes_in_one_process_take_turns(ks_home: Path, tmp_path: Path) -> None:
    shutil.copytree(ks_home, tmp_path / "copy")
    with Keystore.open(ks_home) as first, Keystore.open(tmp_path / "copy") as second:
        for _ in range(2):
            blobs = [keystore.encrypt("alias/main", b"x", {}, region=US).blob for keystore in (first, second)]
            for keystore in (second, first):
                assert [keystore.decrypt(blob, {}).plaintext for blob in blobs] == [b"x", b"x"]


def test_closing_one_keystore_leaves_another_on_the_same_module(ks_home: Path) -> None:
    with Keystore.open(ks_home) as first:
        blob = first.encrypt("alias/main", b"x", {}, region=US).blob
        with Keystore.open(ks_home) as second:
            assert second.decrypt(blob, {}).plaintext == b"x"
        assert first.decrypt(blob, {}).plaintext == b"x"


def test_a_home_may_be_moved(ks_home: Path, tmp_path: Path) -> None:
    with Keystore.open(ks_home) as keystore:
        blob = keystore.encrypt("alias/main", b"x", {}, region=US).blob
    moved = ks_home.rename(tmp_path / "a moved home")
    with Keystore.open(moved) as keystore:
        assert keystore.decrypt(blob, {}).plaintext == b"x"
        assert all(finding.ok for finding in keystore.check())


def test_two_that_add_the_same_region_at_once(tmp_path: Path) -> None:
    outcomes: list[str] = []

    def add() -> None:
        with Keystore.open(tmp_path / "home") as keystore:
            try:
                outcomes.append(keystore.add_region(US).region)
            except KmsfsError as error:
                outcomes.append(type(error).__name__)

    threads = [Thread(target=add) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["AlreadyExistsError", "AlreadyExistsError", US]


def test_a_file_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_new(path, "first")
    with pytest.raises(AlreadyExistsError):
        write_new(path, "second")
    assert path.read_text() == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
