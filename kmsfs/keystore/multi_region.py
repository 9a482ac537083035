"""Related keys: the parts of one multi-region key, kept in step.

The primary's row is what holds; the others repeat it, if their own row names the primary's region: whoever has that
region's token can write any row there. One process at a time works on related keys, and each of its steps may be
repeated. The orders, so that a crash between any two steps leaves nothing that cannot be decrypted:

- A region is in every list before it has a replica, so that what is encrypted there decrypts everywhere.
- New material is in every region before any encrypts under it. Until then it is the primary's pending one.
- A region that hands the primary over says so first. If the other one had no time to say so too, each names the other,
  and neither has done anything as the primary since: either may be it.
- A replica is out of every list before its material is destroyed.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from kmsfs.errors import InvalidRequestError, KeyExistsError, KmsfsError, MetadataTamperedError
from kmsfs.ids import KeyId, Region
from kmsfs.keystore.access import check_key_policy
from kmsfs.keystore.ledger import Changes
from kmsfs.keystore.lifecycle import require_room
from kmsfs.keystore.model import KeyMetadata, KeyState, Material
from kmsfs.keystore.region import RegionService
from kmsfs.keystore.relatives import require_multi_region, require_primary
from kmsfs.keystore.rotation import DAY_S
from kmsfs.keystore.rows import key_policy_values, key_values, material_values, tag_values
from kmsfs.keystore.shared_material import foreign_material
from kmsfs.keystore.snapshot import Snapshot
from kmsfs.keystore.transitions import Operation, next_state

SYNCHRONIZED: Final = "SynchronizeMultiRegionKey"  # what the audit log calls material that comes to a replica


@dataclass(frozen=True, slots=True)
class NewReplica:
    """What a replica has of its own."""

    description: str
    tags: Mapping[str, str]
    policy: str | None


class MultiRegion:
    """The related keys of one home (port ``Relatives``). Thread-safe."""

    def __init__(
        self,
        service: Callable[[Region], RegionService],
        exclusive: Callable[[], AbstractContextManager[None]],
        now: Callable[[], float],
    ) -> None:
        self._service = service
        self._exclusive = exclusive
        self._now = now

    @contextmanager
    def changing(self, key: KeyMetadata) -> Iterator[None]:
        """Bring the related keys in step, let the primary be changed inside, and bring them in step again."""
        with self._exclusive():
            primary = self._settle(key.key_id, key.region)
            yield
            self._bring_in_step(self._reload(primary.region).key(key.key_id))

    # --- replicas -------------------------------------------------------------------------------
    def replicate(self, key: KeyMetadata, region: Region, wanted: NewReplica) -> KeyMetadata:
        """Make a replica of a primary in another region."""
        require_primary(key)
        with self._exclusive():
            primary = self._settle(key.key_id, key.region)
            require_primary(self._reload(key.region).key(key.key_id))
            self._require_room(primary, region, wanted)
            primary = self._change(primary, partial(_with_replica, region=region))
            try:
                self._bring_in_step(primary)
                return self._make_replica(primary, region, wanted)
            except BaseException:
                with suppress(KmsfsError):  # else the next change finds whether there is a replica
                    self._settle(primary.key_id, primary.region)
                raise

    def forget(self, key: KeyMetadata) -> None:
        """Take a replica, whose material is about to be destroyed, out of its related keys' lists."""
        with self._exclusive():
            start = key.primary_region
            assert start is not None  # noqa: S101 - a replica has a primary
            primary = self._primary(key.key_id, start)
            self._bring_in_step(self._change(primary, partial(self._without, region=key.region)))

    def _require_room(self, primary: KeyMetadata, region: Region, wanted: NewReplica) -> None:
        service = self._service(region)
        snapshot = service.ledger.reload()
        if primary.key_id in snapshot.keys or primary.key_id in snapshot.condemned:
            raise KeyExistsError(f"key {primary.arn_in(region)} exists already")
        if service.config.account != primary.account:
            raise InvalidRequestError(f"region {region} is another account's")
        require_room(snapshot)
        service.lifecycle.materials.require_support(primary.spec)
        if wanted.policy is not None:
            check_key_policy(snapshot, wanted.policy)

    def _make_replica(self, primary: KeyMetadata, region: Region, wanted: NewReplica) -> KeyMetadata:
        service, key_id = self._service(region), primary.key_id
        copies: list[Material] = []
        replica = replace(
            primary,
            region=region,
            arn=primary.arn_in(region),
            description=wanted.description,
            created_at=self._now(),
        )

        def decide(snapshot: Snapshot) -> Changes:
            puts = [
                ("keys", key_values(replica)),
                *(("materials", material_values(region, key_id, copy, 0)) for copy in copies),
                *(("tags", tag_values(region, key_id, name, wanted.tags[name])) for name in wanted.tags),
            ]
            if wanted.policy is not None:
                puts.append(("key_policies", key_policy_values(region, key_id, wanted.policy)))
            return Changes(puts=puts)

        try:
            copies.extend(self._copy(primary, service, material) for material in primary.materials)
            return service.ledger.commit(decide).key(key_id)
        except BaseException:
            service.lifecycle.materials.discard(key_id, copies)
            raise

    def _without(self, primary: KeyMetadata, region: Region) -> KeyMetadata:
        """Return a primary that has no replica in a region any more; its deletion may have waited for that."""
        if region not in primary.replica_regions:
            return primary
        left = tuple(other for other in primary.replica_regions if other != region)
        former = tuple(sorted({*primary.former_regions, region}))
        found = replace(primary, replica_regions=left, former_regions=former)
        if left or found.state is not KeyState.PENDING_REPLICA_DELETION or found.deletion_days is None:
            return found
        at = self._now() + found.deletion_days * DAY_S
        return replace(found, state=KeyState.PENDING_DELETION, deletion_at=at, deletion_days=None)

    # --- the primary ----------------------------------------------------------------------------
    def move_primary(self, key: KeyMetadata, region: Region) -> KeyMetadata:
        """Make the replica in a region the primary, and the primary a replica; return the new primary."""
        require_multi_region(key)
        with self._exclusive():
            primary = self._settle(key.key_id, key.region, prefer=region)
            if primary.region == region:
                return primary
            require_primary(self._reload(key.region).key(key.key_id))
            if region not in primary.replica_regions:
                raise InvalidRequestError(
                    f"key {primary.arn} has no replica in region {region}",
                    hint="kmsfs key replicate makes one",
                )
            replica = self._reload(region).shown_key(key.key_id)
            for related in (primary, replica):
                next_state(related.state, Operation.MOVE_PRIMARY, related.arn)
            self._change(primary, partial(_with_primary, region=region))
            return self._bring_in_step(self._change(replica, partial(_with_primary, region=region)))

    def _primary(self, key_id: KeyId, start: Region, prefer: Region | None = None) -> KeyMetadata:
        """Follow what the regions say to the primary; where they say nothing that holds, let one take over."""
        key, seen = self._reload(start).shown_key(key_id), list[KeyMetadata]()
        while not key.is_primary:
            seen.append(key)
            named = key.primary_region
            assert named is not None  # noqa: S101 - related keys name a primary
            circle = seen[[other.region for other in seen].index(named) :] if _has(seen, named) else []
            found = self._reload(named).keys.get(key_id)
            if circle or found is None:
                chosen = min(circle or [key], key=lambda other: (other.region != prefer, other.region))
                return self._change(chosen, partial(_with_primary, region=chosen.region))
            key = found
        return key

    # --- keeping in step ------------------------------------------------------------------------
    def _settle(self, key_id: KeyId, start: Region, prefer: Region | None = None) -> KeyMetadata:
        """Return the primary, with all related keys in step with it; raise if a region cannot take part."""
        primary = self._primary(key_id, start, prefer)
        for region in primary.replica_regions:
            snapshot = self._reload(region)
            if key_id not in snapshot.keys and key_id not in snapshot.condemned:
                # A replication that stopped halfway: nothing was encrypted there.
                primary = self._change(primary, partial(self._without, region=region))
        return self._bring_in_step(primary)

    def _bring_in_step(self, primary: KeyMetadata) -> KeyMetadata:
        """Give every replica what the primary has: first all material, then what it is to encrypt under."""
        replicas = [self._service(region) for region in primary.replica_regions]
        for service in replicas:
            service.require_token()
            self._reload(service.config.region)
        for service in replicas:
            for material in primary.materials:
                self._give(primary, service, material)
        primary = self._change(primary, _with_pending_material)
        for service in replicas:
            self._repeat(primary, service)
        return primary

    def _give(self, primary: KeyMetadata, service: RegionService, material: Material) -> None:
        key_id, replica = primary.key_id, _replica(service.snapshot, primary)
        if replica is None or any(held.material_id == material.material_id for held in replica.materials):
            return
        copy = self._copy(primary, service, material)

        def decide(snapshot: Snapshot) -> Changes:
            if _replica(snapshot, primary) is None or copy.material_id in snapshot.materials:
                return Changes()
            return Changes(puts=[("materials", material_values(snapshot.region, key_id, copy, 0))])

        service.lifecycle.materials.commit(key_id, copy, decide)
        service.lifecycle.on_event(SYNCHRONIZED, key_id)

    def _copy(self, primary: KeyMetadata, service: RegionService, material: Material) -> Material:
        if material.material_id in service.snapshot.materials:
            raise foreign_material(material, service.config.region)
        source = self._service(primary.region).lifecycle.materials
        return service.lifecycle.materials.copy(source, primary.key_id, material)

    def _repeat(self, primary: KeyMetadata, service: RegionService) -> None:
        """Write into a replica's row what the primary's says for all."""

        def decide(snapshot: Snapshot) -> Changes:
            key = _replica(snapshot, primary)
            if key is None:
                return Changes()
            told = replace(
                key,
                current_material_id=primary.current_material_id,
                rotation_period_days=primary.rotation_period_days,
                next_rotation_at=primary.next_rotation_at,
                primary_region=primary.primary_region,
                replica_regions=primary.replica_regions,
                former_regions=primary.former_regions,
            )
            return Changes() if told == key else Changes(puts=[("keys", key_values(told))])

        service.ledger.commit(decide)

    def _change(self, key: KeyMetadata, change: Callable[[KeyMetadata], KeyMetadata]) -> KeyMetadata:
        """Change the row of one related key; return it."""

        def decide(snapshot: Snapshot) -> Changes:
            found = snapshot.key(key.key_id)
            changed = change(found)
            return Changes() if changed == found else Changes(puts=[("keys", key_values(changed))])

        return self._service(key.region).ledger.commit(decide).key(key.key_id)

    def _reload(self, region: Region) -> Snapshot:
        return self._service(region).ledger.reload()


def _replica(snapshot: Snapshot, primary: KeyMetadata) -> KeyMetadata | None:
    """Return the part of a primary's key in a region, which must say so itself; None while it is being deleted."""
    key = snapshot.keys.get(primary.key_id)
    if key is not None and primary.region not in key.related_regions:
        raise MetadataTamperedError(
            f"region {primary.region} claims key {key.arn}, which is no replica of its key"
        )
    return key


def _has(keys: list[KeyMetadata], region: Region) -> bool:
    return any(key.region == region for key in keys)


def _with_replica(primary: KeyMetadata, region: Region) -> KeyMetadata:
    next_state(primary.state, Operation.REPLICATE, primary.arn)
    left = tuple(other for other in primary.former_regions if other != region)
    return replace(
        primary, replica_regions=tuple(sorted({*primary.replica_regions, region})), former_regions=left
    )


def _with_primary(key: KeyMetadata, region: Region) -> KeyMetadata:
    others = tuple(sorted({*key.related_regions} - {region}))
    return replace(key, primary_region=region, replica_regions=others)


def _with_pending_material(key: KeyMetadata) -> KeyMetadata:
    pending = key.pending_material
    return key if pending is None else replace(key, current_material_id=pending.material_id)
