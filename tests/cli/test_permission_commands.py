"""Users, policies and grants on the command line, which acts as the account's root."""

import json
import subprocess
from pathlib import Path

import pytest
from testkit.audits import records
from testkit.home import ALIAS, KMSFS, Home, refused
from testkit.policy_cases import allow, policy, text

ROOT = "arn:aws:iam::000000000000:root"
ALICE = "arn:aws:iam::000000000000:user/alice"


@pytest.fixture
def may_use(tmp_path: Path) -> Path:
    path = tmp_path / "may-use.json"
    path.write_text(text(policy(allow(["kms:Decrypt", "kms:GenerateDataKey"]))))
    return path


def document(path: Path, *statements: dict[str, object]) -> Path:
    path.write_text(text(policy(*statements)))
    return path


def test_users(home: Home, may_use: Path) -> None:
    assert "no users" in home.ok("user", "list")
    made = home.json("user", "create", "alice")["User"]
    assert (made["UserName"], made["Arn"]) == ("alice", ALICE)
    assert "bob" in home.ok("user", "create", "bob", "--policy", may_use)
    assert home.json("user", "policy", "list", "bob") == {"PolicyNames": ["default"]}
    assert [user["UserName"] for user in home.json("user", "list")["Users"]] == ["alice", "bob"]
    assert ALICE in home.ok("user", "list")
    home.ok("user", "delete", "bob")
    refused(home.run("user", "delete", "bob"), 3)
    refused(home.run("user", "create", "root"), 2)
    refused(home.run("user", "create", "a/b"), 2)


def test_policies_of_a_user(home: Home, may_use: Path) -> None:
    home.ok("user", "create", "alice")
    assert "no policies" in home.ok("user", "policy", "list", "alice")
    home.ok("user", "policy", "put", "alice", may_use)
    assert home.ok("user", "policy", "get", "alice") == may_use.read_text() + "\n"
    shown = home.json("user", "policy", "get", "alice")
    assert (shown["PolicyName"], shown["PolicyDocument"]) == ("default", may_use.read_text())
    done = subprocess.run(
        [KMSFS, "user", "policy", "put", "alice", "-", "--policy-name", "second"],
        env=home.env(),
        input=may_use.read_bytes(),
        check=True,
        capture_output=True,
    )
    assert done.stderr == b""
    assert home.ok("user", "policy", "list", "alice").split() == ["POLICY", "default", "second"]
    home.ok("user", "policy", "delete", "alice")
    refused(home.run("user", "policy", "get", "alice"), 3)
    refused(home.run("user", "policy", "put", "alice", may_use.parent / "missing"), 1)
    may_use.write_bytes(b"\xff")
    refused(home.run("user", "policy", "put", "alice", may_use), 2)
    may_use.write_text("{}")
    refused(home.run("user", "policy", "put", "alice", may_use), 2)


def test_an_access_key_of_a_user(home: Home, may_use: Path) -> None:
    made = home.json("credential", "create", "alice", "--policy", may_use)
    assert made["AccessKeyId"].startswith("AKIA")
    assert home.json("user", "policy", "list", "alice") == {"PolicyNames": ["default"]}
    home.ok("credential", "create", "alice")
    listed = home.json("credential", "list")["AccessKeyMetadata"]
    assert [entry["UserName"] for entry in listed] == ["alice", "alice"]
    refused(home.run("credential", "create", "root", "--policy", may_use), 2)
    home.ok("user", "delete", "alice")
    assert home.json("credential", "list") == {"AccessKeyMetadata": []}


def test_a_keys_policy(home: Home, tmp_path: Path) -> None:
    first = home.ok("key", "policy", "get", ALIAS)
    assert json.loads(first)["Statement"][0]["Principal"] == {"AWS": ROOT}
    wider = document(tmp_path / "wider", allow(principal=ROOT), allow("kms:Decrypt", "*"))
    home.ok("key", "policy", "put", ALIAS, wider)
    assert home.json("key", "policy", "get", ALIAS) == {
        "Policy": wider.read_text(), "PolicyName": "default"
    }  # fmt: skip
    refused(home.run("key", "policy", "put", ALIAS, document(tmp_path / "x", allow(principal=ALICE))), 2)


def test_a_key_that_nobody_may_use_is_recovered_by_the_owner_of_the_token(home: Home, tmp_path: Path) -> None:
    home.ok("user", "create", "alice")
    before = tmp_path / "before"
    before.write_text(home.ok("key", "policy", "get", ALIAS))
    no_one = document(tmp_path / "no-one", allow("kms:DescribeKey", ALICE))
    refused(home.run("key", "policy", "put", ALIAS, no_one), 2)
    home.ok("key", "policy", "put", ALIAS, no_one, "--bypass-lockout-check")
    (tmp_path / "secret").write_text("x")
    encrypt = ("encrypt", tmp_path / "secret", "--key", ALIAS, "--out", tmp_path / "blob")
    for call in (
        encrypt,
        ("key", "disable", ALIAS),
        ("key", "policy", "put", ALIAS, before),
        ("init", tmp_path / "tree", "--key", ALIAS),
    ):
        said = refused(home.run(*call), 8)
        assert "is not authorized to perform: kms:" in said
    assert home.json("key", "describe", ALIAS)["KeyState"] == "Enabled"
    home.ok("key", "policy", "put", ALIAS, before, "--as-owner")
    home.ok(*encrypt)
    actions = [record["action"] for record in records(home.path) if record["result"] == "ok"]
    assert actions[-2:] == ["kmsfs:RecoverKeyPolicy", "Encrypt"]
    assert home.ailments() == []


def test_grants(home: Home) -> None:
    home.ok("user", "create", "alice")
    assert "no grants" in home.ok("grant", "list", ALIAS)
    made = home.json(
        "grant", "create", ALIAS, "--grantee", "alice", "--operation", "Decrypt", "--operation", "Encrypt",
        "--retiring", "root", "--context-subset", "app=mail", "--name", "mail",
    )  # fmt: skip
    (listed,) = home.json("grant", "list", ALIAS)["Grants"]
    assert listed["GrantId"] == made["GrantId"]
    assert (listed["GranteePrincipal"], listed["RetiringPrincipal"]) == (ALICE, ROOT)
    assert listed["Constraints"] == {"EncryptionContextSubset": {"app": "mail"}}
    assert "has app=mail" in home.ok("grant", "list", ALIAS)
    home.ok("grant", "retire", ALIAS, made["GrantId"])
    said = home.ok("grant", "create", ALIAS, "--grantee", ALICE, "--operation", "DescribeKey")
    home.ok("grant", "revoke", ALIAS, said.split()[2])
    refused(home.run("grant", "revoke", ALIAS, said.split()[2]), 3)
    refused(home.run("grant", "create", ALIAS, "--grantee", "bob", "--operation", "Decrypt"), 2)
    refused(home.run("grant", "create", ALIAS, "--grantee", "alice", "--operation", "Delete"), 2)
