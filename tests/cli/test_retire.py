"""``kmsfs key retire``: rotate, rewrap, retire the old material, mount, read all."""

from pathlib import Path

import pytest
from testkit.clock import late_by
from testkit.home import ALIAS, Home, refused
from testkit.mounting import Mount

from kmsfs.cli.exitcodes import ExitCode
from kmsfs.keystore.service import Keystore

FILES = 20
LOST = "what was encrypted under it outside the known trees cannot be decrypted any more\n"


@pytest.fixture
def filled(mounted: Mount) -> Path:
    """A tree with files in it, unmounted."""
    for number in range(FILES):
        (mounted.path / f"f{number}").write_text(f"{number}")
    mounted.unmount()
    return mounted.tree


def rotated(home: Home) -> str:
    """Rotate the key, by its date a while ago; return the old material."""
    old = home.json("key", "describe", ALIAS)["CurrentKeyMaterialId"]
    with Keystore.open(home.path, now=late_by(0.01)) as keystore:
        keystore.rotate_key(ALIAS)
    return str(old)


def check_content(mount: Mount) -> None:
    assert [(mount.path / f"f{number}").read_text() for number in range(FILES)] == list(
        map(str, range(FILES))
    )


def test_an_unmounted_tree(home: Home, filled: Path, mounted: Mount) -> None:
    sealed = home.path.with_name("sealed")
    home.ok("encrypt", "--key", ALIAS, home.path / "trees.json", "--out", sealed)
    old = rotated(home)
    said = refused(home.run("key", "retire", ALIAS), ExitCode.KEY_STATE)
    assert f"may be in use: tree {filled}\nhint: kmsfs rewrap {filled}\n" in said
    home.ok("rewrap", filled)
    assert home.ok("key", "retire", ALIAS) == f"retired {old}\n{LOST}"
    assert home.ok("key", "retire", ALIAS) == "nothing to retire\n"
    mounted.start()
    check_content(mounted)
    refused(home.run("decrypt", sealed), ExitCode.NOT_FOUND)
    new = home.json("key", "describe", ALIAS)["CurrentKeyMaterialId"]
    listed = [line.split()[-2:] for line in home.ok("key", "rotation", "list", ALIAS).splitlines()[1:]]
    assert sorted(listed) == [["current", new], ["retired", old]]
    shown = home.json("key", "rotation", "list", ALIAS)["Rotations"]
    assert {entry["KeyMaterialId"]: "Retired" in entry for entry in shown} == {new: False, old: True}


def test_a_mounted_tree(home: Home, filled: Path, mounted: Mount) -> None:
    mounted.start()
    never_written = (mounted.path / "later").open("w")
    old = rotated(home)
    home.ok("rewrap", mounted.path)
    (mounted.path / "right after").write_text("right after")
    assert home.json("key", "retire", ALIAS) == {"Retired": [old]}
    with never_written:
        never_written.write("later")
    mounted.unmount()
    mounted.start()
    check_content(mounted)
    assert (mounted.path / "later").read_text() == "later"
    assert (mounted.path / "right after").read_text() == "right after"


def test_a_pass_that_left_something_behind(home: Home, filled: Path) -> None:
    rotated(home)
    home.ok("rewrap", filled)
    damaged = next(path for path in filled.iterdir() if path.is_file() and path.stat().st_size > 2048)
    whole = damaged.read_bytes()
    damaged.write_bytes(b"x" * 3000)
    assert home.run("rewrap", filled).returncode == ExitCode.INCOMPLETE
    refused(home.run("key", "retire", ALIAS), ExitCode.KEY_STATE)
    damaged.write_bytes(whole)
    home.ok("rewrap", filled)
    home.ok("key", "retire", ALIAS)
