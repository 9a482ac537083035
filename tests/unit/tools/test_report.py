"""The report of a migration: what is in it, that it is signed, and that nothing else passes for it."""

import json
import os
import subprocess
import tracemalloc
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from testkit.disks import fill, small_filesystem
from testkit.home import Home

from kmsfs.errors import (
    FormatError,
    IntegrityError,
    InvalidRequestError,
    KmsfsError,
    TokenNotFoundError,
    UnsupportedFormatError,
)
from kmsfs.format.blob import BlobHead, Suite
from kmsfs.ids import FileId, KeyArn, MaterialId, TreeId
from kmsfs.keystore.audit import timestamp
from kmsfs.keystore.service import Keystore
from kmsfs.tools import journal, report
from kmsfs.tools.journal import Journal, State, new_task, read
from kmsfs.tools.passes import Failure, Job, Outcome, Planned
from kmsfs.tree.rekey import Swap

TREE = TreeId(b"t" * 16)
EU, US = "eu-west-1", "us-east-1"
SUFFIXES = (".jsonl", ".sig", ".pem")


def head(arn: str, material: bytes) -> BlobHead:
    return BlobHead(Suite.HSM_GCM, KeyArn(arn), MaterialId(material * 32))


def planned(number: int, old: BlobHead, new: BlobHead, path: str = "") -> Planned:
    name = path.encode() or b"d/f%d" % number
    return Planned(
        Job(name, -1, b"", (new.key_arn,)), Swap(FileId(bytes([number]) * 32), 1, 0, b"", (old,), (new,))
    )


class Kept:
    """A journal that is written as a migration does, and its report."""

    def __init__(self, home: Path, from_key: str, to_key: str) -> None:
        self.old, self.new, self.newer = head(from_key, b"o"), head(to_key, b"n"), head(to_key, b"r")
        task = new_task(TREE, Path("/trees/a"), to_key, [from_key], touch=False)
        with Journal.begin(home, task) as begun:
            self.directory = begun.directory
        self.report = self.directory / report.NAME

    def change(self, *batch: Planned, outcomes: tuple[Outcome, ...] | None = None) -> None:
        with Journal.resume(self.directory, TREE) as resumed:
            resumed.intend(batch)
            resumed.settle(batch, outcomes or [Outcome.DONE] * len(batch))

    def end(self, state: State = State.DONE) -> None:
        with Journal.resume(self.directory, TREE) as resumed:
            resumed.set_state(state)

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.report.read_bytes().splitlines()]


@pytest.fixture
def kept(tmp_path: Path, eu_key: KeyArn, us_key: KeyArn) -> Kept:
    """A journal of three files, one of which was changed twice."""
    kept = Kept(tmp_path, eu_key, us_key)
    one, two, three = (planned(number, kept.old, kept.new) for number in (3, 1, 2))
    kept.change(one, two, outcomes=(Outcome.DONE, Outcome.CHANGED))
    kept.change(two, three)
    kept.change(planned(1, kept.new, kept.newer, "moved/f1"))
    return kept


def slot(blob: BlobHead) -> dict[str, str]:
    return {"key_arn": blob.key_arn, "material_id": blob.material_id.hex()}


def test_every_file_is_in_it_once_with_what_it_was_and_is(keystore: Keystore, kept: Kept) -> None:
    kept.end()
    report.write(keystore, kept.directory)
    first, *files, last = kept.records()
    reading = read(kept.directory / journal.NAME)
    assert first == {
        "record": "migration",
        "kmsfs_report": 1,
        "migration_id": kept.directory.name,
        "tree_id": TREE.hex(),
        "tree": "/trees/a",
        "copy_of": None,
        "key_to": kept.new.key_arn,
        "keys_from": [kept.old.key_arn],
        "reencrypt": False,
        "started": timestamp(reading.task.started_at),
        "ended": timestamp(reading.at),
        "state": "done",
        "files": 3,
        "failures": 0,
    }
    assert reading.task.started_at < reading.at
    assert files == [
        {
            "record": "file",
            "file_id": bytes([number]).hex() * 32,
            "path": path,
            "old": [slot(kept.old)],
            "new": [slot(new)],
        }
        for number, path, new in ((1, "moved/f1", kept.newer), (2, "d/f2", kept.new), (3, "d/f3", kept.new))
    ]
    assert last == {"record": "end", "files": 3, "failures": 0}


def test_openssl_verifies_it(keystore: Keystore, kept: Kept) -> None:
    kept.end()
    written = report.write(keystore, kept.directory)
    assert openssl_verifies(kept.directory)
    assert report.verify(keystore, kept.report) == written
    assert written.key == keystore.report_key(US), "the region that the files went to"
    assert sorted(path.name for path in kept.directory.iterdir()) == [
        "journal.jsonl", "report.jsonl", "report.pem", "report.sig"
    ]  # fmt: skip
    assert {path.stat().st_mode & 0o777 for path in kept.directory.iterdir()} == {0o600}
    content = kept.report.read_bytes()
    report.write(keystore, kept.directory)
    assert kept.report.read_bytes() == content, "the same journal, the same report"


