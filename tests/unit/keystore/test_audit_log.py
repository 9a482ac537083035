"""What is recorded, where, and what happens when it cannot be."""

import base64
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testkit.audits import files, records, said

from kmsfs.errors import (
    AliasNotFoundError,
    IncorrectKeyError,
    InvalidCiphertextError,
    KeyDisabledError,
    KeyNotFoundError,
    KmsfsError,
    UnknownMaterialError,
)
from kmsfs.ids import TreeId
from kmsfs.keystore.audit import Actor, audit_key_id
from kmsfs.keystore.audit_log import AuditLog, acting_for
from kmsfs.keystore.audit_verify import CLOSED, OPEN
from kmsfs.keystore.home import audit_path
from kmsfs.keystore.pool import DataKeyPool
from kmsfs.keystore.replica import Replica
from kmsfs.keystore.service import Keystore

US, EU = "us-east-1", "eu-west-1"
CONTEXT = {"purpose": "test"}
MAIN = "alias/main"


@pytest.fixture
def since(ks_home: Path) -> Callable[[str], list[dict[str, Any]]]:
    """The records that were added since the test began."""
    before = {region: len(records(ks_home, region)) for region in (EU, US)}
    return lambda region: records(ks_home, region)[before[region] :]


def log_of(keystore: Keystore, region: str = EU, **options: Any) -> AuditLog:
    service = keystore._service(region)
    directory = audit_path(keystore.home, service.config.region)
    return AuditLog(directory, service.config, service.hsm, service.ledger, "cli", **options)


# --- what is recorded -------------------------------------------------------------------------------
def test_every_use_and_change_leaves_a_record(keystore: Keystore, since: Any) -> None:
    made = keystore.create_key(EU, alias="alias/new")
    keystore.disable_key(made.arn)
    keystore.enable_key(made.arn)
    keystore.update_alias("alias/new", keystore.resolve(MAIN, region=EU).arn)
    keystore.delete_alias("alias/new", region=EU)
    keystore.create_alias("alias/again", made.arn)
    data_key = keystore.generate_data_key(made.arn, CONTEXT)
    keystore.decrypt(data_key.blob, CONTEXT)
    blob = keystore.encrypt("alias/again", b"secret", {}, region=EU).blob
    keystore.re_encrypt(blob, {}, MAIN, CONTEXT, region=US)
    found = since(EU)
    main = keystore.resolve(MAIN, region=EU).arn
    assert [(record["action"], record["key"]) for record in found] == [
        ("CreateKey", made.arn),
        ("DisableKey", made.arn),
        ("EnableKey", made.arn),
        ("UpdateAlias", main),
        ("DeleteAlias", main),
        ("CreateAlias", made.arn),
        ("GenerateDataKey", made.arn),
        ("Decrypt", made.arn),
        ("Encrypt", made.arn),
        ("ReEncryptFrom", made.arn),
    ]
    assert {record["result"] for record in found} == {"ok"}
    assert {record["count"] for record in found} == {1}
    assert [record["context"] for record in found[-4:]] == [CONTEXT, CONTEXT, {}, {}]
    assert [record.get("details") for record in found[:6]] == [
        {"alias": "alias/new"}, None, None, *[{"alias": "alias/new"}] * 2, {"alias": "alias/again"}
    ]  # fmt: skip
    assert [(record["action"], record["context"]) for record in since(US)] == [("ReEncryptTo", CONTEXT)]


def test_what_the_keystore_does_by_itself_is_recorded(ks_home: Path, since: Any) -> None:
    now = [time.time()]
    with Keystore.open(ks_home, now=lambda: now[0]) as keystore:
        keystore.enable_key_rotation(MAIN, region=EU)
        now[0] += 366 * 86_400
        keystore.refresh()
        keystore.schedule_key_deletion(MAIN, days=7, region=EU)
        now[0] += 8 * 86_400
        keystore.refresh()
    actions = [record["action"] for record in since(EU)]
    assert actions == ["EnableKeyRotation", "RotateKey", "ScheduleKeyDeletion", "DeleteKey"]


