"""kmsfs zone, in mounts and in trees; what kmsfs info and mv(1) make of zones."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from testkit.home import ALIAS, REGION, Home, refused
from testkit.mounting import Mount, Mounter, make_tree

from kmsfs.tree.superblock_file import lock_work, open_root

OTHER = "us-east-1"


@pytest.fixture
def other(home: Home) -> str:
    """The ARN of ``alias/files`` of another region."""
    home.ok("region", "add", OTHER)
    arn: str = home.json("key", "create", "--region", OTHER, "--alias", ALIAS)["Arn"]
    return arn


def first(home: Home) -> str:
    """The ARN of ``alias/files`` of the tree's region."""
    arn: str = home.json("key", "describe", ALIAS, "--region", REGION)["Arn"]
    return arn


@pytest.fixture
def mounted(other: str, home: Home, tmp_path: Path, mounter: Mounter) -> Mount:
    """A mount of a tree whose home has two regions."""
    home.ok("init", tmp_path / "tree", "--key", ALIAS, "--region", REGION)
    return mounter(tree=tmp_path / "tree")


def key_of(path: Path) -> str:
    return os.getxattr(path, "user.kmsfs.key").decode()


def make_zone(mount: Mount, name: str) -> Path:
    path = mount.path / name
    path.mkdir()
    mount.home.ok("zone", "create", path, "--key", ALIAS, "--region", OTHER)
    return path


# --- in a mount ---------------------------------------------------------------------------------
def test_a_zone_in_a_mount(mounted: Mount, other: str) -> None:
    home, zone = mounted.home, make_zone(mounted, "us")
    (zone / "in").mkdir()
    (zone / "in" / "f").write_text("abc")
    (mounted.path / "f").write_text("abc")
    assert key_of(zone) == key_of(zone / "in") == key_of(zone / "in" / "f") == other
    assert key_of(mounted.path) == key_of(mounted.path / "f") == first(home)
    info = home.json("info", zone / "in" / "f")
    assert (info["zone"], info["key_arn"], info["slots"][0]["region"]) == (other, other, OTHER)
    assert home.json("info", zone)["is_zone"]
    assert not home.json("info", zone / "in")["is_zone"]
    (zone / "s").symlink_to("in")
    assert home.json("info", zone / "s")["zone"] == other
    expected = {"zones": [{"path": "us", "key_arn": other, "problem": None}]}
    assert home.json("zone", "list", mounted.path) == expected
    listed = home.json("zone", "list", mounted.tree)["zones"]
    assert [entry["path"] for entry in listed] == [home.json("info", zone)["entry"]]
    assert other in home.ok("zone", "list", zone)
    shown = home.ok("zone", "create", zone / "in", "--key", ALIAS, "--region", REGION)
    assert "kmsfs rewrap" in shown
    assert key_of(zone / "in" / "f") == other
    (zone / "in" / "g").write_text("abc")
    assert key_of(zone / "in" / "g") == first(home)
    home.ok("zone", "remove", zone / "in")
    home.ok("zone", "remove", zone)
    assert home.ok("zone", "list", mounted.path) == "there is no zone\n"
    refused(home.run("zone", "remove", zone), 2)
    (zone / "g").write_text("abc")
    assert key_of(zone / "g") == first(home)
    assert (zone / "in" / "f").read_text() == "abc"


def test_the_key_attribute_is_read_only_and_not_listed(mounted: Mount) -> None:
    path = mounted.path / "f"
    path.write_text("abc")
    with pytest.raises(PermissionError):
        os.setxattr(path, "user.kmsfs.key", b"x")
    with pytest.raises(PermissionError):
        os.removexattr(path, "user.kmsfs.key")
    assert os.listxattr(path) == []


def test_the_key_of_a_zone_is_not_deleted_unawares(mounted: Mount, other: str) -> None:
    zone = make_zone(mounted, "us")
    assert str(mounted.tree) in refused(mounted.home.run("key", "schedule-deletion", other), 7)
    mounted.home.ok("zone", "remove", zone)
    mounted.unmount()
    mounted.start()
    assert str(mounted.tree) in refused(mounted.home.run("key", "schedule-deletion", other), 7)
    mounted.home.ok("zone", "create", zone, "--key", other)
    mounted.unmount()
    mounted.home.ok("rewrap", mounted.tree)
    assert str(mounted.tree) in refused(mounted.home.run("key", "schedule-deletion", other), 7)
    mounted.start()
    mounted.home.ok("zone", "remove", zone)
    mounted.unmount()
    mounted.home.ok("rewrap", mounted.tree)
    mounted.home.ok("key", "schedule-deletion", other)


