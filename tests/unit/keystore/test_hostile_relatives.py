"""Whoever holds one region's token can write what he likes into that region's metadata, and gets nothing of another's.

Related keys are kept in step from the primary's row; so that row is believed by those only that say it is theirs.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from testkit.clock import DAY, Clock

from kmsfs.errors import KmsfsError, MetadataTamperedError
from kmsfs.ids import KeyId, MaterialId, Region
from kmsfs.keystore import shared_material
from kmsfs.keystore.ledger import Changes
from kmsfs.keystore.materials import key_label
from kmsfs.keystore.model import KeyMetadata, KeySpec, Material
from kmsfs.keystore.region import integrity_key_id
from kmsfs.keystore.rows import key_values, material_values
from kmsfs.keystore.service import Keystore

US, EU = Region("us-east-1"), Region("eu-west-1")  # the token of the US is the enemy's
CONTEXT = {"file": "1"}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(ks_home: Path, clock: Clock) -> Iterator[Keystore]:
    with Keystore.open(ks_home, now=clock) as opened:
        yield opened


def known_material(keystore: Keystore, key_id: KeyId, clock: Clock) -> Material:
    """Material that the enemy made, with a sealed copy that his token opens."""
    clock.time += 1
    hsm = keystore._service(US).hsm
    return shared_material.new_shared_material(hsm, US, key_id, key_label(key_id), 32, clock.time)


def renamed(keystore: Keystore, key_id: KeyId, material: Material, name: bytes) -> Material:
    """The same under the id of something else: sealed anew, with his own token."""
    hsm = keystore._service(US).hsm
    value = shared_material._open(hsm, US, key_id, material)
    wanted = replace(material, material_id=MaterialId(name))
    return shared_material._put(hsm, US, key_id, key_label(key_id), wanted, value)


def forge(keystore: Keystore, key: KeyMetadata, *materials: Material) -> None:
    """Write rows into the enemy's region, authentic by his token."""
    puts = [
        ("keys", key_values(key)),
        *(("materials", material_values(US, key.key_id, material, 0)) for material in materials),
    ]
    keystore._service(US).ledger.commit(lambda _: Changes(puts=puts))


def let_it_work(keystore: Keystore, key: KeyMetadata) -> None:
    """Do all that a process does by itself, and what people may be led to ask for."""
    keystore.list_keys()
    for ask in (keystore.rotate_key, keystore.enable_key_rotation):
        try:
            ask(key.key_id, region=US)
        except KmsfsError:
            continue
    keystore.refresh()


@pytest.mark.parametrize("multi_region", [False, True])
def test_a_key_of_one_region_is_nobody_elses(timed: Keystore, clock: Clock, multi_region: bool) -> None:
    victim = timed.create_key(EU, multi_region=multi_region)
    known = known_material(timed, victim.key_id, clock)
    claimed = replace(
        victim,
        region=US,
        arn=victim.arn_in(US),
        current_material_id=None,
        primary_region=US,
        replica_regions=(EU,),
    )
    forge(timed, claimed, known)
    let_it_work(timed, claimed)
    assert timed.describe_key(victim.arn) == victim
    assert known.material_id not in [key.object_id for key in timed._service(EU).hsm.list_keys()]
    with pytest.raises(MetadataTamperedError, match=f"{US} claims key {victim.arn}"):
        timed.rotate_key(claimed.arn)


@pytest.mark.parametrize("spec", [KeySpec.SYMMETRIC_DEFAULT, KeySpec.HMAC_256])
@pytest.mark.parametrize("target", ["integrity key", "key", "condemned key"])
def test_material_that_names_another_object_of_the_token_is_refused(
    timed: Keystore, clock: Clock, spec: KeySpec, target: str
) -> None:
    """Else a key would sign with that object, or its deletion would destroy it."""
    other = timed.create_key(EU)
    names = {"integrity key": integrity_key_id(EU)}
    name = names.get(target) or other.materials[0].material_id
    shared = timed.create_key(US, spec=spec, multi_region=True)
    related = timed.replicate_key(shared.arn, EU)
    primary = timed.describe_key(shared.arn)
    if target == "condemned key":
        row = {**key_values(other), "state": "Deleting"}
        timed._service(EU).ledger.commit(lambda _: Changes(puts=[("keys", row)]))
    else:
        assert timed.encrypt(other.arn, b"x", CONTEXT).blob
    known = renamed(timed, shared.key_id, known_material(timed, shared.key_id, clock), name)
    forge(timed, primary, known)
    with (
        pytest.raises(MetadataTamperedError, match="is that of another"),
        timed._multi_region.changing(primary),
    ):
        pass
    found = timed._service(EU).ledger.reload()
    assert [m.material_id for m in found.keys[related.key_id].materials] == [primary.current_material_id]
    assert found.keys[related.key_id].current_material_id == primary.current_material_id
    timed.schedule_key_deletion(related.arn, days=7)
    clock.time += 7 * DAY
    timed.list_keys(EU)
    held = [key.object_id for key in timed._service(EU).hsm.list_keys()]
    assert (name in held) is (target != "condemned key")


def test_a_replica_takes_no_other_keys_material(timed: Keystore, clock: Clock) -> None:
    other = timed.create_key(EU)
    shared = timed.create_key(US, multi_region=True)
    for name in (integrity_key_id(EU), other.materials[0].material_id):
        known = renamed(timed, shared.key_id, known_material(timed, shared.key_id, clock), name)
        forge(timed, timed.describe_key(shared.arn), known)
        with pytest.raises(MetadataTamperedError, match="is that of another"):
            timed.replicate_key(shared.arn, EU)
        material = known.material_id.hex()
        timed._service(US).ledger.commit(lambda _, name=material: Changes(deletes=[("materials", name)]))
    blob = timed.encrypt(other.arn, b"secret", CONTEXT).blob
    assert timed.decrypt(blob, CONTEXT).plaintext == b"secret"
    assert timed.describe_key(other.arn) == other
    assert all(finding.ok for finding in timed.check() if finding.name.startswith(EU))
