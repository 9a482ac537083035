"""New material for one region's keys: by the calendar, on demand, and before it was used too often.

Made by whichever process comes first, once: who commits second takes its material back.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Final

from kmsfs.errors import InvalidRequestError, NeverRotatesError, RotationsUsedUpError, WrongOriginError
from kmsfs.ids import KeyId
from kmsfs.keystore.aliases import changeable
from kmsfs.keystore.imported import ImportedMaterial
from kmsfs.keystore.ledger import Changes, Ledger
from kmsfs.keystore.materials import Materials
from kmsfs.keystore.model import KeyMetadata, KeySpec, Origin, RegionConfig, RotationType
from kmsfs.keystore.ports import Hsm
from kmsfs.keystore.relatives import Relatives, require_no_replica
from kmsfs.keystore.retirement import RetiredMaterial
from kmsfs.keystore.rows import key_values, material_values
from kmsfs.keystore.snapshot import Snapshot
from kmsfs.keystore.transitions import Operation, next_state

DAY_S: Final = 86_400
MIN_PERIOD_DAYS: Final = 90
MAX_PERIOD_DAYS: Final = 2560
DEFAULT_PERIOD_DAYS: Final = 365
MANAGED_PERIOD_DAYS: Final = 1095
MAX_ON_DEMAND: Final = 25


class OvertakenError(Exception):
    """Somebody else rotated the key, changed its state or deleted it in between."""


class Rotation:
    """The rotation of one region's keys. Thread-safe."""

    def __init__(self, config: RegionConfig, hsm: Hsm, ledger: Ledger, now: Callable[[], float]) -> None:
        self._config = config
        self._hsm = hsm
        self._ledger = ledger
        self._now = now
        self.materials = Materials(config, hsm, ledger, now)
        self.imported = ImportedMaterial(ledger, self.materials, now)
        self.retired = RetiredMaterial(ledger, self.materials)
        self.relatives: Relatives  # set by whoever knows the other regions: regions.py
        self.on_event: Callable[[str, KeyId], None] = lambda action, key_id: None  # what it does by itself

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
                raise WrongOriginError(f"key {key.arn} has imported material: it rotates on demand only")
            next_state(key.state, Operation.SET_ROTATION, key.arn)
            require_no_replica(key)
            if period_days == key.rotation_period_days:
                return Changes()
            at = None if period_days is None else self._now() + period_days * DAY_S
            turned = replace(key, rotation_period_days=period_days, next_rotation_at=at)
            return Changes(puts=[("keys", key_values(turned))])

        key = self._ledger.snapshot.key(key_id)
        with self.relatives.changing(key) if key.is_primary else nullcontext():
            return self._ledger.commit(decide).key(key_id)

    def rotate_on_demand(self, key_id: KeyId) -> KeyMetadata:
        """Give a CMK new material now; its id, ARN and aliases stay, and what is encrypted still decrypts."""
        key = changeable(self._ledger.reload(), key_id)
        next_state(key.state, Operation.ROTATE, key.arn)
        _require_rotatable(key)
        require_no_replica(key)
        made = [m for m in key.materials if m.rotation_type is RotationType.ON_DEMAND]
        if len(made) >= MAX_ON_DEMAND:
            raise RotationsUsedUpError(f"key {key.arn} was rotated on demand {MAX_ON_DEMAND} times already")
        if key.origin is Origin.EXTERNAL:
            return self.imported.rotate(key_id)
        return self.rotate(key, RotationType.ON_DEMAND)

    def rotate(self, seen: KeyMetadata, kind: RotationType) -> KeyMetadata:
        """Give the key ``seen`` new material, unless somebody did since it was seen."""
        if seen.is_primary:
            return self._rotate_related(seen, kind)
        with self.materials.one_process():
            key = self._ledger.reload().key(seen.key_id)
            if not _same(key, seen):
                return key
            return self._rotate(seen, kind)

    def _rotate(self, seen: KeyMetadata, kind: RotationType) -> KeyMetadata:
        material = replace(self.materials.generate(seen.key_id, seen.spec), rotation_type=kind)

        def decide(snapshot: Snapshot) -> Changes:
            key = snapshot.key(seen.key_id)
            if not _same(key, seen):
                raise OvertakenError
            moved = replace(
                key,
                current_material_id=material.material_id,
                next_rotation_at=_next_rotation(key, self._now()),
            )
            row = material_values(snapshot.region, key.key_id, material, 0)
            return Changes(puts=[("keys", key_values(moved)), ("materials", row)])

        try:
            rotated = self.materials.commit(seen.key_id, material, decide).key(seen.key_id)
        except OvertakenError:
            return self._ledger.snapshot.key(seen.key_id)
        if kind is RotationType.AUTOMATIC:
            self.on_event("RotateKey", seen.key_id)
        return rotated

    def _rotate_related(self, seen: KeyMetadata, kind: RotationType) -> KeyMetadata:
        """Add the material, and have it used in every region when every region has it."""
        with self.relatives.changing(seen):
            key = self._ledger.reload().key(seen.key_id)
            if not _same(key, seen):
                return key
            at = max(self._now(), key.materials[-1].created_at + 1e-3)  # the newest is the next one
            material = replace(
                self.materials.generate(key.key_id, key.spec), rotation_type=kind, created_at=at
            )
            next_at = _next_rotation(key, self._now())

            def decide(snapshot: Snapshot) -> Changes:
                turned = replace(snapshot.key(key.key_id), next_rotation_at=next_at)
                row = material_values(snapshot.region, key.key_id, material, 0)
                return Changes(puts=[("keys", key_values(turned)), ("materials", row)])

            self.materials.commit(key.key_id, material, decide)
        if kind is RotationType.AUTOMATIC:
            self.on_event("RotateKey", seen.key_id)
        return self._ledger.snapshot.key(seen.key_id)


def _same(key: KeyMetadata, seen: KeyMetadata) -> bool:
    return key.current_material_id == seen.current_material_id and key.state is seen.state


def _require_rotatable(key: KeyMetadata) -> None:
    if key.spec is not KeySpec.SYMMETRIC_DEFAULT:
        raise NeverRotatesError(f"key {key.arn} is a MAC key: its material does not change")


def _next_rotation(key: KeyMetadata, now: float) -> float | None:
    """Return when the key is due again; rotations that nobody was there for are not caught up with."""
    if key.next_rotation_at is None or key.rotation_period_days is None or key.next_rotation_at > now:
        return key.next_rotation_at
    return now + key.rotation_period_days * DAY_S


def rotation_is_due(key: KeyMetadata, now: float) -> bool:
    """Whether automatic rotation is to be done."""
    return key.next_rotation_at is not None and key.next_rotation_at <= now
