"""How far a token is: measured once, known without a call, measured again after it failed."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmsfs.errors import HsmUnavailableError, TokenNotFoundError
from kmsfs.ids import KeyArn
from kmsfs.keystore import nearness, pkcs11_hsm
from kmsfs.keystore.service import Keystore

US, EU = "us-east-1", "eu-west-1"


@pytest.fixture
def us_key(keystore: Keystore) -> KeyArn:
    return keystore.resolve("alias/main", region=US).arn


@pytest.fixture
def token(keystore: Keystore) -> Path:
    """The directory of the token of ``us-east-1``."""
    directory = next(config.token_dir for config in keystore.regions() if config.region == US)
    assert directory is not None
    return directory


def test_a_distance_is_known_without_a_call(keystore: Keystore, us_key: KeyArn) -> None:
    before = keystore.hsm_calls
    assert keystore.distance(us_key) == math.inf
    assert not keystore.unreachable(us_key)
    keystore.measure_again()
    assert keystore.hsm_calls == before, "nobody wanted to know it yet"
    keystore.measure([us_key])
    measured = keystore.hsm_calls
    assert measured > before
    assert keystore.distance(us_key) == 0.0
    keystore.measure([us_key])
    keystore.measure_again()
    assert keystore.hsm_calls == measured


def test_a_region_that_is_not_here(keystore: Keystore) -> None:
    for arn in ("arn:aws:kms:ap-south-1:000000000000:key/x", "no ARN", ""):
        keystore.measure([arn])
        assert keystore.distance(arn) == math.inf
        assert not keystore.is_fast(arn)
        assert keystore.unreachable(arn)


def test_a_token_that_is_away_at_the_start_and_comes_back(
    ks_home: Path, tmp_path: Path, us_key: KeyArn, token: Path
) -> None:
    away = token.rename(tmp_path / "away")
    with Keystore.open(ks_home) as keystore:
        keystore.measure([us_key])
        assert keystore.distance(us_key) == math.inf
        assert "is away" in keystore.unreachable(us_key)
        before = keystore.hsm_calls
        keystore.measure_again()
        assert keystore.hsm_calls == before, "a stat tells that it is away"
        away.rename(token)
        keystore.measure_again()
        assert keystore.distance(us_key) == 0.0
        assert not keystore.unreachable(us_key)
        before = keystore.hsm_calls
        keystore.check_usable(us_key)
        assert keystore.hsm_calls == before, "its metadata were read when it came back"


def test_a_token_that_leaves_is_seen_without_a_call(
    keystore: Keystore, tmp_path: Path, us_key: KeyArn, token: Path
) -> None:
    keystore.measure([us_key])
    away = token.rename(tmp_path / "away")
    assert "is away" in keystore.unreachable(us_key)
    with pytest.raises(TokenNotFoundError):
        keystore.generate_data_key(us_key, {})
    assert keystore.distance(us_key) == math.inf
    away.rename(token)
    keystore.measure_again()
    assert keystore.distance(us_key) == 0.0


@pytest.fixture
def odd(
    shim: Path, own_token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Keystore, KeyArn, pytest.MonkeyPatch]]:
    """A keystore on the module that misbehaves, a key, and the way to make it do so."""
    with Keystore.open(tmp_path / "odd-home") as keystore:
        keystore.add_region(US, module=shim, token_label="own", pin_file=own_token)
        yield keystore, keystore.create_key(US).arn, monkeypatch


def test_a_slow_token_is_far(odd: tuple[Keystore, KeyArn, pytest.MonkeyPatch]) -> None:
    keystore, arn, patch = odd
    patch.setenv("KMSFS_SHIM", "slow")
    keystore.measure([arn])
    assert 0.001 < keystore.distance(arn) < math.inf
    assert not keystore.is_fast(arn)


@pytest.mark.parametrize("use", ["wrap", "unwrap"])
def test_a_token_that_fails_is_unreachable_until_it_is_measured_again(
    odd: tuple[Keystore, KeyArn, pytest.MonkeyPatch], use: str
) -> None:
    keystore, arn, patch = odd
    patch.setattr(pkcs11_hsm, "RECOVERY_INTERVAL_S", 0.0)
    made = keystore.generate_data_key(arn, {})
    keystore.measure([arn])
    patch.setenv("KMSFS_SHIM", "broken")
    with pytest.raises(HsmUnavailableError):
        keystore.decrypt(made.blob, {}) if use == "unwrap" else keystore.generate_data_key(arn, {})
    assert keystore.distance(arn) == math.inf
    assert keystore.unreachable(arn)
    patch.setattr(nearness, "RETRY_S", 1000.0)
    keystore.measure_again()  # not measured since it failed: at once
    before = keystore.hsm_calls
    patch.delenv("KMSFS_SHIM")
    keystore.measure_again()
    assert keystore.hsm_calls == before, "it was called a moment ago"
    patch.setattr(nearness, "RETRY_S", 0.0)
    keystore.measure_again()
    assert keystore.distance(arn) < math.inf
    assert not keystore.unreachable(arn)


def test_a_key_that_is_gone_says_nothing_against_its_token(keystore: Keystore, us_key: KeyArn) -> None:
    keystore.measure([us_key])
    made = keystore.generate_data_key(us_key, {})
    keystore._service(US).hsm.destroy(made.material_id)
    with pytest.raises(Exception, match="is not in token"):
        keystore.decrypt(made.blob, {})
    assert keystore.distance(us_key) == 0.0
