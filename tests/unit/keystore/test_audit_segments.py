"""Segments of the audit log through cuts, torn writes, failing disks and other processes."""

import errno
import logging
import math
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from testkit.audits import files, records
from testkit.disks import fill, small_filesystem

from kmsfs.errors import AuditUnavailableError, HsmUnavailableError
from kmsfs.ids import Region
from kmsfs.keystore import audit_log
from kmsfs.keystore.audit_log import AuditLog
from kmsfs.keystore.audit_verify import CLOSED, OPEN
from kmsfs.keystore.home import audit_path
from kmsfs.keystore.service import Keystore

EU = Region("eu-west-1")
MAIN = "alias/main"


def log_of(keystore: Keystore, **options: int) -> AuditLog:
    service = keystore._service(EU)
    directory = audit_path(keystore.home, EU)
    log = AuditLog(directory, service.config, service.hsm, service.ledger, "cli", **options)  # type: ignore[arg-type]
    keystore.audits._logs[EU] = log
    return log


def use(keystore: Keystore) -> None:
    keystore.encrypt(MAIN, b"x", {}, region=EU)


def found(keystore: Keystore) -> list[tuple[str, str]]:
    return [(finding.state, finding.problem) for finding in keystore.verify_audit(EU)]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may grow beyond ``size`` bytes: a write to there is cut short."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_segment_that_was_cut_is_not_gone_on_with(ks_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    (path,) = files(ks_home, EU)
    os.truncate(path, path.stat().st_size - 1)
    with Keystore.open(ks_home) as keystore:
        use(keystore)
        (old, problem), fresh = found(keystore)
    assert (old, fresh) == (OPEN, (OPEN, ""))
    assert "are missing" in problem
    assert "segment is cut off" in caplog.text


def test_a_full_one_is_closed_by_the_next_process(ks_home: Path) -> None:
    with Keystore.open(ks_home) as keystore:
        log_of(keystore, max_segment_size=100)
        use(keystore)
        closed = found(keystore)[:-1]
        assert set(closed) == {(CLOSED, "")}
    with Keystore.open(ks_home) as keystore:
        use(keystore)
        assert found(keystore) == [*closed, (OPEN, "")]


def test_one_that_another_process_closed_meanwhile_is_left(ks_home: Path) -> None:
    with Keystore.open(ks_home) as late:
        late.resolve(MAIN, region=EU)  # it has read that the segment is open
        with Keystore.open(ks_home) as other:
            log_of(other, max_segment_size=100)
            use(other)
        late.audits._logs[EU].record(_event(late))
        first, *_, last = found(late)
        assert (first, last) == ((CLOSED, ""), (OPEN, ""))


def _event(keystore: Keystore) -> audit_log.Event:
    return audit_log.Event(keystore.audits._logs[EU].actor, "Decrypt", None, {}, "ok")


def test_a_torn_record_is_cut_off_again(ks_home: Path) -> None:
    with Keystore.open(ks_home) as keystore:
        use(keystore)
        (path,) = files(ks_home, EU)
        size = path.stat().st_size
        with largest_file(size + 20), pytest.raises(AuditUnavailableError, match="no space left"):
            keystore.audits._logs[EU].record(_event(keystore))
        assert path.stat().st_size == size
        use(keystore)
        assert found(keystore) == [(OPEN, "")]


class _WatchedLock:
    """A log's lock that notes whether a torn segment was there to write to when it was released."""

    def __init__(self, log: AuditLog) -> None:
        self._log, self._lock = log, log._lock
        self.seen: list[bool] = []

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        segment = self._log._segment
        self.seen.append(segment is not None and segment.is_torn())
        self._lock.release()


