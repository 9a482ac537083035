"""Whether a use of a key may begin, and what it then works with: the part of ``Keystore`` between naming and using.

What was admitted stands as long as the region's metadata are those that it was found in, if nothing but them can take
it back: no policy that looks at the request, no material that expires. Each change of the metadata is a new snapshot.
"""

from collections.abc import Mapping

from kmsfs.errors import (
    FormatError,
    IncorrectKeyError,
    InvalidCiphertextError,
    InvalidRequestError,
    KeyNotFoundError,
    RegionNotFoundError,
    UnknownMaterialError,
)
from kmsfs.format.blob import Blob, parse_blob
from kmsfs.format.context import encode_context
from kmsfs.ids import KeyArn, KeyId, MaterialId
from kmsfs.keystore.authorize import NO_CONTEXT
from kmsfs.keystore.policy.context import merge, parameter
from kmsfs.keystore.policy.patterns import Context
from kmsfs.keystore.recording import Recording
from kmsfs.keystore.region import RegionService
from kmsfs.keystore.regions import find_reference
from kmsfs.keystore.snapshot import MaterialEntry
from kmsfs.keystore.stand_ins import MULTI_REGION_MARK, StandIns
from kmsfs.keystore.transitions import Purpose


class Admission(StandIns):
    """Admits uses of keys. A refusal is recorded."""

    def _admit(
        self,
        purpose: Purpose,
        service: RegionService,
        key_id: KeyId,
        context: Mapping[str, str],
        ref: str,
        parameters: Context,
    ) -> MaterialEntry:
        """Return what a key, which the request names ``ref``, encrypts with now, if it may be used so."""
        entry = (service.ledger.latest or service.ledger.reload()).admitted.get((purpose, key_id))
        if entry is None:
            parameters = merge(parameters, named_by(ref))
            with self.audits.refusal(purpose, service, key_id, context, parameters):
                entry = service.current(key_id, purpose.operation)
            self._keep(purpose, service, key_id, entry)
        return entry

    def _admit_blob(
        self,
        purpose: Purpose,
        blob: Blob,
        context: Mapping[str, str],
        ref: str | None,
        region: str | None,
        moves_to: KeyArn | None,
    ) -> tuple[RegionService, MaterialEntry]:
        """Return what a blob is under, and where, if it may be decrypted; ``ref`` is the only key that will do."""
        service = self._service_of_blob(blob, region)
        _, key_arn, material_id = blob.head
        entry = (service.ledger.latest or service.ledger.reload()).admitted.get((purpose, material_id))
        if entry is None or entry.key.arn != key_arn or not (ref is None or ref == key_arn):
            parameters = NO_CONTEXT if ref is None else named_by(ref)
            if ref is not None and region is None:
                ref = self.serving_key(ref)
            with self.audits.refusal(purpose, service, None, context, parameters) as use:
                use.moves_to = moves_to
                entry = self._entry_of(service, blob, ref, use)
                service.require_use(entry.key, purpose.operation)
            self._keep(purpose, service, material_id, entry)
        return service, entry

    def _keep(
        self, purpose: Purpose, service: RegionService, by: KeyId | MaterialId, entry: MaterialEntry
    ) -> None:
        """Let an admission stand, if it was given by the metadata that are the latest now and depends on them alone."""
        key, snapshot = entry.key, service.snapshot
        if (
            snapshot.materials.get(entry.material.material_id) is entry
            and all(material.expires_at is None for material in key.materials)
            and self.standing.holds(snapshot, purpose.action, key.key_id)
        ):
            snapshot.admitted[purpose, by] = entry

    def _service_of_blob(self, blob: Blob, region: str | None) -> RegionService:
        """Return the region that the request names, or else the blob: where to look, and nothing more."""
        if region is not None:
            return self._fresh_service(region)
        key_arn = blob.head.key_arn
        try:
            if MULTI_REGION_MARK in key_arn:
                key_arn = self.serving_key(key_arn)
            named = find_reference(key_arn).region
            if named is not None:
                return self._fresh_service(named)
        except RegionNotFoundError as error:
            raise KeyNotFoundError(f"key {key_arn}: {error}", hint=error.hint) from error
        except InvalidRequestError:
            pass
        raise InvalidCiphertextError("ciphertext blob names no key ARN")

    def _entry_of(
        self, service: RegionService, blob: Blob, ref: str | None, use: Recording | None = None
    ) -> MaterialEntry:
        """Return what a blob is under; ``use`` learns of the key before it can turn out to be the wrong one."""
        material_id = blob.head.material_id
        try:
            entry = service.entry(material_id)
        except UnknownMaterialError:
            self._catch_up()  # another process may have made it just now
            entry = service.entry(material_id)
        if entry.key.primary_region is not None and blob.head.key_arn not in entry.prefixes:
            self._catch_up()  # another process may have replicated the key to that region
            entry = service.entry(material_id)
        if use is not None:
            use.found(entry.key)
        if ref is not None and self._locate(ref, service.config.region)[1] != entry.key.key_id:
            raise IncorrectKeyError(
                f"ciphertext blob is not under the key {ref}", hint=f"it is under {entry.key.arn}"
            )
        return entry


def named_by(ref: str) -> Context:
    """Return the condition key of the alias by which a request names a key, if it does."""
    try:
        alias = find_reference(ref).alias
    except InvalidRequestError:  # for who looks for the key to say
        return NO_CONTEXT
    return NO_CONTEXT if alias is None else parameter("kms:RequestAlias", alias)


def checked(blob: bytes, context: Mapping[str, str]) -> tuple[Blob, bytes]:
    """Parse a blob and encode its context, or raise InvalidCiphertextError or InvalidRequestError."""
    try:
        return parse_blob(blob), encode_context(context)
    except FormatError:
        return checked_blob(blob), checked_context(context)  # says which of the two it is


def checked_blob(blob: bytes) -> Blob:
    """Parse a blob or raise InvalidCiphertextError."""
    try:
        return parse_blob(blob)
    except FormatError as error:
        raise InvalidCiphertextError(f"ciphertext blob: {error}") from error


def checked_context(context: Mapping[str, str]) -> bytes:
    """Encode a context or raise InvalidRequestError."""
    try:
        return encode_context(context)
    except FormatError as error:
        raise InvalidRequestError(str(error)) from error
