"""One region at work: its token, its verified metadata, and what may be done with its keys.

Nothing here knows of other regions. AAD is built from this region's own names, never from a blob's.
"""

import hashlib
import time
from collections.abc import Callable
from functools import partial

from kmsfs.crypto.entropy import random_bytes
from kmsfs.errors import (
    AlreadyExistsError,
    HsmError,
    IntegrityError,
    InvalidCiphertextError,
    KeyExhaustedError,
    KeyPendingImportError,
    UnknownMaterialError,
)
from kmsfs.format.blob import NONCE_SIZES, Blob, Suite
from kmsfs.ids import KeyArn, KeyId, MaterialId, Region
from kmsfs.keystore.access import Access
from kmsfs.keystore.aliases import Aliases
from kmsfs.keystore.authorize import Authorizer
from kmsfs.keystore.ledger import Ledger
from kmsfs.keystore.lifecycle import Lifecycle
from kmsfs.keystore.model import KeyManager, KeyMetadata, Origin, RegionConfig, RotationType
from kmsfs.keystore.nearness import Nearness
from kmsfs.keystore.ports import Hsm, MetadataStore
from kmsfs.keystore.snapshot import MaterialEntry, Snapshot
from kmsfs.keystore.specs import mac_digest
from kmsfs.keystore.transitions import ALLOWED_USES, Operation, check_use
from kmsfs.keystore.uses import UseCounters
from kmsfs.keystore.wrapping import open_blob, seal

# Members of enumerations that each use asks for: looking one up costs as much as a call.
_HSM_GCM = Suite.HSM_GCM
_OWNED = KeyManager.OWNED
MANAGED_ALIAS = "alias/aws/kmsfs"
MANAGED_DESCRIPTION = "Default key that protects trees when no other key is named"


def integrity_key_id(region: Region) -> bytes:
    """Return the CKA_ID of the key that authenticates the region's metadata."""
    return hashlib.sha256(b"kmsfs integrity key\0" + region.encode()).digest()


def report_key_id(region: Region) -> bytes:
    """Return the CKA_ID of the key pair that signs the region's reports."""
    return hashlib.sha256(b"kmsfs report key\0" + region.encode()).digest()


