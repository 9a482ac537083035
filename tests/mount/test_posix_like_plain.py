"""A mount against a plain directory: every scenario runs in both, and must say the same of both."""

import os
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from testkit.mounting import Mounter
from testkit.users import NOBODY, as_user, outcome

KINDS = ("file", "directory", "fifo", "socket", "device", "link")
_REALTIME_COARSE = 5  # <linux/time.h>
Scenario = Callable[[], object]
SCENARIOS: list[Scenario] = []


def scenario(function: Scenario) -> Scenario:
    """Register what is to run in the current directory of a mount and of a plain directory."""
    SCENARIOS.append(function)
    return function


def put(name: str, data: bytes = b"data", mode: int = 0o644) -> None:
    fd = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, mode)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def get(name: str) -> bytes:
    return Path(name).read_bytes()


def make(kind: str, name: str) -> None:
    match kind:
        case "file":
            put(name)
        case "directory":
            os.mkdir(name)
        case "fifo":
            os.mkfifo(name)
        case "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(name)
        case "device":
            os.mknod(name, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        case "link":
            os.symlink("nowhere", name)


def remove(name: str) -> None:
    (os.rmdir if stat.S_ISDIR(os.lstat(name).st_mode) else os.unlink)(name)


def about(name: str) -> tuple[str, int, int, int]:
    status = os.lstat(name)
    return stat.filemode(status.st_mode), status.st_nlink, status.st_uid, status.st_gid


def tick() -> None:
    """Let the clock that file systems take times from go on."""
    before = time.clock_gettime_ns(_REALTIME_COARSE)
    while time.clock_gettime_ns(_REALTIME_COARSE) == before:
        pass


def moved(name: str, change: Callable[[], object], then: str = "") -> tuple[object, bool, bool]:
    """The outcome of a change, and whether mtime and ctime of ``name`` went on by it."""
    before = os.lstat(name)
    tick()
    said = outcome(change)
    after = os.lstat(then or name)
    return said, after.st_mtime_ns > before.st_mtime_ns, after.st_ctime_ns > before.st_ctime_ns


@scenario
def creation_takes_type_mode_and_owner() -> object:
    os.chmod(".", 0o777)

    def make_all() -> object:
        os.umask(0o027)
        os.mkdir("d", 0o777)
        os.mkfifo("p", 0o666)
        os.mknod("r", stat.S_IFREG | 0o4755)
        os.symlink("x", "l")
        put("f", mode=0o666)
        os.close(os.open("zero", os.O_CREAT | os.O_RDWR, 0))
        return [about(name) for name in ("d", "p", "r", "l", "f", "zero")]

    return as_user(make_all)


@scenario
def a_set_group_id_directory_hands_its_group_on() -> object:
    os.mkdir("g")
    os.chown("g", 4001, 4002)
    os.chmod("g", 0o2777)

    def make_some() -> object:
        os.mkdir("g/d", 0o755)
        put("g/f")
        put("g/s", mode=0o2755)
        os.symlink("x", "g/l")
        return [about(f"g/{name}") for name in ("d", "f", "s", "l")]

    return as_user(make_some)


@scenario
def hard_links_share_everything() -> object:
    said: list[object] = []
    for kind in ("file", "fifo", "socket", "device", "link"):
        make(kind, "a")
        said.append(moved("a", lambda: os.link("a", "b", follow_symlinks=False)))
        os.chown("b", 12, 13, follow_symlinks=False)
        said += [about("a"), about("b")]
        said += [moved("a", lambda: os.unlink("b")), about("a")]
        make(kind, "c")
        os.link("a", "d", follow_symlinks=False)
        said += [moved("d", lambda: os.rename("c", "a")), about("d"), about("a")]
        os.unlink("a")
        os.unlink("d")
    return said


@scenario
def every_kind_renamed_over_every_kind() -> object:
    said = []
    for kind in KINDS:
        for other in KINDS:
            make(kind, "a")
            make(other, "b")
            said.append((kind, other, outcome(lambda: os.rename("a", "b")), sorted(os.listdir())))
            for name in os.listdir():
                remove(name)
    return said


@scenario
def renames_that_must_fail() -> object:
    os.makedirs("a/b/c")
    put("f")
    calls = [
        ("a", "a/b/x"),
        ("a", "a/b"),
        ("f", "f/x"),
        ("f", "a/"),
        ("nothing", "x"),
        ("a/b/.", "x"),
        ("a/b", "a/.."),
    ]
    return [(pair, outcome(lambda pair=pair: os.rename(*pair))) for pair in calls]  # type: ignore[misc]


@scenario
def a_directory_counts_its_subdirectories() -> object:
    os.mkdir("a")
    os.mkdir("b")
    said = [(moved("a", lambda: os.mkdir("a/s")), os.stat("a").st_nlink)]
    said.append((moved("a", lambda: os.rename("a/s", "b/s")), os.stat("a").st_nlink))
    os.mkdir("b/t")
    said.append((moved("b", lambda: os.rename("b/t", "b/s")), os.stat("b").st_nlink))
    said.append((moved("b", lambda: os.rmdir("b/s")), os.stat("b").st_nlink))
    return said


@scenario
def a_moved_directory_keeps_its_modification_time() -> object:
    os.makedirs("a/s")
    os.mkdir("b")
    os.utime("a/s", ns=(1_000_000_007, 2_000_000_009))
    said = moved("a/s", lambda: os.rename("a/s", "b/s"), then="b/s")
    status = os.stat("b/s")
    return said, status.st_atime_ns, status.st_mtime_ns


@scenario
def a_removed_directory_that_is_open() -> object:
    os.mkdir("d")
    fd = os.open("d", os.O_RDONLY)
    here = os.getcwd()
    os.rmdir("d")
    os.fchdir(fd)
    try:
        calls: list[Scenario] = [
            lambda: os.listdir("."),
            lambda: os.listdir(fd),
            lambda: os.fstat(fd).st_nlink,
            lambda: os.mkdir("x"),
            lambda: put("x"),
            lambda: os.symlink("a", "x"),
            lambda: os.lstat("x"),
        ]
        return [outcome(call) for call in calls]
    finally:
        os.chdir(here)
        os.close(fd)


@scenario
def a_removed_file_that_is_open() -> object:
    fd = os.open("f", os.O_CREAT | os.O_RDWR, 0o600)
    os.write(fd, b"before")
    os.unlink("f")
    calls: list[Scenario] = [
        lambda: os.write(fd, b"after"),
        lambda: os.ftruncate(fd, 8),
        lambda: os.pread(fd, 20, 0),
        lambda: os.fchmod(fd, 0o640),
        lambda: (os.fstat(fd).st_mode, os.fstat(fd).st_nlink, os.fstat(fd).st_size),
        lambda: os.utime(fd, ns=(5, 6)),
        lambda: os.fstat(fd).st_mtime_ns,
        lambda: os.setxattr(fd, "user.a", b"1"),
        lambda: os.getxattr(fd, "user.a"),
        lambda: os.link(f"/proc/self/fd/{fd}", "back", follow_symlinks=True),
    ]
    said = [outcome(call) for call in calls]
    os.close(fd)
    return said


@scenario
def writing_clears_privileges_unless_root_writes() -> object:
    said: list[object] = []
    ways: list[Callable[[], object]] = [
        lambda: os.truncate("f", 1),
        lambda: put("f", b"new"),
        lambda: put("f", b""),
        lambda: os.posix_fallocate(os.open("f", os.O_WRONLY), 0, 100),
    ]
    for mode in (0o4777, 0o2777, 0o6777):
        for way in ways:
            put("f")
            os.chmod("f", mode)
            said.append((oct(mode), as_user(way), about("f")))
            os.unlink("f")
    put("f")
    os.chmod("f", 0o6777)
    put("f", b"root")
    said.append(about("f"))
    os.chown("f", 1, 1)
    said.append(about("f"))
    return said


@scenario
def what_moves_the_times_of_a_file() -> object:
    put("f")
    ways: list[Scenario] = [
        lambda: put("f", b"x"),
        lambda: put("f", b""),
        lambda: put("f", b""),
        lambda: os.truncate("f", 9),
        lambda: os.truncate("f", 3),
        lambda: os.chmod("f", 0o600),
        lambda: os.chown("f", 5, -1),
        lambda: os.setxattr("f", "user.a", b"1"),
        lambda: os.utime("f", ns=(3_000_000_001, 4_000_000_001)),
        lambda: as_user(lambda: put("f")),
    ]
    return [moved("f", way) for way in ways]


@scenario
def who_may_set_times() -> object:
    os.chmod(".", 0o777)
    put("f", mode=0o600)
    os.chmod("f", 0o666)
    now: Scenario = lambda: os.utime("f")  # noqa: E731
    then: Scenario = lambda: os.utime("f", ns=(1, 2))  # noqa: E731
    said = [as_user(now), as_user(then)]
    os.chown("f", NOBODY, NOBODY)
    os.chmod("f", 0)
    said += [as_user(now), as_user(then)]
    for ns in ((0, 0), (-5, -1_000_000_000), (2**31 * 10**9, 2**33 * 10**9 + 999_999_999)):
        os.utime("f", ns=ns)
        said.append(repr((os.stat("f").st_atime_ns, os.stat("f").st_mtime_ns)))
    return said


@scenario
def a_sticky_directory_protects_the_files_of_others() -> object:
    os.mkdir("t")
    os.chmod("t", 0o1777)
    said: list[object] = []
    for kind in KINDS:
        make(kind, "t/x")
        calls: list[Scenario] = [
            lambda: os.rename("t/x", "t/y"),
            lambda: remove("t/x"),
            lambda: put("t/mine"),
        ]
        said += [as_user(call) for call in calls]
        said += [as_user(lambda: os.rename("t/mine", "t/x")), as_user(lambda: remove("t/mine"))]
        remove("t/x")
    return said


@scenario
def modes_decide_what_others_may_do() -> object:
    os.mkdir("d", 0o711)
    ways = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC)
    said: list[object] = []
    for mode in (0o000, 0o004, 0o002, 0o006, 0o060, 0o600):
        put("d/f", mode=0o600)
        os.chown("d/f", 4001, 4002)
        os.chmod("d/f", mode)
        for uid, groups in ((NOBODY, ()), (NOBODY, (4002,)), (4001, ())):
            said += [as_user(lambda way=way: os.close(os.open("d/f", way)), uid, groups) for way in ways]  # type: ignore[misc]
        said += [as_user(lambda: os.listdir("d")), as_user(lambda: os.link("d/f", "d/g"))]
        os.unlink("d/f")
    return said


