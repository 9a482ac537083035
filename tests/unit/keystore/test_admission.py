"""What was admitted once stands until the metadata change, and not where something else may change the answer."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from testkit.policy_cases import allow, policy

from kmsfs.errors import (
    AccessDeniedError,
    IncorrectKeyError,
    InvalidCiphertextError,
    KeyDisabledError,
    KmsfsError,
)
from kmsfs.keystore.service import Keystore
from kmsfs.keystore.transitions import Operation, Purpose

ROOT = "arn:aws:iam::000000000000:root"
US, EU = "us-east-1", "eu-west-1"
MAIN = "alias/main"
ENCRYPT = Purpose("Encrypt", Operation.ENCRYPT)
FIRST, SECOND = {"file": "1"}, {"file": "2"}


def uses(keystore: Keystore) -> list[Callable[[], object]]:
    """Every single use of the key of EU, each made once so that it was admitted."""
    arn = keystore.resolve(MAIN, region=EU).arn
    blob = keystore.encrypt(MAIN, b"x", FIRST, region=EU).blob
    found: list[Callable[[], object]] = [
        lambda: keystore.encrypt(MAIN, b"x", FIRST, region=EU),
        lambda: keystore.generate_data_key(arn, FIRST),
        lambda: keystore.decrypt(blob, FIRST),
        lambda: keystore.decrypt(blob, FIRST, ref=MAIN, region=EU),
        lambda: keystore.unwrap(blob, FIRST, ref=arn),
        lambda: keystore.unwrap_to_rewrap(blob, FIRST, ref=arn),
        lambda: keystore.rewrap(arn, b"x" * 32, FIRST),
    ]
    for use in found:
        use()
    return found


def results(keystore: Keystore, action: str) -> list[tuple[str, str | None]]:
    keystore.audits.close()
    records = keystore.audits.read(keystore.resolve(MAIN, region=EU).region)
    return [(record["result"], record["key"]) for record in records if record["action"] == action]


def test_a_key_that_is_disabled_here_is_not_used_again(keystore: Keystore) -> None:
    found = uses(keystore)
    keystore.disable_key(MAIN, region=EU)
    for use in found:
        with pytest.raises(KeyDisabledError):
            use()
    keystore.enable_key(MAIN, region=EU)
    for use in found:
        use()


def test_a_key_that_is_disabled_elsewhere_is_not_used_again(keystore: Keystore, ks_home: Path) -> None:
    found = uses(keystore)
    with Keystore.open(ks_home) as other:
        other.disable_key(MAIN, region=EU)
    keystore.refresh()
    for use in found:
        with pytest.raises(KeyDisabledError):
            use()


def test_a_policy_that_changed_is_asked(keystore: Keystore) -> None:
    found = uses(keystore)
    nobody = policy(allow("kms:DescribeKey", ROOT))
    keystore.put_key_policy(MAIN, json.dumps(nobody), bypass_lockout_check=True, region=EU)
    for use in found:
        with pytest.raises(AccessDeniedError):
            use()


def test_a_policy_that_looks_at_the_context_is_asked_each_time(keystore: Keystore) -> None:
    blobs = [keystore.encrypt(MAIN, b"x", context, region=EU).blob for context in (FIRST, SECOND)]
    of_first = {"StringEquals": {"kms:EncryptionContext:file": "1"}}
    only = policy(
        allow("kms:PutKeyPolicy", ROOT), allow(["kms:Encrypt", "kms:Decrypt"], ROOT, Condition=of_first)
    )
    keystore.put_key_policy(MAIN, json.dumps(only), region=EU)
    for _ in range(2):
        assert keystore.decrypt(blobs[0], FIRST).plaintext == b"x"
        assert keystore.encrypt(MAIN, b"x", FIRST, region=EU)
        with pytest.raises(AccessDeniedError):
            keystore.decrypt(blobs[1], SECOND)
        with pytest.raises(AccessDeniedError):
            keystore.encrypt(MAIN, b"x", SECOND, region=EU)
    assert not keystore._service(EU).snapshot.admitted


def test_what_was_admitted_for_one_purpose_is_asked_for_another(keystore: Keystore) -> None:
    only = policy(allow("kms:PutKeyPolicy", ROOT), allow(["kms:Encrypt", "kms:Decrypt"], ROOT))
    keystore.put_key_policy(MAIN, json.dumps(only), region=EU)
    arn = keystore.resolve(MAIN, region=EU).arn
    for _ in range(2):
        blob = keystore.encrypt(arn, b"x", FIRST).blob
        assert keystore.decrypt(blob, FIRST).plaintext == b"x"
    for use in (
        lambda: keystore.generate_data_key(arn, FIRST),
        lambda: keystore.rewrap(arn, b"x", FIRST),
        lambda: keystore.unwrap_to_rewrap(blob, FIRST, ref=arn),
        lambda: keystore.re_encrypt(blob, FIRST, arn, SECOND),
    ):
        with pytest.raises(AccessDeniedError):
            use()


def test_another_key_is_refused_for_a_blob_that_was_decrypted_before(keystore: Keystore) -> None:
    blob = keystore.encrypt(MAIN, b"x", FIRST, region=EU).blob
    other = keystore.create_key(EU).arn
    assert keystore.decrypt(blob, FIRST).plaintext == b"x"
    with pytest.raises(IncorrectKeyError):
        keystore.decrypt(blob, FIRST, ref=other)
    with pytest.raises(KmsfsError):
        keystore.decrypt(blob, FIRST, region=US)
    assert results(keystore, "Decrypt")[-1] == ("IncorrectKeyError", keystore.resolve(MAIN, region=EU).arn)


def test_an_admission_of_older_metadata_is_not_kept(ks_home: Path) -> None:
    with Keystore.open(ks_home, via="server") as keystore:  # which has no other reason not to keep it
        service = keystore._service(EU)
        key = keystore.resolve(MAIN, region=EU)
        for _ in range(2):  # the first one reserves uses: that changes the metadata
            keystore.encrypt(key.arn, b"x", FIRST)
        entry = service.snapshot.admitted[ENCRYPT, key.key_id]
        keystore.disable_key(key.arn)
        keystore._keep(ENCRYPT, service, key.key_id, entry)
        assert not service.snapshot.admitted


def test_each_use_is_recorded_once_however_it_ends(keystore: Keystore) -> None:
    blob = keystore.encrypt(MAIN, b"x", FIRST, region=EU).blob
    arn = keystore.resolve(MAIN, region=EU).arn
    for _ in range(2):  # admitted just now, and before
        keystore.decrypt(blob, FIRST)
        with pytest.raises(InvalidCiphertextError):
            keystore.decrypt(blob, SECOND)
    keystore.disable_key(arn)
    with pytest.raises(KeyDisabledError):
        keystore.decrypt(blob, FIRST)
    assert results(keystore, "Decrypt") == [
        ("ok", arn),
        ("InvalidCiphertextError", arn),
        ("ok", arn),
        ("InvalidCiphertextError", arn),
        ("KeyDisabledError", arn),
    ]


def test_the_server_decides_by_itself(ks_home: Path) -> None:
    with Keystore.open(ks_home, via="server") as keystore:
        arn = keystore.resolve(MAIN, region=EU).arn
        keystore.put_key_policy(
            arn, json.dumps(policy(allow("kms:DescribeKey", ROOT))), bypass_lockout_check=True
        )
        for _ in range(2):
            assert keystore.encrypt(arn, b"x", FIRST)
        keystore.disable_key(arn)
        with pytest.raises(KeyDisabledError):
            keystore.encrypt(arn, b"x", FIRST)
