"""The life of one region's keys: made, changed, given new material, deleted.

Material is destroyed only after the commit that condemns its key, so that no crash leaves a live key without it.
Each step may be repeated, and is made by whichever process comes first.
"""

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from kmsfs.errors import InvalidRequestError, KmsfsError, LimitExceededError, UnsupportedOperationError
from kmsfs.ids import KeyId
from kmsfs.keystore.access import check_key_policy
from kmsfs.keystore.aliases import changeable, new_alias, require_free
from kmsfs.keystore.arn import check_alias, key_arn
from kmsfs.keystore.imported import ImportedMaterial, material_is_due
from kmsfs.keystore.ledger import Changes, Ledger
from kmsfs.keystore.materials import Materials
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
from kmsfs.keystore.ports import Hsm
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

DAY_S: Final = 86_400
MIN_WINDOW_DAYS: Final = 7
MAX_WINDOW_DAYS: Final = 30
MIN_PERIOD_DAYS: Final = 90
MAX_PERIOD_DAYS: Final = 2560
DEFAULT_PERIOD_DAYS: Final = 365
MANAGED_PERIOD_DAYS: Final = 1095
MAX_ON_DEMAND: Final = 25
NO_TAGS: Final[Mapping[str, str]] = {}


class _OvertakenError(Exception):
    """Somebody else rotated the key, or changed its state, in between."""


