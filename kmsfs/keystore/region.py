"""One region at work: its token, its verified metadata, and what may be done with its keys.

Nothing here knows of other regions. AAD is built from this region's own names, never from a blob's.
"""

import hashlib
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median
from threading import RLock

from kmsfs.crypto.entropy import random_bytes
from kmsfs.errors import (
    AliasNotFoundError,
    AlreadyExistsError,
    IntegrityError,
    InvalidCiphertextError,
    KeyExhaustedError,
    KeyNotFoundError,
    UnknownMaterialError,
)
from kmsfs.format.blob import MATERIAL_ID_SIZE, Blob, Suite
from kmsfs.ids import KeyArn, KeyId, MaterialId, Region
from kmsfs.keystore.arn import alias_arn, check_alias, key_arn
from kmsfs.keystore.ledger import Changes, Ledger
from kmsfs.keystore.model import AliasEntry, KeyManager, KeyMetadata, KeyState, Material, RegionConfig
from kmsfs.keystore.ports import Hsm, KeyKind, MetadataStore
from kmsfs.keystore.rows import MaterialEntry, Snapshot, alias_values, key_values, material_values
from kmsfs.keystore.transitions import Operation, next_state
from kmsfs.keystore.uses import UseCounter
from kmsfs.keystore.wrapping import open_blob, seal

FAST_CALL_S = 0.001
KEY_LABEL_PREFIX = "kmsfs:"
_KINDS = {Suite.HSM_GCM: KeyKind.AES, Suite.HSM_KDF: KeyKind.HMAC}


def integrity_key_id(region: Region) -> bytes:
    """Return the CKA_ID of the key that authenticates the region's metadata."""
    return hashlib.sha256(b"kmsfs integrity key\0" + region.encode()).digest()


def key_label(key_id: KeyId) -> str:
    """Return the CKA_LABEL that all material of a CMK carries."""
    return KEY_LABEL_PREFIX + key_id


