"""Multi-region keys: related keys of several tokens share their material, and are kept in step."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from testkit.audits import records
from testkit.clock import DAY, Clock

from kmsfs.errors import (
    HsmError,
    HsmUnavailableError,
    IntegrityError,
    InvalidCiphertextError,
    InvalidRequestError,
    KeyDisabledError,
    KeyExistsError,
    KeyNotFoundError,
    KeyPendingDeletionError,
    KmsfsError,
    MalformedPolicyError,
    MetadataUnavailableError,
    TokenNotFoundError,
    UnsupportedOperationError,
)
from kmsfs.format.blob import Suite, parse_blob
from kmsfs.ids import Region
from kmsfs.keystore import shared_material
from kmsfs.keystore.ledger import Changes
from kmsfs.keystore.model import KeyMetadata, KeySpec, KeyState, RotationType
from kmsfs.keystore.rows import material_values
from kmsfs.keystore.service import Keystore

US, EU, AP = "us-east-1", "eu-west-1", "ap-south-1"
CONTEXT = {"file": "1"}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(ks_home: Path, clock: Clock) -> Iterator[Keystore]:
    with Keystore.open(ks_home, now=clock) as opened:
        yield opened


@pytest.fixture
def primary(timed: Keystore) -> KeyMetadata:
    return timed.create_key(US, description="shared", multi_region=True)


@pytest.fixture
def replica(timed: Keystore, primary: KeyMetadata) -> KeyMetadata:
    return timed.replicate_key(primary.arn, EU)


@pytest.fixture
def three(timed: Keystore, replica: KeyMetadata) -> KeyMetadata:
    """A key with replicas in two regions: its primary."""
    timed.add_region(AP)
    timed.replicate_key(replica.arn_in(replica.related_regions[0]), AP)
    return timed.describe_key(replica.key_id, region=US)


def part(keystore: Keystore, key: KeyMetadata, region: str) -> KeyMetadata:
    return keystore.describe_key(key.key_id, region=region)


def roles(keystore: Keystore, key: KeyMetadata, *regions: str) -> list[tuple[str | None, tuple[str, ...]]]:
    keystore.refresh()
    found = [part(keystore, key, region) for region in regions]
    return [(key.primary_region, key.replica_regions) for key in found]


def opens_everywhere(keystore: Keystore, blobs: list[bytes], *regions: str) -> None:
    for blob in blobs:
        for region in regions:
            assert keystore.decrypt(blob, CONTEXT, region=region).plaintext == b"secret"


def sealed(keystore: Keystore, key: KeyMetadata, region: str) -> bytes:
    return keystore.encrypt(key.key_id, b"secret", CONTEXT, region=region).blob


# --- what it is ---------------------------------------------------------------------------------
def test_a_multi_region_key_says_so(timed: Keystore, primary: KeyMetadata) -> None:
    assert primary.key_id.startswith("mrk-")
    assert len(primary.key_id) == 36
    shown = primary.to_aws()
    assert shown["MultiRegion"] is True
    assert shown["MultiRegionConfiguration"] == {
        "MultiRegionKeyType": "PRIMARY",
        "PrimaryKey": {"Arn": primary.arn, "Region": US},
        "ReplicaKeys": [],
    }
    replica = timed.replicate_key(primary.arn, EU, description="its replica", key_tags=[("a", "b")])
    assert replica.arn == f"arn:aws:kms:{EU}:000000000000:key/{primary.key_id}"
    related = {
        "PrimaryKey": {"Arn": primary.arn, "Region": US},
        "ReplicaKeys": [{"Arn": replica.arn, "Region": EU}],
    }
    for key, kind in ((part(timed, primary, US), "PRIMARY"), (replica, "REPLICA")):
        assert key.to_aws()["MultiRegionConfiguration"] == {"MultiRegionKeyType": kind, **related}
    assert replica.description == "its replica"
    assert timed.key_tags(replica.arn) == {"a": "b"}
    assert timed.key_tags(primary.arn) == {}
    assert replica.current_material_id == primary.current_material_id


def test_other_keys_stay_in_their_token(timed: Keystore) -> None:
    key = timed.describe_key("alias/main", region=US)
    assert key.to_aws()["MultiRegion"] is False
    assert "MultiRegionConfiguration" not in key.to_aws()
    assert key.materials[0].sealed is None
    with pytest.raises(UnsupportedOperationError, match="is no multi-region key"):
        timed.replicate_key(key.arn, EU)
    with pytest.raises(UnsupportedOperationError, match="is no multi-region key"):
        timed.update_primary_region(key.arn, EU)


def test_its_material_is_of_suite_2_and_no_token_gives_it_away(
    timed: Keystore, primary: KeyMetadata, replica: KeyMetadata
) -> None:
    (material,) = primary.materials
    assert material.suite is Suite.HSM_KDF
    for region in (US, EU):
        objects = {key.object_id: key for key in timed._service(region).hsm.list_keys()}
        found = objects[material.material_id]
        assert (found.sensitive, found.extractable) == (True, False)
        assert found.label == f"kmsfs:{primary.key_id}"
    copies = [part(timed, primary, region).materials[0].sealed for region in (US, EU)]
    assert None not in copies
    assert copies[0] != copies[1]
    findings = {finding.name: finding for finding in timed.check()}
    assert all(finding.ok for finding in findings.values())
    for region in (US, EU):
        said = findings[f"{region}: keys"].detail
        assert "; 1 of multi-region keys" in said
        assert "vouch" not in said


def test_what_one_encrypts_all_decrypt(timed: Keystore, three: KeyMetadata) -> None:
    regions = (US, EU, AP)
    blobs = [sealed(timed, three, region) for region in regions]
    named = [parse_blob(blob).head.key_arn for blob in blobs]
    assert named == [part(timed, three, region).arn for region in regions]
    opens_everywhere(timed, blobs, *regions)
    for region in regions:
        result = timed.decrypt(blobs[0], CONTEXT, region=region)
        assert result.key_arn == part(timed, three, region).arn
    with pytest.raises(InvalidCiphertextError):
        timed.decrypt(blobs[0], {"file": "2"}, region=EU)


def test_a_mac_key_can_have_replicas(timed: Keystore) -> None:
    key = timed.create_key(US, spec=KeySpec.HMAC_512, multi_region=True)
    replica = timed.replicate_key(key.arn, EU)
    assert replica.spec is KeySpec.HMAC_512
    mac = timed.generate_mac(key.arn, b"message", "HMAC_SHA_512")
    assert timed.generate_mac(replica.arn, b"message", "HMAC_SHA_512") == mac


@pytest.mark.parametrize("place", ["region", "account", "key"])
def test_a_blob_that_names_no_related_key_is_refused(
    timed: Keystore, primary: KeyMetadata, replica: KeyMetadata, place: str
) -> None:
    blob = sealed(timed, primary, US)
    edits = {
        "region": (b"us-east-1", b"us-west-2"),
        "account": (b"000000000000", b"000000000001"),
        "key": (primary.key_id.encode(), b"mrk-" + b"0" * 32),
    }
    for forged in (blob.replace(*edits[place]), blob.replace(b"us-east-1", b"eu-west-1")):
        for region in (US, EU):
            with pytest.raises(InvalidCiphertextError):
                timed.decrypt(forged, CONTEXT, region=region)


def test_a_region_whose_snapshot_is_old_decrypts_what_a_new_replica_made(
    timed: Keystore, primary: KeyMetadata, clock: Clock
) -> None:
    blob = sealed(timed, primary, US)
    with Keystore.open(timed.home, now=clock) as other:
        assert other.decrypt(blob, CONTEXT, region=US).plaintext == b"secret"
        timed.replicate_key(primary.arn, EU)
        opens_everywhere(other, [sealed(timed, primary, EU)], US)


def test_related_keys_have_their_own_state_alias_policy_and_grants(
    timed: Keystore, primary: KeyMetadata, replica: KeyMetadata
) -> None:
    timed.create_alias("alias/shared", replica.arn)
    timed.disable_key(replica.arn)
    timed.update_key_description(replica.arn, "other")
    assert part(timed, primary, US).state is KeyState.ENABLED
    assert part(timed, primary, US).description == "shared"
    assert "alias/shared" not in [alias.name for alias in timed.list_aliases(US)]
    blob = sealed(timed, primary, US)
    with pytest.raises(KeyDisabledError):
        timed.decrypt(blob, CONTEXT, region=EU)


# --- replication --------------------------------------------------------------------------------
def test_what_cannot_be_replicated(timed: Keystore, primary: KeyMetadata, replica: KeyMetadata) -> None:
    with pytest.raises(KeyExistsError):
        timed.replicate_key(primary.arn, EU)
    with pytest.raises(KeyExistsError):
        timed.replicate_key(primary.arn, US)
    with pytest.raises(UnsupportedOperationError, match="is a replica"):
        timed.replicate_key(replica.arn, US)
    with pytest.raises(InvalidRequestError, match="is not configured"):
        timed.replicate_key(primary.arn, "us-west-2")
    timed.add_region(AP)
    timed.disable_key(primary.arn)
    with pytest.raises(KeyDisabledError):
        timed.replicate_key(primary.arn, AP)
    timed.enable_key(primary.arn)
    with pytest.raises(MalformedPolicyError):
        timed.replicate_key(primary.arn, AP, policy="{}")
    assert roles(timed, primary, US, EU) == [(US, (EU,))] * 2


def test_a_region_of_another_account_gets_no_replica(
    timed: Keystore, primary: KeyMetadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = timed._service(EU)
    monkeypatch.setattr(service, "config", _Other(service.config))
    with pytest.raises(InvalidRequestError, match="another account"):
        timed.replicate_key(primary.arn, EU)


class _Other:
    def __init__(self, config: Any) -> None:
        self.region, self.account = config.region, "111111111111"


def test_a_replication_that_fails_leaves_nothing(
    timed: Keystore, primary: KeyMetadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = objects(timed, EU)
    with monkeypatch.context() as patch:
        patch.setattr(timed._service(EU).hsm, "put", unavailable)
        with pytest.raises(HsmUnavailableError):
            timed.replicate_key(primary.arn, EU)
    assert roles(timed, primary, US) == [(US, ())]
    assert objects(timed, EU) == before
    opens_everywhere(timed, [sealed(timed, timed.replicate_key(primary.arn, EU), EU)], US, EU)


def test_a_replication_whose_answer_is_lost_is_not_forgotten(
    timed: Keystore, primary: KeyMetadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = timed._service(EU).ledger
    commit = ledger.commit

    def lost(decide: Any) -> Any:
        found = commit(decide)
        if primary.key_id in found.keys:
            raise MetadataUnavailableError("the database went away")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "commit", lost)
        with pytest.raises(MetadataUnavailableError):
            timed.replicate_key(primary.arn, EU)
    timed.rotate_key(primary.arn)
    assert roles(timed, primary, US, EU) == [(US, (EU,))] * 2
    opens_everywhere(timed, [sealed(timed, primary, US), sealed(timed, primary, EU)], US, EU)


def test_a_key_whose_deletion_was_scheduled_meanwhile_gets_no_replica(
    timed: Keystore, primary: KeyMetadata, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    require_room = timed._multi_region._require_room

    def schedule(*room: Any) -> None:
        require_room(*room)
        with Keystore.open(timed.home, now=clock) as other:
            other.schedule_key_deletion(primary.arn)

    monkeypatch.setattr(timed._multi_region, "_require_room", schedule)
    with pytest.raises(KeyPendingDeletionError):
        timed.replicate_key(primary.arn, EU)
    assert roles(timed, primary, US) == [(US, ())]


def test_a_key_that_cannot_be_made_leaves_nothing(timed: Keystore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = objects(timed, US)
    with monkeypatch.context() as patch:
        patch.setattr(timed._service(US).hsm, "put", unavailable)
        with pytest.raises(HsmUnavailableError):
            timed.create_key(US, multi_region=True)
    with pytest.raises(MalformedPolicyError):
        timed.create_key(US, multi_region=True, policy="{}")
    assert objects(timed, US) == before


def objects(keystore: Keystore, region: str) -> set[tuple[bytes, str]]:
    return {(key.object_id, key.label) for key in keystore._service(region).hsm.list_keys()}


def unavailable(*_: object) -> None:
    raise HsmUnavailableError("the token is full")


def test_both_regions_have_it_in_their_logs(
    timed: Keystore, primary: KeyMetadata, replica: KeyMetadata
) -> None:
    (asked,) = [record for record in records(timed.home, US) if record["action"] == "ReplicateKey"]
    assert (asked["key"], asked["details"]) == (primary.arn, {"replica_region": EU})
    made = [record for record in records(timed.home, EU) if record["action"] == "CreateKey"][-1]
    assert (made["key"], made["details"]) == (replica.arn, {"primary_key": primary.arn})


# --- rotation -----------------------------------------------------------------------------------
def test_a_rotation_reaches_every_region(timed: Keystore, three: KeyMetadata) -> None:
    regions = (US, EU, AP)
    blobs = [sealed(timed, three, region) for region in regions]
    timed.rotate_key(three.arn)
    found = [part(timed, three, region) for region in regions]
    assert len({key.current_material_id for key in found}) == 1
    assert found[0].current_material_id != three.current_material_id
    assert [key.rotations() for key in found] == [found[0].rotations()] * 3
    assert [entry["RotationType"] for entry in found[0].rotations()] == [RotationType.ON_DEMAND]
    opens_everywhere(timed, [*blobs, *(sealed(timed, three, region) for region in regions)], *regions)
    synchronized = [r["key"] for r in records(timed.home, EU) if r["action"] == "SynchronizeMultiRegionKey"]
    assert synchronized == [found[1].arn]


def test_only_the_primary_is_rotated(timed: Keystore, replica: KeyMetadata) -> None:
    for change in (
        lambda: timed.rotate_key(replica.arn),
        lambda: timed.enable_key_rotation(replica.arn),
        lambda: timed.disable_key_rotation(replica.arn),
    ):
        with pytest.raises(UnsupportedOperationError, match="is a replica"):
            change()


def test_the_period_is_shared_and_the_rotation_made_once(
    timed: Keystore, primary: KeyMetadata, replica: KeyMetadata, clock: Clock
) -> None:
    timed.enable_key_rotation(primary.arn, period_days=90)
    status = part(timed, primary, US).rotation_status()
    assert status["RotationPeriodInDays"] == 90
    assert part(timed, primary, EU).rotation_status() == status
    clock.time += 90 * DAY
    for region in (EU, US):  # the replica's region is looked at first, and waits for the primary's
        with Keystore.open(timed.home, now=clock) as other:
            other.list_keys(region)
    timed.refresh()
    found = [part(timed, primary, region) for region in (US, EU)]
    assert [len(key.materials) for key in found] == [2, 2]
    assert found[0].current_material_id == found[1].current_material_id
    assert found[0].next_rotation_at == found[1].next_rotation_at == clock.time + 90 * DAY
    timed.disable_key_rotation(primary.arn)
    assert part(timed, primary, EU).rotation_period_days is None


def test_a_rotation_is_refused_while_a_region_is_away(
    timed: Keystore, primary: KeyMetadata, replica: KeyMetadata, tmp_path: Path
) -> None:
    directory = timed._service(EU).config.token_dir
    assert directory is not None
    moved = directory.rename(tmp_path / "away")
    with pytest.raises(TokenNotFoundError):
        timed.rotate_key(primary.arn)
    with pytest.raises(TokenNotFoundError):
        timed.enable_key_rotation(primary.arn)
    key = part(timed, primary, US)
    assert (len(key.materials), key.rotation_period_days) == (1, None)
    blob = sealed(timed, primary, US)
    moved.rename(directory)
    timed.rotate_key(primary.arn)
    opens_everywhere(timed, [blob, sealed(timed, primary, US)], US, EU)


# --- interruptions ------------------------------------------------------------------------------
class _KilledError(BaseException):
    """As if the process ended here: nobody catches it to tidy up."""


def killed_at(patch: pytest.MonkeyPatch, keystore: Keystore, step: int) -> None:
    """Let the ``step``-th thing that an operation would write anywhere, and all after it, not happen."""
    left = [step]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def write(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise _KilledError
            return real(*arguments, **named)

        return write

    for service in keystore._services.values():
        patch.setattr(service.ledger, "_write", counted(service.ledger._write))
        for name in ("put", "destroy", "generate"):
            patch.setattr(service.hsm, name, counted(getattr(service.hsm, name)))


def interrupted(
    keystore: Keystore, monkeypatch: pytest.MonkeyPatch, step: int, change: Callable[[], object]
) -> bool:
    """Make a change that is killed at a step; return whether it was."""
    with monkeypatch.context() as patch:
        killed_at(patch, keystore, step)
        try:
            change()
        except _KilledError:
            return True
    return False


def every_step(run: Callable[[int], bool]) -> None:
    steps = 0
    while run(steps):
        steps += 1
    assert steps > 1


def test_a_rotation_killed_anywhere_leaves_all_decryptable_and_is_finished(
    timed: Keystore, three: KeyMetadata, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    regions = (US, EU, AP)
    blobs: list[bytes] = []

    def run(step: int) -> bool:
        killed = interrupted(timed, monkeypatch, step, lambda: timed.rotate_key(three.arn))
        blobs.extend(sealed(timed, three, region) for region in regions)
        opens_everywhere(timed, blobs[-9:], *regions)
        with Keystore.open(timed.home, now=clock) as other:
            for region in regions:
                other.list_keys(region)
            found = [part(other, three, region) for region in regions]
            assert len({key.current_material_id for key in found}) == 1, step
            assert [key.pending_material for key in found] == [None] * 3, step
            assert len({tuple(m.material_id for m in key.materials) for key in found}) == 1, step
        timed.refresh()
        return killed

    every_step(run)
    opens_everywhere(timed, blobs, *regions)
    assert all(finding.ok for finding in timed.check() if "orphans" not in finding.name)


def test_a_replication_killed_anywhere_can_be_repeated_and_hinders_nothing(
    timed: Keystore, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed.add_region(AP)

    def run(step: int, repeat: bool) -> bool:
        key = timed.create_key(US, multi_region=True)
        timed.replicate_key(key.arn, EU)
        killed = interrupted(timed, monkeypatch, step, lambda: timed.replicate_key(key.arn, AP))
        blob = sealed(timed, key, EU)
        opens_everywhere(timed, [blob], US, EU)
        if killed and repeat:
            timed.replicate_key(key.arn, AP)
        elif killed:
            timed.rotate_key(key.arn)
            assert roles(timed, key, US, EU) == [(US, (EU,))] * 2
            timed.replicate_key(key.arn, AP)
        assert roles(timed, key, US, EU, AP) == [(US, (AP, EU))] * 3
        opens_everywhere(timed, [blob, sealed(timed, key, US), sealed(timed, key, AP)], US, EU, AP)
        return killed

    every_step(lambda step: run(step, True))
    every_step(lambda step: run(step, False))


# --- the primary --------------------------------------------------------------------------------
def test_the_primary_can_be_another(timed: Keystore, three: KeyMetadata) -> None:
    regions = (US, EU, AP)
    blobs = [sealed(timed, three, region) for region in regions]
    moved = timed.update_primary_region(three.arn, EU)
    assert (moved.region, moved.is_primary) == (EU, True)
    assert roles(timed, three, *regions) == [(EU, (AP, US))] * 3
    with pytest.raises(UnsupportedOperationError, match="is a replica"):
        timed.update_primary_region(three.arn, AP)
    with pytest.raises(UnsupportedOperationError, match="is a replica"):
        timed.rotate_key(three.arn)
    timed.rotate_key(moved.arn)
    opens_everywhere(timed, [*blobs, *(sealed(timed, three, region) for region in regions)], *regions)
    assert timed.update_primary_region(moved.arn, EU) == part(timed, three, EU)


def test_what_cannot_be_the_primary(timed: Keystore, primary: KeyMetadata, replica: KeyMetadata) -> None:
    timed.add_region(AP)
    with pytest.raises(InvalidRequestError, match="has no replica in region"):
        timed.update_primary_region(primary.arn, AP)
    for key in (primary, replica):
        timed.disable_key(key.arn)
        with pytest.raises(KeyDisabledError):
            timed.update_primary_region(primary.arn, EU)
        timed.enable_key(key.arn)
    assert roles(timed, primary, US, EU) == [(US, (EU,))] * 2


def test_a_change_of_the_primary_killed_anywhere_can_be_repeated(
    timed: Keystore, three: KeyMetadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    regions = (US, EU, AP)

    def run(step: int) -> bool:
        killed = interrupted(timed, monkeypatch, step, lambda: timed.update_primary_region(three.arn, EU))
        opens_everywhere(timed, [sealed(timed, three, region) for region in regions], *regions)
        if killed:
            timed.update_primary_region(three.arn, EU)
        assert roles(timed, three, *regions) == [(EU, (AP, US))] * 3
        timed.update_primary_region(part(timed, three, EU).arn, US)
        assert roles(timed, three, *regions) == [(US, (AP, EU))] * 3
        return killed

    every_step(run)


def test_a_primary_that_was_handed_over_to_nobody_is_found_from_anywhere(
    timed: Keystore, three: KeyMetadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert interrupted(timed, monkeypatch, 1, lambda: timed.update_primary_region(three.arn, EU))
    assert [key for key, _ in roles(timed, three, US, EU, AP)] == [EU, US, US]
    with pytest.raises(KmsfsError):
        timed.replicate_key(three.arn, "us-west-2")
    assert timed.update_primary_region(part(timed, three, AP).arn, EU).is_primary
    assert roles(timed, three, US, EU, AP) == [(EU, (AP, US))] * 3


# --- deletion -----------------------------------------------------------------------------------
def test_a_replica_is_deleted_and_what_it_encrypted_stays(
    timed: Keystore, three: KeyMetadata, clock: Clock
) -> None:
    blob = sealed(timed, three, EU)
    material = three.current_material_id
    timed.schedule_key_deletion(part(timed, three, EU).arn, days=7)
    assert roles(timed, three, US, AP) == [(US, (AP, EU))] * 2
    clock.time += 7 * DAY
    timed.list_keys()
    assert roles(timed, three, US, AP) == [(US, (AP,))] * 2
    assert material not in [key.object_id for key in timed._service(EU).hsm.list_keys()]
    opens_everywhere(timed, [blob], US, AP)
    with pytest.raises(KeyNotFoundError):
        timed.decrypt(blob, CONTEXT, region=EU)
    timed.replicate_key(three.arn, EU)
    opens_everywhere(timed, [blob, sealed(timed, three, EU)], US, EU, AP)


def test_what_was_deleted_cannot_be_had_from_older_metadata(timed: Keystore, clock: Clock) -> None:
    """The sealed copies lie in every backup of the database: the key that opens them goes with theirs."""
    before = [objects(timed, region) for region in (US, EU)]
    key = timed.create_key(US, multi_region=True)
    replica = timed.replicate_key(key.arn, EU)
    timed.rotate_key(key.arn)
    kept = [(region, m) for region in (US, EU) for m in part(timed, key, region).materials]
    assert len(kept) == 4
    for related in (replica, key):
        timed.schedule_key_deletion(related.arn, days=7)
        clock.time += 7 * DAY
        timed.list_keys()
    clock.time += 7 * DAY
    timed.list_keys()
    assert [objects(timed, region) for region in (US, EU)] == before
    for region, material in kept:
        with pytest.raises(KeyNotFoundError):
            shared_material._open(timed._service(region).hsm, Region(region), key.key_id, material)
    assert all(finding.ok for finding in timed.check())


def test_the_copy_of_one_key_is_not_opened_as_anothers(
    timed: Keystore, primary: KeyMetadata, replica: KeyMetadata
) -> None:
    timed.add_region(AP)
    other = timed.create_key(US, multi_region=True)
    (own,), (copy,) = primary.materials, other.materials
    for swapped in (replace(own, sealed=copy.sealed), replace(copy, material_id=own.material_id)):
        row = material_values(Region(US), primary.key_id, swapped, 0)
        timed._service(US).ledger.commit(lambda _, row=row: Changes(puts=[("materials", row)]))
        with pytest.raises(IntegrityError, match="is not authentic"):
            timed.replicate_key(primary.arn, AP)


def test_a_replica_is_not_destroyed_before_the_others_know(
    timed: Keystore, primary: KeyMetadata, replica: KeyMetadata, clock: Clock, tmp_path: Path
) -> None:
    timed.schedule_key_deletion(replica.arn, days=7)
    clock.time += 7 * DAY
    directory = timed._service(US).config.token_dir
    assert directory is not None
    moved = directory.rename(tmp_path / "away")
    with Keystore.open(timed.home, now=clock) as other:
        other.list_aliases(EU)
        assert replica.key_id in other._service(EU).snapshot.condemned
    held = [key.object_id for key in timed._service(EU).hsm.list_keys()]
    assert replica.current_material_id in held
    moved.rename(directory)
    with Keystore.open(timed.home, now=clock) as other:
        other.list_keys()
    assert roles(timed, primary, US) == [(US, ())]


def test_a_primary_waits_for_its_replicas(timed: Keystore, three: KeyMetadata, clock: Clock) -> None:
    key = timed.schedule_key_deletion(three.arn, days=10)
    assert key.state is KeyState.PENDING_REPLICA_DELETION
    assert key.to_aws()["PendingDeletionWindowInDays"] == 10
    assert "DeletionDate" not in key.to_aws()
    assert key.rotation_status()["KeyRotationEnabled"] is False
    blob = sealed(timed, three, EU)
    with pytest.raises(KeyPendingDeletionError):
        timed.decrypt(blob, CONTEXT, region=US)
    with pytest.raises(KeyPendingDeletionError):
        timed.schedule_key_deletion(three.arn)
    clock.time += 30 * DAY
    timed.list_keys()
    assert part(timed, three, US).state is KeyState.PENDING_REPLICA_DELETION
    for region in (EU, AP):
        timed.schedule_key_deletion(part(timed, three, region).arn, days=7)
        clock.time += 7 * DAY
        timed.list_keys()
    key = part(timed, three, US)
    assert key.state is KeyState.PENDING_DELETION
    assert key.deletion_at == clock.time + 10 * DAY
    assert "PendingDeletionWindowInDays" not in key.to_aws()
    clock.time += 10 * DAY
    timed.list_keys()
    with pytest.raises(KeyNotFoundError):
        part(timed, three, US)
    assert all(finding.ok for finding in timed.check())


def test_a_primary_that_waits_can_be_kept(
    timed: Keystore, primary: KeyMetadata, replica: KeyMetadata
) -> None:
    timed.schedule_key_deletion(primary.arn, days=10)
    key = timed.cancel_key_deletion(primary.arn)
    assert (key.state, key.deletion_days) == (KeyState.DISABLED, None)
    timed.enable_key(primary.arn)
    assert timed.schedule_key_deletion(replica.arn).state is KeyState.PENDING_DELETION


def test_a_deletion_killed_anywhere_is_finished(
    timed: Keystore, three: KeyMetadata, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    def run(step: int) -> bool:
        timed.schedule_key_deletion(part(timed, three, EU).arn, days=7)
        blob = sealed(timed, three, AP)
        clock.time += 7 * DAY
        killed = interrupted(timed, monkeypatch, step, timed.list_keys)
        opens_everywhere(timed, [blob], US, AP)
        with Keystore.open(timed.home, now=clock) as other:
            other.list_keys()
            assert roles(other, three, US, AP) == [(US, (AP,))] * 2, step
            assert three.current_material_id not in [k.object_id for k in other._service(EU).hsm.list_keys()]
        timed.refresh()
        timed.replicate_key(three.arn, EU)
        return killed

    every_step(run)


def test_a_token_in_the_way_is_an_error_of_that_token(
    timed: Keystore, primary: KeyMetadata, replica: KeyMetadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timed._service(EU).hsm, "hmac", unavailable)
    with pytest.raises(HsmError):
        timed.update_primary_region(primary.arn, EU)
