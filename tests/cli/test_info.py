"""``kmsfs info``, ``status`` and ``doctor``: what they tell, with and without an HSM."""

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from testkit.home import ALIAS, KMSFS, REGION, Home, refused
from testkit.mounting import Mount


def stored(mount: Mount) -> list[Path]:
    return [path for path in mount.tree.iterdir() if path.name not in ("kmsfs.tree", ".kmsfs.dir")]


# --- info ---------------------------------------------------------------------------------------
def test_info_of_a_file_is_the_same_in_mount_and_tree(mounted: Mount) -> None:
    home = mounted.home
    (mounted.path / "file").write_bytes(b"x" * 5000)
    os.sync()
    inside = home.json("info", mounted.path / "file")
    (path,) = stored(mounted)
    mounted.unmount()
    outside = home.json("info", path)
    assert inside["file_id"] == outside["file_id"]
    assert inside["slots"] == outside["slots"]
    assert outside["sealed_length"] == 5000
    assert outside["chunk_size"] == 4096
    key = home.json("key", "describe", ALIAS)
    assert outside["slots"] == [
        {"region": REGION, "key_arn": key["Arn"], "material_id": key["CurrentKeyMaterialId"]}
    ]
    shown = home.ok("info", path)
    assert f"file id             {outside['file_id']}" in shown
    assert f"slot 1 key arn      {key['Arn']}" in shown


def test_info_needs_no_hsm(mounted: Mount, tmp_path: Path) -> None:
    (mounted.path / "file").write_text("content")
    (path,) = stored(mounted)
    mounted.unmount()
    nowhere = Home(tmp_path / "nowhere")
    assert nowhere.json("info", path)["slots"][0]["region"] == REGION
    assert nowhere.json("info", mounted.tree)["slots"][0]["region"] == REGION
    assert not nowhere.path.exists()


@pytest.mark.parametrize(
    "kind", ["symlink", "dangling", "fifo", "socket", "character device", "directory", "empty"]
)
def test_info_of_everything_that_is_no_written_file(mounted: Mount, kind: str) -> None:
    path = mounted.path / "entry"
    if kind in ("symlink", "dangling"):
        (mounted.path / "target").write_text("content")
        path.symlink_to("target" if kind == "symlink" else "nowhere")
    elif kind == "directory":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    else:
        types = {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "character device": stat.S_IFCHR}
        os.mknod(path, types[kind] | 0o600)
    info = mounted.home.json("info", path)
    assert info["kind"] == {"dangling": "symlink", "empty": "file"}.get(kind, kind)
    assert info["slots"] == []
    assert info["file_id"] is None
    assert info["chunk_size"] == 4096
    assert info["tree_id"] == mounted.status()["tree_id"]


def test_info_of_a_mounts_root_shows_the_trees_slots(mounted: Mount) -> None:
    inside = mounted.home.json("info", mounted.path)
    assert inside == mounted.home.json("info", mounted.tree)
    assert [slot["region"] for slot in inside["slots"]] == [REGION]


def test_info_of_what_has_none(mounted: Mount, tmp_path: Path) -> None:
    home = mounted.home
    refused(home.run("info", tmp_path), 30)
    refused(home.run("info", "/proc/self/status"), 30)
    assert "no such file" in refused(home.run("info", mounted.path / "missing"), 1)
    refused(home.run("info"), 2)
    (mounted.tree / "foreign").write_text("not encrypted")
    refused(home.run("info", mounted.tree / "foreign"), 40)


