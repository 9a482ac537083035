"""A tree under a key whose material its owner brought, and takes away."""

from pathlib import Path

from testkit.home import REGION, Home
from testkit.mounting import Mounter
from testkit.reaching import eventually, opening


def test_files_follow_the_material(home: Home, mounter: Mounter, tmp_path: Path) -> None:
    material = tmp_path / "material.bin"
    material.write_bytes(bytes(range(32)))
    home.ok("key", "create", "--region", REGION, "--origin", "EXTERNAL", "--alias", "alias/ours")
    home.ok("key", "import", "alias/ours", material)
    home.ok("init", tmp_path / "ours", "--key", "alias/ours")
    mount = mounter(tree=tmp_path / "ours")
    mount.expect_log("is pending import")
    path = mount.path / "file"
    path.write_bytes(b"content")
    home.ok("key", "delete-material", "alias/ours")
    eventually(lambda: opening(path), "EKEYREVOKED")
    assert path.stat().st_size == 7
    home.ok("key", "import", "alias/ours", material)
    eventually(lambda: opening(path), "ok")
    assert path.read_bytes() == b"content"


def test_a_mac_key_is_no_trees_key(home: Home, tmp_path: Path) -> None:
    home.ok("key", "create", "--region", REGION, "--spec", "HMAC_256", "--alias", "alias/macs")
    done = home.run("init", tmp_path / "tree", "--key", "alias/macs")
    assert done.returncode == 17
    assert "is for GENERATE_VERIFY_MAC" in done.stderr
