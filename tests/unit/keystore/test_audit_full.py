"""What happens when a use cannot be recorded: it is refused, nothing is lost, and it works again once there is room."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testkit.audits import files, records
from testkit.disks import fill, small_filesystem

from kmsfs.errors import (
    AuditUnavailableError,
    InvalidCiphertextError,
)
from kmsfs.keystore.home import audit_path
from kmsfs.keystore.service import Keystore

US, EU = "us-east-1", "eu-west-1"
CONTEXT = {"purpose": "test"}
MAIN = "alias/main"


def decrypt_until_refused(keystore: Keystore, blob: bytes) -> tuple[int, AuditUnavailableError]:
    """How many uses the log still had room for, and how the next one was refused."""
    for done in range(1000):
        try:
            keystore.decrypt(blob, {})
        except AuditUnavailableError as refusal:
            return done, refusal
    raise AssertionError("the log has room without end")


@pytest.fixture
def since(ks_home: Path) -> Callable[[str], list[dict[str, Any]]]:
    """The records that were added since the test began."""
    before = {region: len(records(ks_home, region)) for region in (EU, US)}
    return lambda region: records(ks_home, region)[before[region] :]


@pytest.fixture
def small(ks_home: Path, tmp_path: Path) -> Iterator[Path]:
    """The log of one region on a file system of its own, which can fill up."""
    directory = audit_path(ks_home, Keystore.open(ks_home).regions()[0].region)
    kept = {path.name: path.read_bytes() for path in files(ks_home, EU)}
    directory.rename(tmp_path / "moved away")
    with small_filesystem(directory, 1 << 20) as mounted:
        for name, content in kept.items():
            (mounted / name).write_bytes(content)
        yield mounted


def test_a_full_disk_refuses_uses_until_there_is_room(ks_home: Path, small: Path, since: Any) -> None:
    with Keystore.open(ks_home) as keystore:
        blob = keystore.encrypt(MAIN, b"secret", {}, region=EU).blob
        arn = keystore.resolve(MAIN, region=EU).arn
        filler = fill(small)
        done, refusal = decrypt_until_refused(keystore, blob)
        assert "no space left" in str(refusal)
        assert str(small) in refusal.hint
        for use in (
            lambda: keystore.decrypt(blob, {}),
            lambda: keystore.generate_data_key(arn, {}),
            lambda: keystore.disable_key(arn),
            lambda: keystore.create_key(EU),
            lambda: keystore.check_usable(arn),
        ):
            with pytest.raises(AuditUnavailableError):
                use()
        assert keystore.describe_key(arn).state == "Enabled"
        assert len(keystore.list_keys(EU)) == 1
        assert keystore.decrypt(keystore.encrypt(MAIN, b"x", {}, region=US).blob, {}).plaintext == b"x"
        filler.unlink()
        assert keystore.decrypt(blob, {}).plaintext == b"secret"
        keystore.check_usable(arn)
        assert [finding.problem for finding in keystore.verify_audit(EU)] == [""]
    assert [record["action"] for record in since(EU)] == ["Encrypt"] + ["Decrypt"] * (done + 1)


def test_a_change_is_not_made_when_it_could_not_be_recorded(ks_home: Path, small: Path) -> None:
    with Keystore.open(ks_home) as keystore:
        keystore.encrypt(MAIN, b"x", {}, region=EU)
        fill(small, leave=16 << 10)  # room for some records, but not enough to begin with
        with pytest.raises(AuditUnavailableError):
            keystore.disable_key(MAIN, region=EU)
        assert keystore.describe_key(MAIN, region=EU).state == "Enabled"


def test_what_was_counted_waits_for_room(ks_home: Path, small: Path, since: Any) -> None:
    with Keystore.open(ks_home) as keystore:
        made = keystore.generate_data_key(MAIN, {}, region=EU)
        keystore.unwrap(made.blob, {}, ref=made.key_arn)
        filler = fill(small)
        keystore.audits.tend()
        with pytest.raises(AuditUnavailableError):
            keystore.check_usable(made.key_arn)
        filler.unlink()
        keystore.audits.tend()
        keystore.check_usable(made.key_arn)
        keystore.unwrap(made.blob, {}, ref=made.key_arn)
    assert sum(record["count"] for record in since(EU) if record["action"] == "Decrypt") == 2


def test_a_directory_that_cannot_be_made_refuses(ks_home: Path) -> None:
    for path in files(ks_home, EU):
        path.unlink()
    directory = audit_path(ks_home, Keystore.open(ks_home).regions()[0].region)
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()
    directory.write_text("in the way")
    with Keystore.open(ks_home) as keystore, pytest.raises(AuditUnavailableError):
        keystore.encrypt(MAIN, b"x", {}, region=EU)


def test_a_use_that_fails_keeps_its_own_error(ks_home: Path, small: Path) -> None:
    with Keystore.open(ks_home) as keystore:
        blob = keystore.encrypt(MAIN, b"secret", {}, region=EU).blob
        fill(small)
        decrypt_until_refused(keystore, blob)
        with pytest.raises(InvalidCiphertextError):
            keystore.decrypt(blob, {"another": "context"})