def openssl_verifies(directory: Path) -> bool:
    names = ("-verify", "report.pem", "-signature", "report.sig", "report.jsonl")
    done = subprocess.run(["openssl", "dgst", "-sha256", *names], cwd=directory, capture_output=True)
    return done.stdout == b"Verified OK\n"


def test_what_was_left_behind_is_in_it_until_it_is_mended(keystore: Keystore, kept: Kept) -> None:
    left = [Failure(b"d/bad", "file header does not verify"), Failure(b"d/\xff", "input/output error")]
    for failures in (left, left[:1]):
        with Journal.resume(kept.directory, TREE) as resumed:
            resumed.fail(failures)
    report.write(keystore, kept.directory)
    first, *_, failed, last = kept.records()
    assert (first["state"], first["files"], first["failures"]) == ("incomplete", 3, 1)
    assert failed == {"record": "failure", "path": "d/bad", "reason": "file header does not verify"}
    assert last == {"record": "end", "files": 3, "failures": 1}
    with Journal.resume(kept.directory, TREE) as resumed:
        resumed.fail(left)
    report.write(keystore, kept.directory)
    assert [os.fsencode(record["path"]) for record in kept.records()[-3:-1]] == [b"d/bad", b"d/\xff"]
    kept.end()
    report.write(keystore, kept.directory)
    assert (kept.records()[0]["state"], kept.records()[0]["failures"]) == ("done", 0)
    assert "failure" not in {record["record"] for record in kept.records()}


@pytest.mark.parametrize("state", [State.PAUSED, State.CANCELLED])
def test_one_that_was_stopped_says_so(keystore: Keystore, kept: Kept, state: State) -> None:
    kept.end(state)
    report.write(keystore, kept.directory)
    assert kept.records()[0]["state"] == state.value


def test_one_that_was_interrupted_has_none(keystore: Keystore, kept: Kept) -> None:
    with Journal.resume(kept.directory, TREE) as resumed:
        resumed.intend([planned(4, kept.old, kept.new)])
    with pytest.raises(InvalidRequestError, match="was interrupted"):
        report.write(keystore, kept.directory)
    assert not kept.report.exists()


def test_no_file_at_all(keystore: Keystore, tmp_path: Path, eu_key: KeyArn, us_key: KeyArn) -> None:
    kept = Kept(tmp_path, eu_key, us_key)
    kept.end()
    report.write(keystore, kept.directory)
    assert [record["record"] for record in kept.records()] == ["migration", "end"]
    assert openssl_verifies(kept.directory)


# --- what does not pass for it ------------------------------------------------------------------
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("part", range(12))
def test_a_flipped_bit_is_refused(keystore: Keystore, kept: Kept, suffix: str, part: int) -> None:
    kept.end()
    report.write(keystore, kept.directory)
    path = kept.report.with_suffix(suffix)
    raw = bytearray(path.read_bytes())
    raw[len(raw) * part // 12] ^= 1 << part % 8
    path.write_bytes(raw)
    with pytest.raises(KmsfsError):
        report.verify(keystore, kept.report)
    raw[len(raw) * part // 12] ^= 1 << part % 8
    path.write_bytes(raw)
    report.verify(keystore, kept.report)


def _cut(kept: Kept) -> None:
    kept.report.write_bytes(b"".join(kept.report.read_bytes().splitlines(keepends=True)[:-1]))


def _lengthened(kept: Kept) -> None:
    with kept.report.open("ab") as file:
        file.write(b"{}\n")


def _edited(kept: Kept) -> None:
    kept.report.write_bytes(kept.report.read_bytes().replace(b"d/f2", b"d/f9"))


def _signed_by_another(kept: Kept) -> None:
    """All three files are in accord, under a key of the forger's."""
    _edited(kept)
    forger = ec.generate_private_key(ec.SECP256R1())
    signature = forger.sign(kept.report.read_bytes(), ec.ECDSA(hashes.SHA256()))
    kept.report.with_suffix(".sig").write_bytes(signature)
    public = forger.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    kept.report.with_suffix(".pem").write_bytes(public)
    assert openssl_verifies(kept.directory)


@pytest.mark.parametrize("forge", [_cut, _lengthened, _edited, _signed_by_another])
def test_what_the_region_did_not_sign(keystore: Keystore, kept: Kept, forge: Callable[[Kept], None]) -> None:
    kept.end()
    report.write(keystore, kept.directory)
    forge(kept)
    with pytest.raises(
        IntegrityError, match=r"report.jsonl with report.sig is not what region us-east-1 signed"
    ):
        report.verify(keystore, kept.report)


def test_what_another_region_signed(keystore: Keystore, kept: Kept) -> None:
    kept.end()
    report.write(keystore, kept.directory)
    key, signature = keystore.sign_report(EU, sha256(kept.report.read_bytes()).digest())
    kept.report.with_suffix(".sig").write_bytes(signature)
    kept.report.with_suffix(".pem").write_bytes(key.pem)
    with pytest.raises(IntegrityError, match="is not what region us-east-1 signed"):
        report.verify(keystore, kept.report)


def test_another_public_key_beside_a_true_report(keystore: Keystore, kept: Kept) -> None:
    kept.end()
    report.write(keystore, kept.directory)
    kept.report.with_suffix(".pem").write_bytes(keystore.report_key(EU).pem)
    with pytest.raises(IntegrityError, match=r"report.pem is not the report key of region us-east-1"):
        report.verify(keystore, kept.report)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", FormatError),
        (b"not json\n", FormatError),
        (b"[]\n", FormatError),
        (b'{"kmsfs_report": "1"}\n', FormatError),
        (b'{"kmsfs_report": 1}\n', FormatError),
        (b'{"kmsfs_report": 1, "key_to": "alias/files"}\n', FormatError),
        (b'{"kmsfs_report": 1, "key_to": "us-east-1"}\n', FormatError),
        (b'{"kmsfs_report": 2}\n', UnsupportedFormatError),
        (b" " * (1 << 20), FormatError),
    ],
)
def test_what_is_no_report(
    keystore: Keystore, tmp_path: Path, content: bytes, error: type[KmsfsError]
) -> None:
    (tmp_path / "report.jsonl").write_bytes(content)
    with pytest.raises(error) as caught:
        report.verify(keystore, tmp_path / "report.jsonl")
    assert type(caught.value) is error