def test_refused_uses_are_recorded_with_their_reason(keystore: Keystore, since: Any) -> None:
    blob = keystore.encrypt(MAIN, b"secret", CONTEXT, region=EU).blob
    other = keystore.create_key(EU)
    foreign = keystore.encrypt(MAIN, b"secret", CONTEXT, region=US).blob
    keystore.disable_key(other.arn)
    refusals: list[tuple[type[KmsfsError], Callable[[], object]]] = [
        (InvalidCiphertextError, lambda: keystore.decrypt(blob, {})),
        (IncorrectKeyError, lambda: keystore.decrypt(blob, CONTEXT, ref=other.arn)),
        (UnknownMaterialError, lambda: keystore.decrypt(foreign, CONTEXT, region=EU)),
        (KeyDisabledError, lambda: keystore.encrypt(other.arn, b"x", {})),
        (KeyDisabledError, lambda: keystore.generate_data_key(other.arn, {})),
        (AliasNotFoundError, lambda: keystore.delete_alias("alias/none", region=EU)),
    ]
    for kind, use in refusals:
        with pytest.raises(kind):
            use()
    main = keystore.resolve(MAIN, region=EU).arn
    assert [(record["action"], record["result"], record["key"]) for record in since(EU)[3:]] == [
        ("Decrypt", "InvalidCiphertextError", main),
        ("Decrypt", "IncorrectKeyError", main),
        ("Decrypt", "UnknownMaterialError", None),
        ("Encrypt", "KeyDisabledError", other.arn),
        ("GenerateDataKey", "KeyDisabledError", other.arn),
        ("DeleteAlias", "AliasNotFoundError", None),
    ]


def test_looking_is_not_recorded(keystore: Keystore, ks_home: Path, since: Any) -> None:
    keystore.list_keys()
    keystore.list_aliases()
    keystore.describe_key(MAIN, region=EU)
    keystore.check_usable(keystore.resolve(MAIN, region=EU).arn)
    keystore.check()
    assert since(EU) == since(US) == []


def test_no_secret_gets_into_the_log(keystore: Keystore, ks_home: Path) -> None:
    plaintext = b"a very secret plaintext indeed"
    made = keystore.generate_data_key(MAIN, CONTEXT, region=EU)
    blob = keystore.encrypt(MAIN, plaintext, CONTEXT, region=EU).blob
    keystore.decrypt(blob, CONTEXT)
    pin = (ks_home / "regions" / f"{EU}.pin").read_bytes().strip()
    raw = b"".join(path.read_bytes() for path in files(ks_home, EU))
    for secret in (plaintext, made.plaintext, pin, blob, made.blob):
        for form in (secret, secret.hex().encode(), base64.b64encode(secret), secret[:12]):
            assert form not in raw


def test_a_fill_of_the_pool_is_one_record_with_its_count(keystore: Keystore, since: Any) -> None:
    tree_id = TreeId(b"t" * 16)
    pool = DataKeyPool(keystore, keystore.resolve(MAIN, region=EU).arn, tree_id)
    assert [pool.fill(16), pool.fill(4), pool.fill(0)] == [16, 4, 0]
    tree = {"kmsfs:tree-id": tree_id.hex()}
    assert [(r["action"], r["count"], r["context"]) for r in since(EU)] == [
        ("GenerateDataKey", 16, tree),
        ("GenerateDataKey", 4, tree),
    ]


def test_a_fill_is_recorded_in_the_replicas_region_too(keystore: Keystore, since: Any) -> None:
    tree_id = TreeId(b"t" * 16)
    replica = Replica(keystore, keystore.resolve(MAIN, region=US).arn, tree_id)
    DataKeyPool(keystore, keystore.resolve(MAIN, region=EU).arn, tree_id, [replica]).fill(16)
    tree = {"kmsfs:tree-id": tree_id.hex()}
    assert [(r["action"], r["count"], r["context"]) for r in since(EU)] == [("GenerateDataKey", 16, tree)]
    found = [(r["action"], r["key"], r["count"], r["context"], r["result"]) for r in since(US)]
    assert found == [("Encrypt", replica.key_arn, 16, tree, "ok")]


