"""The life of one region's keys: made, changed, given new material, deleted.

Material is destroyed only after the commit that condemns its key, so that no crash leaves a live key without it.
Each step may be repeated, and is made by whichever process comes first.
"""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from kmsfs.errors import InvalidRequestError, KmsfsError, LimitExceededError, UnsupportedOperationError
from kmsfs.ids import KeyId
from kmsfs.keystore.access import check_key_policy
from kmsfs.keystore.aliases import changeable, new_alias, require_free
from kmsfs.keystore.arn import MULTI_REGION_PREFIX, check_alias, key_arn
from kmsfs.keystore.imported import material_is_due
from kmsfs.keystore.ledger import Changes
from kmsfs.keystore.model import (
    KeyManager,
    KeyMetadata,
    KeySpec,
    KeyState,
    Material,
    Origin,
    RegionConfig,
    RotationType,
)
from kmsfs.keystore.retirement import retirement_is_due
from kmsfs.keystore.rotation import DAY_S, MANAGED_PERIOD_DAYS, OvertakenError, Rotation, rotation_is_due
from kmsfs.keystore.rows import (
    CONDEMNED,
    DELETED,
    alias_values,
    key_policy_values,
    key_values,
    material_values,
    tag_id,
    tag_values,
)
from kmsfs.keystore.snapshot import Snapshot
from kmsfs.keystore.specs import SPECS
from kmsfs.keystore.transitions import Operation, next_state

MIN_WINDOW_DAYS: Final = 7
MAX_WINDOW_DAYS: Final = 30
MAX_KEYS: Final = 100_000  # customer managed, of one region
RETIRE: Final = "kmsfs:RetireKeyMaterial"  # as the audit log has it
NO_TAGS: Final[Mapping[str, str]] = {}


class Lifecycle(Rotation):
    """What may be done with a region's keys, apart from using them. Thread-safe."""

    def create(
        self,
        description: str,
        alias: str | None,
        manager: KeyManager = KeyManager.CUSTOMER,
        *,
        tags: Mapping[str, str] = NO_TAGS,
        policy: str | None = None,
        spec: KeySpec = KeySpec.SYMMETRIC_DEFAULT,
        origin: Origin = Origin.AWS_KMS,
        multi_region: bool = False,
    ) -> KeyMetadata:
        """Record a CMK, with its first alias, tags and policy; its material is made in the token, or to be imported.

        One process at a time makes multi-region keys.
        """
        self.materials.require_support(spec)
        if multi_region and origin is Origin.EXTERNAL:
            raise UnsupportedOperationError("a multi-region key cannot have imported material")
        if alias is not None:
            if manager is KeyManager.CUSTOMER:
                check_alias(alias)
            require_free(self._ledger.reload(), alias)
        config, key_id = self._config, _new_key_id(multi_region)
        material = None if origin is Origin.EXTERNAL else self.materials.generate(key_id, spec)
        key = _new_key(config, key_id, description, material, manager, spec, self._now())
        key = replace(key, primary_region=config.region if multi_region else None)

        def decide(snapshot: Snapshot) -> Changes:
            if manager is KeyManager.CUSTOMER:
                require_room(snapshot)
            puts = [
                ("keys", key_values(key)),
                *(("materials", material_values(config.region, key_id, made, 0)) for made in key.materials),
                *(("tags", tag_values(config.region, key_id, name, tags[name])) for name in tags),
            ]
            if alias is not None:
                require_free(snapshot, alias)
                puts.append(("aliases", alias_values(new_alias(config, alias, key_id, key.created_at))))
            if policy is not None:
                check_key_policy(snapshot, policy)
                puts.append(("key_policies", key_policy_values(config.region, key_id, policy)))
            return Changes(puts=puts)

        if material is None:
            return self._ledger.commit(decide).key(key_id)
        return self.materials.commit(key_id, material, decide).key(key_id)

    def change_state(self, key_id: KeyId, operation: Operation) -> KeyMetadata:
        """Enable or disable a CMK as the transition table says."""

        def decide(snapshot: Snapshot) -> Changes:
            key = changeable(snapshot, key_id)
            state = next_state(key.state, operation, key.arn)
            if operation is Operation.CANCEL_DELETION and key.lacks_material:
                state = KeyState.PENDING_IMPORT
            at = None if state is not KeyState.PENDING_DELETION else key.deletion_at
            changed = replace(key, state=state, deletion_at=at, deletion_days=None)
            return Changes(puts=[("keys", key_values(changed))])

        return self._ledger.commit(decide).key(key_id)

    def describe(self, key_id: KeyId, description: str) -> KeyMetadata:
        """Change what a CMK is said to be for."""

        def decide(snapshot: Snapshot) -> Changes:
            key = changeable(snapshot, key_id)
            next_state(key.state, Operation.DESCRIBE_ANEW, key.arn)
            return Changes(puts=[("keys", key_values(replace(key, description=description)))])

        return self._ledger.commit(decide).key(key_id)

    def require(self, key_id: KeyId, operation: Operation) -> None:
        """Raise what the operation would raise for the key's kind and state."""
        key = changeable(self._ledger.snapshot, key_id)
        next_state(key.state, operation, key.arn)

    # --- deletion -------------------------------------------------------------------------------
    def schedule_deletion(self, key_id: KeyId, days: int) -> KeyMetadata:
        """First step: the key can no longer be used, and is deleted when the days are over."""
        if not MIN_WINDOW_DAYS <= days <= MAX_WINDOW_DAYS:
            raise InvalidRequestError(
                f"pending window must be {MIN_WINDOW_DAYS} to {MAX_WINDOW_DAYS} days, not {days}"
            )

        def decide(snapshot: Snapshot) -> Changes:
            key = changeable(snapshot, key_id)
            state = next_state(key.state, Operation.SCHEDULE_DELETION, key.arn)
            if key.is_primary and key.replica_regions:
                waiting = KeyState.PENDING_REPLICA_DELETION
                return Changes(puts=[("keys", key_values(replace(key, state=waiting, deletion_days=days)))])
            doomed = replace(key, state=state, deletion_at=self._now() + days * DAY_S)
            return Changes(puts=[("keys", key_values(doomed))])

        return self._ledger.commit(decide).key(key_id)

    def is_due(self) -> bool:
        """Whether there is something for ``sweep`` to do."""
        return self._ledger.snapshot.next_due <= self._now()

    def sweep(self) -> None:
        """Do what is due: deletions, from wherever they stopped, and rotations. What fails holds nothing else back."""
        now, failed = self._now(), list[KmsfsError]()
        for key in self._ledger.reload().keys.values():
            if _deletion_is_due(key, now):
                with _collect(failed):
                    self._condemn(key.key_id, now)
        for key in self._ledger.snapshot.condemned.values():
            with _collect(failed):
                self._bury(key.key_id)
        for key in self._ledger.snapshot.keys.values():
            if material_is_due(key, now):
                with _collect(failed):
                    if self.imported.sweep(key, now):
                        self.on_event("DeleteExpiredKeyMaterial", key.key_id)
            if retirement_is_due(key):
                with _collect(failed):
                    if self.retired.sweep(key.key_id):
                        self.on_event(RETIRE, key.key_id)
            if key.pending_material is not None:
                with _collect(failed), self.relatives.changing(key):
                    pass
        for key in self._ledger.snapshot.keys.values():
            if key.state is KeyState.ENABLED and rotation_is_due(key, now) and not key.is_replica:
                with _collect(failed):
                    self.rotate(key, RotationType.AUTOMATIC)
        if failed:
            raise failed[0]

    def _condemn(self, key_id: KeyId, now: float) -> None:
        """Second step: nobody sees the key any more."""

        def decide(snapshot: Snapshot) -> Changes:
            key = snapshot.keys.get(key_id)
            if key is None or not _deletion_is_due(key, now):
                return Changes()  # cancelled, or another process was first
            return Changes(puts=[("keys", {**key_values(key), "state": CONDEMNED})])

        self._ledger.commit(decide)

    def _bury(self, key_id: KeyId) -> None:
        """Third step: the material goes, then every row but the tombstone."""
        leaving = self._ledger.snapshot.condemned.get(key_id)
        if leaving is not None and leaving.is_replica:
            self.relatives.forget(leaving)
        with self.materials.one_process():
            key = self._ledger.reload().condemned.get(key_id)
            if key is None:
                return
            self.materials.destroy_all(key)
            try:
                self._erase(key)
            except OvertakenError:
                return
        self.on_event("DeleteKey", key_id)

    def _erase(self, key: KeyMetadata) -> None:
        def decide(snapshot: Snapshot) -> Changes:
            if key.key_id not in snapshot.condemned:
                raise OvertakenError
            names = [name for name, alias in snapshot.aliases.items() if alias.target_key_id == key.key_id]
            deletes = [
                *(("materials", material.material_id.hex()) for material in key.materials),
                *(("aliases", name) for name in names),
                *(("tags", tag_id(key.key_id, name)) for name in snapshot.tags.get(key.key_id, ())),
                *(("grants", name) for name, entry in snapshot.grants.items() if entry.key_id == key.key_id),
                ("key_policies", key.key_id),
            ]
            return Changes(puts=[("keys", {**key_values(key), "state": DELETED})], deletes=deletes)

        self._ledger.commit(decide)