def test_a_zone_whose_key_is_gone_refuses_new_files_only(mounted: Mount, other: str, tmp_path: Path) -> None:
    zone = make_zone(mounted, "us")
    (zone / "f").write_text("abc")
    mounted.expect_log("is disabled")
    mounted.home.ok("key", "disable", other)
    mounted.unmount()
    mounted.start()
    with pytest.raises(OSError, match="Key has been revoked"):
        (zone / "g").write_text("abc")
    (zone / "d").mkdir()
    (zone / "f").rename(zone / "d" / "f")
    (mounted.path / "f").write_text("abc")
    with pytest.raises(OSError, match="Key has been revoked"):
        (mounted.path / "f").rename(zone / "g")
    assert (mounted.path / "f").read_text() == "abc"
    logged = mounted.log.read_text()
    moved = mounted.home.json("info", mounted.path / "f")["file_id"]
    because = f"key {other} is disabled; hint: enable it first: kmsfs key enable {other}"
    assert f"create: {because}" in logged
    assert f"rename: file {moved}: {because}" in logged
    (listed,) = mounted.home.json("zone", "list", mounted.path)["zones"]
    assert "is disabled" in listed["problem"]
    away = mounted.home.copy_to(tmp_path / "away")
    shutil.rmtree(away.path / "softhsm" / "tokens")
    (listed,) = away.json("zone", "list", mounted.path)["zones"]
    assert "token" in listed["problem"]


def test_a_symlink_names_what_it_leads_to(
    mounted: Mount, other: str, mounter: Mounter, tmp_path: Path
) -> None:
    """Also out of one mount and into another: what stands at the link is none of that mount's business."""
    home = mounted.home
    home.ok("init", tmp_path / "tree2", "--key", first(home))
    second = mounter(tree=tmp_path / "tree2", path=tmp_path / "mnt2")
    (second.path / "us").mkdir()
    for at, (link, target) in enumerate(
        [(tmp_path / "link", second.path / "us"), (mounted.path / "link", second.path)]
    ):
        link.symlink_to(target)
        home.ok("zone", "create", link, "--key", other)
        assert home.json("zone", "list", mounted.path)["zones"] == []
        assert home.json("zone", "list", link)["zones"][0] == {"path": ".", "key_arn": other, "problem": None}
        assert len(home.json("zone", "list", second.path)["zones"]) == at + 1
    home.ok("zone", "remove", mounted.path / "link")
    assert [zone["path"] for zone in home.json("zone", "list", second.path)["zones"]] == ["us"]


# --- mv -----------------------------------------------------------------------------------------
def test_mv_between_zones_of_two_regions(mounted: Mount, other: str) -> None:
    """Files are renamed and get the other region's key; a directory is copied, and so does."""
    zone, home = make_zone(mounted, "us"), mounted.path / "eu"
    (home / "d" / "sub").mkdir(parents=True)
    (home / "f").write_bytes(b"abc" * 5000)
    (home / "d" / "sub" / "g").write_bytes(b"def" * 5000)
    (home / "one").write_text("1")
    os.link(home / "one", home / "two")
    inode = (home / "f").stat().st_ino
    with (home / "f").open("r+b") as held:
        subprocess.run(["mv", home / "f", home / "d", home / "one", zone], check=True)
        held.write(b"ABC")
    assert (zone / "f").stat().st_ino == inode
    with pytest.raises(OSError, match="Invalid cross-device link"):
        os.rename(zone / "d", home / "d")
    with pytest.raises(OSError, match="Invalid cross-device link"):
        os.link(zone / "f", home / "link")
    for _ in range(2):
        assert sorted(os.listdir(home)) == ["two"]
        assert (zone / "f").read_bytes() == b"ABC" + b"abc" * 4999
        assert (zone / "d" / "sub" / "g").read_bytes() == b"def" * 5000
        assert (zone / "one").read_text() == (home / "two").read_text() == "1"
        for name in ("f", "d/sub/g", "one"):
            slots = mounted.home.json("info", zone / name)["slots"]
            assert [slot["key_arn"] for slot in slots] == [other]
        mounted.unmount()
        mounted.start()
    subprocess.run(["mv", zone / "d", zone / "f", home], check=True)
    assert key_of(home / "d" / "sub" / "g") == key_of(home / "f") == first(mounted.home)


