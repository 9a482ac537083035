"""The mount's process dies by SIGKILL in the middle of work: what was synced is there, and everything reads.

A killed process leaves the page cache of the store as it is; what only the kernel of the mount had is gone with it.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from testkit import writers
from testkit.mounting import Mount, Mounter

EXPECTED_AFTER_A_KILL = (
    r"WARNING kmsfs.tree.recovery: file [0-9a-f]{64}: (resealing \d+ bytes, its header says \d+"
    r"|dropping an incomplete chunk|dropping \d+ |finishing a truncation)"
)


def start_writer(name: str, top: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, writers.__file__, name, top], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def kill(mount: Mount) -> None:
    mount.terminate(signal.SIGKILL)
    subprocess.run(["umount", "-l", mount.path], check=True)


def await_lines(process: "subprocess.Popen[bytes]", count: int) -> dict[str, int]:
    """The last value of each name, once ``count`` lines were said."""
    safe = {}
    assert process.stdout is not None
    for _ in range(count):
        name, value = process.stdout.readline().split()
        safe[name.decode()] = int(value)
    return safe


def rest(process: "subprocess.Popen[bytes]") -> dict[str, int]:
    """What was said until the writer met the end of the mount."""
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors.decode()
    lines = [line.split() for line in output.decode().splitlines()]
    return {name: int(value) for name, value in lines}


def check_appends(top: Path, safe: dict[str, int]) -> None:
    for number in range(4):
        content = (top / f"append-{number}").read_bytes()
        whole = b"".join(b"%d," % step * 500 for step in range(number, 40_000, 4))[: len(content)]
        assert content == whole
        assert len(content) >= safe.get(f"append-{number}", 0)


def check_overwrites(top: Path, safe: dict[str, int]) -> None:
    content = (top / "overwrite").read_bytes()
    assert len(content) == 97 * 4096
    last = safe["overwrite"]
    for slot in range(97):
        block = content[slot * 4096 : (slot + 1) * 4096]
        assert block == block[:8] * 512
        least = last - (last - slot) % 97
        if least >= 0:
            assert int(block[:8]) >= least


def check_truncates(top: Path, safe: dict[str, int]) -> None:
    content = (top / "truncate").read_bytes()
    assert len(content) == (top / "truncate").stat().st_size
    assert not content.strip(b"t\0")


def check_new_files(top: Path, safe: dict[str, int]) -> None:
    for name, step in safe.items():
        content = (top / name).read_bytes()
        found = int(content[:6])
        assert found >= step
        assert content == b"%6d" % found * 1000
    for path in top.iterdir():
        path.read_bytes()


def check_directories(top: Path, safe: dict[str, int]) -> None:
    last = safe["directories"]
    found = {}
    for path in (*(top / "one").iterdir(), *(top / "two").iterdir()):
        found[int(path.name.rsplit("-")[-1])] = path
        if (path / "file").exists():
            assert (path / "file").read_bytes() in (b"", path.name.rsplit("-")[-1].encode())
    assert set(found) >= {step for step in range(last + 1) if step % 3}
    assert not {step for step in range(last + 1) if step % 3 == 0} & set(found)
    for path in found.values():
        for inner in path.iterdir():
            inner.unlink()
        path.rmdir()
    (top / "one").rmdir()
    (top / "two").rmdir()


CHECKS: dict[str, Callable[[Path, dict[str, int]], None]] = {
    "appends": check_appends,
    "overwrites": check_overwrites,
    "truncates": check_truncates,
    "new_files": check_new_files,
    "directories": check_directories,
}


@pytest.fixture
def crashing(mounter: Mounter) -> Mount:
    """A mount whose log may say what recovery did, and nothing else."""
    mount = mounter()
    mount.expect_log(EXPECTED_AFTER_A_KILL)
    return mount


@pytest.mark.parametrize("lines", [2, 150])
@pytest.mark.parametrize("writer", CHECKS)
def test_a_kill_while_writing(crashing: Mount, writer: str, lines: int) -> None:
    process = start_writer(writer, crashing.path)
    safe = await_lines(process, lines)
    kill(crashing)
    safe |= rest(process)
    crashing.start()
    CHECKS[writer](crashing.path, safe)
    crashing.unmount()
    quiet = crashing.log.read_text()
    crashing.start()
    if writer != "directories":
        CHECKS[writer](crashing.path, safe)
    crashing.unmount()
    said = crashing.log.read_text().removeprefix(quiet)
    assert not re.search("WARNING|ERROR", said), said  # the first mount after the kill has sealed everything


def test_several_kills_in_a_row(crashing: Mount) -> None:
    for round_number in range(3):
        started = {}
        for name in CHECKS:
            top = crashing.path / f"{round_number}-{name}"
            top.mkdir()
            started[name] = start_writer(name, top)
        safe = {name: await_lines(process, 20) for name, process in started.items()}
        kill(crashing)
        for name, process in started.items():
            safe[name] |= rest(process)
        crashing.start()
        for name, check in CHECKS.items():
            check(crashing.path / f"{round_number}-{name}", safe[name])
    assert len(os.listdir(crashing.path)) == 15
    crashing.unmount()


def test_leftovers_of_a_kill_do_not_disturb(crashing: Mount) -> None:
    top = crashing.path / "top"
    (top / "below").mkdir(parents=True)
    (top / "below" / "file").write_bytes(b"abc")
    kill(crashing)
    stored = next(path for path in crashing.tree.iterdir() if path.is_dir())
    below = next(path for path in stored.iterdir() if path.is_dir())
    for directory in (crashing.tree, stored, below):
        (directory / "kmsfs.tmp.000000000000000000000001").mkdir()
        (directory / "kmsfs.tmp.000000000000000000000001" / ".kmsfs.dir").write_bytes(bytes(384))
        (directory / "kmsfs.tmp.000000000000000000000002").write_bytes(b"half a record")
        (directory / f"kmsfs.long.{'A' * 43}.name").write_bytes(b"A" * 300)
    crashing.start()
    assert os.listdir(crashing.path) == ["top"]
    assert os.listdir(top) == ["below"]
    assert os.listdir(top / "below") == ["file"]
    (top / "below" / "file").unlink()
    (top / "below").rmdir()
    top.rename(crashing.path / "renamed")
    (crashing.path / "other").mkdir()
    (crashing.path / "other").rename(crashing.path / "renamed")
    (crashing.path / "renamed").rmdir()
    assert os.listdir(crashing.path) == []
    left = sorted(path.name for path in crashing.tree.iterdir() if path.is_dir())
    assert left == ["kmsfs.tmp.000000000000000000000001"]
