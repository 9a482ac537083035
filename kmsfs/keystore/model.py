"""The values of the key management service. Frozen; plaintext never shows in a repr."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from kmsfs.format.blob import Suite
from kmsfs.ids import KeyArn, KeyId, MaterialId, Region
from kmsfs.keystore.arn import key_arn
from kmsfs.keystore.policy.grants import Grant


class KeyState(StrEnum):
    """AWS's names of a CMK's states."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"
    PENDING_DELETION = "PendingDeletion"
    PENDING_REPLICA_DELETION = (
        "PendingReplicaDeletion"  # of a primary: its days count when no replica is left
    )
    PENDING_IMPORT = "PendingImport"


PENDING_DELETIONS: Final = frozenset({KeyState.PENDING_DELETION, KeyState.PENDING_REPLICA_DELETION})


class KeyManager(StrEnum):
    """Who manages a CMK."""

    CUSTOMER = "CUSTOMER"
    AWS = "AWS"
    OWNED = "OWNED"  # the keystore's own: hidden from every listing


class KeyUsage(StrEnum):
    """What a CMK is for."""

    ENCRYPT_DECRYPT = "ENCRYPT_DECRYPT"
    GENERATE_VERIFY_MAC = "GENERATE_VERIFY_MAC"


class KeySpec(StrEnum):
    """What kind of key the material of a CMK is."""

    SYMMETRIC_DEFAULT = "SYMMETRIC_DEFAULT"
    HMAC_224 = "HMAC_224"
    HMAC_256 = "HMAC_256"
    HMAC_384 = "HMAC_384"
    HMAC_512 = "HMAC_512"


class Origin(StrEnum):
    """Where the material of a CMK comes from."""

    AWS_KMS = "AWS_KMS"  # made in the token
    EXTERNAL = "EXTERNAL"  # imported


class ImportState(StrEnum):
    """What keeps a material from being used, although its key has it."""

    REMOVING = "Removing"  # it expired or was deleted; its object is being destroyed
    MISSING = "Missing"  # its object is destroyed; the very same may be imported again
    PENDING_ROTATION = "PendingRotation"  # imported, and becomes the current one at the next rotation
    DROPPING = "Dropping"  # as Removing, before it ever was the current one: its row goes with it


class Retirement(StrEnum):
    """How far material that nothing needs any more is gone. Nothing decrypts under it from the start."""

    RETIRING = "Retiring"  # its object is being destroyed
    RETIRED = "Retired"  # its object is destroyed; the row stays


class RotationType(StrEnum):
    """Why a CMK was given new material."""

    AUTOMATIC = "AUTOMATIC"
    ON_DEMAND = "ON_DEMAND"


@dataclass(frozen=True, slots=True)
class RegionConfig:
    """One region and the token that holds its keys. ``token_dir`` is set for an embedded SoftHSM token."""

    region: Region
    module: Path
    token_label: str
    pin_file: Path | None
    suite: Suite
    account: str
    token_dir: Path | None

    def to_json(self) -> dict[str, object]:
        """Return what ``kmsfs region list --json`` prints of this region."""
        return {
            "region": self.region,
            "module": str(self.module),
            "token_label": self.token_label,
            "suite": int(self.suite),
            "account": self.account,
            "embedded": self.token_dir is not None,
        }


@dataclass(frozen=True, slots=True)
class Material:
    """One version of a CMK: an object in the token whose CKA_ID is ``material_id``."""

    material_id: MaterialId
    suite: Suite
    created_at: float
    rotation_type: RotationType | None = None  # None: the first one
    expires_at: float | None = None
    import_state: ImportState | None = None
    description: str | None = None
    sealed: str | None = field(default=None, repr=False)
    retirement: Retirement | None = None