@scenario
def long_names_and_targets() -> object:
    said: list[object] = []
    for length in (1, 142, 143, 144, 175, 176, 254, 255, 256):
        name = "n" * length
        said += [outcome(lambda name=name: put(name)), outcome(lambda name=name: os.rename(name, "m" * 255))]  # type: ignore[misc]
        said += [sorted(os.listdir()), outcome(lambda: os.unlink("m" * 255))]
    for length in (1, 3043, 3044, 4095):
        os.symlink("t" * length, "l")
        said += [os.lstat("l").st_size, len(os.readlink("l"))]
        os.unlink("l")
    return [*said, outcome(lambda: os.symlink("t" * 4096, "l"))]


@scenario
def attributes_and_their_refusals() -> object:
    put("f")
    os.mkdir("d")
    os.symlink("f", "l")
    os.mkfifo("p")
    said: list[object] = []
    for name in ("f", "d"):
        calls: list[Scenario] = [
            lambda name=name: os.setxattr(name, "user.a", b"1", os.XATTR_CREATE),  # type: ignore[misc]
            lambda name=name: os.setxattr(name, "user.a", b"2", os.XATTR_CREATE),  # type: ignore[misc]
            lambda name=name: os.setxattr(name, "user.b", b"2", os.XATTR_REPLACE),  # type: ignore[misc]
            lambda name=name: os.setxattr(name, "user.", b""),  # type: ignore[misc]
            lambda name=name: os.setxattr(name, "user.empty", b""),  # type: ignore[misc]
            lambda name=name: os.getxattr(name, "user.empty"),  # type: ignore[misc]
            lambda name=name: os.removexattr(name, "user.empty"),  # type: ignore[misc]
            lambda name=name: os.listxattr(name),  # type: ignore[misc]
            lambda name=name: os.getxattr(name, "user.none"),  # type: ignore[misc]
            lambda name=name: os.removexattr(name, "user.none"),  # type: ignore[misc]
            lambda name=name: os.setxattr(name, "wrong.a", b""),  # type: ignore[misc]
        ]
        said += [outcome(call) for call in calls]
    said.append(outcome(lambda: os.setxattr("p", "user.a", b"")))
    said.append(outcome(lambda: os.setxattr("l", "user.a", b"", follow_symlinks=False)))
    said.append(as_user(lambda: os.setxattr("f", "user.c", b"")))
    return said


@pytest.mark.parametrize("run", SCENARIOS, ids=lambda run: run.__name__)
def test_a_mount_says_what_a_plain_directory_says(run: Scenario, mounter: Mounter, tmp_path: Path) -> None:
    mount = mounter("-o", "allow_other")
    said = []
    here = os.getcwd()
    umask = os.umask(0o022)
    try:
        for place in (tmp_path, mount.path):
            (place / "here").mkdir()
            os.chdir(place / "here")
            os.chmod(".", 0o755)
            said.append(run())
    finally:
        os.umask(umask)
        os.chdir(here)
    assert said[1] == said[0]
