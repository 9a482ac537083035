"""Importing key material by reference: the part of ``Keystore`` for it.

The RSA key under which material travels is made for one import and kept by nobody: the private key lies in the import
token that the caller holds, sealed under an owned key of the region's token. The material is in this process's
memory from when it is unwrapped until the token has it: no module need know the RSA scheme.
"""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from struct import Struct
from typing import Final

from kmsfs.crypto.transport import ALGORITHMS, new_transport_key, unwrap
from kmsfs.errors import (
    ExpiredImportTokenError,
    IntegrityError,
    InvalidCiphertextError,
    InvalidImportTokenError,
    UnsupportedOperationError,
)
from kmsfs.ids import KeyArn, MaterialId
from kmsfs.keystore import provision
from kmsfs.keystore.imported import Arrival
from kmsfs.keystore.model import KeyMetadata, Material
from kmsfs.keystore.policy.context import Values, merge, parameter
from kmsfs.keystore.region import RegionService
from kmsfs.keystore.regions import Regions
from kmsfs.keystore.sealing import IMPORT_KEY, MIN_SEALED_SIZE
from kmsfs.keystore.transitions import Operation

TOKEN_VALIDITY_S: Final = 86_400
WRAPPING_KEY_BITS: Final = {"RSA_2048": 2048, "RSA_3072": 3072, "RSA_4096": 4096}
_EXPIRY: Final = Struct(">d")


@dataclass(frozen=True, slots=True)
class ImportParameters:
    """What one import takes: a public key to wrap under, and the token that opens it here."""

    key_arn: KeyArn
    token: bytes = field(repr=False)
    public_key: bytes
    valid_to: float


class Imports(Regions):
    """Key material that people bring."""

    def import_parameters(
        self, ref: str, algorithm: str, wrapping_key_spec: str, *, region: str | None = None
    ) -> ImportParameters:
        """Make a wrapping key for importing material into a key; it is good for 24 hours."""
        bits = WRAPPING_KEY_BITS.get(wrapping_key_spec)
        if bits is None or algorithm not in ALGORITHMS:
            raise UnsupportedOperationError(
                f"wrapping with {algorithm} under {wrapping_key_spec} is not supported"
            )
        service, key_id = self._locate(ref, region)
        wanted = merge(
            parameter("kms:WrappingAlgorithm", algorithm),
            parameter("kms:WrappingKeySpec", wrapping_key_spec),
        )
        with self.audits.change(service, "GetParametersForImport", key_id, wanted):
            imported = service.lifecycle.imported
            key = imported.require(service.snapshot, key_id, Operation.GET_IMPORT_PARAMETERS)
            with provision.exclusive(self.home):
                IMPORT_KEY.make(service.hsm, service.config.region)
            private, public = new_transport_key(bits)
            valid_to = self._now() + TOKEN_VALIDITY_S
            secret = _EXPIRY.pack(valid_to) + algorithm.encode() + b"\0" + private
            sealed = IMPORT_KEY.seal(service.hsm, service.config.region, secret, key_id=key_id)
        return ImportParameters(key.arn, bytes.fromhex(sealed), public, valid_to)

    def import_wrapped_material(
        self, ref: str, token: bytes, wrapped: bytes, arrival: Arrival, *, region: str | None = None
    ) -> Material:
        """Import material that was wrapped under the public key that came with ``token``."""
        service, key_id = self._locate(ref, region)
        with self.audits.change(service, "ImportKeyMaterial", key_id, _parameters(arrival)) as change:
            key = service.lifecycle.imported.require(service.snapshot, key_id, Operation.IMPORT_MATERIAL)
            value = self._unwrapped(service, key, token, wrapped)
            material = service.lifecycle.imported.put(key_id, replace(arrival, value=value))
            change.details = _details(material)
        return material

    def import_material(self, ref: str, arrival: Arrival, *, region: str | None = None) -> Material:
        """Import material that this process has in the clear."""
        service, key_id = self._locate(ref, region)
        with self.audits.change(service, "ImportKeyMaterial", key_id, _parameters(arrival)) as change:
            material = service.lifecycle.imported.put(key_id, arrival)
            change.details = _details(material)
        return material

    def delete_imported_material(
        self, ref: str, material_id: MaterialId | None = None, *, region: str | None = None
    ) -> KeyMetadata:
        """Destroy imported material in the token; the key can be used again once the very same is imported."""
        service, key_id = self._locate(ref, region)
        named = {} if material_id is None else {"material": material_id.hex()}
        with self.audits.change(service, "DeleteImportedKeyMaterial", key_id, **named):
            return service.lifecycle.imported.remove(key_id, material_id)

    def _unwrapped(self, service: RegionService, key: KeyMetadata, token: bytes, wrapped: bytes) -> bytes:
        region = service.config.region
        if len(token) < MIN_SEALED_SIZE or not service.hsm.holds(IMPORT_KEY.object_id(region)):
            raise _foreign_token(key)
        try:
            secret = IMPORT_KEY.open(service.hsm, region, token.hex(), key_id=key.key_id)
        except IntegrityError:
            raise _foreign_token(key) from None
        algorithm, _, private = secret[_EXPIRY.size :].partition(b"\0")
        if _EXPIRY.unpack_from(secret)[0] <= self._now():
            raise ExpiredImportTokenError(f"import token for key {key.arn} has expired")
        try:
            return unwrap(private, algorithm.decode(), wrapped)
        except IntegrityError as error:
            raise InvalidCiphertextError(f"key material for {key.arn}: {error}") from None


def _foreign_token(key: KeyMetadata) -> InvalidImportTokenError:
    return InvalidImportTokenError(f"import token is not one for key {key.arn}")


def _parameters(arrival: Arrival) -> Values:
    """Return the condition keys that stand for what is asked for."""
    if arrival.expires_at is None:
        return parameter("kms:ExpirationModel", "KEY_MATERIAL_DOES_NOT_EXPIRE")
    valid_to = datetime.fromtimestamp(arrival.expires_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return merge(parameter("kms:ExpirationModel", "KEY_MATERIAL_EXPIRES"), parameter("kms:ValidTo", valid_to))


def _details(material: Material) -> dict[str, str]:
    expiry = {} if material.expires_at is None else {"expires_at": str(material.expires_at)}
    return {"material": material.material_id.hex(), **expiry}
