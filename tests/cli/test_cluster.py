"""``kmsfs migrate --scheduler``: a Dask scheduler and two worker processes, one of which is killed in the middle."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from testkit.home import KMSFS, Home, refused
from testkit.mounting import Mount
from testkit.tool_trees import slot_keys

from kmsfs.cli.exitcodes import ExitCode

US = "us-east-1"
FILES = 2000
DASK = Path(sys.executable).with_name("dask")


@dataclass
class Running:
    """A scheduler and its workers."""

    address: str
    processes: list[subprocess.Popen[str]]


def start(home: Home, log: Path, *arguments: str) -> subprocess.Popen[str]:
    with log.open("w") as output:
        return subprocess.Popen(
            [DASK, *arguments],
            env=home.env(DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH="0", PYTHONUNBUFFERED="1"),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=log.parent,
        )


def await_line(log: Path, process: subprocess.Popen[str], pattern: str) -> str:
    """Wait until a process has logged something, and return the first group."""
    while True:
        found = re.search(pattern, log.read_text())
        if found:
            return found[1]
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(log.read_text())


@pytest.fixture
def cluster(home: Home, us_key: str, tmp_path: Path) -> Iterator[Running]:
    """A scheduler on a free port of the loopback, with two workers of one thread each."""
    processes = []
    try:
        log = tmp_path / "scheduler.log"
        address = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        processes.append(start(home, log, "scheduler", *address))
        where = await_line(log, processes[0], r"Scheduler at: +(tcp://\S+)")
        for number in (1, 2):
            log = tmp_path / f"worker{number}.log"
            place = ("--local-directory", str(tmp_path / f"space{number}"), "--host", "127.0.0.1")
            alone = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0")
            processes.append(start(home, log, "worker", where, *place, *alone))
            await_line(log, processes[-1], r"(Registered to)")
        yield Running(where, processes)
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


@pytest.fixture
def filled(mounted: Mount) -> Path:
    """A tree with many files, unmounted."""
    for number in range(FILES):
        path = mounted.path / f"{number // 100}" / f"{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{number}")
    mounted.unmount()
    return mounted.tree


def test_a_worker_is_killed_in_the_middle(
    home: Home, filled: Path, us_key: str, cluster: Running, mounted: Mount
) -> None:
    migration = subprocess.Popen(
        [
            KMSFS,
            "migrate",
            filled,
            "--to-key",
            us_key,
            "--scheduler",
            cluster.address,
            "--rate",
            "2000",
            "--json",
        ],
        env=home.env(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    journals = home.path / "migrations"
    while not any(b'"undone"' in journal.read_bytes() for journal in journals.rglob("journal.jsonl")):
        try:
            migration.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
        break
    os.kill(cluster.processes[1].pid, signal.SIGKILL)
    out, err = migration.communicate()
    assert (migration.returncode, err) == (0, ""), err
    told = json.loads(out)
    assert (told["complete"], told["changed"], told["failed"]) == (True, FILES, [])
    assert slot_keys(filled) == {(us_key,)}
    assert home.json("migrate", filled, "--to-key", us_key, "--verify")["failed"] == []
    mounted.start()
    for number in range(FILES):
        assert (mounted.path / f"{number // 100}" / f"{number}").read_text() == f"{number}"


def test_no_pin_and_no_data_key_travels(home: Home, filled: Path, us_key: str, cluster: Running) -> None:
    home.ok("migrate", filled, "--to-key", us_key, "--scheduler", cluster.address)
    pins = [path.read_text().strip() for path in home.path.rglob("*.pin")]
    assert len(pins) == 2
    logs = "".join(path.read_text() for path in home.path.parent.glob("*.log"))
    assert not [pin for pin in pins if pin in logs]


def test_without_a_scheduler(home: Home, filled: Path, us_key: str) -> None:
    done = home.run("migrate", filled, "--to-key", us_key, "--scheduler", "tcp://127.0.0.1:1")
    refused(done, ExitCode.SCHEDULER_UNAVAILABLE)
    assert not (home.path / "migrations").exists()
