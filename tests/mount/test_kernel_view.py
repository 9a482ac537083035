"""What a mount and the kernel tell each other: flags, options, ACLs, caches, coherence between openers."""

import ctypes
import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from testkit.mounting import Mount, Mounter, make_tree
from testkit.users import as_user

from kmsfs.storage.mountinfo import mount_at, read_mounts

AT_FDCWD = -100
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
CHUNK = 4096

_libc = ctypes.CDLL(None, use_errno=True)


def renameat2(old: Path, new: Path, flags: int) -> None:
    if _libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), ctypes.c_uint(flags)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def drop_caches() -> None:
    """Let the kernel forget clean pages, dentries and inodes."""
    os.sync()
    with suppress(OSError):  # some containers forbid it; what follows holds with warm caches, too
        Path("/proc/sys/vm/drop_caches").write_text("3\n")


def test_rename_flags(mounted: Mount) -> None:
    one, two, three = (mounted.path / name for name in ("one", "two", "three"))
    one.write_bytes(b"1")
    two.mkdir()
    (two / "inside").write_bytes(b"2")
    with pytest.raises(FileExistsError):
        renameat2(one, two, NOREPLACE)
    renameat2(one, three, NOREPLACE)
    renameat2(three, two, EXCHANGE)
    assert two.read_bytes() == b"1"
    assert (three / "inside").read_bytes() == b"2"
    with pytest.raises(FileNotFoundError):
        renameat2(two, one, EXCHANGE)
    with pytest.raises(OSError, match="Invalid argument"):
        renameat2(two, three, NOREPLACE | EXCHANGE)
    with pytest.raises(OSError, match="Invalid argument"):
        renameat2(three, three / "below", 0)
    renameat2(two, one, WHITEOUT)
    drop_caches()
    assert sorted(os.listdir(mounted.path)) == ["one", "three", "two"]
    assert (two.stat().st_mode, two.stat().st_rdev) == (0o020000, 0)


def test_names_that_are_looked_up_again_after_the_kernel_forgot(mounted: Mount) -> None:
    for number in range(50):
        directory = mounted.path / f"{number}"
        directory.mkdir()
        (directory / "file").write_bytes(b"%d" % number)
        os.link(directory / "file", directory / "link")
    identities = {path: path.stat().st_ino for path in mounted.path.glob("*/*")}
    with (mounted.path / "7" / "file").open("r+b", buffering=0) as kept:
        (mounted.path / "7").rename(mounted.path / "moved")
        drop_caches()
        assert os.fstat(kept.fileno()).st_nlink == 2
        kept.write(b"k")
        assert (mounted.path / "moved" / "link").read_bytes() == b"k"
    for number in range(50):
        directory = mounted.path / ("moved" if number == 7 else f"{number}")
        assert (directory / "link").read_bytes() == (b"k" if number == 7 else b"%d" % number)
        assert (directory / "file").samefile(directory / "link")
    drop_caches()
    later = {path: path.stat().st_ino for path in mounted.path.glob("*/*") if "moved" not in str(path)}
    assert later == {path: number for path, number in identities.items() if path in later}
    assert mounted.status()["inodes"] < 250


def test_two_descriptors_and_two_processes_see_one_file(mounted: Mount) -> None:
    path = mounted.path / "shared"
    with path.open("w+b", buffering=0) as one, path.open("r+b", buffering=0) as two:
        one.write(b"a" * 10_000)
        os.pwrite(two.fileno(), b"b" * 5000, 2000)
        assert os.pread(one.fileno(), 20_000, 0) == b"a" * 2000 + b"b" * 5000 + b"a" * 3000
        script = "import sys; f = open(sys.argv[1], 'r+b'); assert f.read(1) == b'a'; f.seek(0); f.write(b'c' * 4100)"
        subprocess.run(["python3", "-c", script, path], check=True)
        assert os.pread(two.fileno(), 4101, 0) == b"c" * 4100 + b"b"
        os.ftruncate(one.fileno(), 3)
        assert os.pread(two.fileno(), 10, 0) == b"ccc"
        with path.open("ab", buffering=0) as third:
            third.write(b"appended")
        assert os.pread(one.fileno(), 100, 0) == b"cccappended"
    drop_caches()
    assert path.read_bytes() == b"cccappended"


