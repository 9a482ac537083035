"""quickstart ends with a mounted directory, and a second run finds nothing to do."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from testkit.leftovers import mounts_below
from testkit.waiting import await_true

ROOT = Path(__file__).parents[2]
KMSFS = Path(sys.executable).with_name("kmsfs")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A user's home with nothing in it; whatever is mounted there is unmounted afterwards."""
    yield tmp_path
    for mount in mounts_below(tmp_path):
        run(tmp_path, KMSFS, "unmount", mount.removeprefix("mount "))


def run(home: Path, *argv: str | Path) -> str:
    done = attempt(home, *argv)
    assert done.returncode == 0, done.stderr
    return done.stdout


def attempt(home: Path, *argv: str | Path) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("KMSFS_", "XDG_"))}
    return subprocess.run(
        argv,
        cwd=home,
        env={**clean, "HOME": str(home), "PATH": f"{KMSFS.parent}:{clean['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def state(home: Path) -> tuple[set[str], str, str]:
    """Return which files there are, and what the keystore says.

    Not the bytes of tree, token and database: the mount seals files, and a login leaves its mark in the others.
    """
    files = {str(path) for path in home.rglob("*") if not path.name.startswith("metadata.db-")}
    return files, run(home, KMSFS, "key", "list", "--json"), run(home, KMSFS, "region", "list", "--json")


def test_second_run_changes_nothing(home: Path) -> None:
    first = run(home, ROOT / "scripts" / "quickstart", home / "a demo")
    (home / "a demo" / "letter").write_text("between us")
    kept = state(home)
    second = run(home, ROOT / "scripts" / "quickstart", home / "a demo")

    assert f"mounted {home}/a demo" in first
    assert "nothing to do" not in first
    assert f"nothing to do, {home}/a demo is mounted" in second
    assert state(home) == kept
    assert len(mounts_below(home)) == 1


def test_mounts_the_same_tree_again_after_unmount(home: Path) -> None:
    run(home, ROOT / "scripts" / "quickstart")
    (home / "kmsfs" / "letter").write_text("between us")
    run(home, KMSFS, "unmount", home / "kmsfs")
    assert not any((home / "kmsfs").iterdir())
    again = run(home, ROOT / "scripts" / "quickstart")

    assert f"mounted {home}/kmsfs" in again
    assert "made" not in again
    assert (home / "kmsfs" / "letter").read_text() == "between us"


def test_mount_of_a_dead_daemon_is_replaced(home: Path) -> None:
    run(home, ROOT / "scripts" / "quickstart")
    pid = int(run(home, "pgrep", "-f", f"{home}/kmsfs.tree").split()[0])
    os.kill(pid, 9)
    again = run(home, ROOT / "scripts" / "quickstart")
    assert "removed the mount of a daemon that is gone" in again
    assert len(mounts_below(home)) == 1


def test_the_five_minutes_of_the_readme(home: Path) -> None:
    """Every line as it stands there; what is refused for a while is so within seconds, and no longer."""
    run(home, ROOT / "scripts" / "quickstart")
    section = (ROOT / "README.md").read_text().split("## Five minutes\n")[1].split("\n## ")[0]
    commands = re.findall(r"^    (?!PATH)(.+)$", section, re.MULTILINE)
    assert len(commands) > 15
    for command in commands:
        refusal = re.search(r'# "(.+)"$', command)
        if refusal is None:
            run(home, "bash", "-c", command)
            continue
        await_true(lambda line=command, said=refusal[1]: said in attempt(home, "bash", "-c", line).stderr)  # type: ignore[misc]
    assert mounts_below(home) == set()