def test_a_fill_that_ends_early_counts_the_keys_it_made(
    keystore: Keystore, since: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = keystore._service(EU)
    real, left = service.seal, iter(range(3))

    def failing(*arguments: Any) -> Any:
        if next(left, None) is None:
            raise KeyDisabledError("as if just now")
        return real(*arguments)

    monkeypatch.setattr(service, "seal", failing)
    pool = DataKeyPool(keystore, keystore.resolve(MAIN, region=EU).arn, TreeId(b"t" * 16))
    with pytest.raises(KeyDisabledError):
        pool.fill(16)
    assert [(record["result"], record["count"]) for record in since(EU)] == [("KeyDisabledError", 3)]


def test_who_it_is_done_for(keystore: Keystore, since: Any) -> None:
    actor = Actor("arn:aws:iam::000000000000:user/ann", 4711, "server", "request-1")
    with acting_for(actor):
        keystore.encrypt(MAIN, b"x", {}, region=EU)
    keystore.encrypt(MAIN, b"x", {}, region=EU)
    hers, ours = since(EU)
    assert (hers["principal"], hers["uid"], hers["via"]) == actor[:3]
    assert hers["request_id"] == "request-1"
    assert ours["principal"] == "arn:aws:iam::000000000000:root"
    assert (ours["uid"], ours["via"]) == (os.getuid(), "cli")


def test_a_pair_without_a_name_is_counted_too(keystore: Keystore, since: Any) -> None:
    arn = keystore.resolve(MAIN, region=EU).arn
    keystore.audits.count(arn, "Decrypt", {"": "x", "a": "b"}, uid=1, result="ok", uses=1)
    keystore.audits.close()
    assert [record["context"] for record in since(EU)] == [{"": "x", "a": "b"}]


def test_counted_uses_are_recorded_together(ks_home: Path, since: Any) -> None:
    with Keystore.open(ks_home, via="mount") as keystore:
        made = keystore.generate_data_key(MAIN, {"kmsfs:tree-id": "t", "kmsfs:file-id": "f"}, region=EU)
        context = {"kmsfs:tree-id": "t", "kmsfs:file-id": "f"}
        for _ in range(3):
            assert keystore.unwrap(made.blob, context, ref=made.key_arn) == made.plaintext
        with pytest.raises(InvalidCiphertextError):
            keystore.unwrap(made.blob, {}, ref=made.key_arn)
        assert len(since(EU)) == 1
    decrypts = since(EU)[1:]
    assert [(r["action"], r["result"], r["count"], r["context"]) for r in decrypts] == [
        ("Decrypt", "ok", 3, {"kmsfs:tree-id": "t"}),
        ("Decrypt", "InvalidCiphertextError", 1, {}),
    ]
    assert all(record["since"] <= record["time"] and record["via"] == "mount" for record in decrypts)


# --- segments ---------------------------------------------------------------------------------------
def test_one_process_after_the_other_writes_one_segment(ks_home: Path) -> None:
    for _ in range(3):
        with Keystore.open(ks_home) as keystore:
            keystore.encrypt(MAIN, b"x", {}, region=EU)
    assert len(files(ks_home, EU)) == 1
    with Keystore.open(ks_home) as keystore:
        assert [(f.state, f.problem, f.unconfirmed) for f in keystore.verify_audit(EU)] == [(OPEN, "", 0)]


def test_processes_at_once_write_a_segment_each(ks_home: Path) -> None:
    with Keystore.open(ks_home) as one, Keystore.open(ks_home) as two:
        one.encrypt(MAIN, b"x", {}, region=EU)
        two.encrypt(MAIN, b"x", {}, region=EU)
        assert len(files(ks_home, EU)) == 2
        findings = one.verify_audit(EU)
        assert [(finding.state, finding.problem) for finding in findings] == [(OPEN, "")] * 2
        assert sum(finding.unconfirmed for finding in findings) == 2
    with Keystore.open(ks_home) as three:
        three.encrypt(MAIN, b"x", {}, region=EU)
        assert len(files(ks_home, EU)) == 2


def test_a_full_segment_is_closed_and_another_begun(keystore: Keystore, ks_home: Path) -> None:
    log = log_of(keystore, max_segment_size=2000)
    keystore.audits._logs[EU] = log
    for _ in range(20):
        keystore.encrypt(MAIN, b"x", {}, region=EU)
    log.tend()  # does not wait for twice the size
    states = [finding.state for finding in keystore.verify_audit(EU)]
    assert states == [CLOSED] * (len(states) - 1) + [OPEN]
    assert len(states) > 2
    assert all(path.stat().st_size <= 5000 for path in files(ks_home, EU))
    assert not any(finding.problem for finding in keystore.verify_audit(EU))
    assert [action for action, _, _ in said(ks_home, EU)][-20:] == ["Encrypt"] * 20


def test_a_killed_writers_segment_is_gone_on_with(ks_home: Path, since: Any) -> None:
    killed = Keystore.open(ks_home)
    killed.encrypt(MAIN, b"x", {}, region=EU)
    os.close(killed.audits._logs[EU]._segment.fd)  # type: ignore[union-attr]
    killed.audits._logs.clear()
    (path,) = files(ks_home, EU)
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines(keepends=True)[0][:-7])
    with Keystore.open(ks_home) as keystore:
        (finding,) = keystore.verify_audit(EU)
        assert (finding.problem, finding.unconfirmed) == ("", 1)
        assert "unfinished" in finding.remark
        keystore.encrypt(MAIN, b"x", {}, region=EU)
        assert [finding.problem for finding in keystore.verify_audit(EU)] == [""]
    assert path.read_bytes().startswith(whole)
    assert [record["action"] for record in since(EU)] == ["Encrypt"] * 2
    killed.close()


