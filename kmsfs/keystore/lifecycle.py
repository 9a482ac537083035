"""The life of one region's keys: made, enabled, disabled, given new material.

Material is made in the token before the commit that names it, and destroyed again if that commit fails.
"""

import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from threading import RLock

from kmsfs.crypto.entropy import random_bytes
from kmsfs.format.blob import MATERIAL_ID_SIZE, Suite
from kmsfs.ids import KeyId, MaterialId
from kmsfs.keystore.aliases import new_alias, require_free
from kmsfs.keystore.arn import check_alias, key_arn
from kmsfs.keystore.ledger import Changes, Ledger
from kmsfs.keystore.model import KeyManager, KeyMetadata, KeyState, Material, RegionConfig
from kmsfs.keystore.ports import Hsm, KeyKind
from kmsfs.keystore.rows import Snapshot, alias_values, key_values, material_values
from kmsfs.keystore.transitions import Operation, next_state

KEY_LABEL_PREFIX = "kmsfs:"
_KINDS = {Suite.HSM_GCM: KeyKind.AES, Suite.HSM_KDF: KeyKind.HMAC}


def key_label(key_id: KeyId) -> str:
    """Return the CKA_LABEL that all material of a CMK carries."""
    return KEY_LABEL_PREFIX + key_id


class Lifecycle:
    """What may be done with a region's keys, apart from using them. Thread-safe."""

    def __init__(self, config: RegionConfig, hsm: Hsm, ledger: Ledger) -> None:
        self._config = config
        self._hsm = hsm
        self._ledger = ledger
        self._lock = RLock()

    def create(self, description: str, alias: str | None) -> KeyMetadata:
        """Generate a CMK in the token and record it, with its first alias if one is given."""
        if alias is not None:
            check_alias(alias)
            require_free(self._ledger.reload(), alias)
        config, key_id = self._config, KeyId(str(uuid.uuid4()))
        material = self._generate_material(key_id)

        def decide(snapshot: Snapshot) -> Changes:
            puts = [
                ("keys", key_values(_new_key(config, key_id, description, material))),
                ("materials", material_values(config.region, key_id, material, 0)),
            ]
            if alias is not None:
                require_free(snapshot, alias)
                puts.append(("aliases", alias_values(new_alias(config, alias, key_id, material.created_at))))
            return Changes(puts=puts)

        return self._commit_material(material, decide).key(key_id)

    def change_state(self, key_id: KeyId, operation: Operation) -> KeyMetadata:
        """Enable or disable a CMK as the transition table says."""

        def decide(snapshot: Snapshot) -> Changes:
            key = snapshot.key(key_id)
            state = next_state(key.state, operation, key.arn)
            return Changes(puts=[("keys", key_values(replace(key, state=state)))])

        return self._ledger.commit(decide).key(key_id)

    def renew_material(self, key: KeyMetadata) -> KeyMetadata:
        """Give a key whose current material is used up new material, unless somebody just did."""
        with self._lock:
            current = self._ledger.snapshot.key(key.key_id)
            if current.current_material_id != key.current_material_id:
                return current
            material = self._generate_material(key.key_id)

            def decide(snapshot: Snapshot) -> Changes:
                moved = replace(snapshot.key(key.key_id), current_material_id=material.material_id)
                row = material_values(snapshot.region, key.key_id, material, 0)
                return Changes(puts=[("keys", key_values(moved)), ("materials", row)])

            return self._commit_material(material, decide).key(key.key_id)

    def _generate_material(self, key_id: KeyId) -> Material:
        material = Material(MaterialId(random_bytes(MATERIAL_ID_SIZE)), self._config.suite, time.time())
        self._hsm.generate(_KINDS[material.suite], material.material_id, key_label(key_id))
        return material

    def _commit_material(self, material: Material, decide: Callable[[Snapshot], Changes]) -> Snapshot:
        try:
            return self._ledger.commit(decide)
        except BaseException:
            self._hsm.destroy(material.material_id)  # nothing was encrypted under it yet
            raise


def _new_key(config: RegionConfig, key_id: KeyId, description: str, material: Material) -> KeyMetadata:
    return KeyMetadata(
        key_id=key_id,
        arn=key_arn(config.region, config.account, key_id),
        region=config.region,
        account=config.account,
        description=description,
        state=KeyState.ENABLED,
        manager=KeyManager.CUSTOMER,
        created_at=material.created_at,
        current_material_id=material.material_id,
        materials=(material,),
    )