@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, 3 * CHUNK + 1, 200_000])
def test_a_reader_never_sees_less_than_what_was_written(mounted: Mount, size: int) -> None:
    """Small files come to the page cache with their open: never over newer pages."""
    path = mounted.path / "file"
    for version in range(20):
        content = b"%c" % (65 + version) * size
        path.write_bytes(content)
        assert path.read_bytes() == content
        with path.open("r+b", buffering=0) as file:
            file.write(b"*")
            with path.open("rb", buffering=0) as reader:
                assert reader.read(2) == (b"*" + content[1:])[:2]
            if version % 3 == 0:
                drop_caches()
            assert path.read_bytes() == b"*" + content[1:]
        if version % 2:
            drop_caches()
            assert path.read_bytes() == b"*" + content[1:]


def test_times_to_the_nanosecond(mounted: Mount) -> None:
    times = (1_000_000_000_123_456_789, 2_000_000_000_987_654_321)
    for kind, make in (
        ("file", lambda path: path.write_bytes(b"x")),
        ("directory", os.mkdir),
        ("fifo", os.mkfifo),
        ("link", lambda path: os.symlink("t", path)),
    ):
        path = mounted.path / kind
        make(path)
        os.utime(path, ns=times, follow_symlinks=False)
        assert (path.lstat().st_atime_ns, path.lstat().st_mtime_ns) == times
    mounted.unmount()
    mounted.start()
    for kind in ("file", "directory", "fifo", "link"):
        status = (mounted.path / kind).lstat()
        assert (status.st_atime_ns, status.st_mtime_ns) == times


def test_written_times_survive_the_seal(mounted: Mount) -> None:
    path = mounted.path / "file"
    path.write_bytes(b"x" * 10_000)
    os.utime(path, ns=(5, 1_500_000_000_000_000_005))
    with path.open("r+b"):
        pass
    mounted.unmount()
    mounted.start()
    assert path.stat().st_mtime_ns == 1_500_000_000_000_000_005


def test_statfs_is_that_of_the_store(mounted: Mount) -> None:
    inside, outside = os.statvfs(mounted.path), os.statvfs(mounted.tree)
    for name in ("f_bsize", "f_frsize", "f_blocks", "f_files"):
        assert getattr(inside, name) == getattr(outside, name)
    assert inside.f_namemax == 255


@pytest.mark.parametrize(
    ("given", "seen"),
    [("noexec", "noexec"), ("nosuid", "nosuid"), ("nodev", "nodev"), ("noatime", "noatime"), ("ro", "ro")],
)
def test_options_are_visible_and_kept(mounter: Mounter, tree: Path, given: str, seen: str) -> None:
    mount = mounter("-o", given, tree=tree)
    entry = mount_at(str(mount.path), read_mounts())
    assert entry is not None
    assert seen in entry.options


def test_noexec_and_ro_are_enforced(mounted: Mount) -> None:
    script = mounted.path / "script"
    script.write_text("#!/bin/sh\nexit 0\n")
    script.chmod(0o755)
    subprocess.run([script], check=True)
    mounted.unmount()
    mounted.start("-o", "noexec,ro")
    with pytest.raises(PermissionError):
        subprocess.run([script], check=True)
    writes = [
        lambda: script.write_text("x"),
        lambda: script.unlink(),
        lambda: script.chmod(0o700),
        lambda: os.utime(script),
        lambda: os.setxattr(script, "user.x", b""),
        lambda: os.link(script, mounted.path / "link"),
        lambda: script.rename(mounted.path / "renamed"),
        lambda: (mounted.path / "new").mkdir(),
        lambda: (mounted.path / "new").touch(),
        lambda: os.truncate(script, 0),
    ]
    for write in writes:
        with pytest.raises(OSError, match="Read-only file system"):
            write()


# --- access control lists ------------------------------------------------------------------------
def setfacl(path: Path, *arguments: str) -> None:
    subprocess.run(["setfacl", *arguments, path], check=True)