def test_a_segment_that_was_tampered_with_is_left_alone(ks_home: Path) -> None:
    killed = Keystore.open(ks_home)
    killed.encrypt(MAIN, b"x", {}, region=EU)
    os.close(killed.audits._logs[EU]._segment.fd)  # type: ignore[union-attr]
    killed.audits._logs.clear()
    killed.close()
    (path,) = files(ks_home, EU)
    broken = path.read_bytes().replace(b'"Encrypt"', b'"Decrypt"')
    path.write_bytes(broken)
    with Keystore.open(ks_home) as keystore:
        keystore.encrypt(MAIN, b"x", {}, region=EU)
        assert [bool(finding.problem) for finding in keystore.verify_audit(EU)] == [True, False]
    assert path.read_bytes() == broken


def test_private_files(ks_home: Path) -> None:
    old = os.umask(0)
    try:
        for path in files(ks_home, EU):
            path.unlink()
        os.rmdir(path.parent) if not os.listdir(path.parent) else None
        with Keystore.open(ks_home) as keystore:
            keystore.encrypt(MAIN, b"x", {}, region=EU)
    finally:
        os.umask(old)
    (path,) = files(ks_home, EU)
    assert [oct(p.stat().st_mode & 0o777) for p in (path, path.parent, path.parent.parent)] == [
        "0o600", "0o700", "0o700"
    ]  # fmt: skip


def test_many_threads_record_in_one_chain(keystore: Keystore, since: Any) -> None:
    def use() -> None:
        for _ in range(25):
            keystore.encrypt(MAIN, b"x", {}, region=EU)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        keystore.audits.tend()
    for thread in threads:
        thread.join()
    assert len(since(EU)) == 100
    assert [finding.problem for finding in keystore.verify_audit(EU)] == [""]


# --- the key ----------------------------------------------------------------------------------------
@pytest.fixture
def before_audit(tmp_path: Path) -> Path:
    """A region as it was set up before there was an audit key."""
    home = tmp_path / "old"
    with Keystore.open(home) as keystore:
        config = keystore.add_region(EU)
        keystore._service(EU).hsm.destroy(audit_key_id(config.region))
    return home


def test_an_older_region_gets_its_key_with_its_first_record(before_audit: Path) -> None:
    with Keystore.open(before_audit) as keystore:
        assert all(finding.ok for finding in keystore.check())
        keystore.create_key(EU)
        assert [finding.problem for finding in keystore.verify_audit()] == [""]
        assert all(finding.ok for finding in keystore.check())


def test_several_at_once_make_one_key(before_audit: Path) -> None:
    keystores = [Keystore.open(before_audit) for _ in range(4)]
    threads = [threading.Thread(target=keystore.create_key, args=(EU,)) for keystore in keystores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hsm = keystores[0]._service(EU).hsm
    assert [key.label for key in hsm.list_keys()].count(f"kmsfs:audit:{EU}") == 1
    assert len(records(before_audit, EU)) == 4
    for keystore in keystores:
        keystore.close()


def test_a_lost_key_is_not_made_anew(ks_home: Path) -> None:
    with Keystore.open(ks_home) as keystore:
        keystore._service(EU).hsm.destroy(audit_key_id(keystore.regions()[0].region))
    with Keystore.open(ks_home) as keystore:
        with pytest.raises(KeyNotFoundError):
            keystore.encrypt(MAIN, b"x", {}, region=EU)
        with pytest.raises(KeyNotFoundError):
            keystore.verify_audit(EU)
        (finding,) = [finding for finding in keystore.check() if not finding.ok]
        assert finding.name == f"{EU}: keys"
