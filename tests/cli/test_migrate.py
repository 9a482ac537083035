"""``kmsfs migrate``: plan, run, pause, resume after kill -9, cancel, verify, refusals."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from testkit.home import Home, refused
from testkit.migrating import await_done, start
from testkit.mounting import Mount
from testkit.terminal import on_terminal
from testkit.tool_trees import slot_keys

from kmsfs.cli.exitcodes import ExitCode
from kmsfs.tree.directories import is_entry

US = "us-east-1"
FILES = 600


@pytest.fixture
def filled(mounted: Mount) -> Path:
    """A tree with more files than go into one batch, unmounted."""
    for directory in range(3):
        (mounted.path / f"d{directory}").mkdir()
        for number in range(FILES // 3):
            (mounted.path / f"d{directory}" / f"f{number}").write_text(f"{directory}.{number}")
    mounted.unmount()
    return mounted.tree


def check_content(mount: Mount) -> None:
    for directory in range(3):
        for number in range(FILES // 3):
            path = mount.path / f"d{directory}" / f"f{number}"
            assert path.read_text() == f"{directory}.{number}"


@pytest.fixture
def slow(home: Home, filled: Path, us_key: str) -> Iterator[subprocess.Popen[str]]:
    """A migration that takes its time, and has begun."""
    process = start(home, filled, us_key)
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


def test_plan_run_verify(home: Home, filled: Path, mounted: Mount, eu_key: str, us_key: str) -> None:
    plan = home.json("migrate", filled, "--to-key", us_key, "--dry-run")
    assert (plan["files"], plan["to_change"], plan["hsm_calls"]) == (FILES, FILES, 2 * FILES)
    assert slot_keys(filled) == {(eu_key,)}
    failed = json.loads(home.run("migrate", filled, "--to-key", us_key, "--verify", "--json").stdout)
    assert len(failed["failed"]) == FILES
    told = home.json("migrate", filled, "--to-key", us_key)
    assert (told["complete"], told["changed"], told["failed"]) == (True, FILES, [])
    assert slot_keys(filled) == {(us_key,)}
    verdict = home.json("migrate", filled, "--to-key", us_key, "--verify")
    assert (verdict["files"], verdict["failed"]) == (FILES, [])
    assert home.json("migrate", filled, "--status")["state"] == "done"
    home.ok("key", "disable", eu_key)
    mounted.start()
    check_content(mounted)


def test_killed_and_resumed(
    home: Home, filled: Path, mounted: Mount, eu_key: str, us_key: str, slow: subprocess.Popen[str]
) -> None:
    await_done(home, slow)
    slow.kill()
    slow.communicate()
    mounted.start()
    check_content(mounted)
    mounted.unmount()
    status = home.json("migrate", filled, "--status")
    assert status["state"] == "running"
    assert 0 < status["done"] < FILES
    told = home.json("migrate", filled, "--resume")
    assert told["complete"]
    assert slot_keys(filled) == {(us_key,)}
    journal = Path(told["journal"], "journal.jsonl")
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    batches = [record["intended"] for record in records if "intended" in record]
    undone = [record["undone"] for record in records if "undone" in record]
    done = [
        entry[0]
        for batch, not_done in zip(batches, undone, strict=True)
        for at, entry in enumerate(batch)
        if at not in not_done
    ]
    assert len(set(done)) == FILES
    assert home.json("migrate", filled, "--status")["done"] == len(done)


def test_paused_by_a_signal(home: Home, filled: Path, us_key: str, slow: subprocess.Popen[str]) -> None:
    await_done(home, slow)
    slow.send_signal(signal.SIGTERM)
    out, err = slow.communicate()
    assert (slow.returncode, out) == (ExitCode.STOPPED, "")
    assert err.startswith("kmsfs: migration of ")
    assert home.json("migrate", filled, "--status")["state"] == "paused"
    assert "--resume" in refused(home.run("migrate", filled, "--pause"), ExitCode.USAGE)
    assert home.json("migrate", filled, "--resume")["complete"]
    assert slot_keys(filled) == {(us_key,)}


def test_paused_by_command(home: Home, filled: Path, us_key: str, slow: subprocess.Popen[str]) -> None:
    await_done(home, slow)
    slow.send_signal(signal.SIGSTOP)  # it must not be done before it is asked
    home.ok("migrate", filled, "--pause")
    slow.send_signal(signal.SIGCONT)
    slow.communicate()
    assert slow.returncode == ExitCode.STOPPED
    assert home.json("migrate", filled, "--status")["state"] == "paused"
    assert home.json("migrate", filled, "--resume")["complete"]
    assert slot_keys(filled) == {(us_key,)}


def test_what_is_resumed_touches_files_as_it_was_begun(home: Home, filled: Path, us_key: str) -> None:
    """Else a backup that goes by the modification time keeps the slots of what came after the stop."""
    before = {path: path.stat().st_mtime_ns for path in filled.rglob("*") if is_file_of(path)}
    process = start(home, filled, us_key, "--touch")
    await_done(home, process)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert home.json("migrate", filled, "--resume")["complete"]
    later = {path.stat().st_mtime_ns - then for path, then in before.items()}
    assert (len(before), later) == (FILES, {1_000_000_000})


def is_file_of(path: Path) -> bool:
    return path.is_file() and is_entry(os.fsencode(path.name))


def test_a_wish_to_pause_what_does_not_run_is_refused_and_forgotten(
    home: Home, filled: Path, us_key: str, slow: subprocess.Popen[str]
) -> None:
    await_done(home, slow)
    slow.kill()
    slow.communicate()
    assert "--resume" in refused(home.run("migrate", filled, "--pause"), ExitCode.USAGE)
    assert home.json("migrate", filled, "--resume")["complete"]
    assert "is done" in refused(home.run("migrate", filled, "--pause"), ExitCode.USAGE)


@pytest.mark.parametrize("how", ["--resume", "--to-key"])
def test_what_was_killed_before_its_report_is_gone_on_with(
    home: Home, filled: Path, us_key: str, eu_key: str, how: str
) -> None:
    """The report of the next one would tell nothing of what this one has done."""
    told = home.json("migrate", filled, "--to-key", us_key)
    Path(told["report"]).unlink()  # the last thing that is written
    again = home.json("migrate", filled, how, *([us_key] if how == "--to-key" else []))
    assert (again["changed"], again["report"]) == (0, told["report"])
    assert home.json("report", "verify", again["report"])["files"] == FILES
    refused(home.run("migrate", filled, "--resume"), ExitCode.USAGE)
    Path(told["report"]).unlink()
    back = home.json("migrate", filled, "--to-key", eu_key)
    assert (back["changed"], back["journal"] == told["journal"]) == (FILES, False)


def test_cancelled(
    home: Home, filled: Path, eu_key: str, us_key: str, slow: subprocess.Popen[str], mounted: Mount
) -> None:
    await_done(home, slow)
    slow.send_signal(signal.SIGSTOP)
    refused(home.run("migrate", filled, "--cancel"), ExitCode.TREE_BUSY)
    slow.kill()
    slow.communicate()
    assert us_key in home.ok("migrate", filled, "--cancel")
    assert home.json("migrate", filled, "--status")["state"] == "cancelled"
    refused(home.run("migrate", filled, "--resume"), ExitCode.USAGE)
    assert home.json("migrate", filled, "--to-key", eu_key)["complete"]
    assert slot_keys(filled) == {(eu_key,)}
    mounted.start()
    check_content(mounted)


def test_two_at_once(home: Home, filled: Path, us_key: str, slow: subprocess.Popen[str]) -> None:
    await_done(home, slow)
    slow.send_signal(signal.SIGSTOP)  # it must not be done before the others have come
    refused(home.run("migrate", filled, "--to-key", us_key), ExitCode.TREE_BUSY)
    refused(home.run("rewrap", filled), ExitCode.TREE_BUSY)


def test_refusals(home: Home, filled: Path, eu_key: str, us_key: str, tmp_path: Path) -> None:
    refused(home.run("migrate", filled), ExitCode.USAGE)
    refused(home.run("migrate", filled, "--resume"), ExitCode.USAGE)
    refused(home.run("migrate", filled, "--pause", "--cancel"), ExitCode.USAGE)
    refused(home.run("migrate", filled, "--status"), ExitCode.USAGE)
    refused(home.run("migrate", tmp_path, "--to-key", us_key), ExitCode.NOT_A_TREE)
    unknown = us_key[:-12] + "0" * 12
    refused(home.run("migrate", filled, "--to-key", unknown), ExitCode.NOT_FOUND)
    refused(home.run("migrate", filled, "--to-key", us_key.replace(US, "mars-1")), ExitCode.NOT_FOUND)
    home.ok("key", "disable", us_key)
    refused(home.run("migrate", filled, "--to-key", us_key), ExitCode.KEY_DISABLED)
    assert not (home.path / "migrations").exists()
    assert slot_keys(filled) == {(eu_key,)}
    assert home.json("migrate", filled, "--to-key", eu_key)["changed"] == 0


def test_another_migration_is_not_begun_over_an_open_one(
    home: Home, filled: Path, eu_key: str, us_key: str, slow: subprocess.Popen[str]
) -> None:
    await_done(home, slow)
    slow.kill()
    slow.communicate()
    refused(home.run("migrate", filled, "--to-key", eu_key), ExitCode.USAGE)
    journal = next((home.path / "migrations").rglob("journal.jsonl"))
    text = journal.read_text()
    journal.write_text(text.replace('"kmsfs_migration":1', '"kmsfs_migration":2', 1))
    refused(home.run("migrate", filled, "--resume"), ExitCode.FORMAT_UNSUPPORTED)
    journal.write_text(text)
    assert home.json("migrate", filled, "--resume")["complete"]
    assert os.fspath(journal) == home.json("migrate", filled, "--status")["journal"] + "/journal.jsonl"


def test_reencrypt_gives_new_data_keys(
    home: Home, filled: Path, mounted: Mount, eu_key: str, us_key: str, tmp_path: Path
) -> None:
    shutil.copytree(filled, tmp_path / "kept", symlinks=True)
    told = home.json("migrate", filled, "--to-key", us_key, "--reencrypt")
    assert (told["complete"], told["changed"], told["failed"]) == (True, FILES, [])
    assert slot_keys(filled) == {(us_key,)}
    kept = {path.relative_to(tmp_path / "kept"): path for path in (tmp_path / "kept").rglob("*")}
    for place, path in kept.items():
        if path.is_file() and path.stat().st_size > 2048:
            old, new = path.read_bytes(), (filled / place).read_bytes()
            assert old[64:96] != new[64:96], "the commitment is that of another data key"
            assert old[32:64] == new[32:64], "the file id stays"
    mounted.start()
    check_content(mounted)
    refused(
        home.run("migrate", mounted.path, "--to-key", eu_key, "--reencrypt", "--scheduler", "x"),
        ExitCode.USAGE,
    )
    refused(home.run("migrate", mounted.path, "--to-key", eu_key, "--reencrypt"), ExitCode.TREE_BUSY)
    assert home.json("migrate", mounted.path, "--status")["state"] == "done", "no other one was begun"


def test_reencryption_killed_and_resumed(
    home: Home, filled: Path, mounted: Mount, us_key: str, tmp_path: Path
) -> None:
    process = start(home, filled, us_key, "--reencrypt")
    await_done(home, process)
    process.kill()
    process.communicate()
    refused_to = home.run("migrate", filled, "--to-key", us_key, "--reencrypt", "--dry-run")
    assert refused_to.returncode == 0, "planning holds nothing"
    mounted.start()
    check_content(mounted)
    mounted.unmount()
    assert home.json("migrate", filled, "--resume")["complete"]
    assert slot_keys(filled) == {(us_key,)}
    mounted.start()
    check_content(mounted)


def test_a_terminal_is_told_how_far_it_is(home: Home, filled: Path, us_key: str) -> None:
    code, shown = on_terminal(home, "migrate", filled, "--to-key", us_key, "--rate", "2000")
    assert code == 0
    assert re.search(rf"\[#+\.+\] +\d+%  \d+ of {FILES} files  [\d,]+/s  \d:\d\d left", shown), shown
