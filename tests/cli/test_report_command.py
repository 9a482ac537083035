"""The signed report of a migration: written at its end, verified by openssl and by the token."""

import json
import os
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from testkit.home import Home, refused
from testkit.migrating import await_done, start
from testkit.mounting import Mount
from testkit.tokens import build_shim, make_softhsm, make_token

from kmsfs.cli.exitcodes import ExitCode
from kmsfs.format.blob import parse_blob_head
from kmsfs.format.header import FileHeader
from kmsfs.format.layout import HEADER_COPY_SIZE, HEADER_SIZE
from kmsfs.tree.directories import is_entry

US = "us-east-1"
FEW, MANY = 40, 600  # many: more than go into a few batches

Slots = list[dict[str, str]]


def fill(mounted: Mount, count: int) -> Path:
    for number in range(count):
        (mounted.path / f"f{number}").write_text(f"{number}")
    mounted.unmount()
    return mounted.tree


@pytest.fixture
def filled(mounted: Mount) -> Path:
    """A tree with some files, unmounted."""
    return fill(mounted, FEW)


@pytest.fixture
def large(mounted: Mount) -> Path:
    """A tree that takes a while, unmounted."""
    return fill(mounted, MANY)


def stored(tree: Path) -> dict[str, tuple[str, Slots]]:
    """Path and slots of every file on the store, by file id."""
    found = {}
    for path in tree.rglob("*"):
        if path.is_file() and is_entry(os.fsencode(path.name)) and path.stat().st_size >= HEADER_SIZE:
            raw = path.read_bytes()
            copies = (FileHeader.parse(raw[at:][:HEADER_COPY_SIZE]) for at in (0, HEADER_COPY_SIZE))
            header = max(copies, key=lambda copy: copy.generation)
            heads = [parse_blob_head(slot) for slot in header.slots]
            slots = [{"key_arn": head.key_arn, "material_id": head.material_id.hex()} for head in heads]
            found[header.file_id.hex()] = (str(path.relative_to(tree)), slots)
    return found


def records(report: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(report).read_text().splitlines()]


def openssl(report: str) -> str:
    """What an auditor's openssl says, who has nothing but the three files."""
    names = ("-verify", "report.pem", "-signature", "report.sig", "report.jsonl")
    done = subprocess.run(
        ["openssl", "dgst", "-sha256", *names], cwd=Path(report).parent, capture_output=True, text=True
    )
    return done.stdout


def check_against_store(
    report: str, before: dict[str, tuple[str, Slots]], after: dict[str, tuple[str, Slots]]
) -> None:
    """Every file id is listed, once, with its slots of before and after."""
    files = [record for record in records(report) if record["record"] == "file"]
    assert len(files) == len(before)
    assert {file["file_id"]: (file["path"], file["old"]) for file in files} == before
    assert {file["file_id"]: (file["path"], file["new"]) for file in files} == after


@pytest.mark.parametrize("options", [(), ("--reencrypt",)])
def test_a_migration_ends_with_it(
    home: Home, filled: Path, us_key: str, tmp_path: Path, options: tuple[str, ...]
) -> None:
    handed_over = tmp_path / "us-east-1.pem"
    handed_over.write_text(home.ok("report", "key", "--region", US))
    before = stored(filled)
    told = home.json("migrate", filled, "--to-key", us_key, *options)
    report = told["report"]
    assert Path(report) == Path(told["journal"], "report.jsonl")
    check_against_store(report, before, stored(filled))
    assert openssl(report) == "Verified OK\n"
    assert Path(report).with_suffix(".pem").read_bytes() == handed_over.read_bytes()
    verified = home.json("report", "verify", report)
    der = subprocess.check_output(["openssl", "pkey", "-pubin", "-in", handed_over, "-outform", "DER"])
    shown = home.json("report", "key", "--region", US)
    assert verified["fingerprint"] == shown["fingerprint"] == sha256(der).hexdigest()
    assert (verified["region"], verified["key_to"], verified["tree"]) == (US, us_key, str(filled))
    assert (verified["state"], verified["files"], verified["failures"]) == ("done", FEW, 0)
    assert verified["reencrypt"] == bool(options)
    assert f"fingerprint  {shown['fingerprint']}\n" in home.ok("report", "verify", report)
    again = home.json("migrate", filled, "--to-key", us_key)["report"]
    assert [record["record"] for record in records(again)] == ["migration", "end"], "nothing was left to do"
    assert openssl(report) == "Verified OK\n", "the first one stays"
    home.ok("audit", "verify")
    uses = home.json("audit", "show", "--action", "kmsfs:SignReport")["Records"]
    assert [use["details"]["sha256"] for use in uses] == [
        sha256(Path(path).read_bytes()).hexdigest() for path in (report, again)
    ]


def test_one_that_was_killed_and_resumed(home: Home, large: Path, us_key: str) -> None:
    before = stored(large)
    process = start(home, large, us_key)
    await_done(home, process)
    refused(home.run("report", "create", large), ExitCode.TREE_BUSY)
    process.kill()
    process.communicate()
    assert not list((home.path / "migrations").rglob("report*"))
    report = home.json("migrate", large, "--resume")["report"]
    check_against_store(report, before, stored(large))
    assert openssl(report) == "Verified OK\n"
    assert home.json("report", "verify", report)["state"] == "done"


