"""Old key material is destroyed once no known tree needs it, on SoftHSM."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from testkit.audits import records
from testkit.clock import Clock

from kmsfs.errors import (
    AccessDeniedError,
    HsmUnavailableError,
    KeyDisabledError,
    KeyInUseError,
    KeyPendingDeletionError,
    KeyStateError,
    KmsfsError,
    MetadataUnavailableError,
    UnknownMaterialError,
    UnsupportedOperationError,
)
from kmsfs.ids import TreeId
from kmsfs.keystore.known_trees import known_trees, note_tree, trees_path
from kmsfs.keystore.model import KeyMetadata, KeySpec, Origin, Retirement
from kmsfs.keystore.ports import KeyKind
from kmsfs.keystore.retirement import MARGIN_S
from kmsfs.keystore.service import Keystore

US = "us-east-1"
MAIN = "alias/main"
TREE = TreeId(b"t" * 16)
PATH = Path("/srv/tree")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(ks_home: Path, clock: Clock) -> Iterator[Keystore]:
    with Keystore.open(ks_home, now=clock) as opened:
        yield opened


def rotated(keystore: Keystore) -> KeyMetadata:
    """The key with one old material."""
    return keystore.rotate_key(MAIN, region=US)


def states(keystore: Keystore) -> list[Retirement | None]:
    return [material.retirement for material in keystore.resolve(MAIN, region=US).materials]


def held(keystore: Keystore, key: KeyMetadata) -> list[bool]:
    """Whether the token has each material's object."""
    return [keystore._service(US).hsm.holds(material.material_id) for material in key.materials]


def test_old_material_is_destroyed_and_its_blobs_are_told_so(timed: Keystore, ks_home: Path) -> None:
    old = timed.encrypt(MAIN, b"old", {}, region=US)
    key = rotated(timed)
    new = timed.encrypt(MAIN, b"new", {}, region=US)
    timed.note_tree(TREE, PATH, [key.arn], passed_at=timed._now() + MARGIN_S)
    assert timed.retire_key_material(MAIN, region=US) == [old.material_id]
    assert states(timed) == [Retirement.RETIRED, None]
    assert held(timed, key) == [False, True]
    assert timed.decrypt(new.blob, {}).plaintext == b"new"
    with pytest.raises(UnknownMaterialError, match=rf"of key {key.arn} was retired"):
        timed.decrypt(old.blob, {})
    assert timed.retire_key_material(MAIN, region=US) == []
    assert all(finding.ok for finding in timed.check())
    timed.close()
    found = [
        entry["details"] for entry in records(ks_home, US) if entry["action"] == "kmsfs:RetireKeyMaterial"
    ]
    trees = {"outside_trees": "unknown", "trees": f"tree {PATH}"}
    assert found == [{**trees, "materials": old.material_id.hex()}, {**trees, "materials": ""}]


@pytest.mark.parametrize("passed_after", [None, -1.0, MARGIN_S - 0.001, 0.0])
def test_a_tree_that_may_need_it(timed: Keystore, passed_after: float | None) -> None:
    key = rotated(timed)
    at = None if passed_after is None else timed._now() + passed_after
    timed.note_tree(TREE, PATH, [key.arn], passed_at=at)
    with pytest.raises(KeyInUseError, match=rf"may be in use: tree {PATH}$") as caught:
        timed.retire_key_material(MAIN, region=US)
    assert caught.value.hint.startswith(f"kmsfs rewrap {PATH}, ")
    assert (states(timed), held(timed, key)) == ([None, None], [True, True])


def test_one_pass_too_few(timed: Keystore, clock: Clock) -> None:
    key = rotated(timed)
    clock.time += 60
    timed.note_tree(TREE, PATH, [key.arn], passed_at=clock.time)
    timed.note_tree(TREE, Path("/srv/other"), [key.arn])
    with pytest.raises(KeyInUseError, match=r"tree /srv/other$"):
        timed.retire_key_material(MAIN, region=US)
    timed.note_tree(TREE, Path("/srv/other"), [key.arn], passed_at=clock.time)
    clock.time += 60
    timed.rotate_key(MAIN, region=US)  # a pass before the last rotation says nothing of it
    with pytest.raises(KeyInUseError):
        timed.retire_key_material(MAIN, region=US)


def test_a_pass_is_remembered_until_the_next_one_begins(timed: Keystore) -> None:
    timed.note_tree(TREE, PATH, ["a"], passed_at=7.0)
    timed.note_tree(TREE, PATH, ["b"], besides=True)
    timed.note_tree(TREE, PATH, ["c"])
    assert [tree.passed_at for tree in known_trees(timed.home)] == [7.0]
    timed.note_tree(TREE, PATH, ["c"], besides=True, passed_at=0)
    assert [tree.passed_at for tree in known_trees(timed.home)] == [0]


