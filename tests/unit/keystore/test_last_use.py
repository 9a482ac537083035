"""When a key was last used: out of the audit log, whoever wrote it and wherever it is cut into files."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from testkit.audits import files, records
from testkit.clock import Clock

from kmsfs.errors import InvalidCiphertextError, InvalidMacError, KeyDisabledError
from kmsfs.keystore.audit import epoch, timestamp
from kmsfs.keystore.audit_log import AuditLog
from kmsfs.keystore.home import audit_path
from kmsfs.keystore.last_use import KeyUsageHistory, LastUse
from kmsfs.keystore.model import KeySpec
from kmsfs.keystore.service import Keystore

EU = "eu-west-1"
MAIN = "alias/main"


def asked(keystore: Keystore, ref: str = MAIN) -> KeyUsageHistory:
    return keystore.usage_history(ref, region=EU)


def small_segments(keystore: Keystore) -> None:
    """Make the log of the region begin a new file every few records."""
    service = keystore._service(EU)
    keystore.audits._logs[EU] = AuditLog(
        audit_path(keystore.home, service.config.region),
        service.config,
        service.hsm,
        service.ledger,
        "cli",
        max_segment_size=1500,
    )


USES: dict[str, Callable[[Keystore, bytes], object]] = {
    "Encrypt": lambda keystore, blob: keystore.encrypt(MAIN, b"x", {}, region=EU),
    "Decrypt": lambda keystore, blob: keystore.decrypt(blob, {}),
    "GenerateDataKey": lambda keystore, blob: keystore.generate_data_key(MAIN, {}, region=EU),
    "ReEncrypt": lambda keystore, blob: keystore.re_encrypt(blob, {}, MAIN, {}, region=EU),
}


@pytest.mark.parametrize("operation", USES)
def test_every_use_is_the_last_one_when_it_is(keystore: Keystore, operation: str) -> None:
    blob = keystore.encrypt(MAIN, b"x", {}, region=EU).blob
    keystore.generate_data_key(MAIN, {}, region=EU)
    USES[operation](keystore, blob)
    last = asked(keystore).last
    assert last is not None
    assert (last.operation, timestamp(last.at), last.request_id) == (
        operation,
        records(keystore.home, EU)[-1]["time"],
        None,
    )


def test_macs_are_uses_too(keystore: Keystore) -> None:
    key = keystore.create_key(region=EU, spec=KeySpec.HMAC_256).arn
    made = keystore.generate_mac(key, b"m", "HMAC_SHA_256")
    assert asked(keystore, key).last == LastUse(
        "GenerateMac", epoch(records(keystore.home, EU)[-1]["time"]), None
    )
    keystore.verify_mac(key, b"m", "HMAC_SHA_256", made)
    found = asked(keystore, key).last
    assert found is not None
    assert found.operation == "VerifyMac"
    with pytest.raises(InvalidMacError):
        keystore.verify_mac(key, b"other", "HMAC_SHA_256", made)
    assert asked(keystore, key).last == found


def test_a_key_that_was_made_and_never_used(keystore: Keystore) -> None:
    key = keystore.create_key(region=EU)
    keystore.encrypt(MAIN, b"x", {"key": key.arn}, region=EU)  # another key's: it only looks alike
    keystore.disable_key(key.arn)
    with pytest.raises(KeyDisabledError):
        keystore.encrypt(key.arn, b"x", {})
    history = asked(keystore, key.arn)
    assert history == KeyUsageHistory(history.key, key.created_at, None)
    assert history.to_aws()["KeyLastUsage"] == {}


def test_what_failed_or_only_changed_the_key_is_no_use(keystore: Keystore) -> None:
    blob = keystore.encrypt(MAIN, b"x", {}, region=EU).blob
    before = asked(keystore).last
    with pytest.raises(InvalidCiphertextError):
        keystore.decrypt(blob, {"another": "context"})
    keystore.rotate_key(MAIN, region=EU)
    assert asked(keystore).last == before


def test_it_is_found_behind_many_files_of_other_keys(keystore: Keystore) -> None:
    small_segments(keystore)
    keystore.encrypt(MAIN, b"x", {}, region=EU)
    before = asked(keystore).last
    assert before is not None
    other = keystore.create_key(region=EU).arn
    for _ in range(30):
        keystore.encrypt(other, b"x", {})
    assert len(files(keystore.home, EU)) >= 3
    assert asked(keystore).last == before
    keystore.decrypt(keystore.encrypt(MAIN, b"x", {}, region=EU).blob, {})
    last = asked(keystore).last
    assert last is not None
    assert (last.operation, last.at > before.at) == ("Decrypt", True)


def test_other_processes_and_restarts(ks_home: Path) -> None:
    with Keystore.open(ks_home) as first, Keystore.open(ks_home) as second:
        blob = first.encrypt(MAIN, b"x", {}, region=EU).blob
        second.decrypt(blob, {})
        assert len(files(ks_home, EU)) == 2  # one each
        found = [asked(keystore).last for keystore in (first, second)]
        first.generate_data_key(MAIN, {}, region=EU)
        later = asked(second).last
    assert found[0] == found[1]
    assert (found[0] and found[0].operation, later and later.operation) == ("Decrypt", "GenerateDataKey")
    with Keystore.open(ks_home) as third:
        assert asked(third).last == later


def test_a_file_that_was_just_read_is_not_waited_for(
    keystore: Keystore, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_segments(keystore)
    for _ in range(30):
        keystore.encrypt(MAIN, b"x", {}, region=EU)
    for number, path in enumerate(files(keystore.home, EU)[:-1]):
        os.utime(path, (1e9 + number, 1e9 + number))
    read = []
    monkeypatch.setattr(
        "kmsfs.keystore.last_use.read_file",
        lambda directory, name: read.append(name) or (directory / f"{name}.jsonl").read_bytes(),
    )
    assert asked(keystore).last is not None
    assert read == [files(keystore.home, EU)[-1].stem]


def test_tracking_starts_behind_a_file_that_is_in_an_archive(keystore: Keystore, tmp_path: Path) -> None:
    small_segments(keystore)
    for _ in range(30):
        keystore.encrypt(MAIN, b"x", {}, region=EU)
    whole = asked(keystore)
    assert whole.tracked_since == whole.key.created_at
    archived = files(keystore.home, EU)[1]
    archived.rename(tmp_path / "archived")
    cut = asked(keystore)
    closed_at = keystore._service(EU).snapshot.audit_segments[archived.stem].closed_at
    assert cut.last == whole.last
    assert cut.tracked_since == closed_at


def test_tracking_starts_now_while_another_host_writes(ks_home: Path, tmp_path: Path) -> None:
    clock = Clock()
    with Keystore.open(ks_home) as other:
        other.encrypt(MAIN, b"x", {}, region=EU)
        (theirs,) = files(ks_home, EU)
        theirs.rename(tmp_path / "on another host")
        with Keystore.open(ks_home, now=clock) as here:
            history = asked(here)
            assert (history.last, history.tracked_since) == (None, clock())


def test_damaged_and_unfinished_lines_say_nothing(keystore: Keystore) -> None:
    keystore.encrypt(MAIN, b"x", {}, region=EU)
    before = asked(keystore).last
    (path,) = files(keystore.home, EU)
    arn = asked(keystore).key.arn
    with path.open("ab") as file:
        file.write(f'{{"key":"{arn}" no record\n{{"key":"{arn}","result":"ok","act'.encode())
    assert asked(keystore).last == before
