"""``kmsfs mount`` and ``unmount``: what they refuse, how the daemon lives, and that it leaves nothing."""

import os
import resource
import signal
import stat
import subprocess
from pathlib import Path

import pytest
from testkit.home import ALIAS, KMSFS, REGION, Home, refused
from testkit.mounting import Mount, Mounter, make_tree

from kmsfs.cli.hardening import may_lock_memory
from kmsfs.storage.mountinfo import mount_at, read_mounts

CLEAR_NAME = "a-name-nobody-may-log"


def process_status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


# --- it works -----------------------------------------------------------------------------------
def test_the_parent_returns_when_the_mount_serves(mounted: Mount) -> None:
    (mounted.path / "file").write_text("content")
    assert (mounted.path / "file").read_text() == "content"
    assert mounted.status()["mountpoint"] == str(mounted.path.resolve())


def test_unmount_returns_when_everything_is_sealed_and_the_process_gone(mounted: Mount) -> None:
    (mounted.path / "file").write_text("content")
    assert mounted.home.ok("unmount", mounted.path) == f"unmounted {mounted.path}\n"
    assert not Path(f"/proc/{mounted.pid}/fd").is_dir() or process_status(mounted.pid)["State"].startswith(
        "Z"
    )
    stored = [path for path in mounted.tree.iterdir() if path.name not in ("kmsfs.tree", ".kmsfs.dir")]
    assert [mounted.home.json("info", path)["dirty"] for path in stored] == [False]
    mounted.start()
    assert (mounted.path / "file").read_text() == "content"


@pytest.mark.parametrize("name", ["sp ace", "new\nline", "back\\slash", "com,ma", "é", "-dash", "tab\t#"])
def test_any_name_of_tree_and_mount_point(home: Home, tmp_path: Path, mounter: Mounter, name: str) -> None:
    tree = tmp_path / f"{name}.tree"
    home.ok("init", tree, "--key", ALIAS)
    mount = mounter(tree=tree, path=tmp_path / f"{name}.mnt")
    (mount.path / "file").write_text("content")
    listed = {entry["mountpoint"]: entry for entry in home.json("status")["mounts"]}
    assert listed[str(mount.path)]["tree"] == str(tree)
    mount.unmount()
    assert not mount.is_mounted()


def test_relative_paths_and_symlinks(home: Home, tree: Path, tmp_path: Path, mounter: Mounter) -> None:
    mount = mounter(start=False)
    (tmp_path / "link").symlink_to("mnt")
    moved = Home(Path("home"))
    run = [KMSFS, "mount", "tree", "link/"]
    subprocess.run(run, cwd=tmp_path, env=moved.env(), check=True, capture_output=True)
    (mount.path / "file").write_text("content")
    done = subprocess.run(
        [KMSFS, "unmount", "./link"], cwd=tmp_path, env=home.env(), check=True, capture_output=True, text=True
    )
    assert done.stdout == f"unmounted {mount.path}\n"


def test_read_only(mounted: Mount, mounter: Mounter) -> None:
    (mounted.path / "file").write_text("content")
    mounted.unmount()
    first = mounter("-o", "ro,noatime", tree=mounted.tree)
    second = mounter("-o", "ro", "-o", "noexec", tree=mounted.tree, path=first.path.with_name("second"))
    assert (second.path / "file").read_text() == "content"
    with pytest.raises(OSError, match="Read-only"):
        (first.path / "other").write_text("x")
    entry = mount_at(str(second.path), read_mounts())
    assert entry is not None
    assert {"ro", "noexec", "nodev", "nosuid"} <= entry.options
    said = refused(mounted.home.run("mount", mounted.tree, mounted.path), 33)
    assert "mount already" in said


