"""Key material in one region's token, and the commits that name it.

Material is put into the token before the commit that names it, and destroyed again if that commit failed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from kmsfs.crypto.entropy import random_bytes
from kmsfs.errors import KmsfsError, UnsupportedOperationError
from kmsfs.format.blob import MATERIAL_ID_SIZE, Suite
from kmsfs.ids import KeyId, MaterialId
from kmsfs.keystore.arn import MULTI_REGION_PREFIX
from kmsfs.keystore.ledger import Changes, Ledger
from kmsfs.keystore.model import ImportState, KeyMetadata, KeySpec, Material, RegionConfig
from kmsfs.keystore.ports import Hsm, KeyKind
from kmsfs.keystore.sealing import sharing_key
from kmsfs.keystore.shared_material import copied_material, new_shared_material
from kmsfs.keystore.snapshot import Snapshot
from kmsfs.keystore.softhsm import locked
from kmsfs.keystore.specs import SPECS

KEY_LABEL_PREFIX = "kmsfs:"
_KINDS = {Suite.HSM_GCM: KeyKind.AES, Suite.HSM_KDF: KeyKind.HMAC}


def key_label(key_id: KeyId) -> str:
    """Return the CKA_LABEL that all material of a CMK carries."""
    return KEY_LABEL_PREFIX + key_id


class Materials:
    """The key material of one region. Thread-safe."""

    def __init__(self, config: RegionConfig, hsm: Hsm, ledger: Ledger, now: Callable[[], float]) -> None:
        self._config = config
        self._hsm = hsm
        self._ledger = ledger
        self._now = now

    def generate(self, key_id: KeyId, spec: KeySpec) -> Material:
        """Make new material in the token; that of a multi-region key can also be put into others."""
        if key_id.startswith(MULTI_REGION_PREFIX):
            region, size = self._config.region, SPECS[spec].size
            with self._taken_back(key_id):
                return new_shared_material(self._hsm, region, key_id, key_label(key_id), size, self._now())
        material = Material(MaterialId(random_bytes(MATERIAL_ID_SIZE)), self.suite_of(spec), self._now())
        self._hsm.generate(
            _KINDS[material.suite], material.material_id, key_label(key_id), size=SPECS[spec].size
        )
        return material

    def put(self, key: KeyMetadata, material: Material, value: bytes) -> None:
        """Put imported material into the token, unless it is there."""
        self.require_support(key.spec)
        if not self._hsm.holds(material.material_id):
            self._hsm.put(_KINDS[material.suite], material.material_id, key_label(key.key_id), value)

    def destroy(self, material: Material) -> None:
        """Destroy material in the token; what is not there is no error."""
        self._hsm.destroy(material.material_id)

    def destroy_all(self, key: KeyMetadata) -> None:
        """Destroy all that a key has in the token."""
        for material in key.materials:
            self._hsm.destroy(material.material_id)
        self._destroy_sharing_key(key.key_id)

    def _destroy_sharing_key(self, key_id: KeyId) -> None:
        if key_id.startswith(MULTI_REGION_PREFIX):
            self._hsm.destroy(sharing_key(key_id).object_id(self._config.region))

    def suite_of(self, spec: KeySpec) -> Suite:
        """Return the suite of new material; that of a MAC key only says which kind of object it is."""
        return self._config.suite if spec is KeySpec.SYMMETRIC_DEFAULT else Suite.HSM_KDF

    def require_support(self, spec: KeySpec) -> None:
        """Raise UnsupportedOperationError if the token's module cannot do what keys of that spec are for."""
        digest = SPECS[spec].digest
        if digest is not None and not self._hsm.offers_hmac(digest):
            raise UnsupportedOperationError(
                f"module {self._config.module} does not offer HMAC with {digest.value}: "
                f"no {spec.value} key can be made in region {self._config.region}"
            )

    def copy(self, source: "Materials", key_id: KeyId, material: Material) -> Material:
        """Put material of a multi-region key, which another region has, into this token."""
        held, wanted = (source._hsm, source._config.region), (self._hsm, self._config.region)
        with self.one_process():
            return copied_material(held, wanted, key_id, key_label(key_id), material)

    def commit(self, key_id: KeyId, material: Material, decide: Callable[[Snapshot], Changes]) -> Snapshot:
        """Commit what names ``material`` of a key; it is taken back if that fails."""
        with self._taken_back(key_id, material):
            return self._ledger.commit(decide)

    @contextmanager
    def _taken_back(self, key_id: KeyId, *materials: Material) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.discard(key_id, materials)
            raise

    def discard(self, key_id: KeyId, materials: Sequence[Material]) -> None:
        """Destroy what a commit that failed was to name, unless it is named all the same: the answer may be lost.

        Where that cannot be told, the object stays: a material without a key harms nobody, and doctor finds it.
        """
        with suppress(KmsfsError):
            snapshot = self._ledger.reload()
            for material in materials:
                named = snapshot.materials.get(material.material_id)
                if named is None or named.material.import_state is ImportState.MISSING:
                    self._hsm.destroy(material.material_id)
            if key_id not in snapshot.keys and key_id not in snapshot.condemned:
                self._destroy_sharing_key(key_id)

    @contextmanager
    def one_process(self) -> Iterator[None]:
        """Hold back the other processes that use an embedded token.

        SoftHSM may not show a process an object that another one made while it made one of its own, and fails
        if both destroy the same one. Without an embedded token, the commit alone decides who is first.
        """
        if self._config.token_dir is None:
            yield
            return
        with locked(self._config.token_dir):
            yield
