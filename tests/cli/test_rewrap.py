"""``kmsfs rewrap`` and ``replicate`` on a tree, by their output, exit codes and what they leave."""

import json
import os
from pathlib import Path

import pytest
from testkit.home import ALIAS, Home, refused
from testkit.mounting import Mount
from testkit.tool_trees import slot_keys

from kmsfs.cli.exitcodes import ExitCode

US = "us-east-1"


@pytest.fixture
def filled(mounted: Mount) -> Path:
    """A tree with files in it, unmounted."""
    (mounted.path / "d").mkdir()
    for number in range(20):
        (mounted.path / "d" / f"f{number}").write_text(f"{number}")
    mounted.unmount()
    return mounted.tree


def test_rewrap_after_a_rotation_lists_what_changed(home: Home, filled: Path, eu_key: str) -> None:
    assert home.json("rewrap", filled)["changed"] == 0
    home.ok("key", "rotate", eu_key)
    told = home.json("rewrap", filled)
    assert (told["complete"], told["changed"], told["failed"]) == (True, 20, [])
    listed = Path(told["change_list"]).read_text().splitlines()
    assert len(listed) == 20
    assert all((filled / path).is_file() for path in listed)
    assert Path(told["change_list"]).stat().st_mode & 0o777 == 0o600
    assert home.json("rewrap", filled)["change_list"] is None


def test_replicate_and_drop(home: Home, filled: Path, eu_key: str, us_key: str) -> None:
    said = home.ok("replicate", filled, "--to-key", ALIAS, "--region", US)
    assert "changed      20\n" in said
    assert slot_keys(filled) == {(eu_key, us_key)}
    assert {slot["key_arn"] for slot in home.json("info", filled)["slots"]} == {eu_key, us_key}
    home.ok("replicate", filled, "--drop-key", eu_key)
    assert slot_keys(filled) == {(us_key,)}
    refused(home.run("replicate", filled, "--drop-key", us_key), ExitCode.USAGE)
    refused(home.run("replicate", filled), ExitCode.USAGE)


def test_rewrap_to_another_key_frees_the_old_one(home: Home, filled: Path, eu_key: str, us_key: str) -> None:
    refused(home.run("key", "schedule-deletion", eu_key), ExitCode.KEY_STATE)
    home.ok("rewrap", filled, "--to-key", us_key)
    assert slot_keys(filled) == {(us_key,)}
    home.ok("key", "schedule-deletion", eu_key)


def test_damaged_files_are_told(home: Home, filled: Path, us_key: str) -> None:
    damaged = next(path for path in filled.rglob("*") if path.is_file() and path.stat().st_size > 2048)
    damaged.write_bytes(b"x" * 3000)
    done = home.run("rewrap", filled, "--to-key", us_key, "--json")
    assert done.returncode == ExitCode.INCOMPLETE
    told = json.loads(done.stdout)
    assert [row["path"] for row in told["failed"]] == [os.fspath(damaged.relative_to(filled))]
    assert done.stderr.startswith(f"kmsfs: {filled}: 1 files keep their old keys\nhint: ")


def test_no_tree_no_key(home: Home, filled: Path, tmp_path: Path) -> None:
    refused(home.run("rewrap", tmp_path), ExitCode.NOT_A_TREE)
    refused(home.run("rewrap", filled, "--to-key", "alias/nothing"), ExitCode.NOT_FOUND)
