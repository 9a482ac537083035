"""Several programs at once in one mount: each finds what it left, and the mount gives back what it took."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from testkit import busy
from testkit.mounting import Mount

WORKERS = 4
STEPS = 500


def drop_caches() -> None:
    with suppress(OSError):  # some containers forbid it
        Path("/proc/sys/vm/drop_caches").write_text("3\n")


def resident(pid: int) -> int:
    """Resident memory of a process in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") >> 20


def finish(workers: list["subprocess.Popen[bytes]"]) -> None:
    for worker in workers:
        _, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors.decode()


def test_everybody_finds_what_he_left(mounted: Mount) -> None:
    workers = []
    for number in range(WORKERS):
        top = mounted.path / f"worker-{number}"
        top.mkdir()
        command = [sys.executable, busy.__file__, str(number), top, str(STEPS)]
        workers.append(subprocess.Popen(command, stderr=subprocess.PIPE))
    while any(worker.poll() is None for worker in workers):
        drop_caches()
        subprocess.run(["ls", "-lR", mounted.path], check=False, capture_output=True)
    finish(workers)
    before = contents(mounted.path)
    mounted.unmount()
    mounted.start()
    assert contents(mounted.path) == before


def contents(top: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(top.rglob("*"))}


def test_appenders_do_not_overwrite_each_other(mounted: Mount) -> None:
    path = mounted.path / "log"
    script = """
import os, sys
fd = os.open(sys.argv[1], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
for number in range(500):
    os.write(fd, b"%s %04d\\n" % (sys.argv[2].encode(), number))
"""
    workers = [
        subprocess.Popen([sys.executable, "-c", script, path, str(number)], stderr=subprocess.PIPE)
        for number in range(WORKERS)
    ]
    finish(workers)
    lines = path.read_text().splitlines()
    assert sorted(lines) == sorted(f"{who} {number:04}" for who in range(WORKERS) for number in range(500))


def test_memory_and_descriptors_come_back(mounted: Mount) -> None:
    """Rounds of untar and rm: what one round took, the next one uses."""

    def one_round() -> tuple[int, int]:
        for directory in range(10):
            top = mounted.path / f"{directory}"
            top.mkdir()
            for number in range(60):
                (top / f"{number}").write_bytes(b"x" * number * 200)
        subprocess.run(["cp", "-a", mounted.path / "1", mounted.path / "copy"], check=True)
        subprocess.run(["rm", "-r", *mounted.path.iterdir()], check=True)
        drop_caches()
        status = mounted.status()
        assert status["inodes"] <= 2
        assert status["open_handles"] == 0
        return resident(mounted.pid), len(os.listdir(f"/proc/{mounted.pid}/fd"))

    one_round()
    memory, descriptors = one_round()
    for _ in range(4):
        later_memory, later_descriptors = one_round()
    assert later_descriptors <= descriptors + 2
    assert later_memory <= memory + 4
    assert later_memory < 150
