"""A tree is migrated to another region while programs go on in its mount; the migration is killed again and again.

``KMSFS_MIGRATE_FILES`` sets how many files lie still beside the busy ones.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from testkit.home import KMSFS, Home
from testkit.mounting import Mount
from testkit.tool_trees import slot_keys

US, EU = "us-east-1", "eu-west-1"
FILES = int(os.environ.get("KMSFS_MIGRATE_FILES", "2000"))
RATE = str(max(800, FILES * 2 // 5))  # calls a second: some twenty batches
BUSY = Path(__file__).parent.parent / "testkit" / "busy.py"


def fill(mount: Mount) -> dict[str, bytes]:
    """Files that lie still, by path below the mount."""
    choose = random.Random(5)
    content = {}
    for number in range(FILES):
        path = f"still/{number // 200}/{number}"
        content[path] = choose.randbytes(choose.choice([0, 10, 300, 5000]))
        target = mount.path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content[path])
    return content


def check(mount: Mount, content: dict[str, bytes]) -> None:
    for path, data in content.items():
        assert (mount.path / path).read_bytes() == data, path


def migrate(home: Home, where: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [KMSFS, "migrate", where, *arguments, "--rate", RATE, "--json"],
        env=home.env(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def batches(home: Home) -> int:
    """How many batches the journals of all migrations hold."""
    journals = (home.path / "migrations").rglob("journal.jsonl")
    return sum(journal.read_bytes().count(b'{"undone"') for journal in journals)


def kill_after(home: Home, process: subprocess.Popen[str], more: int) -> None:
    """Kill a migration when it has done so many more batches, or let it end."""
    before = batches(home)
    while batches(home) < before + more:
        try:
            process.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
        break
    process.kill()
    process.communicate()


@pytest.fixture
def busy(mounted: Mount) -> Iterator[list[subprocess.Popen[str]]]:
    """Programs that write, read and rename in the mount."""
    started = []
    for seed in (1, 2):
        (mounted.path / f"busy{seed}").mkdir()
        command = [sys.executable, str(BUSY), str(seed), f"busy{seed}", "1500"]
        started.append(subprocess.Popen(command, cwd=mounted.path, stderr=subprocess.PIPE, text=True))
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_migrated_while_programs_work_and_killed_three_times(
    home: Home, mounted: Mount, busy: list[subprocess.Popen[str]], us_key: str, eu_key: str
) -> None:
    content = fill(mounted)
    choose = random.Random(7)
    kill_after(home, migrate(home, mounted.path, "--to-key", us_key), 1)
    for _ in range(2):
        check(mounted, dict(choose.sample(sorted(content.items()), 50)))
        kill_after(home, migrate(home, mounted.path, "--resume"), choose.randint(1, 3))
    assert home.json("migrate", mounted.path, "--status")["state"] == "running"
    last = migrate(home, mounted.path, "--resume")
    out, err = last.communicate()
    assert (last.returncode, err) == (0, ""), (out, err)
    assert json.loads(out)["complete"]
    for process in busy:
        _, err = process.communicate()
        assert process.returncode == 0, err
    check(mounted, content)
    mounted.unmount()
    assert slot_keys(mounted.tree) == {(us_key,)}
    verdict = home.json("migrate", mounted.tree, "--to-key", us_key, "--verify")
    assert verdict["failed"] == []
    home.ok("key", "schedule-deletion", eu_key)
    lose_token(home, EU)
    mounted.start()
    check(mounted, content)


def lose_token(home: Home, region: str) -> None:
    """The HSM of a region is no more."""
    config = json.loads((home.path / "regions" / f"{region}.json").read_text())
    (token,) = (home.path / "softhsm").rglob(Path(config["token_dir"]).name)
    shutil.rmtree(token)


def test_a_rename_storm_hides_no_file(home: Home, mounted: Mount, us_key: str) -> None:
    for directory in ("a", "b"):
        (mounted.path / directory).mkdir()
    names = [f"f{number}" for number in range(300)]
    for name in names:
        (mounted.path / "a" / name).write_text(name)
    process = migrate(home, mounted.path, "--to-key", us_key)
    ended = time.monotonic() + 120
    rounds = 0
    while process.poll() is None and time.monotonic() < ended:
        source, target = ("a", "b") if rounds % 2 == 0 else ("b", "a")
        for name in names:
            os.rename(mounted.path / source / name, mounted.path / target / name)
        rounds += 1
    out, err = process.communicate()
    assert (process.returncode, err) == (0, ""), (out, err)
    assert rounds > 0
    mounted.unmount()
    assert slot_keys(mounted.tree) == {(us_key,)}


def test_rewrap_and_replicate_in_a_mount(home: Home, mounted: Mount, us_key: str, eu_key: str) -> None:
    content = fill(mounted)
    home.ok("replicate", mounted.path, "--to-key", us_key)
    (mounted.path / "new").write_bytes(b"new")
    home.ok("key", "rotate", eu_key)
    assert home.json("rewrap", mounted.path)["complete"]
    check(mounted, content)
    home.ok("replicate", mounted.tree, "--drop-key", eu_key)
    (mounted.path / "newer").write_bytes(b"newer")
    mounted.unmount()
    assert slot_keys(mounted.tree) == {(us_key,)}
    lose_token(home, EU)
    mounted.start()
    check(mounted, {**content, "new": b"new", "newer": b"newer"})
