"""``kmsfs audit``: it shows who used which key, files opened in a mount included, and finds what was tampered with."""

import os

from testkit.audits import files
from testkit.home import ALIAS, REGION, Home, refused
from testkit.mounting import Mount

NAME = "a-name-nobody-may-record"


def test_opening_files_is_counted_for_each_user(mounted: Mount) -> None:
    for _ in range(3):
        (mounted.path / NAME).write_text("content")
        assert (mounted.path / NAME).read_text() == "content"
    mounted.unmount()
    shown = mounted.home.json("audit", "show", "--region", REGION)["Records"]
    opened = [found for found in shown if found["action"] == "kmsfs:OpenFile"]
    (created,) = (found for found in shown if found["action"] == "kmsfs:CreateFile")
    assert {found["via"] for found in (*opened, created)} == {"mount"}
    assert {found["uid"] for found in (*opened, created)} == {os.getuid()}
    assert (sum(found["count"] for found in opened), created["count"]) == (5, 1)
    assert set(created["context"]) == {"kmsfs:tree-id"}
    assert NAME not in str(shown)
    assert mounted.home.json("audit", "verify")["ok"]


def test_show_chooses(home: Home) -> None:
    arn = home.json("key", "describe", ALIAS)["Arn"]
    home.ok("key", "disable", ALIAS)
    home.ok("key", "enable", ALIAS)
    (last,) = home.json("audit", "show", "--last", "1", "--key", arn)["Records"]
    assert (last["action"], last["result"], last["key"]) == ("EnableKey", "ok", arn)
    (disabled,) = home.json("audit", "show", "--action", "DisableKey")["Records"]
    assert disabled["principal"] == "arn:aws:iam::000000000000:root"
    assert "EnableKey" in home.ok("audit", "show", "--key", arn.rpartition("/")[2])
    assert home.json("audit", "show", "--key", "none") == {"Records": []}
    refused(home.run("audit", "show", "--region", "nowhere-1"), 3)


def test_what_was_edited_or_taken_away_shows(home: Home) -> None:
    home.ok("key", "disable", ALIAS)
    home.ok("audit", "verify")
    (segment,) = files(home.path, REGION)
    whole = segment.read_bytes()
    segment.write_bytes(whole.replace(b'"DisableKey"', b'"EnableKey" '))
    edited = home.run("audit", "verify")
    assert edited.returncode == 15
    assert "1 of 1 segments" in edited.stderr
    assert "is not authentic" in edited.stdout
    segment.write_bytes(whole)
    home.ok("audit", "verify")
    segment.unlink()
    removed = home.run("audit", "verify", "--region", REGION)
    assert (removed.returncode, "is missing" in removed.stdout) == (15, True)
