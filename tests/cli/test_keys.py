"""``kmsfs region``, ``key`` and ``alias``: what they print, refuse and leave behind."""

import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from testkit.home import ALIAS, KMSFS, REGION, Home, refused

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
ARN = rf"arn:aws:kms:{REGION}:000000000000:key/{UUID}"
NO_KEY = "00000000-0000-4000-8000-000000000000"
MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")


def key_id(home: Home, alias: str = ALIAS) -> str:
    return str(home.json("key", "describe", alias)["KeyId"])


# --- regions ------------------------------------------------------------------------------------
def test_a_region_is_added_without_questions(empty_home: Home) -> None:
    said = empty_home.ok("region", "add", "us-east-1")
    assert re.search(r"^region +us-east-1$", said, re.MULTILINE)
    assert re.search(r"^token +kmsfs-us-east-1$", said, re.MULTILINE)
    assert [region["region"] for region in empty_home.json("region", "list")["regions"]] == ["us-east-1"]


def test_a_home_and_its_secrets_are_private(home: Home) -> None:
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    files = [path for path in (home.path / "regions").iterdir() if path.is_file()]
    assert len(files) >= 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_json_of_a_region(empty_home: Home) -> None:
    added = empty_home.json("region", "add", "us-east-1")
    assert added == {
        "region": "us-east-1",
        "module": added["module"],
        "token_label": "kmsfs-us-east-1",
        "suite": 1,
        "account": "000000000000",
        "embedded": True,
    }
    assert empty_home.json("region", "list") == {"regions": [added]}


def test_no_regions(empty_home: Home) -> None:
    assert empty_home.json("region", "list") == {"regions": []}
    assert "kmsfs region add" in empty_home.ok("region", "list")
    assert "kmsfs region add" in refused(empty_home.run("key", "create"), 3)


def test_a_region_of_another_module_with_its_pin(home: Home, tmp_path: Path) -> None:
    """The embedded token serves as somebody's own HSM; its PIN stays out of all that is printed."""
    pin = (home.path / "regions" / f"{REGION}.pin").read_text().strip()
    conf = home.path / "softhsm" / "softhsm2.conf"
    home.ok("region", "list")
    home.ok("key", "list")  # writes SoftHSM's configuration for the copied home
    pin_file = tmp_path / "token.pin"
    pin_file.write_text(f"{pin}\n")
    pin_file.chmod(0o600)
    other = Home(tmp_path / "other")
    arguments = ("region", "add", REGION, "--module", MODULE, "--token", f"kmsfs-{REGION}")
    environment = {"SOFTHSM2_CONF": str(conf)}
    said = other.run(*arguments, "--pin-file", pin_file, env=environment)
    assert (said.returncode, said.stderr) == (0, "")
    assert pin not in said.stdout
    by_environment = Home(tmp_path / "third")
    said = by_environment.run(*arguments, env={**environment, "KMSFS_PIN_EU_WEST_1": pin})
    assert (said.returncode, said.stderr) == (0, "")
    assert all(pin not in path.read_text(errors="replace") for path in by_environment.path.rglob("*.json"))


@pytest.mark.parametrize(
    ("content", "mode", "code"),
    [("wrong-pin\n", 0o600, 23), ("", 0o600, 22), ("123456\n", 0o644, 22), (None, 0, 22)],
    ids=["wrong", "empty", "open to others", "missing"],
)
def test_a_bad_pin_file(home: Home, tmp_path: Path, content: str | None, mode: int, code: int) -> None:
    home.ok("key", "list")
    pin_file = tmp_path / "token.pin"
    if content is not None:
        pin_file.write_text(content)
        pin_file.chmod(mode)
    other = Home(tmp_path / "other")
    done = other.run(
        *("region", "add", REGION, "--module", MODULE, "--token", f"kmsfs-{REGION}", "--pin-file", pin_file),
        env={"SOFTHSM2_CONF": str(home.path / "softhsm" / "softhsm2.conf")},
    )
    said = refused(done, code)
    assert not content or content.strip() not in said
    assert other.json("region", "list") == {"regions": []}


def test_a_missing_pin_names_the_variable(home: Home, tmp_path: Path) -> None:
    home.ok("key", "list")
    done = Home(tmp_path / "other").run(
        *("region", "add", REGION, "--module", MODULE, "--token", f"kmsfs-{REGION}"),
        env={"SOFTHSM2_CONF": str(home.path / "softhsm" / "softhsm2.conf")},
    )
    assert "KMSFS_PIN_EU_WEST_1" in refused(done, 22)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["us-east-1", "--module", "{tmp}/missing.so", "--token", "x"], 20),
        (["us-east-1", "--module", "{tmp}/text.so", "--token", "x"], 20),
        (["us-east-1", "--module", "/usr/lib/softhsm/libsofthsm2.so"], 2),
        (["us-east-1", "--token", "x"], 2),
        (["us-east-1", "--pin", "1234"], 2),
        (["Not A Region"], 2),
        (["../../etc"], 2),
        ([""], 2),
        ([], 2),
        ([REGION], 4),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_region_that_cannot_be_added(home: Home, tmp_path: Path, arguments: list[str], code: int) -> None:
    (tmp_path / "text.so").write_text("no module")
    filled = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    refused(home.run("region", "add", *filled), code)
    assert [region["region"] for region in home.json("region", "list")["regions"]] == [REGION]


