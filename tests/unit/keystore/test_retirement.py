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
    """The key with one old material, rotated a while ago."""
    key = keystore.rotate_key(MAIN, region=US)
    assert isinstance(keystore._now, Clock)
    keystore._now.time += MARGIN_S
    return key


def now_under(key: KeyMetadata) -> dict[str, str]:
    """What a pass says that left every slot under the key's material of this moment."""
    assert key.current_material_id is not None
    return {key.arn: key.current_material_id.hex()}


def states(keystore: Keystore) -> list[Retirement | None]:
    return [material.retirement for material in keystore.resolve(MAIN, region=US).materials]


def held(keystore: Keystore, key: KeyMetadata) -> list[bool]:
    """Whether the token has each material's object."""
    return [keystore._service(US).hsm.holds(material.material_id) for material in key.materials]


def test_old_material_is_destroyed_and_its_blobs_are_told_so(timed: Keystore, ks_home: Path) -> None:
    old = timed.encrypt(MAIN, b"old", {}, region=US)
    key = rotated(timed)
    new = timed.encrypt(MAIN, b"new", {}, region=US)
    timed.note_tree(TREE, PATH, [key.arn], under=now_under(key))
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


@pytest.mark.parametrize("passed", ["never", "not to its end", "before the rotation", "another key"])
def test_a_tree_that_may_need_it(timed: Keystore, passed: str) -> None:
    before = timed.resolve(MAIN, region=US)
    key = rotated(timed)
    under = {
        "never": None,
        "not to its end": {},
        "before the rotation": now_under(before),
        "another key": {f"{key.arn}x": now_under(key)[key.arn]},
    }
    timed.note_tree(TREE, PATH, [key.arn], under=under[passed])
    with pytest.raises(KeyInUseError, match=rf"may be in use: tree {PATH}$") as caught:
        timed.retire_key_material(MAIN, region=US)
    assert caught.value.hint == f"kmsfs rewrap {PATH}"
    assert (states(timed), held(timed, key)) == ([None, None], [True, True])


def test_one_pass_too_few(timed: Keystore) -> None:
    key = rotated(timed)
    timed.note_tree(TREE, PATH, [key.arn], under=now_under(key))
    timed.note_tree(TREE, Path("/srv/other"), [key.arn])
    with pytest.raises(KeyInUseError, match=r"tree /srv/other$"):
        timed.retire_key_material(MAIN, region=US)
    timed.note_tree(TREE, Path("/srv/other"), [key.arn], under=now_under(key))
    rotated(timed)  # a pass before the last rotation says nothing of it
    with pytest.raises(KeyInUseError):
        timed.retire_key_material(MAIN, region=US)


@pytest.mark.parametrize("step", [-3600.0, 3600.0])
def test_a_clock_that_was_set_makes_no_pass_later_than_the_rotation(
    timed: Keystore, clock: Clock, step: float
) -> None:
    """Another host's clock may be an hour behind, or this one's was set."""
    before = timed.resolve(MAIN, region=US)
    timed.note_tree(TREE, PATH, [before.arn], under=now_under(before))
    clock.time += step
    key = rotated(timed)
    clock.time -= step
    with pytest.raises(KeyInUseError):
        timed.retire_key_material(MAIN, region=US)
    assert held(timed, key) == [True, True]


@pytest.mark.parametrize("since", [-3600.0, 0.0, MARGIN_S - 0.001])
def test_right_after_a_rotation_others_may_encrypt_under_old_material(
    timed: Keystore, clock: Clock, since: float
) -> None:
    """What they encrypt then would be lost though nothing told them."""
    key = timed.rotate_key(MAIN, region=US)
    clock.time += since
    with pytest.raises(KeyStateError, match="was rotated a moment ago"):
        timed.retire_key_material(MAIN, region=US)
    assert held(timed, key) == [True, True]
    clock.time += MARGIN_S - since
    assert timed.retire_key_material(MAIN, region=US) != []


def test_a_new_key_has_nothing_to_retire(timed: Keystore) -> None:
    assert timed.retire_key_material(timed.create_key(US).arn) == []


def test_a_pass_is_remembered_until_the_next_one_begins(timed: Keystore) -> None:
    timed.note_tree(TREE, PATH, ["a"], under={"a": "1"})
    timed.note_tree(TREE, PATH, ["b"], besides=True)
    timed.note_tree(TREE, PATH, ["c"])
    assert [tree.under for tree in known_trees(timed.home)] == [{"a": "1"}]
    timed.note_tree(TREE, PATH, ["c"], besides=True, under={})
    assert [tree.under for tree in known_trees(timed.home)] == [{}]


def test_a_register_of_before_there_were_passes(timed: Keystore) -> None:
    key = rotated(timed)
    entry = {"kind": "tree", "tree_id": TREE.hex(), "path": str(PATH), "key_arns": [key.arn]}
    trees_path(timed.home).write_text(json.dumps({"trees": [entry]}))
    with pytest.raises(KeyInUseError):
        timed.retire_key_material(MAIN, region=US)
    trees_path(timed.home).write_text(json.dumps({"trees": [{**entry, "under": "new material"}]}))
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
    timed.rotate_key(MAIN, region=US)
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
