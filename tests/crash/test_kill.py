"""A mount whose process is killed in the middle of work: what was synced is there, and the rest is readable."""

import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from testkit.mounting import Mount

CHUNK = 4096

# What recovery may say, and what a killed session may leave to say. Anything else fails the test.
EXPECTED_LOG = (
    r"WARNING kmsfs\.tree\.recovery: file [0-9a-f]{64}: "
    r"(resealing|dropping (an incomplete chunk|unfinished writes)|finishing a truncation) "
)

# A program that works in its own directory of the mount and tells on stdout what is certain from now on.
PRELUDE = """
import hashlib, os, sys
top = os.fsencode(sys.argv[1])
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
def sync(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
def at(name):
    return os.path.join(top, os.fsencode(str(name)))
"""

WORKERS = {
    # New files, each synced, of every size up to some chunks.
    "create": """
for number in range(10**9):
    content = os.urandom(number * 37 % 9000)
    with open(at(number), "wb", buffering=0) as file:
        file.write(content)
        os.fsync(file.fileno())
    say("file", number, hashlib.sha256(content).hexdigest())
""",
    # One file that grows, synced now and then: the synced length is there, and its bytes.
    "append": """
with open(at("log"), "ab", buffering=0) as file:
    for number in range(10**9):
        file.write(b"%015d\\n" % number * 37)
        if number % 8 == 7:
            os.fsync(file.fileno())
            say("prefix", "log", (number + 1) * 16 * 37)
""",
    # A file of whole chunks, each overwritten and synced one after the other.
    "overwrite": """
with open(at("data"), "wb", buffering=0) as file:
    file.write(bytes(16 * 4096))
    os.fsync(file.fileno())
    say("stable", "data")
    for number in range(10**9):
        os.pwrite(file.fileno(), b"%08d" % number * 512, number % 16 * 4096)
        os.fdatasync(file.fileno())
        say("chunk", "data", number)
""",
    # A file cut and grown again: what stays is one of the states in between.
    "truncate": """
with open(at("cut"), "wb", buffering=0) as file:
    file.write(b"c" * 50000)
    os.fsync(file.fileno())
    say("stable", "cut")
    for number in range(10**9):
        os.ftruncate(file.fileno(), number * 997 % 50000)
        if number % 3 == 0:
            os.pwrite(file.fileno(), b"c" * 20000, number * 997 % 50000)
        if number % 7 == 0:
            os.fsync(file.fileno())
            say("turn", number)
""",
    # A directory with content that moves between two parents, back and forth.
    "move": """
for name in ("a", "b", "a/d", "a/d/e"):
    os.mkdir(at(name))
with open(at("a/d/e/f"), "wb") as file:
    file.write(b"moved" * 1000)
sync(at("a/d/e/f"))
for name in ("a/d/e", "a/d", "a", "b", "."):
    sync(at(name))
say("stable", "tree")
for number in range(10**9):
    one, two = ("a", "b") if number % 2 == 0 else ("b", "a")
    os.rename(at(one + "/d"), at(two + "/" + "d"))
    say("turn", number)
""",
    # Directories made, filled, renamed with long names, removed.
    "mkdir": """
for number in range(10**9):
    name = f"{number % 20}-" + "n" * (number % 2 * 220)
    os.mkdir(at(name))
    os.mkdir(at(name + "/below"))
    os.rename(at(name), at("renamed-" + name))
    os.rmdir(at("renamed-" + name + "/below"))
    os.rmdir(at("renamed-" + name))
    say("turn", number)
""",
    # What editors do: a new version beside the old one, synced, renamed over it.
    "replace": """
for number in range(10**9):
    with open(at("new"), "wb", buffering=0) as file:
        file.write(b"%08d" % number * 1500)
        os.fsync(file.fileno())
    os.rename(at("new"), at("kept"))
    say("version", "kept", number)
""",
}


@dataclass
class Worker:
    """A program that works in the mount and what it has said."""

    process: subprocess.Popen[str]
    said: list[list[str]] = field(default_factory=list)

    def read(self, lines: int | None) -> None:
        """Take so many lines, or all that come until the program ends."""
        assert self.process.stdout is not None
        while lines is None or len(self.said) < lines:
            line = self.process.stdout.readline()
            if not line.endswith("\n"):
                assert lines is None, "the program ended early"
                return
            self.said.append(line.split())

    def all(self, what: str) -> list[list[str]]:
        return [words[1:] for words in self.said if words[0] == what]


@pytest.fixture
def crashed(mounted: Mount, request: pytest.FixtureRequest) -> Iterator[tuple[Path, Worker]]:
    """Run one program until it has said some things, kill the mount under it, mount again."""
    kind, lines = request.param
    place = mounted.path / "place"
    place.mkdir()
    mounted.expect_log(EXPECTED_LOG)
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + WORKERS[kind], place],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    worker = Worker(process)
    try:
        worker.read(lines)
        mounted.terminate(signal.SIGKILL)
        worker.read(None)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    subprocess.run(["umount", "-l", mounted.path], check=True)
    mounted.start()
    yield place, worker
    check_everything(mounted.path)
    mounted.unmount()
    logged = mounted.log.read_text()
    mounted.start()
    check_everything(mounted.path)
    assert not re.search(EXPECTED_LOG, mounted.log.read_text()[len(logged) :]), "recovered again"


