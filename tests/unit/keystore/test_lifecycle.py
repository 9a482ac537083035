"""The life of a CMK on SoftHSM, with a clock of the test's own."""

import json
import multiprocessing
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from testkit.clock import DAY, Clock

from kmsfs.errors import (
    AccessDeniedError,
    DuplicateTagError,
    HsmUnavailableError,
    InvalidRequestError,
    KeyDisabledError,
    KeyInUseError,
    KeyNotFoundError,
    KeyNotPendingDeletionError,
    KeyPendingDeletionError,
    LimitExceededError,
    MetadataUnavailableError,
    ReservedAliasError,
    ReservedTagError,
    TagError,
    TooManyTagsError,
)
from kmsfs.ids import TreeId
from kmsfs.keystore.known_trees import known_trees, trees_path
from kmsfs.keystore.model import KeyManager, KeyState, RotationType
from kmsfs.keystore.pool import DataKeyPool
from kmsfs.keystore.service import Keystore

US = "us-east-1"
MAIN = "alias/main"
TREE = TreeId(b"t" * 16)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(ks_home: Path, clock: Clock) -> Iterator[Keystore]:
    with Keystore.open(ks_home, now=clock) as opened:
        yield opened


def objects(keystore: Keystore, key_id: str) -> int:
    return sum(key.label == f"kmsfs:{key_id}" for key in keystore._service(US).hsm.list_keys())


# --- deletion -----------------------------------------------------------------------------------
@pytest.mark.parametrize("days", [7, 30])
def test_a_key_is_deleted_when_its_days_are_over(timed: Keystore, clock: Clock, days: int) -> None:
    timed.tag_key(MAIN, [("team", "blue")], region=US)
    timed.rotate_key(MAIN, region=US)
    sealed = timed.encrypt(MAIN, b"secret", {}, region=US)
    key = timed.schedule_key_deletion(MAIN, days=days, region=US)
    assert (key.state, key.deletion_at) == (KeyState.PENDING_DELETION, clock.time + days * DAY)
    assert key.to_aws()["DeletionDate"] == key.deletion_at
    with pytest.raises(KeyPendingDeletionError):
        timed.decrypt(sealed.blob, {})
    clock.time += days * DAY - 1
    assert timed.describe_key(key.arn).state is KeyState.PENDING_DELETION
    assert objects(timed, key.key_id) == 2
    clock.time += 1
    timed.refresh()
    assert objects(timed, key.key_id) == 0
    snapshot = timed._service(US).snapshot
    assert (dict(snapshot.tags), dict(snapshot.condemned), dict(snapshot.materials)) == ({}, {}, {})
    assert timed.list_keys(US) == timed.list_aliases(US) == []
    for use in (lambda: timed.describe_key(key.arn), lambda: timed.decrypt(sealed.blob, {})):
        with pytest.raises(KeyNotFoundError):
            use()
    rows = [row for row in timed._store.read(snapshot.region) if row.table == "keys"]
    assert [(row.values["key_id"], row.values["state"]) for row in rows] == [(key.key_id, "Deleted")]
    assert all(finding.ok for finding in timed.check())


@pytest.mark.parametrize("days", [-1, 0, 6, 31])
def test_windows_past_the_edge(timed: Keystore, days: int) -> None:
    with pytest.raises(InvalidRequestError):
        timed.schedule_key_deletion(MAIN, days=days, region=US)


def test_a_deletion_is_cancelled(timed: Keystore, clock: Clock) -> None:
    with pytest.raises(KeyNotPendingDeletionError, match="not pending deletion"):
        timed.cancel_key_deletion(MAIN, region=US)
    timed.enable_key_rotation(MAIN, region=US)
    doomed = timed.schedule_key_deletion(MAIN, region=US)
    assert doomed.rotation_status() == {"KeyId": doomed.key_id, "KeyRotationEnabled": False}
    with pytest.raises(KeyPendingDeletionError):
        timed.schedule_key_deletion(MAIN, region=US)
    key = timed.cancel_key_deletion(MAIN, region=US)
    assert key.rotation_status()["KeyRotationEnabled"] is True
    assert (key.state, key.deletion_at) == (KeyState.DISABLED, None)
    clock.time += 31 * DAY
    timed.refresh()
    assert timed.enable_key(MAIN, region=US).state is KeyState.ENABLED
    timed.encrypt(MAIN, b"x", {}, region=US)