def test_info_from_inside_the_mount(mounted: Mount) -> None:
    (mounted.path / "file").write_text("content")
    done = subprocess.run(
        [KMSFS, "info", "file"],
        cwd=mounted.path,
        env=mounted.home.env(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert REGION in done.stdout


# --- status -------------------------------------------------------------------------------------
def test_status_of_a_mount(mounted: Mount) -> None:
    status = mounted.home.json("status")
    (mount,) = [entry for entry in status["mounts"] if entry["mountpoint"] == str(mounted.path)]
    assert {
        "tree": str(mounted.tree),
        "state": "serving",
        "read_only": False,
        "pid": mounted.pid,
        "region": REGION,
        "key_arn": mounted.home.json("key", "describe", ALIAS)["Arn"],
    }.items() <= mount.items()
    assert [region["region"] for region in status["regions"]] == [REGION]
    shown = mounted.home.ok("status")
    assert [str(mounted.path), str(mounted.tree), "serving", str(mounted.pid)] in [
        line.split()[:4] for line in shown.splitlines()
    ]
    assert f"kmsfs-{REGION}" in shown


def test_status_without_anything(empty_home: Home) -> None:
    status = empty_home.json("status")
    assert status["regions"] == []
    assert not [entry for entry in status["mounts"] if str(empty_home.path.parent) in entry["mountpoint"]]
    assert "no region is configured" in empty_home.ok("status")


# --- doctor -------------------------------------------------------------------------------------
def findings(home: Home) -> tuple[int, dict[str, dict[str, Any]]]:
    import json

    done = home.run("doctor", "--json")
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert report["ok"] == all(finding["ok"] for finding in report["findings"])
    assert report["ok"] == (done.returncode == 0)
    assert done.returncode in (0, 50)
    # mounts of other programs on this machine are not this test's business
    return done.returncode, {
        finding["name"]: finding for finding in report["findings"] if finding["name"] != "mount"
    }


def test_doctor_finds_a_healthy_home_healthy(home: Home) -> None:
    _, found = findings(home)
    assert {name: finding["detail"] for name, finding in found.items() if not finding["ok"]} == {}
    wanted = ["fuse device", "fuse helper", "fuse library", "memory", "space", "home"]
    wanted += [f"{REGION}: {part}" for part in ("module", "pin", "token", "metadata", "keys")]
    assert set(wanted) <= set(found)
    assert all(finding["detail"] for finding in found.values())
    shown = home.run("doctor").stdout
    assert f"ok    {REGION}: token: " in shown


def test_doctor_in_an_empty_home(empty_home: Home) -> None:
    code, found = findings(empty_home)
    assert code == 50
    assert "kmsfs region add" in found["home"]["hint"]
    assert not empty_home.path.exists()


@pytest.mark.parametrize(
    ("damage", "finding", "remedy"),
    [
        ("chmod 755 {home}", "home", "chmod 700"),
        ("chmod 644 {home}/regions/eu-west-1.pin", "eu-west-1: pin", "chmod 600"),
        ("rm {home}/regions/eu-west-1.pin", "eu-west-1: pin", "restore"),
        ("echo 00000000 > {home}/regions/eu-west-1.pin", "eu-west-1: token", ""),
        ("mv {home}/softhsm/tokens {home}/away", "eu-west-1: token", ""),
        ("rm {home}/metadata.db*", "eu-west-1: metadata", "restore"),
        ("sqlite3 {home}/metadata.db 'UPDATE keys SET description = 1'", "eu-west-1: metadata", ""),
        ("echo nonsense > {home}/regions/eu-west-1.json", "eu-west-1: configuration", "restore"),
        ("sed -i s/libsofthsm2/missing/ {home}/regions/eu-west-1.json", "eu-west-1: module", ""),
    ],
)
def test_doctor_names_the_remedy(home: Home, damage: str, finding: str, remedy: str) -> None:
    subprocess.run(["sh", "-c", damage.format(home=home.path)], check=True)
    code, found = findings(home)
    assert code == 50
    assert found[finding]["ok"] is False, found
    assert remedy in found[finding]["hint"]
    assert found[finding]["hint"], "every failure has a remedy"
    shown = home.run("doctor").stdout
    assert f"FAIL  {finding}: " in shown
    assert "      remedy: " in shown


def test_no_fuse_device(home: Home, tmp_path: Path) -> None:
    """In a mount namespace of its own, with an empty /dev."""
    home.ok("init", tmp_path / "tree")
    (tmp_path / "mnt").mkdir()
    script = "mount -t tmpfs none /dev && $0 doctor; $0 mount $1/tree $1/mnt; echo $?"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, KMSFS, tmp_path],
        env=home.env(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "FAIL  fuse device: /dev/fuse is missing" in done.stdout
    assert done.stdout.endswith("34\n")
    assert "hint: load it with 'modprobe fuse'" in done.stderr
