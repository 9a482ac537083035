"""``kmsfs migrate --copy-to``: the migrated tree elsewhere, whatever stops it, and the tree itself as it was."""

import signal
import subprocess
from pathlib import Path

import pytest
from testkit.disks import small_filesystem
from testkit.home import KMSFS, Home, refused
from testkit.migrating import await_done, start
from testkit.mounting import Mount, Mounter
from testkit.tool_trees import slot_keys
from testkit.waiting import await_true

from kmsfs.cli.exitcodes import ExitCode

FILES = 300


@pytest.fixture
def filled(mounted: Mount) -> Path:
    """A tree of some files and a zone's worth of directories, unmounted."""
    (mounted.path / "d").mkdir()
    for number in range(FILES):
        (mounted.path / ("d" if number % 2 else "") / f"f{number}").write_text(f"{number}" * 100)
    mounted.unmount()
    return mounted.tree


def stored(tree: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of every file on the store, by path."""
    return {
        str(path.relative_to(tree)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in tree.rglob("*")
        if path.is_file() and path.name != "kmsfs.work"
    }


def check_content(mount: Mount) -> None:
    for number in range(FILES):
        path = mount.path / ("d" if number % 2 else "") / f"f{number}"
        assert path.read_text() == f"{number}" * 100


@pytest.mark.parametrize("how", [(), ("--reencrypt",), ("--touch",)], ids=["rewrap", "reencrypt", "touch"])
def test_the_copy_is_migrated_and_the_tree_is_not(
    home: Home,
    filled: Path,
    mounter: Mounter,
    eu_key: str,
    us_key: str,
    tmp_path: Path,
    how: tuple[str, ...],
) -> None:
    before, copy = stored(filled), tmp_path / "deep" / "copy"
    plan = home.json("migrate", filled, "--to-key", us_key, "--copy-to", copy, "--dry-run")
    assert (plan["files"], plan["to_change"]) == (FILES, FILES)
    assert not copy.parent.exists()
    told = home.json("migrate", filled, "--to-key", us_key, "--copy-to", copy, *how)
    assert (told["complete"], told["changed"], told["failed"]) == (True, FILES, [])
    assert stored(filled) == before
    assert (slot_keys(filled), slot_keys(copy)) == ({(eu_key,)}, {(us_key,)})
    report = home.json("report", "verify", told["report"])
    assert (report["tree"], report["copy_of"]) == (str(copy), str(filled))
    assert report["files"] == FILES
    assert home.json("migrate", copy, "--to-key", us_key, "--verify")["failed"] == []
    same = [name for name, (content, _) in stored(copy).items() if content[2048:] == before[name][0][2048:]]
    assert len(same) - len([name for name in same if len(before[name][0]) <= 2048]) == (
        0 if how == ("--reencrypt",) else FILES
    )
    home.ok("key", "disable", eu_key)
    mount = mounter(tree=copy)
    check_content(mount)
    mount.unmount()
    refused(
        home.run("migrate", filled, "--to-key", us_key, "--copy-to", copy), ExitCode.TREE_EXISTS
    )  # what is complete is no unfinished copy


def start_copy(home: Home, tree: Path, copy: Path, key: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [KMSFS, "migrate", tree, "--to-key", key, "--copy-to", copy],
        env=home.env(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_a_copy_that_was_stopped_is_gone_on_with(
    home: Home, filled: Path, mounter: Mounter, us_key: str, tmp_path: Path, by: signal.Signals
) -> None:
    copy = tmp_path / "copy"
    copying = start_copy(home, filled, copy, us_key)
    await_true(lambda: len(list(copy.glob("*"))) > 3)
    copying.send_signal(by)
    copying.wait()
    if not (copy / "kmsfs.tree").exists():  # else it was too fast to be stopped
        refused(home.run("migrate", copy, "--status"), ExitCode.NOT_A_TREE)
        refused(home.run("mount", copy, tmp_path), ExitCode.NOT_A_TREE)
    assert home.json("migrate", filled, "--to-key", us_key, "--copy-to", copy)["complete"]
    assert slot_keys(copy) == {(us_key,)}
    check_content(mounter(tree=copy))


@pytest.mark.parametrize("again", ["the command", "resume"])
def test_a_migration_of_a_copy_that_was_killed_is_gone_on_with(
    home: Home, filled: Path, mounter: Mounter, us_key: str, eu_key: str, tmp_path: Path, again: str
) -> None:
    copy = tmp_path / "copy"
    process = start(home, filled, us_key, "--copy-to", str(copy), "--reencrypt")
    await_done(home, process)
    process.kill()
    process.communicate()
    assert home.json("migrate", copy, "--status")["state"] == "running"
    refused(home.run("migrate", filled, "--status"), ExitCode.USAGE)
    if again == "resume":
        told = home.json("migrate", copy, "--resume")
    else:
        told = home.json("migrate", filled, "--to-key", us_key, "--copy-to", copy, "--reencrypt")
    assert told["complete"]
    assert not (copy / "kmsfs.copying").exists()
    assert home.json("report", "verify", told["report"])["files"] == FILES
    assert (slot_keys(filled), slot_keys(copy)) == ({(eu_key,)}, {(us_key,)})
    check_content(mounter(tree=copy))


def test_no_key_goes_while_an_unfinished_copy_needs_it(
    home: Home, filled: Path, us_key: str, eu_key: str, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    process = start(home, filled, us_key, "--copy-to", str(copy))
    await_done(home, process)
    process.kill()
    process.communicate()
    said = refused(home.run("key", "schedule-deletion", eu_key), ExitCode.KEY_STATE)
    assert str(copy) in said
    home.ok("migrate", filled, "--to-key", us_key, "--copy-to", copy)
    said = refused(home.run("key", "schedule-deletion", eu_key), ExitCode.KEY_STATE)
    assert str(copy) not in said
    assert str(filled) in said


def test_refusals(home: Home, filled: Path, mounted: Mount, us_key: str, tmp_path: Path) -> None:
    to_key = ("--to-key", us_key, "--copy-to")
    full = tmp_path / "full"
    full.mkdir()
    (full / "precious").write_text("precious")
    for more in ((), ("--dry-run",)):
        refused(home.run("migrate", filled, *to_key, full, *more), ExitCode.TREE_EXISTS)
        refused(home.run("migrate", filled, *to_key, filled / "new", *more), ExitCode.USAGE)
        refused(home.run("migrate", filled, *to_key, filled, *more), ExitCode.USAGE)
        refused(home.run("migrate", full, *to_key, tmp_path / "new", *more), ExitCode.NOT_A_TREE)
        unknown = ("--to-key", "alias/none", "--region", "us-east-1", "--copy-to", tmp_path / "new")
        refused(home.run("migrate", filled, *unknown, *more), ExitCode.NOT_FOUND)
    assert (full / "precious").read_text() == "precious"
    for action in ("--resume", "--pause", "--cancel", "--status", "--verify"):
        key = ("--to-key", us_key) if action == "--verify" else ()
        refused(home.run("migrate", filled, *key, "--copy-to", tmp_path / "new", action), ExitCode.USAGE)
    home.ok("key", "disable", us_key)
    refused(home.run("migrate", filled, *to_key, tmp_path / "new"), ExitCode.KEY_DISABLED)
    home.ok("key", "enable", us_key)
    mounted.start()
    refused(home.run("migrate", mounted.path, *to_key, tmp_path / "new"), ExitCode.TREE_BUSY)
    assert not (tmp_path / "new").exists()


def test_a_full_disk(home: Home, filled: Path, us_key: str, tmp_path: Path) -> None:
    with small_filesystem(tmp_path / "disk", 256 << 10) as disk:
        said = refused(
            home.run("migrate", filled, "--to-key", us_key, "--copy-to", disk / "copy"), ExitCode.FAILED
        )
        assert str(disk / "copy") in said
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert home.json("migrate", filled, "--to-key", us_key, "--copy-to", disk / "copy")["complete"]
        assert slot_keys(disk / "copy") == {(us_key,)}