@pytest.mark.parametrize("stop", ["condemn", "destroy", "bury"])
def test_a_deletion_that_stops_is_taken_up_again(
    ks_home: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    """A stop after each of the three steps, by a failure of the next; another process finishes."""
    with Keystore.open(ks_home, now=clock) as first, monkeypatch.context() as patched:
        first.rotate_key(MAIN, region=US)
        key = first.schedule_key_deletion(MAIN, region=US)
        clock.time += 30 * DAY
        service = first._service(US)
        commit, destroy, done = service.ledger.commit, service.hsm.destroy, []

        def fail_after(count: int, call: object) -> object:
            def run(argument: object) -> object:
                if len(done) >= count:
                    raise HsmUnavailableError("stopped")
                done.append(argument)
                return call(argument)  # type: ignore[operator]

            return run

        if stop == "condemn":
            patched.setattr(service.ledger, "commit", fail_after(0, commit))
        elif stop == "destroy":
            patched.setattr(service.hsm, "destroy", fail_after(1, destroy))
        else:
            patched.setattr(service.ledger, "commit", fail_after(1, commit))
        assert first.refresh() in (True, False)  # use goes on
        before = {"condemn": 2, "destroy": 1, "bury": 0}
        assert objects(first, key.key_id) == before[stop]
    with Keystore.open(ks_home, now=clock) as second:
        assert [finding for finding in second.check() if not finding.ok and "orphans" in finding.name] == []
        second.list_keys(US)
        second.refresh()
        assert objects(second, key.key_id) == 0
        assert second.list_aliases(US) == []
        assert not second._service(US).snapshot.condemned


def test_a_key_of_a_known_tree_is_deleted_only_by_force(timed: Keystore, tmp_path: Path) -> None:
    key = timed.resolve(MAIN, region=US)
    for _ in range(2):
        timed.note_tree(TREE, tmp_path / "tree", [key.arn])
    timed.note_tree(TREE, tmp_path / "copy", [])
    assert len(known_trees(timed.home)) == 2
    assert trees_path(timed.home).stat().st_mode & 0o777 == 0o600
    with pytest.raises(KeyInUseError, match="is in use: tree ") as caught:
        timed.schedule_key_deletion(key.arn)
    assert "--force" in caught.value.hint
    timed.tag_key(key.arn, [("kmsfs:allow-deletion", "no")])
    with pytest.raises(KeyInUseError):
        timed.schedule_key_deletion(key.arn)
    timed.tag_key(key.arn, [("kmsfs:allow-deletion", "yes")])
    assert timed.schedule_key_deletion(key.arn).state is KeyState.PENDING_DELETION
    timed.cancel_key_deletion(key.arn)
    timed.untag_key(key.arn, ["kmsfs:allow-deletion"])
    assert timed.schedule_key_deletion(key.arn, force=True).state is KeyState.PENDING_DELETION
    trees_path(timed.home).write_text(json.dumps({"trees": [{}]}))
    with pytest.raises(MetadataUnavailableError, match="damaged"):
        known_trees(timed.home)


# --- rotation -----------------------------------------------------------------------------------
def test_a_rotation_keeps_name_and_old_ciphertext(timed: Keystore) -> None:
    before = timed.resolve(MAIN, region=US)
    old = timed.encrypt(MAIN, b"old", {}, region=US)
    after = timed.rotate_key(MAIN, region=US)
    new = timed.encrypt(MAIN, b"new", {}, region=US)
    assert (after.arn, after.key_id) == (before.arn, before.key_id)
    assert timed.resolve(MAIN, region=US).arn == before.arn
    assert old.material_id != new.material_id == after.current_material_id
    assert [timed.decrypt(sealed.blob, {}).plaintext for sealed in (old, new)] == [b"old", b"new"]
    (listed,) = after.rotations()
    assert (listed["RotationType"], listed["KeyMaterialId"]) == ("ON_DEMAND", new.material_id.hex())
    first, last = after.rotations(with_first=True)
    assert last == listed
    assert (first["KeyMaterialId"], first["KeyMaterialState"]) == (old.material_id.hex(), "NON_CURRENT")
    assert "RotationDate" not in first


def test_a_rotation_drains_the_pool(timed: Keystore) -> None:
    pool = DataKeyPool(timed, timed.resolve(MAIN, region=US).arn, TREE)
    pool.fill(5)
    key = timed.rotate_key(MAIN, region=US)
    assert pool.take().slots[0].material_id == key.current_material_id
    assert len(pool) == 0


def test_automatic_rotation_is_done_when_due_and_once(timed: Keystore, clock: Clock) -> None:
    assert timed.resolve(MAIN, region=US).rotation_status()["KeyRotationEnabled"] is False
    first = timed.enable_key_rotation(MAIN, period_days=90, region=US)
    assert first.next_rotation_at == clock.time + 90 * DAY
    assert timed.enable_key_rotation(MAIN, region=US) == first
    clock.time += 90 * DAY - 1
    timed.refresh()
    assert timed.encrypt(MAIN, b"x", {}, region=US).material_id == first.current_material_id
    clock.time += 1
    timed.refresh()
    made = {timed.encrypt(MAIN, b"x", {}, region=US).material_id for _ in range(3)}
    key = timed.resolve(MAIN, region=US)
    assert made == {key.current_material_id} != {first.current_material_id}
    assert key.next_rotation_at == clock.time + 90 * DAY
    clock.time += 1000 * DAY
    timed.refresh()
    assert len(timed.resolve(MAIN, region=US).materials) == 3
    status = timed.resolve(MAIN, region=US).rotation_status()
    assert (status["KeyRotationEnabled"], status["RotationPeriodInDays"]) == (True, 90)
    timed.disable_key_rotation(MAIN, region=US)
    clock.time += 1000 * DAY
    timed.refresh()
    timed.encrypt(MAIN, b"x", {}, region=US)
    assert len(timed.resolve(MAIN, region=US).materials) == 3


@pytest.mark.parametrize("period", [0, 89, 2561])
def test_periods_past_the_edge(timed: Keystore, period: int) -> None:
    with pytest.raises(InvalidRequestError):
        timed.enable_key_rotation(MAIN, period_days=period, region=US)


def test_a_disabled_key_is_not_rotated(timed: Keystore, clock: Clock) -> None:
    timed.enable_key_rotation(MAIN, period_days=2560, region=US)
    timed.disable_key(MAIN, region=US)
    for change in (timed.rotate_key, timed.enable_key_rotation, timed.disable_key_rotation):
        with pytest.raises(KeyDisabledError):
            change(MAIN, region=US)
    clock.time += 2560 * DAY
    timed.refresh()
    assert len(timed.resolve(MAIN, region=US).materials) == 1
    timed.enable_key(MAIN, region=US)
    timed.refresh()
    assert len(timed.resolve(MAIN, region=US).materials) == 2


def test_twenty_five_rotations_on_demand(timed: Keystore) -> None:
    for _ in range(25):
        timed.rotate_key(MAIN, region=US)
    with pytest.raises(LimitExceededError):
        timed.rotate_key(MAIN, region=US)


def test_an_overtaken_rotation_leaves_one_new_material(timed: Keystore) -> None:
    seen = timed.resolve(MAIN, region=US)
    service = timed._service(US)
    keys = [service.lifecycle.rotate(seen, kind) for kind in RotationType]
    assert keys[0].current_material_id == keys[1].current_material_id
    assert objects(timed, seen.key_id) == 2


def _rotate_when_due(home: Path, start: object, at: float) -> None:
    with Keystore.open(home, now=lambda: at) as keystore:
        start.wait()  # type: ignore[attr-defined]
        keystore.resolve(MAIN, region=US)
        keystore.encrypt(MAIN, b"x", {}, region=US)


def test_two_processes_make_one_new_material(timed: Keystore, clock: Clock) -> None:
    key = timed.enable_key_rotation(MAIN, period_days=90, region=US)
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(2)
    due = clock.time + 91 * DAY
    both = [spawn.Process(target=_rotate_when_due, args=(timed.home, start, due)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    timed.refresh()
    assert len(timed.resolve(key.arn).materials) == 2
    assert objects(timed, key.key_id) == 2


# --- tags and description -----------------------------------------------------------------------
def test_tags_are_set_changed_and_removed(timed: Keystore) -> None:
    timed.tag_key(MAIN, [("team", "blue"), ("ümläut /=+@-", "")], region=US)
    timed.tag_key(MAIN, [("team", "red")], region=US)
    assert timed.key_tags(MAIN, region=US) == {"team": "red", "ümläut /=+@-": ""}
    timed.untag_key(MAIN, ["team", "never there"], region=US)
    assert timed.key_tags(MAIN, region=US) == {"ümläut /=+@-": ""}


def test_the_limits_of_tags(timed: Keystore) -> None:
    timed.tag_key(MAIN, [("k" * 128, "v" * 256)], region=US)
    for name, value in (("", "v"), ("k" * 129, ""), ("k", "v" * 257)):
        with pytest.raises(InvalidRequestError):
            timed.tag_key(MAIN, [(name, value)], region=US)
    for pairs in ([("aws:x", "")], [("AWS:x", "")], [("a", "1"), ("a", "2")], [("a\n", "")], [("a", "{}")]):
        with pytest.raises(TagError):
            timed.tag_key(MAIN, pairs, region=US)
    timed.tag_key(MAIN, [(a + b, "") for a in "abcdefg" for b in string.ascii_lowercase[:7]], region=US)
    with pytest.raises(TagError, match="more than 50"):
        timed.tag_key(MAIN, [("one more", "")], region=US)
    timed.tag_key(MAIN, [("aa", "changed")], region=US)


def test_a_key_is_made_with_tags(timed: Keystore) -> None:
    key = timed.create_key(US, key_tags=[("team", "blue"), ("stage", "")])
    assert timed.key_tags(key.arn) == {"team": "blue", "stage": ""}
    before = timed.list_keys(US)
    for pairs, kind in (
        ([("a", "1"), ("a", "2")], DuplicateTagError),
        ([("aws:x", "")], ReservedTagError),
        ([(f"t{number}", "") for number in range(51)], TooManyTagsError),
    ):
        with pytest.raises(kind):
            timed.create_key(US, key_tags=pairs)
    assert timed.list_keys(US) == before


def test_a_description_is_changed(timed: Keystore) -> None:
    assert timed.update_key_description(MAIN, "d" * 8192, region=US).description == "d" * 8192
    with pytest.raises(InvalidRequestError):
        timed.update_key_description(MAIN, "d" * 8193, region=US)


# --- the three kinds ----------------------------------------------------------------------------
def test_the_managed_key_is_made_once_and_rotates_by_force(ks_home: Path, clock: Clock) -> None:
    with Keystore.open(ks_home, via="mount", now=clock) as mount:
        _see_the_managed_key(mount, clock)


def _see_the_managed_key(timed: Keystore, clock: Clock) -> None:
    key = timed.managed_key(US)
    assert timed.managed_key(US) == key == timed.resolve("alias/aws/kmsfs", region=US)
    assert (key.manager, key.to_aws()["KeyManager"]) == (KeyManager.AWS, "AWS")
    assert key.rotation_status()["RotationPeriodInDays"] == 1095
    timed.encrypt(key.arn, b"x", {})
    clock.time += 1095 * DAY
    timed.refresh()
    assert len(timed.resolve(key.arn).materials) == 2


def test_a_managed_key_is_seen_and_not_changed(timed: Keystore) -> None:
    key = timed.managed_key(US)
    assert key in timed.list_keys(US)
    for change in (
        lambda: timed.disable_key(key.arn),
        lambda: timed.enable_key(key.arn),
        lambda: timed.schedule_key_deletion(key.arn),
        lambda: timed.cancel_key_deletion(key.arn),
        lambda: timed.rotate_key(key.arn),
        lambda: timed.enable_key_rotation(key.arn, period_days=90),
        lambda: timed.disable_key_rotation(key.arn),
        lambda: timed.tag_key(key.arn, [("a", "b")]),
        lambda: timed.untag_key(key.arn, ["a"]),
        lambda: timed.update_key_description(key.arn, "mine"),
        lambda: timed.create_alias("alias/mine", key.arn),
        lambda: timed.update_alias(MAIN, key.arn),
        lambda: timed.encrypt(key.arn, b"only the file system does", {}),
    ):
        with pytest.raises(AccessDeniedError):
            change()
    for alias in (lambda: timed.delete_alias("alias/aws/kmsfs", region=US),):
        with pytest.raises(ReservedAliasError):
            alias()


def test_an_owned_key_is_hidden(timed: Keystore) -> None:
    key = timed._service(US).lifecycle.create("", None, KeyManager.OWNED)
    assert key.key_id not in {found.key_id for found in timed.list_keys(US)}
    with pytest.raises(KeyNotFoundError):
        timed.describe_key(key.arn)