def test_one_that_was_killed_and_cancelled(home: Home, large: Path, us_key: str) -> None:
    before = stored(large)
    process = start(home, large, us_key)
    await_done(home, process)
    process.kill()
    process.communicate()
    home.ok("migrate", large, "--cancel")
    told = home.json("report", "create", large)
    assert (told["state"], openssl(told["report"])) == ("cancelled", "Verified OK\n")
    after = stored(large)
    files = {record["file_id"]: record for record in records(told["report"]) if record["record"] == "file"}
    assert set(files) == {file_id for file_id in before if before[file_id] != after[file_id]}
    assert 0 < len(files) < MANY
    assert all(
        (before[file_id][1], after[file_id][1]) == (f["old"], f["new"]) for file_id, f in files.items()
    )


def test_damaged_files_are_in_it(home: Home, filled: Path, us_key: str) -> None:
    path, _ = next(iter(stored(filled).values()))
    whole = (filled / path).read_bytes()
    (filled / path).write_bytes(b"x" * len(whole))
    done = home.run("migrate", filled, "--to-key", us_key, "--json")
    assert done.returncode == ExitCode.INCOMPLETE
    report = json.loads(done.stdout)["report"]
    verified = home.json("report", "verify", report)
    assert (verified["state"], verified["files"], verified["failures"]) == ("incomplete", FEW - 1, 1)
    (failure,) = [record for record in records(report) if record["record"] == "failure"]
    assert (failure["path"], bool(failure["reason"])) == (path, True)
    (filled / path).write_bytes(whole)
    assert home.json("migrate", filled, "--resume")["report"] == report
    verified = home.json("report", "verify", report)
    assert (verified["state"], verified["files"], verified["failures"]) == ("done", FEW, 0)


def test_what_does_not_verify(home: Home, filled: Path, us_key: str) -> None:
    report = Path(home.json("migrate", filled, "--to-key", us_key)["report"])
    for suffix in (".jsonl", ".sig", ".pem"):
        path = report.with_suffix(suffix)
        whole = path.read_bytes()
        path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        said = refused(home.run("report", "verify", report, "--json"), ExitCode.INTEGRITY)
        assert f"region {US}" in said
        path.write_bytes(whole)
    home.ok("report", "verify", report)
    report.with_suffix(".sig").unlink()
    refused(home.run("report", "verify", report), ExitCode.FAILED)
    refused(home.run("report", "verify", report.with_name("journal.jsonl")), ExitCode.FORMAT_INVALID)
    assert home.json("report", "create", filled)["report"] == str(report)
    home.ok("report", "verify", report)


def test_a_report_of_another_home(home: Home, filled: Path, us_key: str, empty_home: Home) -> None:
    report = home.json("migrate", filled, "--to-key", us_key)["report"]
    refused(empty_home.run("report", "verify", report), ExitCode.NOT_FOUND)
    empty_home.ok("region", "add", US)
    said = refused(empty_home.run("report", "verify", report), ExitCode.NOT_FOUND)
    assert f"region {US} has no report key" in said
    empty_home.ok("report", "key")
    refused(empty_home.run("report", "verify", report), ExitCode.INTEGRITY)


def test_a_tree_that_was_never_migrated(home: Home, filled: Path, tmp_path: Path) -> None:
    refused(home.run("report", "create", filled), ExitCode.USAGE)
    refused(home.run("report", "create", tmp_path), ExitCode.NOT_A_TREE)


def test_a_region_that_cannot_sign_takes_the_files_all_the_same(
    home: Home, filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = make_softhsm(tmp_path / "own")
    monkeypatch.setenv("SOFTHSM2_CONF", str(conf))
    monkeypatch.setenv("KMSFS_SHIM", "no-ec")
    shim, pin_file = build_shim(tmp_path, beside_softhsm=True), make_token(conf, "own")
    home.ok("region", "add", US, "--module", shim, "--token", "own", "--pin-file", pin_file)
    key = home.json("key", "create", "--region", US)["Arn"]
    done = home.run("migrate", filled, "--to-key", key, "--json")
    assert done.returncode == ExitCode.UNSUPPORTED
    assert done.stderr.startswith(f"kmsfs: module {shim} does not offer ECDSA on P-256: region {US} cannot ")
    told = json.loads(done.stdout)
    assert (told["complete"], told["changed"], told["report"]) == (True, FEW, None)
    assert home.json("migrate", filled, "--status")["state"] == "done"
    refused(home.run("report", "create", filled), ExitCode.UNSUPPORTED)
    monkeypatch.setenv("KMSFS_SHIM", "")
    first = home.json("migrate", filled, "--status")["journal"]
    assert home.json("migrate", filled, "--to-key", key)["journal"] == first, "it had no report"
    assert home.json("report", "create", filled)["files"] == FEW
    home.ok("migrate", filled, "--to-key", key)
    assert home.json("report", "create", filled)["files"] == 0, "the last one found nothing to do"
    told = home.json("report", "create", filled, "--migration", Path(first).name)
    assert (told["state"], told["files"], openssl(told["report"])) == ("done", FEW, "Verified OK\n")
    for unknown in ("20200101T000000Z-00000000", f"../{Path(first).parent.name}/{Path(first).name}"):
        refused(home.run("report", "create", filled, "--migration", unknown), ExitCode.USAGE)
