"""A region whose token is away, or whose metadata were tampered with, holds no other back."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from testkit.clock import DAY, Clock

from kmsfs.errors import MetadataTamperedError, TokenNotFoundError
from kmsfs.keystore.home import load_region, metadata_path
from kmsfs.keystore.service import Keystore

US, EU = "us-east-1", "eu-west-1"
MAIN = "alias/main"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def both(ks_home: Path, clock: Clock) -> Iterator[Keystore]:
    """A process that has used both regions, and looks for changes at every use."""
    with Keystore.open(ks_home, now=clock) as opened, pytest.MonkeyPatch.context() as patched:
        patched.setattr("kmsfs.keystore.regions.REFRESH_INTERVAL_S", -1.0)
        for region in (US, EU):
            opened.encrypt(MAIN, b"x", {}, region=region)
        yield opened


def works(keystore: Keystore, region: str) -> bool:
    return keystore.decrypt(keystore.encrypt(MAIN, b"x", {}, region=region).blob, {}).plaintext == b"x"


@contextmanager
def away(directory: Path) -> Iterator[None]:
    hidden = directory.rename(directory.with_name("hidden"))
    try:
        yield
    finally:
        hidden.rename(directory)


def token_of(home: Path, region: str) -> Path:
    directory = load_region(home, region).token_dir
    assert directory is not None
    return directory


def test_what_is_due_on_a_token_that_is_away_waits(both: Keystore, clock: Clock) -> None:
    both.enable_key_rotation(MAIN, period_days=90, region=EU)
    clock.time += 90 * DAY
    with away(token_of(both.home, EU)):
        both.refresh()
        assert works(both, US)
        with pytest.raises(TokenNotFoundError):
            both.rotate_key(MAIN, region=EU)
    both._sweep_after.clear()
    both.refresh()
    assert len(both.describe_key(MAIN, region=EU).materials) == 2


def test_changes_that_cannot_be_verified_stop_their_own_region_only(both: Keystore) -> None:
    with Keystore.open(both.home) as other:
        other.disable_key(MAIN, region=EU)
    with away(token_of(both.home, EU)):
        assert works(both, US)
        assert both.describe_key(MAIN, region=US).description
        assert len(both.list_keys(US)) == 1
        for use in (both.resolve, both.describe_key, both.key_policy, both.grants):
            with pytest.raises(TokenNotFoundError):
                use(MAIN, region=EU)
        with pytest.raises(TokenNotFoundError):  # who follows the keystore hears of it
            both.refresh()
    assert both.refresh()
    assert not both.refresh()
    assert both.resolve(MAIN, region=EU).state == "Disabled"


def test_tampering_with_a_region_stops_that_region_only(both: Keystore) -> None:
    with closing(sqlite3.connect(metadata_path(both.home))) as database, database:
        database.execute("UPDATE keys SET state = 'Disabled' WHERE region = ?", [EU])
    assert works(both, US)
    for _ in range(2):
        with pytest.raises(MetadataTamperedError):
            both.encrypt(MAIN, b"x", {}, region=EU)


@pytest.mark.parametrize(
    "use",
    [
        lambda keystore: keystore.create_key(US),
        lambda keystore: keystore.rotate_key(MAIN, region=US),
        lambda keystore: Keystore.open(keystore.home).resolve(MAIN, region=US),
    ],
    ids=["create", "rotate", "open"],
)
def test_embedded_tokens_that_are_all_away(both: Keystore, use: Callable[[Keystore], object]) -> None:
    with away(both.home / "softhsm"), pytest.raises(TokenNotFoundError) as caught:
        use(both)
    assert caught.value.hint
    assert works(both, US)


def test_a_self_check_without_any_token(both: Keystore) -> None:
    with away(both.home / "softhsm"):
        failed = [finding.name for finding in both.check() if not finding.ok]
        with Keystore.open(both.home) as other:
            assert [finding.name for finding in other.check() if not finding.ok] == failed
    assert failed == [f"{EU}: token", f"{US}: token"]