def test_a_token_that_is_not_there(home: Home, tmp_path: Path) -> None:
    home.ok("key", "list")
    done = Home(tmp_path / "other").run(
        *("region", "add", "us-east-1", "--module", MODULE, "--token", "nobodys"),
        env={"SOFTHSM2_CONF": str(home.path / "softhsm" / "softhsm2.conf"), "KMSFS_PIN_US_EAST_1": "1234"},
    )
    assert "nobodys" in refused(done, 21)


# --- keys ---------------------------------------------------------------------------------------
def test_json_of_a_key_has_awss_names(home: Home) -> None:
    key = home.json("key", "create", "--description", "all my files")
    assert re.fullmatch(UUID, key["KeyId"])
    assert re.fullmatch(ARN, key["Arn"])
    assert re.fullmatch("[0-9a-f]{64}", key["CurrentKeyMaterialId"])
    assert isinstance(key["CreationDate"], float)
    assert {
        "AWSAccountId": "000000000000",
        "Enabled": True,
        "Description": "all my files",
        "KeyUsage": "ENCRYPT_DECRYPT",
        "KeyState": "Enabled",
        "Origin": "AWS_KMS",
        "KeyManager": "CUSTOMER",
        "KeySpec": "SYMMETRIC_DEFAULT",
        "MultiRegion": False,
    }.items() <= key.items()
    assert home.json("key", "describe", key["Arn"]) == key
    assert home.json("key", "describe", key["KeyId"], "--region", REGION) == key
    listed = {entry["KeyId"]: entry for entry in home.json("key", "list")["Keys"]}
    assert listed[key["KeyId"]] == {"KeyArn": key["Arn"], **key}
    assert len(listed) == 2


def test_keys_for_people(home: Home) -> None:
    made = home.ok("key", "create", "--description", "tab\there \x1b[2J and é")
    assert re.search(rf"^arn +{ARN}$", made, re.MULTILINE)
    assert re.search(r"^description +tab\\there \\x1b\[2J and é$", made, re.MULTILINE)
    header, *rows = home.ok("key", "list").splitlines()
    assert header.split() == ["KEY", "ID", "REGION", "STATE", "CREATED", "DESCRIPTION"]
    assert len(rows) == 2


def test_disable_and_enable(home: Home) -> None:
    assert home.json("key", "disable", ALIAS)["KeyState"] == "Disabled"
    assert home.json("key", "describe", ALIAS)["Enabled"] is False
    assert home.json("key", "enable", ALIAS)["KeyState"] == "Enabled"
    assert re.search(r"^state +Enabled$", home.ok("key", "describe", ALIAS), re.MULTILINE)


def test_describe_says_when_a_key_was_last_used(home: Home) -> None:
    assert re.search(r"^last used +not since \d{4}-", home.ok("key", "describe", ALIAS), re.MULTILINE)
    home.json("generate-data-key", "--key", ALIAS)
    shown = home.ok("key", "describe", ALIAS)
    assert re.search(r"^last used +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d, GenerateDataKey$", shown, re.MULTILINE)


def test_keys_of_one_region_of_two(home: Home) -> None:
    home.ok("region", "add", "us-east-1")
    made = home.json("key", "create", "--region", "us-east-1")
    assert [key["Arn"] for key in home.json("key", "list", "--region", "us-east-1")["Keys"]] == [made["Arn"]]
    assert len(home.json("key", "list")["Keys"]) == 2
    assert "--region" in refused(home.run("key", "create"), 2)
    assert "--region" in refused(home.run("key", "describe", ALIAS), 2)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["describe", NO_KEY], 3),
        (["describe", f"arn:aws:kms:{REGION}:000000000000:key/{NO_KEY}"], 3),
        (["describe", f"arn:aws:kms:ap-south-1:000000000000:key/{NO_KEY}"], 3),
        (["describe", "alias/nobody"], 3),
        (["describe", "arn:nonsense"], 2),
        (["describe", ALIAS, "--region", "ap-south-1"], 3),
        (["enable", "alias/nobody"], 3),
        (["disable", "alias/nobody"], 3),
        (["describe"], 2),
        (["create", "--region", "ap-south-1"], 3),
        (["create", "--alias", "no-prefix"], 2),
        (["create", "--alias", "alias/aws/mine"], 2),
        (["create", "--alias", ALIAS], 4),
        (["create", "--description", "x" * 8193], 2),
        (["list", "--region", "ap-south-1"], 3),
        (["nonsense"], 2),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_what_keys_refuse(home: Home, arguments: list[str], code: int) -> None:
    refused(home.run("key", *arguments), code)
    assert len(home.json("key", "list")["Keys"]) == 1


