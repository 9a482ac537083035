"""What ``kmsfs doctor`` learns of the keystore."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from kmsfs.keystore.checks import Finding
from kmsfs.keystore.ledger import Changes
from kmsfs.keystore.ports import KeyKind
from kmsfs.keystore.rows import identity_policy_values, key_policy_values
from kmsfs.keystore.service import Keystore

US, EU = "us-east-1", "eu-west-1"
STEPS = ["module", "pin", "token", "metadata", "keys", "orphans", "policies"]


def failed(keystore: Keystore) -> list[Finding]:
    return [finding for finding in keystore.check() if not finding.ok]


def only(findings: list[Finding], name: str) -> Finding:
    assert [finding.name for finding in findings] == [name]
    assert findings[0].hint
    return findings[0]


def test_a_sound_keystore(keystore: Keystore) -> None:
    findings = keystore.check()
    assert all(finding.ok for finding in findings)
    assert [finding.name for finding in findings] == [
        "home", *(f"{region}: {step}" for region in (EU, US) for step in STEPS), "principals"
    ]  # fmt: skip


def test_no_region(tmp_path: Path) -> None:
    with Keystore.open(tmp_path) as keystore:
        only(keystore.check(), "regions")


def test_a_home_that_others_may_enter(keystore: Keystore, ks_home: Path) -> None:
    ks_home.chmod(0o755)
    assert "0755" in only(failed(keystore), "home").detail


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("configuration", lambda home: (home / f"regions/{US}.json").write_text("{}")),
        ("pin", lambda home: (home / f"regions/{US}.pin").chmod(0o644)),
        ("token", lambda home: (home / f"regions/{US}.pin").write_text("wrong")),
    ],
)
def test_each_check_names_what_failed(ks_home: Path, name: str, damage: object) -> None:
    damage(ks_home)  # type: ignore[operator]
    with Keystore.open(ks_home) as keystore:
        only(failed(keystore), f"{US}: {name}")


def test_a_module_that_is_gone(ks_home: Path) -> None:
    config = ks_home / "regions" / f"{US}.json"
    config.write_text(config.read_text().replace("libsofthsm2.so", "gone.so"))
    with Keystore.open(ks_home) as keystore:
        assert "gone.so" in only(failed(keystore), f"{US}: module").detail


def test_a_token_without_the_integrity_key(keystore: Keystore) -> None:
    hsm = keystore._service(US).hsm
    for key in hsm.list_keys():
        if key.label.startswith("kmsfs:integrity:"):
            hsm.destroy(key.object_id)
    assert "integrity key" in only(failed(keystore), f"{US}: token").detail


def test_edited_metadata(keystore: Keystore, ks_home: Path) -> None:
    with closing(sqlite3.connect(ks_home / "metadata.db")) as database, database:
        database.execute("UPDATE keys SET description = 'edited' WHERE region = ?", (US,))
    only(failed(keystore), f"{US}: metadata")


def test_missing_metadata(keystore: Keystore, ks_home: Path) -> None:
    for path in ks_home.glob("metadata.db*"):
        path.unlink()
    assert [finding.name for finding in failed(keystore)] == [f"{region}: metadata" for region in (EU, US)]


def test_key_material_that_is_gone(keystore: Keystore) -> None:
    material = keystore.resolve("alias/main", region=US).current_material_id
    keystore._service(US).hsm.destroy(material)
    assert material.hex() in only(failed(keystore), f"{US}: keys").detail


def test_objects_that_no_row_knows(keystore: Keystore) -> None:
    hsm = keystore._service(US).hsm
    hsm.generate(KeyKind.AES, b"o" * 32, "kmsfs:an-orphan")
    hsm.generate(KeyKind.AES, b"p" * 32, "of another program")
    assert only(failed(keystore), f"{US}: orphans").detail == (
        "1 objects in the token belong to no key: kmsfs:an-orphan"
    )


UNREADABLE = '{"Version": "2012-10-17", "Statement": {"Effect": "Maybe"}}'


@pytest.mark.parametrize("of_user", [False, True], ids=["key", "user"])
def test_a_policy_that_a_stricter_version_does_not_read(keystore: Keystore, of_user: bool) -> None:
    key = keystore.resolve("alias/main", region=US)
    keystore.principals.create("alice")
    row = (
        ("identity_policies", identity_policy_values(key.region, "alice", "default", UNREADABLE))
        if of_user
        else ("key_policies", key_policy_values(key.region, key.key_id, UNREADABLE))
    )
    keystore._service(US).ledger.commit(lambda _: Changes(puts=[row]))
    found = failed(keystore)
    assert "cannot be read" in found[0].detail
    assert [finding.name for finding in found] == [f"{US}: policies", *(["principals"] if of_user else [])]


def test_a_change_of_users_that_was_interrupted(keystore: Keystore) -> None:
    keystore.principals.create("alice")
    keystore._service(US).ledger.commit(lambda _: Changes(deletes=[("users", "alice")]))
    assert "different users" in only(failed(keystore), "principals").detail
    keystore.principals.create("alice")
    assert not failed(keystore)