def test_a_second_writer_is_refused(mounted: Mount, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    refused(mounted.home.run("mount", mounted.tree, second), 32)
    refused(mounted.home.run("mount", mounted.tree, second, "-o", "ro"), 32)
    mounted.expect_log("mounted already")


# --- the daemon ---------------------------------------------------------------------------------
def test_the_daemon_stands_alone(mounted: Mount) -> None:
    proc = Path(f"/proc/{mounted.pid}")
    assert os.getsid(mounted.pid) not in (os.getsid(0), mounted.pid)
    assert proc.joinpath("cwd").readlink() == Path("/")
    assert {proc.joinpath("fd", str(number)).readlink() for number in range(3)} == {Path("/dev/null")}
    status = process_status(mounted.pid)
    assert status["Umask"] == "0000"
    assert resource.prlimit(mounted.pid, resource.RLIMIT_CORE) == (0, 0)
    soft, hard = resource.prlimit(mounted.pid, resource.RLIMIT_NOFILE)
    assert soft == hard
    if may_lock_memory():
        assert int(status["VmLck"].split()[0]) > 0


def test_no_descriptor_is_inherited(home: Home, tmp_path: Path, mounter: Mounter) -> None:
    mount = mounter(start=False)
    reader, writer = os.pipe()
    subprocess.run(
        [KMSFS, "mount", mount.tree, mount.path],
        env=home.env(),
        pass_fds=[writer],
        check=True,
        capture_output=True,
    )
    os.close(writer)
    with os.fdopen(reader) as stream:
        assert stream.read() == ""  # ends although the daemon lives: it does not hold the other end


def test_the_log_is_private_and_names_nothing(mounted: Mount) -> None:
    (mounted.path / CLEAR_NAME).write_text(CLEAR_NAME)
    mounted.unmount()
    assert stat.S_IMODE(mounted.log.stat().st_mode) == 0o600
    assert stat.S_IMODE(mounted.log.parent.stat().st_mode) == 0o700
    log = mounted.log.read_text()
    assert "serving" in log
    assert "stored" in log
    assert CLEAR_NAME not in log


def test_the_pin_is_in_no_command_line_and_no_log(mounted: Mount) -> None:
    pin = (mounted.home.path / "regions" / f"{REGION}.pin").read_text().strip()
    assert pin.encode() not in Path(f"/proc/{mounted.pid}/cmdline").read_bytes()
    assert pin not in mounted.log.read_text()


def test_sigterm_seals_and_leaves_no_mount(mounted: Mount) -> None:
    (mounted.path / "file").write_text("content")
    mounted.terminate()
    assert not mounted.is_mounted()
    mounted.start()
    assert (mounted.path / "file").read_text() == "content"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_foreground(mounter: Mounter, number: signal.Signals) -> None:
    mount = mounter(foreground=True)
    (mount.path / "file").write_text("content")
    assert mount.terminate(number) == 0
    assert not mount.is_mounted()
    assert "serving" in mount.log.read_text()


# --- refusals before anything starts ------------------------------------------------------------
def test_mount_points_that_will_not_do(home: Home, tree: Path, tmp_path: Path) -> None:
    refused(home.run("mount", tree, tmp_path / "missing"), 33)
    file = tmp_path / "file"
    file.touch()
    refused(home.run("mount", tree, file), 33)
    refused(home.run("mount", tree, file / "below"), 33)
    full = tmp_path / "full"
    (full / "something").mkdir(parents=True)
    refused(home.run("mount", tree, full), 33)
    refused(home.run("mount", tree, "/proc"), 33)
    assert not (home.path / "log").exists()


def test_tree_and_mount_point_must_not_overlap(home: Home, tree: Path, tmp_path: Path) -> None:
    inside = tree / "inside"
    inside.mkdir()
    for mountpoint in (tree, tmp_path, inside):
        refused(home.run("mount", tree, mountpoint), 33)
    (tmp_path / "link").symlink_to(inside)
    refused(home.run("mount", tree, tmp_path / "link"), 33)
    (tmp_path / "tree-link").symlink_to(tree)
    refused(home.run("mount", tmp_path / "tree-link", inside), 33)


def test_a_tree_inside_its_own_mount(mounted: Mount) -> None:
    """A bind mount cannot hide that the tree lies in the mount point."""
    below = mounted.path.with_name("bound")
    below.mkdir()
    subprocess.run(["mount", "--bind", mounted.tree, below], check=True)
    try:
        refused(mounted.home.run("mount", mounted.tree, below), 33)
    finally:
        subprocess.run(["umount", below], check=True)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["-o", "sync"], 2),
        (["-o", "ro,rw"], 2),
        (["-o", "ro", "-o", "rw"], 2),
        (["--nonsense"], 2),
        (["-o"], 2),
    ],
)
def test_options_that_will_not_do(
    home: Home, tree: Path, tmp_path: Path, options: list[str], code: int
) -> None:
    (tmp_path / "mnt").mkdir()
    refused(home.run("mount", tree, tmp_path / "mnt", *options), code)