class Lifecycle:
    """What may be done with a region's keys, apart from using them. Thread-safe."""

    def __init__(self, config: RegionConfig, hsm: Hsm, ledger: Ledger, now: Callable[[], float]) -> None:
        self._config = config
        self._hsm = hsm
        self._ledger = ledger
        self._now = now
        self._materials = Materials(config, hsm, ledger, now)
        self.imported = ImportedMaterial(ledger, self._materials, now)
        self.on_event: Callable[[str, KeyId], None] = lambda action, key_id: None  # what it does by itself

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
    ) -> KeyMetadata:
        """Record a CMK, with its first alias, tags and policy; its material is made in the token, or to be imported."""
        self._materials.require_support(spec)
        if alias is not None:
            if manager is KeyManager.CUSTOMER:
                check_alias(alias)
            require_free(self._ledger.reload(), alias)
        config, key_id = self._config, KeyId(str(uuid.uuid4()))
        material = None if origin is Origin.EXTERNAL else self._materials.generate(key_id, spec)
        key = _new_key(config, key_id, description, material, manager, spec, self._now())

        def decide(snapshot: Snapshot) -> Changes:
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
        return self._materials.commit(material, decide).key(key_id)

    def change_state(self, key_id: KeyId, operation: Operation) -> KeyMetadata:
        """Enable or disable a CMK as the transition table says."""

        def decide(snapshot: Snapshot) -> Changes:
            key = changeable(snapshot, key_id)
            state = next_state(key.state, operation, key.arn)
            if operation is Operation.CANCEL_DELETION and key.lacks_material:
                state = KeyState.PENDING_IMPORT
            at = None if state is not KeyState.PENDING_DELETION else key.deletion_at
            return Changes(puts=[("keys", key_values(replace(key, state=state, deletion_at=at)))])

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
        for key in self._ledger.snapshot.keys.values():
            if key.state is KeyState.ENABLED and rotation_is_due(key, now):
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
        with self._materials.one_process():
            key = self._ledger.reload().condemned.get(key_id)
            if key is None:
                return
            for material in key.materials:
                self._hsm.destroy(material.material_id)
            try:
                self._erase(key)
            except _OvertakenError:
                return
        self.on_event("DeleteKey", key_id)

    def _erase(self, key: KeyMetadata) -> None:
        def decide(snapshot: Snapshot) -> Changes:
            if key.key_id not in snapshot.condemned:
                raise _OvertakenError
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

    # --- rotation -------------------------------------------------------------------------------
    def set_rotation(self, key_id: KeyId, period_days: int | None) -> KeyMetadata:
        """Turn automatic rotation on with a period, or off (None)."""
        if period_days is not None and not MIN_PERIOD_DAYS <= period_days <= MAX_PERIOD_DAYS:
            raise InvalidRequestError(
                f"rotation period must be {MIN_PERIOD_DAYS} to {MAX_PERIOD_DAYS} days, not {period_days}"
            )

        def decide(snapshot: Snapshot) -> Changes:
            key = changeable(snapshot, key_id)
            _require_rotatable(key)
            if key.origin is Origin.EXTERNAL:
                raise UnsupportedOperationError(
                    f"key {key.arn} has imported material: it rotates on demand only"
                )
            next_state(key.state, Operation.SET_ROTATION, key.arn)
            if period_days == key.rotation_period_days:
                return Changes()
            at = None if period_days is None else self._now() + period_days * DAY_S
            turned = replace(key, rotation_period_days=period_days, next_rotation_at=at)
            return Changes(puts=[("keys", key_values(turned))])

        return self._ledger.commit(decide).key(key_id)

    def rotate_on_demand(self, key_id: KeyId) -> KeyMetadata:
        """Give a CMK new material now; its id, ARN and aliases stay, and what is encrypted still decrypts."""
        key = changeable(self._ledger.reload(), key_id)
        _require_rotatable(key)
        next_state(key.state, Operation.ROTATE, key.arn)
        made = [m for m in key.materials if m.rotation_type is RotationType.ON_DEMAND]
        if len(made) >= MAX_ON_DEMAND:
            raise LimitExceededError(f"key {key.arn} was rotated on demand {MAX_ON_DEMAND} times already")
        if key.origin is Origin.EXTERNAL:
            return self.imported.rotate(key_id)
        return self.rotate(key, RotationType.ON_DEMAND)

    def rotate(self, seen: KeyMetadata, kind: RotationType) -> KeyMetadata:
        """Give the key ``seen`` new material, unless somebody did since it was seen."""
        with self._materials.one_process():
            key = self._ledger.reload().key(seen.key_id)
            if not _same(key, seen):
                return key
            return self._rotate(seen, kind)

    def _rotate(self, seen: KeyMetadata, kind: RotationType) -> KeyMetadata:
        material = replace(self._materials.generate(seen.key_id, seen.spec), rotation_type=kind)

        def decide(snapshot: Snapshot) -> Changes:
            key = snapshot.key(seen.key_id)
            if not _same(key, seen):
                raise _OvertakenError
            moved = replace(
                key,
                current_material_id=material.material_id,
                next_rotation_at=_next_rotation(key, self._now()),
            )
            row = material_values(snapshot.region, key.key_id, material, 0)
            return Changes(puts=[("keys", key_values(moved)), ("materials", row)])

        try:
            rotated = self._materials.commit(material, decide).key(seen.key_id)
        except _OvertakenError:
            return self._ledger.snapshot.key(seen.key_id)
        if kind is RotationType.AUTOMATIC:
            self.on_event("RotateKey", seen.key_id)
        return rotated


def _same(key: KeyMetadata, seen: KeyMetadata) -> bool:
    return key.current_material_id == seen.current_material_id and key.state is seen.state


def _require_rotatable(key: KeyMetadata) -> None:
    if key.spec is not KeySpec.SYMMETRIC_DEFAULT:
        raise UnsupportedOperationError(f"key {key.arn} is a MAC key: its material does not change")


def _next_rotation(key: KeyMetadata, now: float) -> float | None:
    """Return when the key is due again; rotations that nobody was there for are not caught up with."""
    if key.next_rotation_at is None or key.rotation_period_days is None or key.next_rotation_at > now:
        return key.next_rotation_at
    return now + key.rotation_period_days * DAY_S


def _deletion_is_due(key: KeyMetadata, now: float) -> bool:
    return key.state is KeyState.PENDING_DELETION and key.deletion_at is not None and key.deletion_at <= now


@contextmanager
def _collect(failed: list[KmsfsError]) -> Iterator[None]:
    try:
        yield
    except KmsfsError as error:
        failed.append(error)


def rotation_is_due(key: KeyMetadata, now: float) -> bool:
    """Whether automatic rotation is to be done."""
    return key.next_rotation_at is not None and key.next_rotation_at <= now


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
