"""A mount of a tree under the keys of two regions, while one region's token is away."""

import errno
from pathlib import Path

import pytest
from testkit.audits import records
from testkit.home import ALIAS, REGION, Home
from testkit.mounting import Mount, Mounter
from testkit.reaching import eventually

from kmsfs.ids import Region
from kmsfs.keystore.home import load_region

OTHER = "us-east-1"


@pytest.fixture
def other_key(home: Home) -> str:
    """A key in a second region, which has a token of its own."""
    home.ok("region", "add", OTHER)
    key = home.json("key", "create", "--region", OTHER)
    return str(key["Arn"])


@pytest.fixture
def mount(home: Home, tree: Path, mounter: Mounter, other_key: str) -> Mount:
    """The tree, under both keys, mounted, with a file ``f``."""
    home.ok("replicate", tree, "--to-key", other_key)
    mount = mounter()
    (mount.path / "f").write_text("content")
    return mount


def token(home: Home, region: str) -> Path:
    """Where a region's token is."""
    directory = load_region(home.path, Region(region)).token_dir
    assert directory is not None
    return directory


def regions_of(mount: Mount, name: str) -> list[str]:
    """The regions that a file's header has slots of."""
    return [slot["region"] for slot in mount.home.json("info", mount.path / name)["slots"]]


def making(path: Path) -> str:
    """What writing a new file gives: ``ok`` or an errno's name."""
    try:
        path.write_text("new")
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


def test_the_replicas_region_goes_and_comes_back(
    mount: Mount, home: Home, other_key: str, tmp_path: Path
) -> None:
    mount.expect_log(f"{OTHER}.*is away")
    assert regions_of(mount, "f") == [REGION, OTHER]
    directory = token(home, OTHER)
    away = directory.rename(tmp_path / "away")
    assert making(mount.path / "meanwhile") == "ok"
    assert regions_of(mount, "meanwhile") == [REGION]
    status = mount.status()
    assert status["serving_region"] == REGION
    assert list(status["unusable_keys"]) == [other_key]
    assert f"{other_key} cannot be used: token" in home.ok("status")
    away.rename(directory)
    assert making(mount.path / "after") == "ok"
    assert regions_of(mount, "after") == [REGION, OTHER]
    mount.unmount()
    made = [record for record in records(home.path, OTHER) if record["action"] == "Encrypt"]
    assert {record["key"] for record in made} == {other_key}
    assert sum(record["count"] for record in made if record["result"] == "ok") >= 2


def test_the_trees_own_region_goes_and_comes_back(mount: Mount, home: Home, tmp_path: Path) -> None:
    mount.expect_log(f"{REGION}.*is away")
    mount.unmount()
    directory = token(home, REGION)
    away = directory.rename(tmp_path / "away")
    mount.start()
    assert mount.status()["serving_region"] == OTHER
    assert (mount.path / "f").read_text() == "content"
    assert OTHER in home.ok("status")
    with (mount.path / "f").open("r+") as file:
        file.write("CON")
    assert making(mount.path / "new") == "ENOKEY"
    assert not (mount.path / "new").exists()
    away.rename(directory)
    eventually(lambda: making(mount.path / "new"), "ok")
    assert regions_of(mount, "new") == [REGION, OTHER]
    assert mount.status()["unusable_keys"] == {}
    assert (mount.path / "f").read_text() == "CONtent"


def test_a_disabled_key_is_passed_over(mount: Mount, home: Home, other_key: str) -> None:
    mount.expect_log(f"{REGION}|{OTHER}")
    mount.unmount()
    home.ok("key", "disable", ALIAS, "--region", REGION)
    mount.start()
    assert (mount.path / "f").read_text() == "content"
    assert mount.status()["serving_key_arn"] == other_key
    assert making(mount.path / "new") == "EKEYREVOKED"
    home.ok("key", "enable", ALIAS, "--region", REGION)
    eventually(lambda: making(mount.path / "new"), "ok")
