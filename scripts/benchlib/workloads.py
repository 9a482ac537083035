"""What is measured: each workload does one thing users do, and returns the seconds that it took.

They run in the order of the table, on one mount: later ones use the files of earlier ones. A cold one mounts
the tree again first.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchlib.sourcetree import ROOT_NAME
from benchlib.systems import System, command

BLOCK = 128 * 1024


@dataclass(frozen=True)
class Sizes:
    """How much the workloads move; tests use less."""

    file_bytes: int = 512 * 1024 * 1024
    random_reads: int = 30_000
    random_writes: int = 60_000


@dataclass(frozen=True)
class Setting:
    """Where a workload runs."""

    system: System
    archive: Path
    sizes: Sizes

    @property
    def big_file(self) -> Path:
        return self.system.mountpoint / "big"


@dataclass(frozen=True)
class Workload:
    """One line of the table. ``budget`` is the least ratio that the project accepts."""

    name: str
    budget: float
    run: Callable[[Setting], float]


def _sequential_write(setting: Setting) -> float:
    block = os.urandom(BLOCK)
    started = time.perf_counter()
    fd = os.open(setting.big_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    for _ in range(setting.sizes.file_bytes // BLOCK):
        os.write(fd, block)
    os.fsync(fd)
    os.close(fd)
    return time.perf_counter() - started


def _sequential_read(setting: Setting) -> float:
    setting.system.remount()
    buffer = bytearray(BLOCK)
    total = 0
    started = time.perf_counter()
    with open(setting.big_file, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            total += count
    elapsed = time.perf_counter() - started
    assert total == setting.sizes.file_bytes
    return elapsed


def _fio(setting: Setting, *options: str) -> dict:
    """Run one fio job over the big file, a page at a time, no page twice, the same pages every time."""
    report = command(
        *("fio", "--name=job", f"--filename={setting.big_file}", f"--size={setting.sizes.file_bytes}"),
        *("--bs=4k", "--ioengine=psync", "--allow_file_create=0", "--randrepeat=1", "--output-format=json"),
        *options,
    )
    # fio may print a note before the report
    return json.loads(report[report.index("{") :])["jobs"][0]


def _random_read(setting: Setting) -> float:
    setting.system.remount()
    job = _fio(setting, "--rw=randread", f"--number_ios={setting.sizes.random_reads}", "--invalidate=0")
    return job["read"]["runtime"] / 1000


def _random_write(setting: Setting) -> float:
    setting.system.remount()
    job = _fio(setting, "--rw=randwrite", f"--number_ios={setting.sizes.random_writes}", "--end_fsync=1")
    return job["write"]["runtime"] / 1000


def _timed(*argv: str | Path) -> float:
    started = time.perf_counter()
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def _untar(setting: Setting) -> float:
    setting.big_file.unlink()
    return _timed("tar", "-xf", setting.archive, "-C", setting.system.mountpoint)


def _list_all(setting: Setting) -> float:
    setting.system.remount()
    return _timed("ls", "-lR", setting.system.mountpoint)


def _read_all(setting: Setting) -> float:
    setting.system.remount()
    # Through a pipe: tar does not read the files when it sees that its archive is /dev/null.
    started = time.perf_counter()
    with subprocess.Popen(
        ["tar", "-cf", "-", "-C", setting.system.mountpoint, ROOT_NAME], stdout=subprocess.PIPE
    ) as tar:
        assert tar.stdout is not None
        buffer = bytearray(BLOCK)
        while tar.stdout.readinto(buffer):
            pass
    assert tar.returncode == 0
    return time.perf_counter() - started


def _remove_all(setting: Setting) -> float:
    return _timed("rm", "-r", setting.system.mountpoint / ROOT_NAME)


WORKLOADS = (
    Workload("sequential write 512 MiB", 0.9, _sequential_write),
    Workload("sequential read, cold", 0.9, _sequential_read),
    Workload("random 4 KiB read", 0.5, _random_read),
    Workload("random 4 KiB write + fsync", 1.0, _random_write),
    Workload("untar 2,450 files, 104 MB", 0.9, _untar),
    Workload("ls -lR, cold", 1.0, _list_all),
    Workload("read all (tar c), cold", 0.6, _read_all),
    Workload("rm -r", 0.4, _remove_all),
)