# --- aliases ------------------------------------------------------------------------------------
def test_an_alias_lives(home: Home) -> None:
    first = key_id(home)
    second = home.json("key", "create")["KeyId"]
    made = home.json("alias", "create", "alias/team/reports", "--key", first)
    assert made["AliasArn"] == f"arn:aws:kms:{REGION}:000000000000:alias/team/reports"
    assert (made["AliasName"], made["TargetKeyId"]) == ("alias/team/reports", first)
    assert home.json("alias", "update", "alias/team/reports", "--key", second)["TargetKeyId"] == second
    assert key_id(home, made["AliasArn"]) == second
    names = [alias["AliasName"] for alias in home.json("alias", "list")["Aliases"]]
    assert names == [ALIAS, "alias/team/reports"]
    assert home.ok("alias", "delete", "alias/team/reports") == "deleted alias/team/reports\n"
    assert [alias["AliasName"] for alias in home.json("alias", "list")["Aliases"]] == [ALIAS]


def test_aliases_for_people(home: Home) -> None:
    header, row = home.ok("alias", "list", "--region", REGION).splitlines()
    assert header.split() == ["ALIAS", "REGION", "KEY", "ID"]
    assert row.split() == [ALIAS, REGION, key_id(home)]
    home.ok("alias", "delete", ALIAS)
    assert "kmsfs alias create" in home.ok("alias", "list")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["create", ALIAS, "--key", ALIAS], 4),
        (["create", "reports", "--key", ALIAS], 2),
        (["create", "alias/aws/reports", "--key", ALIAS], 2),
        (["create", "alias/sp ace", "--key", ALIAS], 2),
        (["create", "alias/reports", "--key", NO_KEY], 3),
        (["create", "alias/reports"], 2),
        (["update", "alias/nobody", "--key", ALIAS], 3),
        (["delete", "alias/nobody"], 3),
        (["list", "--region", "ap-south-1"], 3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_aliases_refuse(home: Home, arguments: list[str], code: int) -> None:
    refused(home.run("alias", *arguments), code)
    assert len(home.json("alias", "list")["Aliases"]) == 1


# --- tokens and metadata gone bad ---------------------------------------------------------------
def test_a_token_moved_away_and_back(home: Home, tmp_path: Path) -> None:
    home.ok("key", "list")
    tokens = home.path / "softhsm" / "tokens"
    tokens.rename(tmp_path / "away")
    refused(home.run("key", "create"), 21)
    assert [region["region"] for region in home.json("region", "list")["regions"]] == [REGION]
    (tmp_path / "away").rename(tokens)
    home.ok("key", "create")


def test_a_wrong_pin_in_the_home(home: Home) -> None:
    pin_file = home.path / "regions" / f"{REGION}.pin"
    pin = pin_file.read_text().strip()
    pin_file.write_text("wrong-pin-1234\n")
    said = refused(home.run("key", "create"), 23)
    assert "wrong-pin-1234" not in said
    pin_file.write_text(f"{pin}\n")
    pin_file.chmod(0o640)
    assert "chmod 600" in refused(home.run("key", "create"), 22)
    pin_file.unlink()
    refused(home.run("key", "create"), 22)


def test_a_missing_metadata_database(home: Home) -> None:
    for path in home.path.glob("metadata.db*"):
        path.unlink()
    refused(home.run("key", "list"), 13)


def test_a_damaged_metadata_database(home: Home) -> None:
    (home.path / "metadata.db").write_bytes(b"this is no database" * 100)
    refused(home.run("key", "list"), 13)


@pytest.mark.parametrize(
    "statement",
    ["UPDATE keys SET state = 'Disabled'", "UPDATE keys SET description = 'edited'", "DELETE FROM aliases"],
)
def test_metadata_edited_by_hand(home: Home, statement: str) -> None:
    subprocess.run(["sqlite3", home.path / "metadata.db", statement], check=True)
    refused(home.run("key", "list"), 12)


# --- the process's manners ----------------------------------------------------------------------
def test_a_reader_that_goes_away_is_no_error(home: Home) -> None:
    script = f"'{KMSFS}' key list; echo $? >&2"
    done = subprocess.run(
        ["bash", "-c", f"{{ {script}; }} > >(exec true)"],  # the reader ends before the writer starts
        env=home.env(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr in ("141\n", "0\n")  # 0 when the pipe's buffer took it before the reader left


def test_a_full_disk_under_stdout(home: Home) -> None:
    done = subprocess.run(
        ["bash", "-c", f"'{KMSFS}' key list > /dev/full"],
        env=home.env(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "kmsfs: no space left on device\n")


def test_a_locale_without_unicode(home: Home) -> None:
    home.ok("key", "create", "--description", "é")
    done = home.run("key", "list", env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    assert (done.returncode, done.stderr) == (0, "")


def test_two_homes_share_nothing(home: Home, tmp_path: Path) -> None:
    other = home.copy_to(tmp_path / "copy")
    home.ok("key", "create")
    assert len(other.json("key", "list")["Keys"]) == 1
    shutil.rmtree(home.path)
    other.ok("key", "create")