@dataclass(frozen=True, slots=True)
class KeyMetadata:
    """A CMK as its metadata rows, once verified, describe it."""

    key_id: KeyId
    arn: KeyArn
    region: Region
    account: str
    description: str
    state: KeyState
    manager: KeyManager
    created_at: float
    current_material_id: MaterialId | None  # None until the first import
    materials: tuple[Material, ...]
    deletion_at: float | None = None
    rotation_period_days: int | None = None
    next_rotation_at: float | None = None
    usage: KeyUsage = KeyUsage.ENCRYPT_DECRYPT
    spec: KeySpec = KeySpec.SYMMETRIC_DEFAULT
    origin: Origin = Origin.AWS_KMS
    primary_region: Region | None = None  # None: no multi-region key
    replica_regions: tuple[Region, ...] = ()
    former_regions: tuple[Region, ...] = ()  # that had a replica: what was encrypted there still decrypts
    deletion_days: int | None = None  # while replicas are waited for

    def to_aws(self) -> dict[str, object]:
        """Return AWS's KeyMetadata structure."""
        return {
            **self._dates(),
            **self._algorithms(),
            **self._relations(),
            "AWSAccountId": self.account,
            "KeyId": self.key_id,
            "Arn": self.arn,
            "CreationDate": self.created_at,
            "Enabled": self.state is KeyState.ENABLED,
            "Description": self.description,
            "KeyUsage": self.usage.value,
            "KeyState": self.state.value,
            "Origin": self.origin.value,
            "KeyManager": self.manager.value,
            "KeySpec": self.spec.value,
            "CustomerMasterKeySpec": self.spec.value,
        }

    def _dates(self) -> dict[str, object]:
        found: dict[str, object] = {}
        if self.deletion_at is not None:
            found["DeletionDate"] = self.deletion_at
        if self.deletion_days is not None:
            found["PendingDeletionWindowInDays"] = self.deletion_days
        current = self.current_material
        if self.origin is Origin.EXTERNAL and current is not None and current.import_state is None:
            found |= _expiration(current)
        return found

    def _algorithms(self) -> dict[str, object]:
        if self.usage is KeyUsage.GENERATE_VERIFY_MAC:
            return {"MacAlgorithms": [self.spec.value.replace("HMAC_", "HMAC_SHA_")]}
        found: dict[str, object] = {"EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"]}
        if self.current_material_id is not None:
            found["CurrentKeyMaterialId"] = self.current_material_id.hex()
        return found

    def _relations(self) -> dict[str, object]:
        if self.primary_region is None:
            return {"MultiRegion": False}
        shown = [{"Arn": self.arn_in(region), "Region": region} for region in self.related_regions]
        return {
            "MultiRegion": True,
            "MultiRegionConfiguration": {
                "MultiRegionKeyType": "PRIMARY" if self.is_primary else "REPLICA",
                "PrimaryKey": shown[0],
                "ReplicaKeys": shown[1:],
            },
        }

    @property
    def is_primary(self) -> bool:
        """Whether this is the one of several related keys that may be replicated and rotated."""
        return self.primary_region == self.region

    @property
    def is_replica(self) -> bool:
        """Whether this is a related key of a primary in another region."""
        return self.primary_region is not None and not self.is_primary

    @property
    def related_regions(self) -> tuple[Region, ...]:
        """The regions of a multi-region key, that of the primary first; none for another key."""
        return () if self.primary_region is None else (self.primary_region, *self.replica_regions)

    def arn_in(self, region: Region) -> KeyArn:
        """Return the ARN of the related key of another region."""
        return key_arn(region, self.account, self.key_id)

    @property
    def pending_material(self) -> Material | None:
        """The material that a multi-region key encrypts under as soon as all its regions have it."""
        newest = self.materials[-1] if self.materials and self.primary_region is not None else None
        return None if newest is None or newest.material_id == self.current_material_id else newest

    @property
    def lacks_material(self) -> bool:
        """Whether something must be imported before the key can be used."""
        if self.origin is not Origin.EXTERNAL:
            return False
        gone = (ImportState.REMOVING, ImportState.MISSING)
        return self.current_material_id is None or any(m.import_state in gone for m in self.materials)

    @property
    def current_material(self) -> Material | None:
        """The material that the key encrypts under."""
        return next((m for m in self.materials if m.material_id == self.current_material_id), None)

    @property
    def rotates(self) -> bool:
        """Whether automatic rotation is on; not while deletion is pending, but again if the key is kept."""
        return self.rotation_period_days is not None and self.state not in PENDING_DELETIONS

    def rotation_status(self) -> dict[str, object]:
        """Return AWS's answer to GetKeyRotationStatus."""
        status: dict[str, object] = {"KeyId": self.key_id, "KeyRotationEnabled": self.rotates}
        if self.rotates:
            status |= {
                "RotationPeriodInDays": self.rotation_period_days,
                "NextRotationDate": self.next_rotation_at,
            }
        return status

    def rotations(self, *, with_first: bool = False) -> list[dict[str, object]]:
        """Return AWS's RotationsListEntry structures, oldest first; the first material is no rotation."""
        return [
            self._rotation(material)
            for material in self.materials
            if (with_first or material.rotation_type is not None) and material != self.pending_material
        ]

    def _rotation(self, material: Material) -> dict[str, object]:
        current = material.material_id == self.current_material_id
        waits = material.import_state in (ImportState.PENDING_ROTATION, ImportState.DROPPING)
        entry: dict[str, object] = {
            "KeyId": self.key_id,
            "KeyMaterialId": material.material_id.hex(),
            "KeyMaterialState": "CURRENT" if current else "PENDING_ROTATION" if waits else "NON_CURRENT",
        }
        if self.origin is Origin.EXTERNAL:
            entry |= _import_facts(material)
        if material.rotation_type is not None:
            entry |= {"RotationDate": material.created_at, "RotationType": material.rotation_type.value}
        return entry