# --- whole or not at all ------------------------------------------------------------------------
def test_what_a_kill_left_is_in_nobodys_way(keystore: Keystore, kept: Kept) -> None:
    kept.end()
    left = [f"report{suffix}.partial" for suffix in SUFFIXES] + ["report.db"]
    for name in left:
        (kept.directory / name).write_bytes(b"half of it")
    report.write(keystore, kept.directory)
    assert not any((kept.directory / name).exists() for name in left)
    assert openssl_verifies(kept.directory)


def test_one_that_cannot_be_signed_leaves_the_one_before(keystore: Keystore, kept: Kept, home: Home) -> None:
    report.write(keystore, kept.directory)
    before = {suffix: kept.report.with_suffix(suffix).read_bytes() for suffix in SUFFIXES}
    kept.end()
    (home.path / "softhsm" / "tokens").rename(home.path / "away")
    with pytest.raises(TokenNotFoundError):
        report.write(keystore, kept.directory)
    assert {suffix: kept.report.with_suffix(suffix).read_bytes() for suffix in SUFFIXES} == before
    assert len(list(kept.directory.iterdir())) == 4


@pytest.mark.parametrize("last", range(3))
def test_a_report_that_is_there_has_its_signature(
    keystore: Keystore, kept: Kept, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    """A crash before each of the files gets its name."""
    report.write(keystore, kept.directory)
    kept.end()
    done = 0
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        nonlocal done
        if done == last:
            raise OSError("the power went")
        done += 1
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(OSError, match="the power went"):
        report.write(keystore, kept.directory)
    assert not kept.report.exists()
    monkeypatch.undo()
    report.write(keystore, kept.directory)
    assert report.verify(keystore, kept.report).head["state"] == "done"


def many(home: Path, count: int) -> Kept:
    """A journal of many files, in batches of a few."""
    kept = Kept(home, f"arn:aws:kms:{EU}:000000000000:key/a", f"arn:aws:kms:{US}:000000000000:key/b")
    slots = [[[blob.key_arn, blob.material_id.hex()]] for blob in (kept.old, kept.new)]
    with (kept.directory / journal.NAME).open("a") as file:
        for at in range(0, count, 100):
            batch = [
                [sha256(b"%d" % number).hexdigest(), f"d/{number}", *slots] for number in range(at, at + 100)
            ]
            file.write(json.dumps({"intended": batch}) + '\n{"undone":[]}\n')
    return kept


def test_a_full_disk_is_told_and_leaves_nothing_behind(keystore: Keystore, tmp_path: Path) -> None:
    with small_filesystem(tmp_path / "small", 2 << 20) as small:
        kept = many(small, 2000)
        filler = fill(small, leave=400 << 10)
        with pytest.raises(OSError, match="No space left") as caught:
            report.write(keystore, kept.directory)
        assert str(caught.value.filename).startswith(str(kept.directory))
        assert [path.name for path in kept.directory.iterdir()] == [journal.NAME]
        filler.unlink()
        report.write(keystore, kept.directory)
        assert openssl_verifies(kept.directory)


def test_memory_does_not_grow_with_the_number_of_files(keystore: Keystore, tmp_path: Path) -> None:
    def peak(count: int) -> int:
        kept = many(tmp_path, count)
        tracemalloc.start()
        try:
            report.write(keystore, kept.directory)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(100)  # what is imported and cached at first use
    few, more = peak(2000), peak(20_000)
    assert more - few < 1 << 19