def test_acls_are_enforced(mounter: Mounter, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = mounter("-o", "allow_other")
    mount.path.chmod(0o755)
    monkeypatch.chdir(mount.path)  # others may not walk to it
    path = Path("file")
    path.write_bytes(b"secret")
    path.chmod(0o600)
    assert as_user(path.read_bytes, 1234) == "'EACCES'"
    setfacl(path, "-m", "u:1234:r--")
    assert as_user(path.read_bytes, 1234) == "b'secret'"
    assert as_user(lambda: path.write_bytes(b"x"), 1234) == "'EACCES'"
    assert as_user(path.read_bytes, 1235) == "'EACCES'"
    setfacl(path, "-m", "g:77:rw-")
    assert as_user(lambda: path.write_bytes(b"newer"), 1235, [77]) == "5"
    monkeypatch.chdir("/")
    mount.unmount()
    mount.start("-o", "allow_other")
    monkeypatch.chdir(mount.path)
    assert as_user(path.read_bytes, 1234) == "b'newer'"
    setfacl(path, "-b")
    assert as_user(path.read_bytes, 1234) == "'EACCES'"
    monkeypatch.chdir("/")


def test_default_acls_are_inherited(mounter: Mounter, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    mount = mounter("-o", "allow_other")
    said = []
    for top in (plain, mount.path):
        directory = top / "directory"
        directory.mkdir()
        setfacl(directory, "-d", "-m", "u::rwx,u:1234:rwx,g::r-x,o::---,m::rwx")
        before = os.umask(0)  # docs/operations.md: the umask counts, too
        try:
            (directory / "file").write_bytes(b"x")
            (directory / "below").mkdir()
            os.mkfifo(directory / "fifo")
            (directory / "below" / "inner").write_bytes(b"x")
        finally:
            os.umask(before)
        done = subprocess.run(
            ["getfacl", "-R", "-n", "-p", "."], cwd=directory, check=True, capture_output=True, text=True
        )
        said.append(sorted(done.stdout.split("\n\n")))
    assert said[0] == said[1]


def test_a_umask_without_default_acls(mounted: Mount) -> None:
    before = os.umask(0o027)
    try:
        (mounted.path / "directory").mkdir()
        (mounted.path / "file").touch()
        os.mkfifo(mounted.path / "fifo")
    finally:
        os.umask(before)
    modes = [(mounted.path / name).stat().st_mode & 0o777 for name in ("directory", "file", "fifo")]
    assert modes == [0o750, 0o640, 0o640]


# --- locks and signals ---------------------------------------------------------------------------
def test_locks(mounted: Mount) -> None:
    import fcntl

    path = mounted.path / "file"
    with path.open("w+b") as one, path.open("r+b") as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(one, fcntl.LOCK_EX, 10)
        assert as_user(lambda: fcntl.lockf(two, fcntl.LOCK_EX | fcntl.LOCK_NB, 5), 0) == "'EAGAIN'"


def test_sigterm_with_open_files_seals_them(mounted: Mount) -> None:
    """The mount goes from under a program; what it wrote is there, and the next mount has nothing to mend."""
    path = mounted.path / "file"
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    os.write(fd, b"x" * 100_000)
    os.ftruncate(fd, 50_000)
    os.write(fd, b"y")
    mounted.terminate()
    with pytest.raises(OSError, match="Transport endpoint is not connected"):
        os.fsync(fd)
    with suppress(OSError):
        os.close(fd)
    assert not mounted.is_mounted()
    mounted.start()
    assert path.read_bytes() == b"x" * 50_000 + bytes(50_000) + b"y"


# --- a store that is a mount itself --------------------------------------------------------------
def test_a_tree_in_the_mount_of_another_tree(mounted: Mount, mounter: Mounter, tmp_path: Path) -> None:
    """A store on FUSE knows neither RWF_NOWAIT nor every flag."""
    inner = mounter(tree=make_tree(mounted.home, mounted.path / "inner"), path=tmp_path / "inner-mnt")
    content = os.urandom(300_000)
    (inner.path / "directory").mkdir()
    (inner.path / "directory" / "file").write_bytes(content)
    (inner.path / ("n" * 255)).write_bytes(b"long")
    (inner.path / "link").symlink_to("t" * 4000)
    os.setxattr(inner.path / "directory", "trusted.x", b"1")  # user.kmsfs.* is the outer mount's
    inner.unmount()
    drop_caches()
    inner.start()
    assert (inner.path / "directory" / "file").read_bytes() == content
    assert (inner.path / ("n" * 255)).read_bytes() == b"long"
    assert os.readlink(inner.path / "link") == "t" * 4000
    assert os.getxattr(inner.path / "directory", "trusted.x") == b"1"
    (inner.path / "directory").rename(inner.path / "moved")
    assert (inner.path / "moved" / "file").read_bytes() == content
    inner.unmount()