def _expiration(material: Material) -> dict[str, object]:
    if material.expires_at is None:
        return {"ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"}
    return {"ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": material.expires_at}


def _import_facts(material: Material) -> dict[str, object]:
    facts: dict[str, object] = {}
    if material.description is not None:
        facts["KeyMaterialDescription"] = material.description
    if material.import_state in (None, ImportState.PENDING_ROTATION):
        return {**facts, "ImportState": "IMPORTED", **_expiration(material)}
    return {**facts, "ImportState": "PENDING_IMPORT"}


@dataclass(frozen=True, slots=True)
class AliasEntry:
    """A display name that points at a CMK of the same region."""

    name: str
    arn: str
    region: Region
    target_key_id: KeyId
    created_at: float
    updated_at: float

    def to_aws(self) -> dict[str, object]:
        """Return AWS's AliasListEntry structure."""
        return {
            "AliasName": self.name,
            "AliasArn": self.arn,
            "TargetKeyId": self.target_key_id,
            "CreationDate": self.created_at,
            "LastUpdatedDate": self.updated_at,
        }


@dataclass(frozen=True, slots=True)
class UserEntry:
    """A principal of the account beside its root. The account's regions hold the same ones."""

    name: str
    user_id: str
    arn: str
    created_at: float

    def to_aws(self) -> dict[str, object]:
        """Return AWS's User structure."""
        return {
            "Path": "/",
            "UserName": self.name,
            "UserId": self.user_id,
            "Arn": self.arn,
            "CreateDate": self.created_at,
        }


@dataclass(frozen=True, slots=True)
class GrantEntry:
    """A grant as it stands on its key."""

    grant: Grant
    key_id: KeyId
    key_arn: KeyArn
    account_arn: str  # the account that made it
    name: str | None
    created_at: float

    def to_aws(self) -> dict[str, object]:
        """Return AWS's GrantListEntry structure."""
        grant = self.grant
        entry: dict[str, object] = {
            "KeyId": self.key_arn,
            "GrantId": grant.grant_id,
            "CreationDate": self.created_at,
            "GranteePrincipal": grant.grantee,
            "IssuingAccount": self.account_arn,
            "Operations": sorted(grant.operations),
        }
        if self.name is not None:
            entry["Name"] = self.name
        if grant.retiring_principal is not None:
            entry["RetiringPrincipal"] = grant.retiring_principal
        constraints = {
            "EncryptionContextEquals": grant.constraints.equals,
            "EncryptionContextSubset": grant.constraints.subset,
        }
        given = {name: dict(pairs) for name, pairs in constraints.items() if pairs is not None}
        return {**entry, "Constraints": given} if given else entry


@dataclass(frozen=True, slots=True)
class CredentialEntry:
    """An access key as a region's metadata hold it."""

    access_key_id: str
    principal: str
    sealed_secret: str = field(repr=False)
    created_at: float

    def to_aws(self) -> dict[str, object]:
        """Return AWS's AccessKeyMetadata structure."""
        return {
            "UserName": self.principal,
            "AccessKeyId": self.access_key_id,
            "Status": "Active",
            "CreateDate": self.created_at,
        }


@dataclass(frozen=True, slots=True)
class NewCredential:
    """A new access key with its secret, which is shown this once."""

    access_key_id: str
    secret: str = field(repr=False)

    def to_aws(self) -> dict[str, object]:
        """Return what ``kmsfs credential create --json`` prints."""
        return {"AccessKeyId": self.access_key_id, "SecretAccessKey": self.secret}
