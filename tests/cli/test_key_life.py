"""``kmsfs key``: rotation, deletion, tags and descriptions."""

from pathlib import Path

import pytest
from testkit.clock import late_by
from testkit.home import ALIAS, REGION, Home, refused

from kmsfs.keystore.service import Keystore


def test_a_key_is_rotated_and_the_rotation_listed(home: Home) -> None:
    assert "never rotated" in home.ok("key", "rotation", "list", ALIAS)
    before = home.json("key", "describe", ALIAS)
    assert home.json("key", "rotate", ALIAS) == {"KeyId": before["KeyId"]}
    assert before["KeyId"] in home.ok("key", "rotate", ALIAS, "--region", REGION)
    after = home.json("key", "describe", ALIAS)
    assert after["CurrentKeyMaterialId"] != before["CurrentKeyMaterialId"]
    rotations = home.json("key", "rotation", "list", ALIAS)["Rotations"]
    assert [set(entry) for entry in rotations] == [
        {"KeyId", "KeyMaterialId", "KeyMaterialState", "RotationDate", "RotationType"}
    ] * 2
    assert rotations[-1]["KeyMaterialId"] == after["CurrentKeyMaterialId"]
    assert home.ok("key", "rotation", "list", ALIAS).count("ON_DEMAND") == 2


def test_rotation_is_turned_on_and_off(home: Home) -> None:
    key_id = home.json("key", "describe", ALIAS)["KeyId"]
    off = {"KeyId": key_id, "KeyRotationEnabled": False}
    assert home.json("key", "rotation", "status", ALIAS) == off
    assert home.json("key", "rotation", "on", ALIAS)["RotationPeriodInDays"] == 365
    on = home.json("key", "rotation", "on", ALIAS, "--period", "90")
    assert (on["KeyRotationEnabled"], on["RotationPeriodInDays"]) == (True, 90)
    assert home.json("key", "rotation", "status", ALIAS) == on
    assert "every 90 days" in home.ok("key", "rotation", "status", ALIAS)
    home.ok("key", "schedule-deletion", ALIAS)
    assert "off" in home.ok("key", "rotation", "status", ALIAS)
    home.ok("key", "cancel-deletion", ALIAS)
    home.ok("key", "enable", ALIAS)
    assert home.json("key", "rotation", "status", ALIAS) == on
    refused(home.run("key", "rotation", "on", ALIAS, "--period", "89"), 2)
    assert home.json("key", "rotation", "off", ALIAS) == off


def test_a_deletion_is_scheduled_and_cancelled(home: Home) -> None:
    refused(home.run("key", "schedule-deletion", ALIAS, "--days", "6"), 2)
    refused(home.run("key", "cancel-deletion", ALIAS), 7)
    said = home.json("key", "schedule-deletion", ALIAS, "--days", "7")
    assert (said["KeyState"], said["PendingWindowInDays"]) == ("PendingDeletion", 7)
    assert home.json("key", "describe", ALIAS)["DeletionDate"] == said["DeletionDate"]
    assert "deleted on" in home.ok("key", "describe", ALIAS)
    refused(home.run("key", "schedule-deletion", ALIAS), 6)
    assert home.json("key", "cancel-deletion", ALIAS) == {"KeyId": said["KeyId"]}
    assert home.json("key", "describe", ALIAS)["KeyState"] == "Disabled"
    assert "deleted on" in home.ok("key", "schedule-deletion", ALIAS)
    assert "Disabled" in home.ok("key", "cancel-deletion", ALIAS)


def test_a_key_that_a_tree_needs_is_deleted_only_by_force(home: Home, tmp_path: Path) -> None:
    home.ok("init", tmp_path / "tree", "--key", ALIAS)
    said = refused(home.run("key", "schedule-deletion", ALIAS), 7)
    assert str(tmp_path / "tree") in said
    assert "--force" in said
    assert home.json("key", "schedule-deletion", ALIAS, "--force")["KeyState"] == "PendingDeletion"


def test_tags(home: Home) -> None:
    assert "no tags" in home.ok("key", "tags", ALIAS)
    home.ok("key", "tag", ALIAS, "team=blue", "empty=", "sum=1=1")
    assert home.json("key", "tags", ALIAS)["Tags"] == [
        {"TagKey": "empty", "TagValue": ""},
        {"TagKey": "sum", "TagValue": "1=1"},
        {"TagKey": "team", "TagValue": "blue"},
    ]
    home.ok("key", "untag", ALIAS, "empty", "sum")
    assert "blue" in home.ok("key", "tags", ALIAS)
    for tag in ("aws:x=1", "=x"):
        refused(home.run("key", "tag", ALIAS, tag), 2)
    assert "'team' has no value" in refused(home.run("key", "tag", ALIAS, "a=b", "team"), 2)


def test_a_description_is_changed(home: Home) -> None:
    said = home.json("key", "update", ALIAS, "--description", "other files")
    assert said["Description"] == "other files"


@pytest.mark.parametrize("change", [("disable",), ("rotate",), ("rotation", "off"), ("schedule-deletion",)])
def test_a_managed_key_is_not_changed(home: Home, tmp_path: Path, change: tuple[str, ...]) -> None:
    home.ok("init", tmp_path / "tree")
    (tmp_path / "tree" / "kmsfs.tree").unlink()
    (home.path / "trees.json").unlink()
    refused(home.run("key", *change, "alias/aws/kmsfs"), 8)


def test_commands_do_what_is_due(home: Home) -> None:
    dying = home.json("key", "create")["Arn"]
    with Keystore.open(home.path, now=late_by(90)) as late:
        late.schedule_key_deletion(dying, days=7)
        late.enable_key_rotation(ALIAS, period_days=90)
    assert [key["KeyState"] for key in home.json("key", "list")["Keys"]] == ["Enabled"]
    assert "AUTOMATIC" in home.ok("key", "rotation", "list", ALIAS)
    refused(home.run("key", "describe", dying), 3)


def test_a_damaged_register_of_trees_is_a_warning(home: Home, tmp_path: Path) -> None:
    (home.path / "trees.json").write_text("{")
    done = home.run("init", tmp_path / "tree", "--key", ALIAS)
    assert (done.returncode, done.stdout) == (0, f"created the tree {tmp_path / 'tree'}\n")
    assert done.stderr.startswith(
        f"kmsfs: warning: register of trees {home.path / 'trees.json'} is damaged: "
    )
    assert len(done.stderr.splitlines()) == 1
    assert "--force" in refused(home.run("key", "schedule-deletion", ALIAS), 7)
