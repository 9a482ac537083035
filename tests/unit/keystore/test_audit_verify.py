"""What ``verify_audit`` finds of a log that somebody changed."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from testkit.audits import files, segment

from kmsfs.errors import AuditBrokenError, MetadataTamperedError
from kmsfs.keystore.audit_log import AuditLog
from kmsfs.keystore.audit_verify import CLOSED, OPEN, UNKNOWN, SegmentFinding, read_records
from kmsfs.keystore.home import audit_path
from kmsfs.keystore.service import Keystore

EU = "eu-west-1"
MAIN = "alias/main"


@pytest.fixture
def closed(ks_home: Path) -> Path:
    """The home of a log with closed segments and an open one."""
    with Keystore.open(ks_home) as keystore:
        service = keystore._service(EU)
        directory = audit_path(ks_home, service.config.region)
        keystore.audits._logs[EU] = AuditLog(
            directory, service.config, service.hsm, service.ledger, "cli", max_segment_size=1500
        )
        for _ in range(30):
            keystore.encrypt(MAIN, b"x", {}, region=EU)
    assert len(files(ks_home, EU)) >= 3
    return ks_home


def verified(home: Path) -> list[SegmentFinding]:
    with Keystore.open(home) as keystore:
        return keystore.verify_audit(EU)


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def drop(number: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        found = lines(path)
        del found[number]
        path.write_bytes(b"".join(found))

    return damage


def swap(path: Path) -> None:
    first, second, *others = lines(path)
    path.write_bytes(b"".join([second, first, *others]))


def repeat(path: Path) -> None:
    path.write_bytes(path.read_bytes() + lines(path)[-1])


def add_foreign(path: Path) -> None:
    path.write_bytes(path.read_bytes() + segment(1)[0][0])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def cut_break(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def change_break(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"\x0b")


DAMAGES = {
    "a flipped bit": flip,
    "the first record away": drop(0),
    "one away from the middle": drop(2),
    "the last one away": drop(-1),
    "two exchanged": swap,
    "one repeated": repeat,
    "one of another segment": add_foreign,
    "cut within a record": cut,
    "the last line break away": cut_break,
    "another line break": change_break,
    "emptied": lambda path: path.write_bytes(b""),
    "removed": Path.unlink,
}


def test_a_sound_log(closed: Path) -> None:
    findings = verified(closed)
    assert [finding.problem for finding in findings] == [""] * len(findings)
    assert [finding.state for finding in findings] == [CLOSED] * (len(findings) - 1) + [OPEN]
    assert [finding.segment for finding in findings] == [path.stem for path in files(closed, EU)]
    assert sum(finding.records for finding in findings) == len(list(read_records(closed / "audit" / EU)))


@pytest.mark.parametrize("which", [0, -1], ids=["closed", "open"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_done_to_a_segment_is_found(closed: Path, damage: str, which: int) -> None:
    path = files(closed, EU)[which]
    DAMAGES[damage](path)
    assert [finding.segment for finding in verified(closed) if finding.problem] == [path.stem]


def test_a_tail_that_no_checkpoint_confirms_can_be_cut_unnoticed(ks_home: Path) -> None:
    """What docs/operations.md says: up to a minute of a running process, and what a killed one wrote last."""
    with Keystore.open(ks_home) as keystore:
        for _ in range(3):
            keystore.encrypt(MAIN, b"x", {}, region=EU)
        (finding,) = keystore.verify_audit(EU)
        assert (finding.problem, finding.unconfirmed) == ("", 3)
        (path,) = files(ks_home, EU)
        path.write_bytes(b"".join(lines(path)[:-1]))
        (finding,) = keystore.verify_audit(EU)
        assert (finding.problem, finding.unconfirmed) == ("", 2)


def test_segments_that_changed_places(closed: Path) -> None:
    first, second = files(closed, EU)[:2]
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    assert [bool(finding.problem) for finding in verified(closed)][:2] == [True, True]


def test_a_segment_of_another_region(closed: Path) -> None:
    other = files(closed, "us-east-1")[0]
    shutil.copy(other, closed / "audit" / EU / other.name)
    (found,) = [finding for finding in verified(closed) if finding.problem]
    assert (found.state, found.segment) == (UNKNOWN, other.stem)


def test_an_empty_segment_that_was_never_begun_is_no_finding(closed: Path) -> None:
    """What a crash between the file and its row leaves."""
    (closed / "audit" / EU / "20260101T000000.000000Z-0011223344556677.jsonl").touch()
    assert not any(finding.problem for finding in verified(closed))


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM audit_segments WHERE region = 'eu-west-1'",
        "UPDATE audit_segments SET records = records - 1 WHERE closed_at IS NOT NULL",
        "UPDATE audit_segments SET closed_at = NULL",
    ],
)
def test_the_metadata_of_a_log_are_authentic_too(closed: Path, statement: str) -> None:
    with closing(sqlite3.connect(closed / "metadata.db")) as database, database:
        database.execute(statement)
    with pytest.raises(MetadataTamperedError):
        verified(closed)


def test_metadata_that_were_set_back_do_not_know_newer_segments(ks_home: Path, tmp_path: Path) -> None:
    kept = {path: path.read_bytes() for path in ks_home.glob("metadata.db*")}
    with Keystore.open(ks_home) as one, Keystore.open(ks_home) as two:
        one.encrypt(MAIN, b"x", {}, region=EU)
        two.encrypt(MAIN, b"x", {}, region=EU)
    for path in ks_home.glob("metadata.db*"):
        path.unlink()
    for path, content in kept.items():
        path.write_bytes(content)
    assert [finding.state for finding in verified(ks_home) if finding.problem] == [UNKNOWN]


def test_reading_stops_at_what_is_no_record(closed: Path) -> None:
    path = files(closed, EU)[0]
    path.write_bytes(b"no record\n" + path.read_bytes())
    with pytest.raises(AuditBrokenError, match=r"line 1 is no record"):
        list(read_records(closed / "audit" / EU))


def test_nothing_recorded_yet(tmp_path: Path) -> None:
    with Keystore.open(tmp_path) as keystore:
        keystore.add_region(EU)
        assert keystore.verify_audit() == []
        assert list(keystore.audits.read(keystore.regions()[0].region)) == []
