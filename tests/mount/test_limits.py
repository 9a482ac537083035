"""Large files, many entries, long and strange names, deep paths, many open files: through a real mount."""

import os
import shutil
from pathlib import Path

import pytest
from testkit.mounting import Mount

MANY = 100_000
GIB = 1 << 30


def remount(mount: Mount) -> None:
    mount.unmount()
    mount.start()


@pytest.fixture
def here(mounted: Mount) -> Path:
    return mounted.path


def test_a_file_past_four_gibibytes(mounted: Mount, here: Path) -> None:
    path = here / "large"
    marks = {0: b"first", 2 * GIB - 3: b"across 2 GiB", 4 * GIB - 2: b"across 4 GiB", 40 * GIB + 5: b"last"}
    with path.open("wb", buffering=0) as file:
        for offset, mark in marks.items():
            os.pwrite(file.fileno(), mark, offset)
    for _ in range(2):
        assert path.stat().st_size == 40 * GIB + 9
        assert path.stat().st_blocks * 512 < 1 << 20
        with path.open("rb", buffering=0) as file:
            for offset, mark in marks.items():
                assert os.pread(file.fileno(), len(mark), offset) == mark
                assert os.pread(file.fileno(), 10, offset + 4096) == (bytes(10) if offset < 40 * GIB else b"")
        remount(mounted)
    os.truncate(path, 4 * GIB)
    assert path.stat().st_size == 4 * GIB
    with path.open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 10, 4 * GIB - 2) == b"ac"


def test_a_sparse_terabyte_is_instant_and_takes_no_space(here: Path) -> None:
    path = here / "sparse"
    path.touch()
    os.truncate(path, 1 << 40)
    assert path.stat().st_size == 1 << 40
    assert path.stat().st_blocks * 512 < 1 << 17
    with path.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"middle", 1 << 39)
        os.fsync(file.fileno())
        assert os.pread(file.fileno(), 8, (1 << 39) - 1) == b"\0middle\0"
    with pytest.raises(OSError, match="too large"):
        os.truncate(path, (1 << 63) - 1)


def test_a_directory_of_a_hundred_thousand_entries(mounted: Mount, here: Path) -> None:
    here /= "directory"
    here.mkdir()
    directory = os.open(here, os.O_RDONLY)
    for number in range(MANY):
        os.mknod(b"entry-%06d" % number, 0o100644, dir_fd=directory)
    os.close(directory)
    remount(mounted)
    names = os.listdir(here)
    assert len(names) == MANY
    assert set(names) == {f"entry-{number:06}" for number in range(MANY)}
    assert (here / "entry-077777").stat().st_size == 0
    with os.scandir(here) as entries:  # remove while the listing goes on
        for number, entry in enumerate(entries):
            if number % 100 == 0:
                os.unlink(entry.path)
    assert len(os.listdir(here)) == MANY - MANY // 100
    with pytest.raises(OSError, match="not empty"):
        here.rmdir()


def test_every_byte_but_nul_and_slash_in_names(mounted: Mount, here: Path) -> None:
    top = os.fsencode(here)
    names = {bytes([byte]) * length for byte in range(1, 256) for length in (1, 3) if byte != ord("/")}
    names -= {b"."}
    names |= {b"\xff" * length for length in (174, 175, 176, 177, 254, 255)}
    for name in names:
        with open(os.path.join(top, name), "wb") as file:
            file.write(name)
    for _ in range(2):
        assert set(os.listdir(top)) == names
        for name in names:
            with open(os.path.join(top, name), "rb") as file:
                assert file.read() == name
        remount(mounted)
    for name in sorted(names):
        os.rename(os.path.join(top, name), os.path.join(top, name[:254] + b"+"))
        os.unlink(os.path.join(top, name[:254] + b"+"))
    assert os.listdir(top) == []


def test_a_name_of_256_bytes_is_too_long(here: Path) -> None:
    name = f"{here}/{'x' * 256}"
    for make in (os.mkdir, os.mkfifo, os.mknod, os.lstat, os.unlink, lambda path: os.symlink("t", path)):
        with pytest.raises(OSError, match="name too long"):
            make(name)


def test_a_path_deeper_than_path_max(mounted: Mount, here: Path) -> None:
    """Walked by descriptor; more directories than the mount keeps open."""
    at = os.open(here, os.O_RDONLY)
    for level in range(300):
        os.mkdir("deep-and-deeper", dir_fd=at)
        below = os.open("deep-and-deeper", os.O_RDONLY, dir_fd=at)
        if level % 100 == 0:
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=at))
        os.close(at)
        at = below
    os.symlink("bottom", "link", dir_fd=at)
    os.close(at)
    remount(mounted)
    found = [names for *names, _ in os.fwalk(here)]
    assert len(found) == 301
    assert found[-1][1:] == [[], ["link"]]
    shutil.rmtree(here / "deep-and-deeper")
    assert os.listdir(here) == ["file"]


def test_more_open_files_than_the_mount_keeps_idle(mounted: Mount, here: Path) -> None:
    files = [(here / f"{number}").open("w+b", buffering=0) for number in range(600)]
    for number, file in enumerate(files):
        file.write(b"%d" % number)
    assert mounted.status()["open_handles"] >= 600
    for number, file in enumerate(files):
        assert os.pread(file.fileno(), 10, 0) == b"%d" % number
        file.close()
    for number in range(3000):
        (here / f"s{number}").write_bytes(b"%d" % number)
    remount(mounted)
    for number in range(0, 3000, 7):
        assert (here / f"s{number}").read_bytes() == b"%d" % number
    assert len(os.listdir(f"/proc/{mounted.pid}/fd")) < 600


def test_a_thousand_hard_links_in_two_directories(mounted: Mount, here: Path) -> None:
    for name in ("one", "two"):
        (here / name).mkdir()
    (here / "one" / "0").write_bytes(b"shared")
    for number in range(1, 1000):
        os.link(here / "one" / "0", here / ("two" if number % 2 else "one") / f"{number}")
    assert (here / "one" / "0").stat().st_nlink == 1000
    remount(mounted)
    (here / "two" / "999").write_bytes(b"changed")
    assert (here / "one" / "998").read_bytes() == b"changed"
    identities = {path.stat().st_ino for path in here.glob("*/*")}
    assert len(identities) == 1
    shutil.rmtree(here / "one")
    assert (here / "two" / "1").stat().st_nlink == 500
    assert (here / "two" / "1").read_bytes() == b"changed"