def check_everything(path: Path) -> None:
    """Every name can be looked up and every file be read: no EIO anywhere."""
    for found in path.rglob("*"):
        if found.is_file():
            found.read_bytes()
        found.stat()


def killed(kind: str, *moments: int) -> pytest.MarkDecorator:
    """The program ``kind``, killed after it has said so many things."""
    return pytest.mark.parametrize("crashed", [(kind, lines) for lines in moments], indirect=True)


Crashed = tuple[Path, Worker]


@killed("create", 2, 60)
def test_new_files(crashed: Crashed) -> None:
    place, worker = crashed
    for name, digest in worker.all("file"):
        assert hashlib.sha256((place / name).read_bytes()).hexdigest() == digest
    assert len(os.listdir(place)) - len(worker.all("file")) in (0, 1)


@killed("append", 3, 40)
def test_appends(crashed: Crashed) -> None:
    place, worker = crashed
    content = (place / "log").read_bytes()
    synced = int(worker.all("prefix")[-1][1])
    assert len(content) >= synced
    whole = b"".join(b"%015d\n" % number * 37 for number in range(len(content) // (16 * 37) + 1))
    assert content[:synced] == whole[:synced]
    assert content == whole[: len(content)]
    with (place / "log").open("ab") as file:
        file.write(b"goes on")
    assert (place / "log").read_bytes() == content + b"goes on"


@killed("overwrite", 5, 60)
def test_overwritten_chunks(crashed: Crashed) -> None:
    place, worker = crashed
    content = (place / "data").read_bytes()
    last = int(worker.all("chunk")[-1][1])
    assert len(content) == 16 * CHUNK
    for index in range(16):
        newest = max((number for number in range(last + 1) if number % 16 == index), default=None)
        possible = {bytes(CHUNK) if newest is None else b"%08d" % newest * 512}
        if (last + 1) % 16 == index:
            possible.add(b"%08d" % (last + 1) * 512)
        assert content[index * CHUNK :][:CHUNK] in possible


@killed("truncate", 2, 30)
def test_truncations(crashed: Crashed) -> None:
    place, _ = crashed
    content = (place / "cut").read_bytes()
    assert len(content) == (place / "cut").stat().st_size < 80_000
    assert not content.strip(b"c\0")


@killed("move", 2, 25, 60)
def test_a_directory_on_the_move(crashed: Crashed) -> None:
    place, _ = crashed
    assert sorted(os.listdir(place)) == ["a", "b"]
    found = [path for path in (place / "a" / "d", place / "b" / "d") if path.exists()]
    assert len(found) == 1
    assert (found[0] / "e" / "f").read_bytes() == b"moved" * 1000
    found[0].rename(place / "moved once more")
    assert (place / "moved once more" / "e" / "f").read_bytes() == b"moved" * 1000


@killed("mkdir", 2, 30)
def test_directories_made_and_removed(crashed: Crashed) -> None:
    place, _ = crashed
    left = os.listdir(place)
    assert len(left) <= 1
    for name in left:
        assert os.listdir(place / name) in ([], ["below"])
        subprocess.run(["rm", "-r", place / name], check=True)
    (place / ("n" * 255)).mkdir()
    assert os.listdir(place) == ["n" * 255]


@killed("replace", 2, 40)
def test_replaced_files(crashed: Crashed) -> None:
    place, worker = crashed
    last = int(worker.all("version")[-1][1])
    assert (place / "kept").read_bytes() in {b"%08d" % number * 1500 for number in (last, last + 1)}


def test_unfinished_operations_do_not_disturb(mounted: Mount) -> None:
    """What a kill may leave in the tree: it is not served, and no name is taken by it."""
    (mounted.path / "directory").mkdir()
    (mounted.path / "directory" / "file").write_bytes(b"content")
    mounted.terminate(signal.SIGKILL)
    subprocess.run(["umount", "-l", mounted.path], check=True)
    for directory in (mounted.tree, next(path for path in mounted.tree.iterdir() if path.is_dir())):
        (directory / "kmsfs.tmp.AAAAAAAAAAAAAAAAAAAAAA").mkdir()
        (directory / "kmsfs.tmp.AAAAAAAAAAAAAAAAAAAAAA" / ".kmsfs.dir").write_bytes(bytes(100))
        (directory / "kmsfs.tmp.BBBBBBBBBBBBBBBBBBBBBB").write_bytes(b"half a recor")
        (directory / f"kmsfs.long.{'C' * 43}.name").write_text("an entry that never came")
    mounted.expect_log(EXPECTED_LOG)
    mounted.start()
    assert os.listdir(mounted.path) == ["directory"]
    assert (mounted.path / "directory" / "file").read_bytes() == b"content"
    (mounted.path / "directory" / "file").unlink()
    (mounted.path / "directory").rmdir()
    assert os.listdir(mounted.path) == []


def test_a_program_that_is_waiting_is_told(mounted: Mount) -> None:
    """Nobody hangs on a mount whose process is gone."""
    fd = os.open(mounted.path / "file", os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"content")
    os.fsync(fd)
    mounted.terminate(signal.SIGKILL)
    for call in (lambda: os.stat(mounted.path), lambda: os.fsync(fd), lambda: os.close(fd)):
        with pytest.raises(OSError, match="not connected"):
            call()
    subprocess.run(["umount", "-l", mounted.path], check=True)
    mounted.expect_log(EXPECTED_LOG)
    mounted.start()
    assert (mounted.path / "file").read_bytes() == b"content"
