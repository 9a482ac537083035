"""The end of old key material: what nothing needs any more after a rewrap is destroyed in the token.

As with deletion, a commit says so first, so that no crash leaves a material that counts as usable without its object;
each step may be repeated, by whichever process comes first. The rows stay: a blob under retired material is told so.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from kmsfs.errors import KeyStateError, UnsupportedOperationError
from kmsfs.ids import KeyId, MaterialId
from kmsfs.keystore.aliases import changeable
from kmsfs.keystore.ledger import Changes, Ledger
from kmsfs.keystore.materials import Materials
from kmsfs.keystore.model import KeyMetadata, KeySpec, Material, Origin, Retirement
from kmsfs.keystore.rows import Values, material_values
from kmsfs.keystore.snapshot import Snapshot
from kmsfs.keystore.transitions import Operation, next_state

MARGIN_S: Final = 5.0  # how soon every process encrypts under new material


class RetiredMaterial:
    """The retirement of one region's key material. Thread-safe."""

    def __init__(self, ledger: Ledger, materials: Materials) -> None:
        self._ledger = ledger
        self._materials = materials

    def require(self, key_id: KeyId) -> KeyMetadata:
        """Return the key, or raise what refuses to retire its material for its kind and state."""
        return _retirable(self._ledger.snapshot, key_id)

    def retire(self, seen: KeyMetadata) -> list[MaterialId]:
        """Destroy all material of the key but the current one; return what was not retired before.

        KeyStateError if the key was rotated since it was ``seen``.
        """
        with self._materials.one_process():
            self._ledger.reload()
            retired = self._condemn(seen)
            self._finish(seen.key_id, again=True)
        return retired

    def sweep(self, key_id: KeyId) -> bool:
        """Finish what somebody began; return whether there was something."""
        with self._materials.one_process():
            self._ledger.reload()
            return self._finish(key_id)

    def _condemn(self, seen: KeyMetadata) -> list[MaterialId]:
        """First step: nothing decrypts under it any more."""
        retired: list[MaterialId] = []

        def decide(snapshot: Snapshot) -> Changes:
            key = _retirable(snapshot, seen.key_id)
            if key.current_material_id != seen.current_material_id:
                raise KeyStateError(f"key {key.arn} was rotated meanwhile", hint="rewrap its trees first")
            old = [m for m in key.materials if m != key.current_material and m.retirement is None]
            retired[:] = [material.material_id for material in old]
            return Changes(puts=[_row(snapshot, key, material, Retirement.RETIRING) for material in old])

        self._ledger.commit(decide)
        return retired

    def _finish(self, key_id: KeyId, *, again: bool = False) -> bool:
        """Second step: the objects are destroyed, and the rows say so; ``again``: also those that came back."""
        key = self._ledger.snapshot.keys.get(key_id)
        leaving = [m for m in key.materials if m.retirement is Retirement.RETIRING] if key else []
        gone = [m for m in key.materials if m.retirement is not None] if key and again else leaving
        for material in gone:
            self._materials.destroy(material)
        if leaving:
            self._ledger.commit(_gone(key_id))
        return bool(leaving)


def _gone(key_id: KeyId) -> Callable[[Snapshot], Changes]:
    def decide(snapshot: Snapshot) -> Changes:
        key = snapshot.keys.get(key_id)
        leaving = [m for m in key.materials if m.retirement is Retirement.RETIRING] if key else []
        return Changes(puts=[_row(snapshot, key, m, Retirement.RETIRED) for m in leaving if key])

    return decide


def _row(
    snapshot: Snapshot, key: KeyMetadata, material: Material, retirement: Retirement
) -> tuple[str, Values]:
    uses = snapshot.uses_reserved[material.material_id]
    return "materials", material_values(
        key.region, key.key_id, replace(material, retirement=retirement), uses
    )


def _retirable(snapshot: Snapshot, key_id: KeyId) -> KeyMetadata:
    key = changeable(snapshot, key_id)
    refusal = _refusal(key)
    if refusal:
        raise UnsupportedOperationError(f"key {key.arn} {refusal}")
    next_state(key.state, Operation.RETIRE_MATERIAL, key.arn)
    return key


def _refusal(key: KeyMetadata) -> str:
    if key.spec is not KeySpec.SYMMETRIC_DEFAULT:
        return "is a MAC key: it has no old material"
    if key.origin is Origin.EXTERNAL:
        return "has imported material: delete that, and keep what is to come back"
    if key.primary_region is not None:
        return "is a multi-region key: its material is not one region's alone to destroy"
    return ""


def require_followed(key: KeyMetadata, now: float) -> None:
    """Raise KeyStateError while another process may still encrypt under material that would be retired."""
    current = key.current_material
    old = [material for material in key.materials if material != current and material.retirement is None]
    if old and current is not None and now < current.created_at + MARGIN_S:
        raise KeyStateError(
            f"key {key.arn} was rotated a moment ago, and others may not know of it yet",
            hint=f"try again {MARGIN_S:.0f} seconds after the rotation",
        )


def retirement_is_due(key: KeyMetadata) -> bool:
    """Whether there is something for ``sweep`` to do."""
    return any(material.retirement is Retirement.RETIRING for material in key.materials)