def _new_key_id(multi_region: bool) -> KeyId:
    new = uuid.uuid4()
    return KeyId(MULTI_REGION_PREFIX + new.hex if multi_region else str(new))


def require_room(snapshot: Snapshot) -> None:
    """Raise LimitExceededError if a region has as many keys as it may have."""
    if len(snapshot.keys) < MAX_KEYS:  # with those that nobody counts
        return
    if sum(key.manager is KeyManager.CUSTOMER for key in snapshot.keys.values()) >= MAX_KEYS:
        raise LimitExceededError(f"the region has {MAX_KEYS} keys already")


def _deletion_is_due(key: KeyMetadata, now: float) -> bool:
    return key.state is KeyState.PENDING_DELETION and key.deletion_at is not None and key.deletion_at <= now


@contextmanager
def _collect(failed: list[KmsfsError]) -> Iterator[None]:
    try:
        yield
    except KmsfsError as error:
        failed.append(error)


def _new_key(
    config: RegionConfig,
    key_id: KeyId,
    description: str,
    material: Material | None,
    manager: KeyManager,
    spec: KeySpec,
    now: float,
) -> KeyMetadata:
    period = MANAGED_PERIOD_DAYS if manager is KeyManager.AWS else None
    return KeyMetadata(
        key_id=key_id,
        arn=key_arn(config.region, config.account, key_id),
        region=config.region,
        account=config.account,
        description=description,
        state=KeyState.PENDING_IMPORT if material is None else KeyState.ENABLED,
        manager=manager,
        created_at=now,
        current_material_id=None if material is None else material.material_id,
        materials=() if material is None else (material,),
        origin=Origin.EXTERNAL if material is None else Origin.AWS_KMS,
        usage=SPECS[spec].usage,
        spec=spec,
        rotation_period_days=period,
        next_rotation_at=None if period is None else now + period * DAY_S,
    )