# --- in a tree that is not mounted --------------------------------------------------------------
def test_a_zone_in_an_unmounted_tree(mounted: Mount, other: str) -> None:
    (mounted.path / "us").mkdir()
    entry = mounted.home.json("info", mounted.path / "us")["entry"]
    busy = refused(mounted.home.run("zone", "create", mounted.tree / entry, "--key", other), 32)
    assert "mounted" in busy
    mounted.unmount()
    shown = mounted.home.ok("zone", "create", mounted.tree / entry, "--key", other)
    assert shown == f"{mounted.tree / entry} is a zone of {other}\n"
    assert mounted.home.json("zone", "list", mounted.tree)["zones"][0]["path"] == entry
    assert mounted.home.json("info", mounted.tree / entry)["zone"] == other
    mounted.start()
    (mounted.path / "us" / "f").write_text("abc")
    assert key_of(mounted.path / "us" / "f") == other


def test_one_command_at_a_time(mounted: Mount, other: str) -> None:
    root_fd = open_root(mounted.tree)
    work = lock_work(root_fd, mounted.tree)
    message = refused(mounted.home.run("zone", "create", mounted.path, "--key", other), 32)
    assert "kmsfs.work" in message
    os.close(work)
    os.close(root_fd)
    mounted.home.ok("zone", "create", mounted.path, "--key", other)


# --- refusals -----------------------------------------------------------------------------------
def test_what_cannot_be_a_zone(mounted: Mount, tmp_path: Path, other: str) -> None:
    home = mounted.home
    (mounted.path / "f").write_text("abc")
    for path in (tmp_path, mounted.path / "f", mounted.path / "nothing"):
        assert home.run("zone", "create", path, "--key", other).returncode in (1, 30)
        assert home.run("zone", "list", path).returncode in (1, 30)
    refused(home.run("zone", "create", mounted.path, "--key", "alias/nothing", "--region", OTHER), 3)
    home.ok("key", "disable", other)
    refused(home.run("zone", "create", mounted.path, "--key", other), 5)
    assert json.loads(os.getxattr(mounted.path, "user.kmsfs.info"))["zone"] is None


def test_a_read_only_mount_has_its_zones_as_they_are(mounter: Mounter, home: Home, tmp_path: Path) -> None:
    mount = mounter("-o", "ro", tree=make_tree(home, tmp_path / "tree"))
    assert "read-only" in refused(home.run("zone", "create", mount.path, "--key", ALIAS), 32)


def test_a_principal_who_may_not_use_the_key_gets_no_zone(mounted: Mount, other: str, tmp_path: Path) -> None:
    """The mount makes the zone, and asks on behalf of whom it serves."""
    home = mounted.home
    mounted.unmount()
    policy = {
        "Version": "2012-10-17",
        "Statement": {"Effect": "Allow", "Action": "kms:*", "Resource": first(home)},
    }
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    home.ok("user", "create", "alice", "--policy", tmp_path / "policy.json")
    mounted.start("-o", "principal=alice")
    message = refused(home.run("zone", "create", mounted.path, "--key", other), 8)
    assert "alice" in message


def test_zones_are_found_however_deep_they_are(mounted: Mount, other: str) -> None:
    """A directory that is a zone moves as it is, also to where no path leads."""
    make_zone(mounted, "us")
    at = top = os.open(mounted.path, os.O_RDONLY)
    for level in range(300):
        os.mkdir("deep-and-deeper", dir_fd=at)
        below = os.open("deep-and-deeper", os.O_RDONLY, dir_fd=at)
        if level:
            os.close(at)
        at = below
    os.rename("us", "us", src_dir_fd=top, dst_dir_fd=at)
    os.close(at)
    os.close(top)
    for where in (mounted.path, mounted.tree):
        (zone,) = mounted.home.json("zone", "list", where)["zones"]
        assert (zone["key_arn"], zone["problem"]) == (other, None)
        assert zone["path"].count("/") == 300
        if where == mounted.path:
            assert zone["path"] == "deep-and-deeper/" * 300 + "us"
    mounted.unmount()
    shutil.rmtree(mounted.tree)