class RegionService:
    """The keys and aliases of one region. Thread-safe."""

    def __init__(self, config: RegionConfig, hsm: Hsm, store: MetadataStore) -> None:
        self.config = config
        self.hsm = hsm
        self.ledger = Ledger(config, store, partial(hsm.hmac, integrity_key_id(config.region)))
        self._lock = RLock()
        self._counters: dict[MaterialId, UseCounter] = {}
        self._fast: bool | None = None

    @property
    def snapshot(self) -> Snapshot:
        """The verified metadata."""
        return self.ledger.snapshot

    def key(self, key_id: KeyId) -> KeyMetadata:
        """Return the CMK or raise KeyNotFoundError."""
        found = self.snapshot.keys.get(key_id)
        if found is None:
            raise _no_key(key_id, self.config.region)
        return found

    def alias_target(self, name: str) -> KeyId:
        """Return the id of the key that an alias points at."""
        return self._alias(self.snapshot, name).target_key_id

    def is_fast(self) -> bool:
        """Return whether the token answers within a millisecond; measured once."""
        if self._fast is None:
            self._fast = median(self._time_one_call() for _ in range(5)) < FAST_CALL_S
        return self._fast

    # --- keys -----------------------------------------------------------------------------------
    def create_key(self, description: str, alias: str | None) -> KeyMetadata:
        """Generate a CMK in the token and record it, with its first alias if one is given."""
        if alias is not None:
            check_alias(alias)
            self._require_free_alias(self.ledger.reload(), alias)
        key_id = KeyId(str(uuid.uuid4()))
        material = self._generate_material(key_id)

        def decide(snapshot: Snapshot) -> Changes:
            puts = [
                ("keys", key_values(_new_key(self.config, key_id, description, material))),
                ("materials", material_values(self.config.region, key_id, material, 0)),
            ]
            if alias is not None:
                self._require_free_alias(snapshot, alias)
                puts.append(("aliases", alias_values(self._new_alias(alias, key_id, material.created_at))))
            return Changes(puts=puts)

        self._commit_material(material, decide)
        return self.key(key_id)

    def change_state(self, key_id: KeyId, operation: Operation) -> KeyMetadata:
        """Enable or disable a CMK as the transition table says."""

        def decide(snapshot: Snapshot) -> Changes:
            key = _key_of(snapshot, key_id)
            state = next_state(key.state, operation, key.arn)
            return Changes(puts=[("keys", key_values(replace(key, state=state)))])

        self.ledger.commit(decide)
        return self.key(key_id)

    # --- aliases --------------------------------------------------------------------------------
    def create_alias(self, name: str, key_id: KeyId) -> AliasEntry:
        """Point a new alias at a key."""
        check_alias(name)

        def decide(snapshot: Snapshot) -> Changes:
            self._require_free_alias(snapshot, name)
            self._require_target(snapshot, key_id)
            return Changes(puts=[("aliases", alias_values(self._new_alias(name, key_id, time.time())))])

        return self.ledger.commit(decide).aliases[name]

    def update_alias(self, name: str, key_id: KeyId) -> AliasEntry:
        """Point an alias at another key."""
        check_alias(name)

        def decide(snapshot: Snapshot) -> Changes:
            alias = self._alias(snapshot, name)
            self._require_target(snapshot, key_id)
            moved = replace(alias, target_key_id=key_id, updated_at=time.time())
            return Changes(puts=[("aliases", alias_values(moved))])

        return self.ledger.commit(decide).aliases[name]

    def delete_alias(self, name: str) -> None:
        """Remove an alias; its key stays."""
        check_alias(name)

        def decide(snapshot: Snapshot) -> Changes:
            self._alias(snapshot, name)
            return Changes(deletes=[("aliases", name)])

        self.ledger.commit(decide)

    # --- use ------------------------------------------------------------------------------------
    def seal(
        self, key: KeyMetadata, operation: Operation, plaintext: bytes, context: bytes
    ) -> tuple[bytes, KeyArn, MaterialId]:
        """Return the blob of ``plaintext`` under the key's current material, and what that is."""
        next_state(key.state, operation, key.arn)
        material_id = key.current_material_id
        entry = self.snapshot.materials[material_id]
        suite = entry.material.suite
        if suite is Suite.HSM_GCM:
            try:
                self._counter(material_id).take()
            except KeyExhaustedError:
                return self.seal(self._renew_material(key), operation, plaintext, context)
        nonce = random_bytes(suite.nonce_size)
        return seal(self.hsm, entry, nonce, plaintext, context), key.arn, material_id

    def entry(self, material_id: MaterialId) -> MaterialEntry:
        """Return the key and material that a blob names, or raise UnknownMaterialError."""
        entry = self.snapshot.materials.get(material_id)
        if entry is None:
            raise UnknownMaterialError(
                f"key material {material_id.hex()} is not in region {self.config.region}",
                hint="the blob is of another keystore, or its key was deleted",
            )
        return entry

    def open(self, entry: MaterialEntry, blob: Blob, context: bytes) -> bytes:
        """Return the plaintext of a blob under that material."""
        key, material = entry.key, entry.material
        next_state(key.state, Operation.DECRYPT, key.arn)
        if blob.head.suite is not material.suite:
            raise _not_authentic()
        try:
            return open_blob(self.hsm, entry, blob, context)
        except IntegrityError:
            raise _not_authentic() from None

    def _counter(self, material_id: MaterialId) -> UseCounter:
        counter = self._counters.get(material_id)
        if counter is None:
            with self._lock:
                counter = self._counters.setdefault(material_id, UseCounter(material_id, self.ledger))
        return counter

    def _renew_material(self, key: KeyMetadata) -> KeyMetadata:
        """Give a key whose current material is used up new material, unless somebody just did."""
        with self._lock:
            current = self.key(key.key_id)
            if current.current_material_id != key.current_material_id:
                return current
            material = self._generate_material(key.key_id)

            def decide(snapshot: Snapshot) -> Changes:
                newest = _key_of(snapshot, key.key_id)
                moved = replace(newest, current_material_id=material.material_id)
                row = material_values(snapshot.region, key.key_id, material, 0)
                return Changes(puts=[("keys", key_values(moved)), ("materials", row)])

            self._commit_material(material, decide)
            return self.key(key.key_id)

    def _generate_material(self, key_id: KeyId) -> Material:
        material = Material(MaterialId(random_bytes(MATERIAL_ID_SIZE)), self.config.suite, time.time())
        self.hsm.generate(_KINDS[material.suite], material.material_id, key_label(key_id))
        return material

    def _commit_material(self, material: Material, decide: Callable[[Snapshot], Changes]) -> None:
        try:
            self.ledger.commit(decide)
        except BaseException:
            self.hsm.destroy(material.material_id)  # nothing was encrypted under it yet
            raise

    def _new_alias(self, name: str, key_id: KeyId, now: float) -> AliasEntry:
        config = self.config
        return AliasEntry(
            name, alias_arn(config.region, config.account, name), config.region, key_id, now, now
        )

    def _alias(self, snapshot: Snapshot, name: str) -> AliasEntry:
        alias = snapshot.aliases.get(name)
        if alias is None:
            raise AliasNotFoundError(f"{name} does not exist in region {snapshot.region}")
        return alias

    def _require_free_alias(self, snapshot: Snapshot, name: str) -> None:
        if name in snapshot.aliases:
            raise AlreadyExistsError(
                f"{name} exists already in region {snapshot.region}",
                hint="kmsfs alias update points it elsewhere",
            )

    def _require_target(self, snapshot: Snapshot, key_id: KeyId) -> None:
        key = _key_of(snapshot, key_id)
        next_state(key.state, Operation.POINT_ALIAS, key.arn)

    def _time_one_call(self) -> float:
        start = time.perf_counter()
        self.hsm.hmac(integrity_key_id(self.config.region), b"kmsfs speed")
        return time.perf_counter() - start


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


def _key_of(snapshot: Snapshot, key_id: KeyId) -> KeyMetadata:
    key = snapshot.keys.get(key_id)
    if key is None:
        raise _no_key(key_id, snapshot.region)
    return key


def _no_key(key_id: KeyId, region: Region) -> KeyNotFoundError:
    return KeyNotFoundError(f"key {key_id} is not in region {region}", hint="kmsfs key list shows the keys")


def _not_authentic() -> InvalidCiphertextError:
    return InvalidCiphertextError(
        "ciphertext blob is damaged or foreign, or its encryption context is another one"
    )
