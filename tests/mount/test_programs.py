"""Programs that people run, in a mount: what they wrote is there, also after the next mount."""

import mmap
import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from testkit.mounting import Mount


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program without the user's configuration; it must succeed."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def remount(mount: Mount) -> None:
    mount.unmount()
    mount.start()


def assert_same(one: Path, other: Path) -> None:
    """Contents by diff, everything else by what rsync would change."""
    assert run("diff", "-r", "--no-dereference", "--exclude=fifo", one, other) == ""
    assert run("rsync", "-aHAXnic", "--delete", f"{one}/", f"{other}/") == ""


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A directory with a bit of everything that rsync -aHAX keeps."""
    top = tmp_path / "sources"
    for number in range(8):
        below = top / f"directory {number}" / "deeper" / ("long-" * 45)
        below.mkdir(parents=True)
        for at in range(25):
            (below.parent / f"file-{at}").write_bytes(os.urandom(at * 700))
        (below / "leaf").write_bytes(bytes(number * 4096))
        (below / "script").write_text("#!/bin/sh\n")
        (below / "script").chmod(0o755)
        os.setxattr(below / "script", "user.comment", b"on a file")
        os.link(below / "leaf", top / f"hard-link-{number}")
        (top / f"symlink-{number}").symlink_to(below.relative_to(top) / "leaf")
    (top / "dangling").symlink_to("../" * 300 + "nowhere")
    (top / "names \n\t'\"é\udcff").write_text("any bytes")
    (top / "empty").touch()
    (top / "private").mkdir(mode=0o700)
    with (top / "sparse").open("wb") as sparse:
        sparse.truncate(3 << 20)
        sparse.seek(1 << 20)
        sparse.write(b"island")
    os.mkfifo(top / "fifo", 0o640)
    os.chown(top / "empty", 1234, 5678)
    os.setxattr(top / "private", "user.comment", bytes(range(256)))
    run("setfacl", "-m", "u:1234:r--,g:5678:rw-", top / "empty")
    run("setfacl", "-d", "-m", "u:1234:r-x", top / "private")
    for path in (top / "empty", top / "private", top):
        os.utime(path, ns=(1_000_000_000_123_456_789, 1_100_000_000_987_654_321))
    return top


def test_rsync_there_and_back(mounted: Mount, sources: Path, tmp_path: Path) -> None:
    stored, back = mounted.path / "stored", tmp_path / "back"
    run("rsync", "-aHAX", f"{sources}/", f"{stored}/")
    assert_same(sources, stored)
    remount(mounted)
    assert_same(sources, stored)
    run("rsync", "-aHAX", f"{stored}/", f"{back}/")
    assert_same(sources, back)
    assert (stored / "hard-link-3").stat().st_nlink == 2


def test_tar_there_and_back(mounted: Mount, sources: Path, tmp_path: Path) -> None:
    keep = ["--acls", "--xattrs", "--xattrs-include=*", "--sparse"]
    first, second = tmp_path / "first.tar", tmp_path / "second.tar"
    stored, back = mounted.path / "stored", tmp_path / "back"
    stored.mkdir()
    back.mkdir()
    run("tar", "-c", *keep, "-f", first, "-C", sources, ".")
    run("tar", "-x", "-p", *keep, "-f", first, "-C", stored)
    assert_same(sources, stored)
    remount(mounted)
    assert_same(sources, stored)
    run("tar", "-c", *keep, "-f", second, "-C", stored, ".")
    run("tar", "-x", "-p", *keep, "-f", second, "-C", back)
    assert_same(sources, back)


def test_git(mounted: Mount) -> None:
    work = mounted.path / "work"
    run("git", "init", "-q", "-b", "main", work)
    run("git", "config", "user.name", "Somebody", cwd=work)
    run("git", "config", "user.email", "somebody@example.org", cwd=work)
    for round_ in range(3):
        for number in range(60):
            path = work / f"d{number % 7}" / f"f{number}"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{round_} {number}\n" * (number + 1))
        run("git", "add", "-A", cwd=work)
        run("git", "commit", "-q", "-m", f"round {round_}", cwd=work)
    run("git", "gc", "-q", "--prune=now", "--aggressive", cwd=work)
    for _ in range(2):
        assert run("git", "fsck", "--full", "--strict", cwd=work) == ""
        assert run("git", "status", "--porcelain", cwd=work) == ""
        assert len(run("git", "log", "--oneline", cwd=work).splitlines()) == 3
        remount(mounted)
    run("git", "checkout", "-q", "HEAD~2", cwd=work)
    assert (work / "d3" / "f3").read_text() == "0 3\n" * 4
    run("git", "clone", "-q", "--no-local", work, mounted.path / "clone")


@pytest.mark.parametrize("journal", ["wal", "delete", "truncate", "persist"])
def test_sqlite(mounted: Mount, journal: str) -> None:
    path = mounted.path / "data.db"
    with closing(sqlite3.connect(path)) as writer, closing(sqlite3.connect(path)) as reader:
        assert writer.execute(f"PRAGMA journal_mode={journal}").fetchone() == (journal,)
        writer.execute("CREATE TABLE t (number INTEGER PRIMARY KEY, content BLOB)")
        for start in range(0, 400, 50):
            writer.executemany(
                "INSERT INTO t VALUES (?, ?)", ((at, os.urandom(at * 7)) for at in range(start, start + 50))
            )
            writer.commit()
            assert reader.execute("SELECT count(*) FROM t").fetchone() == (start + 50,)
        writer.execute("DELETE FROM t")
        writer.rollback()
        writer.execute("DELETE FROM t WHERE number % 3 = 0")
        writer.execute("UPDATE t SET content = zeroblob(9000) WHERE number % 5 = 0")
        writer.commit()
        writer.execute("VACUUM")
    for _ in range(2):
        with closing(sqlite3.connect(path)) as reader:
            assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert reader.execute("SELECT count(*), sum(number) FROM t").fetchone() == (
                266,
                sum(number for number in range(400) if number % 3),
            )
        assert run("sqlite3", path, "PRAGMA integrity_check") == "ok\n"
        remount(mounted)


@pytest.mark.parametrize("engine", ["psync", "libaio", "mmap"])
def test_fio_verifies_its_random_writes(mounted: Mount, engine: str) -> None:
    job = [
        "fio",
        "--name=verified",
        f"--directory={mounted.path}",
        f"--ioengine={engine}",
        "--rw=randwrite",
        "--bsrange=512-64k",
        "--bs_unaligned=1" if engine == "psync" else "--blockalign=512",
        "--size=6m",
        "--numjobs=3",
        "--randseed=17",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--output-format=terse",
    ]
    for number in range(
        3
    ):  # fio, verifying again, reads the whole size, which it reserves where fallocate(2) works
        with (mounted.path / f"verified.{number}.0").open("wb") as file:
            file.truncate(6 << 20)
    run(*job, "--do_verify=1")
    remount(mounted)
    run(*job, "--verify_only=1")


MAKEFILE = """
objects := $(patsubst %.c,%.o,$(wildcard src/*.c))
program: $(objects)
\tgcc -o $@ $^
src/%.o: src/%.c include/all.h
\tgcc -O1 -Iinclude -c -o $@ $<
check: program
\t./program
clean:
\trm -f program $(objects)
"""


def test_make_builds_a_c_program(mounted: Mount) -> None:
    top, count = mounted.path / "program", 24
    for directory in ("src", "include"):
        (top / directory).mkdir(parents=True)
    (top / "Makefile").write_text(MAKEFILE)
    (top / "include" / "all.h").write_text("".join(f"int f{at}(void);\n" for at in range(count)))
    for at in range(count):
        (top / "src" / f"f{at}.c").write_text(f'#include "all.h"\nint f{at}(void) {{ return {at}; }}\n')
    total = " + ".join(f"f{at}()" for at in range(count))
    (top / "src" / "main.c").write_text(
        f'#include "all.h"\n#include <stdio.h>\nint main(void) {{ printf("sum %d\\n", {total}); return 0; }}\n'
    )
    assert f"sum {sum(range(count))}\n" in run("make", "-j2", "check", cwd=top)
    assert "up to date" in run("make", cwd=top)
    remount(mounted)
    assert "up to date" in run("make", cwd=top)
    assert run(top / "program") == f"sum {sum(range(count))}\n"
    (top / "src" / "f7.c").write_text('#include "all.h"\nint f7(void) { return 1007; }\n')
    assert f"sum {sum(range(count)) + 1000}\n" in run("make", "check", cwd=top)
    run("make", "clean", cwd=top)
    assert list((top / "src").glob("*.o")) == []


def test_mmap(mounted: Mount) -> None:
    path, size = mounted.path / "mapped", 300_001
    expected = bytearray(os.urandom(size))
    path.write_bytes(expected)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as mapped:
        assert mapped[:] == expected
        for start, content in ((0, b"first"), (4090, b"over a page's end"), (size - 4, b"last")):
            mapped[start : start + len(content)] = content
            expected[start : start + len(content)] = content
        mapped.flush()
        assert path.read_bytes() == expected
        os.pwrite(file.fileno(), b"written beside the mapping", 100_000)
        expected[100_000:100_026] = b"written beside the mapping"
        assert mapped[:] == expected
        mapped[200_000:200_007] = b"unsaved"
        expected[200_000:200_007] = b"unsaved"
    remount(mounted)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == expected


def test_a_mapping_outlives_its_descriptor_and_name(mounted: Mount) -> None:
    path = mounted.path / "mapped"
    path.write_bytes(bytes(8192))
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 8192)
    path.unlink()
    mapped[5000:5004] = b"kept"
    mapped.flush()
    assert mapped[4999:5005] == b"\0kept\0"
    mapped.close()


def test_a_program_run_from_the_mount_can_be_replaced(mounted: Mount) -> None:
    program = mounted.path / "program"
    run("cp", "/bin/sleep", program)
    with subprocess.Popen([program, "infinity"]) as running:
        try:
            with pytest.raises(OSError, match="Text file busy"):
                program.open("r+b")
            run("install", "-m", "755", "/bin/true", program)
            run(program)
        finally:
            running.kill()