def test_a_register_of_before_there_were_passes(timed: Keystore) -> None:
    key = rotated(timed)
    entry = {"kind": "tree", "tree_id": TREE.hex(), "path": str(PATH), "key_arns": [key.arn]}
    trees_path(timed.home).write_text(json.dumps({"trees": [entry]}))
    with pytest.raises(KeyInUseError):
        timed.retire_key_material(MAIN, region=US)
    trees_path(timed.home).write_text(json.dumps({"trees": [{**entry, "passed_at": "soon"}]}))
    with pytest.raises(MetadataUnavailableError, match="is damaged"):
        timed.retire_key_material(MAIN, region=US)


def test_a_backup_keeps_its_material(timed: Keystore) -> None:
    key = rotated(timed)
    note_tree(timed.home, TREE, PATH, [key.arn], "backup")
    with pytest.raises(KeyInUseError, match=f"backup {PATH}$") as caught:
        timed.retire_key_material(MAIN, region=US)
    assert caught.value.hint == f"backup {PATH} keeps the material that it was made with"


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda keystore: keystore.create_key(US, spec=KeySpec.HMAC_256), UnsupportedOperationError),
        (lambda keystore: keystore.create_key(US, origin=Origin.EXTERNAL), UnsupportedOperationError),
        (lambda keystore: keystore.create_key(US, multi_region=True), UnsupportedOperationError),
        (lambda keystore: keystore.managed_key(US), AccessDeniedError),
        (lambda keystore: keystore.disable_key(MAIN, region=US), KeyDisabledError),
        (lambda keystore: keystore.schedule_key_deletion(MAIN, region=US), KeyPendingDeletionError),
    ],
)
def test_keys_whose_material_is_not_retired(
    timed: Keystore, make: Callable[[Keystore], KeyMetadata], error: type[KmsfsError]
) -> None:
    rotated(timed)
    with pytest.raises(error):
        timed.retire_key_material(make(timed).arn)
    assert states(timed) == [None, None]


def test_who_may_not_delete_a_key_may_not_retire_its_material(timed: Keystore) -> None:
    key = rotated(timed)
    statement = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": ["kms:PutKeyPolicy", "kms:Decrypt"],
        "Resource": "*",
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    timed.put_key_policy(MAIN, policy, region=US)
    with pytest.raises(AccessDeniedError):
        timed.retire_key_material(MAIN, region=US)
    assert held(timed, key) == [True, True]


def test_a_rotation_that_came_in_between(timed: Keystore) -> None:
    seen = rotated(timed)
    rotated(timed)
    with pytest.raises(KeyStateError, match="rotated meanwhile"):
        timed._service(US).lifecycle.retired.retire(seen)
    assert states(timed) == [None] * 3


@pytest.mark.parametrize("stop", ["destroy", "commit"])
def test_a_retirement_that_stops_is_finished_by_whoever_comes(
    ks_home: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    def fail(_: object) -> None:
        raise HsmUnavailableError("stopped")

    with Keystore.open(ks_home, now=clock) as first, monkeypatch.context() as patched:
        old = first.encrypt(MAIN, b"old", {}, region=US)
        key = rotated(first)
        service = first._service(US)
        if stop == "destroy":
            patched.setattr(service.hsm, "destroy", fail)
        else:
            patched.setattr("kmsfs.keystore.retirement._gone", fail)
        with pytest.raises(HsmUnavailableError):
            first.retire_key_material(MAIN, region=US)
        assert states(first) == [Retirement.RETIRING, None]
        assert held(first, key) == [stop == "destroy", True]
        with pytest.raises(UnknownMaterialError, match="was retired"):
            first.decrypt(old.blob, {})
    with Keystore.open(ks_home, now=clock) as second:
        second.list_keys(US)
        second.refresh()
        assert (states(second), held(second, key)) == ([Retirement.RETIRED, None], [False, True])
    assert [(entry["action"], entry["principal"]) for entry in records(ks_home, US)][-1] == (
        "kmsfs:RetireKeyMaterial",
        "kmsfs",
    )


def test_material_that_came_back_is_found_and_destroyed_again(timed: Keystore) -> None:
    """As with a token that was restored from a backup."""
    key = rotated(timed)
    (old,) = timed.retire_key_material(MAIN, region=US)
    timed._service(US).hsm.generate(KeyKind.AES, old, f"kmsfs:{key.key_id}")
    found = [finding for finding in timed.check() if not finding.ok]
    assert [finding.hint for finding in found] == [f"kmsfs key retire {key.arn}"]
    assert timed.retire_key_material(MAIN, region=US) == []
    assert all(finding.ok for finding in timed.check())


def test_a_key_is_deleted_with_what_was_retired(timed: Keystore, clock: Clock) -> None:
    key = rotated(timed)
    timed.retire_key_material(MAIN, region=US)
    timed.schedule_key_deletion(MAIN, days=7, region=US)
    clock.time += 8 * 86_400
    timed.refresh()
    assert timed.list_keys(US) == []
    assert held(timed, key) == [False, False]
