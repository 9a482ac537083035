"""The key pair of a region's reports: made once, never listed, its public half never taken on trust."""

import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from pkcs11 import Attribute, KeyType, ObjectClass
from testkit.audits import records

from kmsfs.crypto import signatures
from kmsfs.errors import (
    InsecureKeyError,
    IntegrityError,
    KeyNotFoundError,
    RegionNotFoundError,
    UnsupportedOperationError,
)
from kmsfs.ids import Region
from kmsfs.keystore import provision
from kmsfs.keystore.pkcs11_objects import _P256, find
from kmsfs.keystore.ports import TokenKey
from kmsfs.keystore.region import report_key_id
from kmsfs.keystore.service import Keystore

US, EU = "us-east-1", "eu-west-1"
LABEL, OBJECT_ID = f"kmsfs:reports:{US}", report_key_id(Region(US))
DIGEST = sha256(b"report").digest()

MAKER = """
import sys
from pathlib import Path
from kmsfs.keystore.pkcs11_hsm import Pkcs11Hsm
from kmsfs.keystore.service import Keystore

class Told(Pkcs11Hsm):
    def holds(self, object_id):
        held = super().holds(object_id)
        print(held, flush=True)
        return held

with Keystore.open(Path(sys.argv[1])) as keystore:
    keystore._service("us-east-1").hsm.__class__ = Told
    print(keystore.report_key("us-east-1").fingerprint, flush=True)
"""


def pairs(keystore: Keystore, region: str = US) -> list[TokenKey]:
    return [key for key in keystore._service(region).hsm.list_keys() if key.label.startswith("kmsfs:reports")]


def test_what_a_region_signed_verifies_and_nothing_else(keystore: Keystore) -> None:
    key, signature = keystore.sign_report(US, DIGEST)
    signatures.verify(key.der, DIGEST, signature)
    assert keystore.verify_report(US, DIGEST, signature) == key == keystore.report_key(US)
    with pytest.raises(IntegrityError):
        keystore.verify_report(US, sha256(b"another").digest(), signature)
    other, _ = keystore.sign_report(EU, DIGEST)
    assert other.fingerprint != key.fingerprint
    with pytest.raises(IntegrityError):
        keystore.verify_report(EU, DIGEST, signature)
    with pytest.raises(RegionNotFoundError):
        keystore.sign_report("mars-1", DIGEST)


def test_the_pair_is_made_when_it_is_needed_and_kept(keystore: Keystore, ks_home: Path) -> None:
    assert pairs(keystore) == []
    with pytest.raises(KeyNotFoundError, match="signed no report"):
        keystore.verify_report(US, DIGEST, b"")
    assert pairs(keystore) == [], "looking makes nothing"
    key = keystore.report_key(US)
    (made,) = pairs(keystore)
    assert (made.label, made.sensitive, made.extractable, made.local) == (LABEL, True, False, True)
    assert made.object_id == OBJECT_ID
    with Keystore.open(ks_home) as other:
        assert other.report_key(US) == key
    assert pairs(keystore, EU) == []


def test_it_is_in_no_listing_and_doctor_knows_it(keystore: Keystore) -> None:
    before = keystore.list_keys()
    keystore.report_key(US)
    assert keystore.list_keys() == before
    findings = {finding.name: finding for finding in keystore.check()}
    assert all(finding.ok for finding in findings.values())
    counted = [findings[f"{region}: keys"].detail.split()[0] for region in (EU, US)]
    assert int(counted[1]) == int(counted[0]) + 1


def test_every_signature_is_in_the_audit_log(keystore: Keystore, ks_home: Path) -> None:
    key, signature = keystore.sign_report(US, DIGEST)
    keystore.verify_report(US, DIGEST, signature)
    keystore.report_key(US)
    with pytest.raises(IntegrityError):
        keystore.verify_report(US, bytes(32), signature)
    said = [(found["action"], found["result"], found["details"]) for found in records(ks_home, US)[-4:]]
    digest = {"sha256": DIGEST.hex()}
    assert said == [
        ("kmsfs:SignReport", "ok", {**digest, "key": key.fingerprint}),
        ("kmsfs:VerifyReport", "ok", digest),
        ("kmsfs:GetReportKey", "ok", {"key": key.fingerprint}),
        ("kmsfs:VerifyReport", "IntegrityError", {"sha256": bytes(32).hex()}),
    ]