@pytest.mark.parametrize("write", ["record", "tend"])
def test_nobody_can_write_behind_what_is_left_of_a_record(
    ks_home: Path, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    def fail(descriptor: int, size: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with Keystore.open(ks_home) as keystore:
        use(keystore)
        log = keystore.audits._logs[EU]
        log.count(_event(keystore))
        log._lock = lock = _WatchedLock(log)  # type: ignore[assignment]
        (path,) = files(ks_home, EU)
        size = path.stat().st_size
        with monkeypatch.context() as patched, largest_file(size + 20):
            patched.setattr("kmsfs.keystore.audit_files.os.ftruncate", fail)
            if write == "record":
                with pytest.raises(AuditUnavailableError):
                    log.record(_event(keystore))
            else:
                log._written_up = -math.inf
                log.tend()
        assert path.stat().st_size == size + 20
        assert lock.seen
        assert not any(lock.seen)
        use(keystore)
        assert found(keystore) == [(OPEN, "")]


def test_a_log_that_cannot_begin_a_segment_does_not_try_at_each_record(
    ks_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Keystore.open(ks_home) as keystore:
        keystore.audits.close()
        keystore.audits.add(keystore._service(EU))
        log = log_of(keystore, max_segment_size=4096)
        use(keystore)
        with monkeypatch.context() as patched:
            patched.setattr(log, "_begin", tried := Mock(side_effect=HsmUnavailableError("just now")))
            while log._segment is not None and log._segment.size < 4 * 4096:
                use(keystore)
        assert tried.call_count == 3  # at twice the size, at three times and at four times
        while log._segment is not None and log._segment.size > 4096:
            use(keystore)
        assert [problem for _, problem in found(keystore)] == [""] * 2


def test_a_directory_that_cannot_be_made_durable(ks_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in files(ks_home, EU):
        path.unlink()

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with Keystore.open(ks_home) as keystore:
        keystore.resolve(MAIN, region=EU)
        with monkeypatch.context() as patched:
            patched.setattr("kmsfs.keystore.audit_files.os.fsync", fail)
            with pytest.raises(AuditUnavailableError, match="input/output error"):
                keystore.audits._logs[EU].record(_event(keystore))
        use(keystore)


def test_a_file_that_cannot_be_locked(ks_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with Keystore.open(ks_home) as keystore:
        keystore.resolve(MAIN, region=EU)
        with monkeypatch.context() as patched:
            patched.setattr("kmsfs.keystore.audit_files.fcntl.flock", fail)
            with pytest.raises(AuditUnavailableError, match="no locks available"):
                keystore.audits._logs[EU].record(_event(keystore))
        use(keystore)


def test_a_failing_log_is_tried_again_and_told_once(
    ks_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit_log, "RETRY_S", 0.0)
    directory = audit_path(ks_home, EU)
    kept = {path.name: path.read_bytes() for path in files(ks_home, EU)}
    directory.rename(tmp_path / "moved away")
    with small_filesystem(directory, 1 << 20), Keystore.open(ks_home) as keystore:
        for name, content in kept.items():
            (directory / name).write_bytes(content)
        use(keystore)
        arn = keystore.resolve(MAIN, region=EU).arn
        filler = fill(directory)
        for _ in range(2):
            keystore.audits.tend()
            with pytest.raises(AuditUnavailableError):
                keystore.check_usable(arn)
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        filler.unlink()
        keystore.check_usable(arn)
        use(keystore)


def test_a_checkpoint_that_fails_stops_nobody(
    ks_home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(decide: object) -> None:
        raise HsmUnavailableError("no answer")

    monkeypatch.setattr(audit_log, "INTERVAL_S", 0.0)
    with Keystore.open(ks_home) as keystore:
        use(keystore)
        keystore.audits.tend()
        with monkeypatch.context() as patched:
            patched.setattr(keystore._service(EU).ledger, "commit", fail)
            keystore.audits._logs[EU].record(_event(keystore))
            keystore.audits.tend()
        assert "no checkpoint: no answer" in caplog.text
        use(keystore)
        keystore.audits.tend()
        assert found(keystore) == [(OPEN, "")]


def test_a_process_that_tends_no_log_is_confirmed_all_the_same(
    ks_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command may take hours: what it did must not wait for its end."""
    with Keystore.open(ks_home) as keystore:
        made = keystore.generate_data_key(MAIN, {}, region=EU)
        before = len(records(ks_home, EU))
        monkeypatch.setattr(audit_log, "INTERVAL_S", 0.0)
        keystore.unwrap(made.blob, {}, ref=made.key_arn)
        assert [record["action"] for record in records(ks_home, EU)[before:]] == ["Decrypt"]
        use(keystore)
        assert [finding.unconfirmed for finding in keystore.verify_audit(EU)] == [0]


def test_a_full_segment_that_cannot_be_closed_fails_no_use(
    ks_home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Keystore.open(ks_home) as keystore:
        use(keystore)
        log, ledger = keystore.audits._logs[EU], keystore._service(EU).ledger
        monkeypatch.setattr(log, "_max_size", 0)
        monkeypatch.setattr(log, "_full", 0)
        real, commits = ledger.commit, count()

        def fail_to_close(decide: Any) -> Any:
            if next(commits) == 1:  # after the new segment was begun
                raise HsmUnavailableError("no answer")
            return real(decide)

        monkeypatch.setattr(ledger, "commit", fail_to_close)
        log.record(_event(keystore))
        assert "not closed: no answer" in caplog.text
        monkeypatch.undo()
        assert found(keystore) == [(OPEN, ""), (OPEN, "")]