def test_an_unknown_option_lists_the_known(home: Home, tree: Path, tmp_path: Path) -> None:
    said = refused(home.run("mount", tree, tmp_path, "-o", "noatime,sync"), 2)
    assert "'sync'" in said
    assert "allow_other" in said


def edit_version(raw: bytes) -> bytes:
    assert b'"version":1' in raw
    return raw.replace(b'"version":1', b'"version":9')


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (None, 30),
        (lambda raw: b"", 40),
        (lambda raw: raw[: len(raw) // 2], 40),
        (lambda raw: b"not json", 40),
        (lambda raw: os.urandom(200), 40),
        (edit_version, 41),
    ],
    ids=["missing", "empty", "truncated", "text", "noise", "newer"],
)
def test_superblocks_that_will_not_do(
    home: Home, tree: Path, tmp_path: Path, edit: object, code: int
) -> None:
    (tmp_path / "mnt").mkdir()
    block = tree / "kmsfs.tree"
    raw = block.read_bytes()
    block.unlink()
    if callable(edit):
        block.write_bytes(edit(raw))
    refused(home.run("mount", tree, tmp_path / "mnt"), code)
    refused(home.run("info", tree), code)


def test_an_edited_superblock(home: Home, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    block = tree / "kmsfs.tree"
    raw = block.read_bytes()
    assert b'"chunk_size":4096' in raw
    block.write_bytes(raw.replace(b'"chunk_size":4096', b'"chunk_size":16384'))
    refused(home.run("mount", tree, tmp_path / "mnt"), 42)


@pytest.mark.parametrize("name", ["missing", "file"])
def test_trees_that_are_none(home: Home, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "mnt").mkdir()
    said = refused(home.run("mount", tmp_path / name, tmp_path / "mnt"), 30)
    assert "kmsfs init" in said


# --- refusals of the daemon, told by the parent ---------------------------------------------------
def test_a_disabled_key(home: Home, mounter: Mounter) -> None:
    mount = mounter(start=False)
    home.ok("key", "disable", ALIAS)
    refused(home.run("mount", mount.tree, mount.path), 5)
    mount.expect_log("is disabled")
    assert not mount.is_mounted()
    home.ok("key", "enable", ALIAS)
    mount.start()


def test_a_token_that_is_gone(home: Home, mounter: Mounter, tmp_path: Path) -> None:
    mount = mounter(start=False)
    tokens = home.path / "softhsm" / "tokens"
    tokens.rename(tmp_path / "away")
    refused(home.run("mount", mount.tree, mount.path), 21)
    mount.expect_log("token")
    (tmp_path / "away").rename(tokens)
    mount.start()


def test_a_wrong_pin(home: Home, mounter: Mounter) -> None:
    mount = mounter(start=False)
    pin_file = home.path / "regions" / f"{REGION}.pin"
    pin_file.write_text("wrong-pin-1234\n")
    assert "wrong-pin-1234" not in refused(home.run("mount", mount.tree, mount.path), 23)
    mount.expect_log("PIN")
    assert "wrong-pin-1234" not in mount.log.read_text()


def test_a_key_of_another_keystore(home: Home, empty_home: Home, mounter: Mounter) -> None:
    mount = mounter(start=False)
    refused(empty_home.run("mount", mount.tree, mount.path), 3)
    empty_home.ok("region", "add", REGION)
    refused(empty_home.run("mount", mount.tree, mount.path), 3)
    assert not mount.is_mounted()


def test_a_refusal_in_the_foreground_is_told_once(home: Home, mounter: Mounter) -> None:
    mount = mounter(start=False)
    home.ok("key", "disable", ALIAS)
    refused(home.run("mount", mount.tree, mount.path, "--foreground"), 5)


# --- unmount ------------------------------------------------------------------------------------
def test_a_busy_mount_names_its_users(mounted: Mount) -> None:
    with (mounted.path / "file").open("w"):
        said = refused(mounted.home.run("unmount", mounted.path), 36)
        assert f"(pid {os.getpid()})" in said
        assert mounted.is_mounted()
    mounted.unmount()


def test_what_is_not_mounted(home: Home, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        assert "is not mounted" in refused(home.run("unmount", path), 35)
    assert "not a kmsfs mount" in refused(home.run("unmount", "/proc"), 35)


def test_a_path_inside_a_mount_is_not_the_mount(mounted: Mount) -> None:
    (mounted.path / "directory").mkdir()
    refused(mounted.home.run("unmount", mounted.path / "directory"), 35)


def test_a_dead_mount_is_seen_refused_and_cleaned_up(mounted: Mount) -> None:
    mounted.terminate(signal.SIGKILL)
    assert mounted.is_mounted()
    states = {entry["mountpoint"]: entry["state"] for entry in mounted.home.json("status")["mounts"]}
    assert states[str(mounted.path)] == "dead"
    doctor = mounted.home.run("doctor")
    assert doctor.returncode == 50
    assert f"kmsfs unmount {mounted.path}" in doctor.stdout
    assert "kmsfs unmount" in refused(mounted.home.run("mount", mounted.tree, mounted.path), 33)
    refused(mounted.home.run("info", mounted.path / "file"), 35)
    assert "cleaned up" in mounted.home.ok("unmount", mounted.path)
    mounted.start()


# --- init ---------------------------------------------------------------------------------------
def test_init_makes_a_private_directory(home: Home, tmp_path: Path) -> None:
    assert home.ok("init", tmp_path / "new") == f"created the tree {tmp_path / 'new'}\n"
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    (tmp_path / "empty").mkdir(mode=0o750)
    home.ok("init", tmp_path / "empty", "--key", ALIAS, "--region", REGION)


def test_init_refuses_what_is_in_use(home: Home, tree: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in tree.iterdir())
    refused(home.run("init", tree), 31)
    assert sorted(path.name for path in tree.iterdir()) == before
    full = tmp_path / "full"
    (full / "something").mkdir(parents=True)
    refused(home.run("init", full), 31)
    refused(home.run("init", full / "missing" / ".." / "something" / "file", "--key", "alias/nobody"), 3)
    (tmp_path / "file").touch()
    refused(home.run("init", tmp_path / "file"), 31)
    assert [path.name for path in full.iterdir()] == ["something"]


def test_init_without_a_key_takes_the_managed_key(home: Home, tmp_path: Path) -> None:
    arns = set()
    for name in ("tree", "second"):
        home.ok("init", tmp_path / name, "--region", REGION)
        arns.add(home.json("info", tmp_path / name)["slots"][0]["key_arn"])
    managed = home.json("key", "describe", "alias/aws/kmsfs")
    assert arns == {managed["Arn"]}
    assert managed["KeyManager"] == "AWS"
    home.ok("key", "disable", ALIAS)
    refused(home.run("init", tmp_path / "other", "--key", ALIAS), 5)
    assert not (tmp_path / "other").exists()


def test_two_trees_mount_side_by_side(home: Home, tmp_path: Path, mounter: Mounter) -> None:
    mounts = [
        mounter(tree=make_tree(home, tmp_path / f"tree-{name}"), path=tmp_path / f"mnt-{name}")
        for name in "ab"
    ]
    for mount in mounts:
        (mount.path / "file").write_text(mount.path.name)
    assert mounts[0].log != mounts[1].log
    assert [(mount.path / "file").read_text() for mount in mounts] == ["mnt-a", "mnt-b"]