@pytest.fixture
def makers(ks_home: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes that found no pair, and are held back before they make one."""
    with provision.exclusive(ks_home):
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", MAKER, ks_home],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "False\n"
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def test_two_processes_at_once_make_one_pair(makers: list[subprocess.Popen[str]], keystore: Keystore) -> None:
    said = [maker.communicate() for maker in makers]
    assert [errors for _, errors in said] == ["", ""]
    assert sorted(out.split()[0] for out, _ in said) == ["False", "True"], "the second looked again"
    fingerprints = {out.split()[-1] for out, _ in said}
    assert fingerprints == {keystore.report_key(US).fingerprint}
    assert len(pairs(keystore)) == 1


def objects_of(keystore: Keystore, wanted: ObjectClass) -> list[Any]:
    """The objects of the pair in the token, as the library has them."""
    hsm = keystore._service(US).hsm
    return list(hsm._with_session(lambda session: find(session, OBJECT_ID, wanted)))  # type: ignore[attr-defined]


def add_public_key(keystore: Keystore, point: bytes) -> None:
    template = {
        Attribute.CLASS: ObjectClass.PUBLIC_KEY,
        Attribute.KEY_TYPE: KeyType.EC,
        Attribute.TOKEN: True,
        Attribute.ID: OBJECT_ID,
        Attribute.LABEL: LABEL,
        Attribute.EC_PARAMS: _P256,
        Attribute.EC_POINT: b"\4\x41" + point,
    }
    hsm = keystore._service(US).hsm
    hsm._with_session(lambda session: session.create_object(template))  # type: ignore[attr-defined]


def test_half_a_pair_that_a_crash_left_is_replaced(keystore: Keystore) -> None:
    hsm = keystore._service(US).hsm
    hsm.generate_pair(OBJECT_ID, LABEL)
    stale = hsm.public_key(OBJECT_ID)
    for private in objects_of(keystore, ObjectClass.PRIVATE_KEY):
        private.destroy()
    keystore.report_key(US)
    assert hsm.public_key(OBJECT_ID) != stale


@pytest.mark.parametrize("how", ["removed", "exchanged", "added"])
def test_a_public_key_that_was_meddled_with(keystore: Keystore, how: str) -> None:
    _, signature = keystore.sign_report(US, DIGEST)
    keystore.report_key(EU)
    if how != "added":
        for public in objects_of(keystore, ObjectClass.PUBLIC_KEY):
            public.destroy()
    if how != "removed":
        add_public_key(keystore, keystore._service(EU).hsm.public_key(report_key_id(Region(EU))))
    for use in (
        lambda: keystore.verify_report(US, DIGEST, signature),
        lambda: keystore.sign_report(US, DIGEST),
        lambda: keystore.report_key(US),
    ):
        with pytest.raises(KeyNotFoundError if how == "removed" else InsecureKeyError):
            use()


def test_a_module_without_elliptic_curves(
    shim: Path, own_token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KMSFS_SHIM", "no-ec")
    with Keystore.open(tmp_path / "odd-home") as keystore:
        keystore.add_region(US, module=shim, token_label="own", pin_file=own_token)
        with pytest.raises(
            UnsupportedOperationError, match="does not offer ECDSA on P-256: region us-east-1"
        ):
            keystore.sign_report(US, DIGEST)
        key = keystore.create_key(US)
        assert keystore.decrypt(keystore.encrypt(key.arn, b"x", {}).blob, {}).plaintext == b"x"
        monkeypatch.setenv("KMSFS_SHIM", "")
        assert keystore.sign_report(US, DIGEST)[0] == keystore.report_key(US)
