"""Imported key material: put into the token, taken out again, and put back.

The id of imported material is computed from the key and the material, so that what is imported again is known by
its id, and what was encrypted under it decrypts again. The object is destroyed only after the commit that says so,
and each step may be repeated by whichever process comes first.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from struct import Struct
from typing import Final

from kmsfs.errors import (
    IncorrectKeyMaterialError,
    InvalidRequestError,
    KeyStateError,
    MaterialNotFoundError,
    NothingToRotateToError,
    RotationPendingError,
    UnsupportedOperationError,
    WrongOriginError,
)
from kmsfs.ids import KeyId, MaterialId
from kmsfs.keystore.aliases import changeable
from kmsfs.keystore.ledger import Changes, Ledger
from kmsfs.keystore.materials import Materials
from kmsfs.keystore.model import (
    ImportState,
    KeyMetadata,
    KeySpec,
    KeyState,
    Material,
    Origin,
    RotationType,
)
from kmsfs.keystore.rows import key_values, material_values
from kmsfs.keystore.snapshot import Snapshot
from kmsfs.keystore.specs import SPECS
from kmsfs.keystore.transitions import Operation, next_state

MAX_VALIDITY_S: Final = 365 * 86_400
_DOMAIN: Final = b"kmsfs imported material v1"
_U32: Final = Struct(">I")
_LEAVING: Final = frozenset({ImportState.REMOVING, ImportState.DROPPING})


@dataclass(frozen=True, slots=True)
class Arrival:
    """What is imported, and how it is to be kept."""

    value: bytes = field(repr=False)
    expires_at: float | None = None
    new: bool | None = None  # None: the first material is new, any other is there already
    material_id: MaterialId | None = None  # that it must have
    description: str | None = None


class ImportedMaterial:
    """The imported material of one region's keys. Thread-safe."""

    def __init__(self, ledger: Ledger, materials: Materials, now: Callable[[], float]) -> None:
        self._ledger = ledger
        self._materials = materials
        self._now = now

    def require(self, snapshot: Snapshot, key_id: KeyId, operation: Operation) -> KeyMetadata:
        """Return the key, or raise what refuses the operation for its origin and state."""
        key = changeable(snapshot, key_id)
        if key.origin is not Origin.EXTERNAL:
            raise WrongOriginError(f"material of key {key.arn} was made in the token, not imported")
        next_state(key.state, operation, key.arn)
        return key

    def put(self, key_id: KeyId, arrival: Arrival) -> Material:
        """Take material in: new, or the very same that the key had."""
        self._check_validity(arrival)
        with self._materials.one_process():
            self._finish(self.require(self._ledger.reload(), key_id, Operation.IMPORT_MATERIAL))
            key = self._ledger.snapshot.key(key_id)
            material = self._admitted(key, arrival)
            self._materials.put(key, material, arrival.value)

            def decide(snapshot: Snapshot) -> Changes:
                return self._taken_in(self.require(snapshot, key_id, Operation.IMPORT_MATERIAL), material)

            self._materials.commit(key_id, material, decide)
        return material

    def remove(self, key_id: KeyId, material_id: MaterialId | None) -> KeyMetadata:
        """Destroy one material of a key, at first the current one; the key cannot be used until it is back."""
        with self._materials.one_process():
            key = self.require(self._ledger.reload(), key_id, Operation.DELETE_MATERIAL)
            wanted = material_id or key.current_material_id
            if wanted is None:
                return key
            if all(material.material_id != wanted for material in key.materials):
                raise MaterialNotFoundError(f"key {key.arn} has no material {wanted.hex()}")
            self._condemn(key_id, wanted, lambda material: True)
            self._finish(self._ledger.snapshot.key(key_id))
        return self._ledger.snapshot.key(key_id)

    def rotate(self, key_id: KeyId) -> KeyMetadata:
        """Make the material that was imported for it the current one."""

        def decide(snapshot: Snapshot) -> Changes:
            key = changeable(snapshot, key_id)
            next_state(key.state, Operation.ROTATE, key.arn)
            waiting = _waiting(key)
            if waiting is None:
                raise NothingToRotateToError(
                    f"key {key.arn} has no imported material that waits for rotation",
                    hint="import new material first: kmsfs key import --new",
                )
            current = replace(
                waiting, import_state=None, rotation_type=RotationType.ON_DEMAND, created_at=self._now()
            )
            moved = replace(key, current_material_id=current.material_id)
            return Changes(puts=[("keys", key_values(moved)), ("materials", _row(key, current, 0))])

        return self._ledger.commit(decide).key(key_id)

    def sweep(self, key: KeyMetadata, now: float) -> bool:
        """Destroy what expired of a key, and what somebody began to destroy; return whether something expired."""
        expired = [material for material in key.materials if _expired(material, now)]
        with self._materials.one_process():
            begun = [
                self._condemn(key.key_id, material.material_id, lambda found: _expired(found, now))
                for material in expired
            ]
            found = self._ledger.reload().keys.get(key.key_id)
            if found is not None:
                self._finish(found)
        return any(begun)

    def _check_validity(self, arrival: Arrival) -> None:
        left = None if arrival.expires_at is None else arrival.expires_at - self._now()
        if left is not None and not 0 < left <= MAX_VALIDITY_S:
            raise InvalidRequestError("key material must expire within 365 days from now, and not before")

    def _identify(self, key: KeyMetadata, value: bytes) -> MaterialId:
        if len(value) != SPECS[key.spec].size:
            raise IncorrectKeyMaterialError(
                f"key material for {key.spec.value} has {SPECS[key.spec].size} bytes, not {len(value)}"
            )
        parts = (_DOMAIN, key.key_id.encode(), value)
        return MaterialId(self._ledger.fingerprint(b"".join(_U32.pack(len(part)) + part for part in parts)))

    def _admitted(self, key: KeyMetadata, arrival: Arrival) -> Material:
        """Return the material's row to be, or raise if the key must not have this material."""
        material_id = self._identify(key, arrival.value)
        known = next((m for m in key.materials if m.material_id == material_id), None)
        new = arrival.new if arrival.new is not None else not key.materials
        if (known is None) is not new or arrival.material_id not in (None, material_id):
            raise IncorrectKeyMaterialError(
                f"key material is {'' if known else 'not '}one that key {key.arn} had before",
                hint="a key takes the very same material again; new material with --new",
            )
        if known is not None:
            keeps = known.import_state is ImportState.PENDING_ROTATION
            return replace(
                known,
                expires_at=arrival.expires_at,
                import_state=known.import_state if keeps else None,
                description=arrival.description or known.description,
            )
        return Material(
            material_id,
            self._materials.suite_of(key.spec),
            self._now(),
            expires_at=arrival.expires_at,
            import_state=_state_of_new(key, material_id),
            description=arrival.description,
        )

    def _taken_in(self, key: KeyMetadata, material: Material) -> Changes:
        others = [other for other in key.materials if other.material_id != material.material_id]
        is_new = len(others) == len(key.materials)
        if is_new and material.import_state is not _state_of_new(key, material.material_id):
            raise KeyStateError(f"key {key.arn} was given other material meanwhile", hint="try again")
        with_it = replace(
            key,
            materials=(*others, material),
            current_material_id=key.current_material_id or material.material_id,
        )
        if key.state is KeyState.PENDING_IMPORT and not with_it.lacks_material:
            with_it = replace(with_it, state=KeyState.ENABLED)
        uses = self._ledger.snapshot.uses_reserved.get(material.material_id, 0)
        return Changes(puts=[("keys", key_values(with_it)), ("materials", _row(key, material, uses))])

    def _condemn(self, key_id: KeyId, wanted: MaterialId, still: Callable[[Material], bool]) -> bool:
        """First step: the material counts as gone, and so the key as pending import."""
        begun: list[MaterialId] = []

        def decide(snapshot: Snapshot) -> Changes:
            begun.clear()
            key = snapshot.keys.get(key_id)
            found = [] if key is None else [m for m in key.materials if m.material_id == wanted]
            if key is None or not found or found[0].import_state in _LEAVING or not still(found[0]):
                return Changes()
            begun.append(wanted)
            waits = found[0].import_state is ImportState.PENDING_ROTATION
            material = replace(
                found[0],
                import_state=ImportState.DROPPING if waits else ImportState.REMOVING,
                expires_at=None,
            )
            state = key.state if waits else next_state(key.state, Operation.DELETE_MATERIAL, key.arn)
            uses = snapshot.uses_reserved[wanted]
            return Changes(
                puts=[
                    ("keys", key_values(replace(key, state=state))),
                    ("materials", _row(key, material, uses)),
                ]
            )

        self._ledger.commit(decide)
        return bool(begun)

    def _finish(self, key: KeyMetadata) -> None:
        """Second step: the object is destroyed; then its row says so, or goes if nothing was encrypted under it."""
        for material in key.materials:
            if material.import_state in _LEAVING:
                self._materials.destroy(material)
                self._ledger.commit(_gone(key.key_id, material.material_id))