class RegionService:
    """The keys and aliases of one region. Thread-safe."""

    def __init__(
        self, config: RegionConfig, hsm: Hsm, store: MetadataStore, now: Callable[[], float] = time.time
    ) -> None:
        self.config = config
        self.hsm = hsm
        self.ledger = Ledger(config, store, partial(hsm.hmac, integrity_key_id(config.region)))
        self.lifecycle = Lifecycle(config, hsm, self.ledger, now)
        self.aliases = Aliases(config, self.ledger, now)
        self.access = Access(self.ledger, now)
        self.authorizer = Authorizer(self.ledger)
        self._now = now
        self._counters = UseCounters(self.ledger)
        self.nearness = Nearness(hsm, self._small_call)

    @property
    def snapshot(self) -> Snapshot:
        """The verified metadata."""
        return self.ledger.snapshot

    def key(self, key_id: KeyId) -> KeyMetadata:
        """Return the CMK or raise KeyNotFoundError."""
        return (self.ledger.latest or self.ledger.reload()).shown_key(key_id)

    def managed_key(self) -> KeyMetadata:
        """Return the key ``alias/aws/kmsfs``, made now if the region has none yet."""
        try:
            if MANAGED_ALIAS not in self.ledger.reload().aliases:
                self.lifecycle.create(MANAGED_DESCRIPTION, MANAGED_ALIAS, KeyManager.AWS)
        except AlreadyExistsError:
            self.ledger.reload()  # another process was first
        return self.key(self.alias_target(MANAGED_ALIAS))

    def alias_target(self, name: str) -> KeyId:
        """Return the id of the key that an alias points at."""
        return self.snapshot.alias(name).target_key_id

    def require_token(self) -> None:
        """Raise an HsmError if the token does not answer now."""
        self._small_call()

    # --- use ------------------------------------------------------------------------------------
    def current(self, key_id: KeyId, operation: Operation) -> MaterialEntry:
        """Return what the key encrypts with now, or raise what refuses this use of it."""
        snapshot = self.ledger.latest or self.ledger.reload()
        return snapshot.materials[self.require_use(snapshot.shown_key(key_id), operation)]

    def seal(
        self, entry: MaterialEntry, operation: Operation, plaintext: bytes, context: bytes
    ) -> tuple[bytes, KeyArn, MaterialId]:
        """Return the blob of ``plaintext`` under that material or newer one, and what it is under.

        Whether the key may be used is not asked: ``current`` did.
        """
        key, material_id, suite = entry.key, entry.material.material_id, entry.material.suite
        try:
            if suite is _HSM_GCM:
                self._counters[material_id].take()
            nonce = random_bytes(NONCE_SIZES[suite])
            return seal(self.hsm, entry, nonce, plaintext, context), key.arn, material_id
        except KeyExhaustedError:
            if key.origin is Origin.EXTERNAL:
                raise  # new material has to be brought
        except HsmError as error:
            self.nearness.note(error)
            raise
        rotated = self._rotated(key)
        return self.seal(self.current(rotated.key_id, operation), operation, plaintext, context)

    def _rotated(self, key: KeyMetadata) -> KeyMetadata:
        try:
            return self.lifecycle.rotate(key, RotationType.AUTOMATIC)
        except HsmError as error:
            self.nearness.note(error)
            raise

    def entry(self, material_id: MaterialId) -> MaterialEntry:
        """Return the key and material that a blob names, or raise UnknownMaterialError."""
        entry = (self.ledger.latest or self.ledger.reload()).materials.get(material_id)
        if entry is None or entry.key.manager is _OWNED:
            raise UnknownMaterialError(
                f"key material {material_id.hex()} is not in region {self.config.region}",
                hint="the blob is of another region or keystore, or its key was deleted",
            )
        if entry.material.retirement is not None:
            raise UnknownMaterialError(
                f"key material {material_id.hex()} of key {entry.key.arn} was retired",
                hint="what is still under it cannot be decrypted any more",
            )
        return entry

    def open(self, entry: MaterialEntry, blob: Blob, context: bytes) -> bytes:
        """Return the plaintext of a blob that names that material.

        Whether the key may be used is not asked: that is for ``require_use`` before.
        """
        try:
            return open_blob(self.hsm, entry, blob, context)
        except IntegrityError:
            raise _not_authentic() from None
        except HsmError as error:
            self.nearness.note(error)
            raise

    def mac(self, key: KeyMetadata, operation: Operation, algorithm: str, message: bytes) -> bytes:
        """Return the MAC of a message under a MAC key."""
        material_id = self.require_use(key, operation)
        return self.hsm.hmac(material_id, message, mac_digest(key, algorithm))

    def require_use(self, key: KeyMetadata, operation: Operation) -> MaterialId:
        """Return the key's current material, or raise what refuses the use of the key."""
        if (key.usage, key.state, operation) not in ALLOWED_USES:
            check_use(key, operation)
        for material in key.materials:  # not to wait for who destroys it
            if material.expires_at is not None and material.expires_at <= self._now():
                raise KeyPendingImportError(
                    f"key {key.arn}: imported material has expired", hint="import it again"
                )
        if key.current_material_id is None:
            raise KeyPendingImportError(f"key {key.arn} has no material yet")
        return key.current_material_id

    def _small_call(self) -> None:
        self.ledger.snapshot  # noqa: B018 - a region that answers again has its metadata read
        self.hsm.hmac(integrity_key_id(self.config.region), b"kmsfs speed")


def _not_authentic() -> InvalidCiphertextError:
    return InvalidCiphertextError(
        "ciphertext blob is damaged or foreign, or its encryption context is another one",
        hint="decrypting takes the encryption context that the blob was made with, pair by pair",
    )