def _gone(key_id: KeyId, wanted: MaterialId) -> Callable[[Snapshot], Changes]:
    def decide(snapshot: Snapshot) -> Changes:
        entry = snapshot.materials.get(wanted)
        if entry is None or entry.key.key_id != key_id:
            return Changes()
        if entry.material.import_state is ImportState.DROPPING:
            return Changes(deletes=[("materials", wanted.hex())])
        if entry.material.import_state is not ImportState.REMOVING:
            return Changes()
        missing = replace(entry.material, import_state=ImportState.MISSING)
        row = _row(entry.key, missing, snapshot.uses_reserved[wanted])
        return Changes(puts=[("materials", row)])

    return decide


def _row(key: KeyMetadata, material: Material, uses_reserved: int) -> dict[str, str | int | None]:
    return dict(material_values(key.region, key.key_id, material, uses_reserved))


def _expired(material: Material, now: float) -> bool:
    return material.expires_at is not None and material.expires_at <= now


def material_is_due(key: KeyMetadata, now: float) -> bool:
    """Whether there is something for ``sweep`` to do."""
    return any(_expired(material, now) or material.import_state in _LEAVING for material in key.materials)


def _waiting(key: KeyMetadata) -> Material | None:
    return next((m for m in key.materials if m.import_state is ImportState.PENDING_ROTATION), None)


def _state_of_new(key: KeyMetadata, material_id: MaterialId) -> ImportState | None:
    if not key.materials:
        return None
    if key.spec is not KeySpec.SYMMETRIC_DEFAULT:
        raise UnsupportedOperationError(f"key {key.arn} is a MAC key: its material does not change")
    waiting = _waiting(key)
    if waiting is not None:
        raise RotationPendingError(
            f"new key material (id: {material_id.hex()}) cannot be imported into KMS key {key.arn}, "
            f"because another key material (id: {waiting.material_id.hex()}) is pending rotation",
            hint="rotate the key, or delete that material",
        )
    return ImportState.PENDING_ROTATION
