"""Data keys, encryption, decryption, re-encryption: the part of ``Keystore`` that uses keys."""

import math
from collections.abc import Iterable, Mapping, Sequence

from kmsfs.crypto.entropy import random_bytes
from kmsfs.crypto.kdf import equal
from kmsfs.errors import (
    FormatError,
    IncorrectKeyError,
    InvalidCiphertextError,
    InvalidMacError,
    InvalidRequestError,
    KeyNotFoundError,
    KmsfsError,
    RegionNotFoundError,
    UnknownMaterialError,
)
from kmsfs.format.blob import MAX_PLAINTEXT_SIZE, Blob, parse_blob
from kmsfs.format.context import encode_context
from kmsfs.ids import KeyId
from kmsfs.keystore.audits import shared_pairs
from kmsfs.keystore.authorize import NOTHING
from kmsfs.keystore.model import KeyMetadata
from kmsfs.keystore.recording import Recording
from kmsfs.keystore.region import RegionService
from kmsfs.keystore.regions import find_reference
from kmsfs.keystore.results import DecryptResult, EncryptResult, GeneratedDataKey, ReEncryptResult
from kmsfs.keystore.snapshot import MaterialEntry
from kmsfs.keystore.stand_ins import MULTI_REGION_MARK, StandIns
from kmsfs.keystore.transitions import Operation

MAX_DATA_KEY_SIZE = 1024
_ENCRYPT = Operation.ENCRYPT
_GENERATE = Operation.GENERATE_DATA_KEY
_new = tuple.__new__  # what the constructor of a named tuple, a function of Python, calls


class KeyUse(StandIns):
    """The use of keys, by reference or by ciphertext blob."""

    def generate_data_key(
        self, ref: str, context: Mapping[str, str], *, region: str | None = None, length: int = 32
    ) -> GeneratedDataKey:
        """Return ``length`` new random bytes, clear and wrapped."""
        if not 1 <= length <= MAX_DATA_KEY_SIZE:
            raise InvalidRequestError(f"data key length must be 1 to {MAX_DATA_KEY_SIZE} bytes, not {length}")
        encoded = _encoded(context)
        service, key_id = self._locate(ref, region)
        with self.audits.use(service, "GenerateDataKey", key_id, context):
            return _new_data_key(service, key_id, encoded, length)

    def generate_data_keys(
        self, key_arn: str, contexts: Sequence[Mapping[str, str]]
    ) -> list[GeneratedDataKey]:
        """Return a data key of 32 bytes for each context; one record counts them and holds what they share."""
        encoded = [_encoded(context) for context in contexts]
        service, key_id = self._locate(self.serving_key(key_arn), None)
        made: list[GeneratedDataKey] = []
        with self.audits.use(service, "GenerateDataKey", key_id, shared_pairs(contexts)) as use:
            try:
                made += (_new_data_key(service, key_id, context, 32) for context in encoded)
            finally:
                use.uses = len(made)
        return made

    def wrap_data_keys(
        self,
        key_arn: str,
        data_keys: Sequence[bytes],
        contexts: Sequence[Mapping[str, str]],
        action: str = "Encrypt",
    ) -> list[EncryptResult]:
        """Encrypt every data key in its context; recorded as ``generate_data_keys`` is."""
        encoded = [_encoded(context) for context in contexts]
        service, key_id = self._locate(self.serving_key(key_arn), None)
        made: list[EncryptResult] = []
        with self.audits.use(service, action, key_id, shared_pairs(contexts)) as use:
            try:
                for data_key, context in zip(data_keys, encoded, strict=True):
                    key = service.key(key_id)
                    made.append(EncryptResult(*service.seal(key, Operation.ENCRYPT, data_key, context)))
            finally:
                use.uses = len(made)
        return made

    def unwrap_data_keys(
        self, key_arn: str, blobs: Sequence[bytes], contexts: Sequence[Mapping[str, str]]
    ) -> list[bytes | None]:
        """Decrypt every blob that is under the key, as the first half of a ReEncrypt; recorded once.

        None for one that does not open: ``unwrap_to_rewrap`` says why. Raises what concerns the key or its token.
        """
        service, key_id = self._locate(self.serving_key(key_arn), None)
        opened: list[bytes | None] = []
        with self.audits.use(service, "ReEncryptFrom", key_id, shared_pairs(contexts)) as use:
            try:
                for blob, context in zip(blobs, contexts, strict=True):
                    opened.append(_opened(service, key_id, blob, context))
            finally:
                use.uses = len(opened)
        return opened

    def encrypt(
        self,
        ref: str,
        plaintext: bytes,
        context: Mapping[str, str],
        *,
        region: str | None = None,
        action: str = "Encrypt",
        counted: bool = False,
    ) -> EncryptResult:
        """Encrypt 1 to 4096 bytes under a CMK; recorded as ``action``, or counted as one (``Counting``)."""
        if not 1 <= len(plaintext) <= MAX_PLAINTEXT_SIZE:
            raise InvalidRequestError(
                f"plaintext must be 1 to {MAX_PLAINTEXT_SIZE} bytes, not {len(plaintext)}",
                hint="encrypt larger data under a data key: kmsfs generate-data-key",
            )
        encoded = _encoded(context)
        service, key_id = self._locate(ref, region)
        recording = self.audits.counted_use if counted else self.audits.use
        with recording(service, action, key_id, context):
            return _new(EncryptResult, service.seal(service.key(key_id), _ENCRYPT, plaintext, encoded))

    def decrypt(
        self,
        blob: bytes,
        context: Mapping[str, str],
        *,
        ref: str | None = None,
        region: str | None = None,
        action: str = "Decrypt",
        counted: bool = False,
    ) -> DecryptResult:
        """Decrypt a blob; ``ref`` names the only key that is acceptable. Recorded as ``encrypt`` is."""
        parsed, encoded = _read(blob, context)
        service = self._service_of_blob(parsed, region)
        if ref is not None and region is None:
            ref = self.serving_key(ref)
        recording = self.audits.counted_use if counted else self.audits.use
        with recording(service, action, None, context) as use:
            entry = self._entry_of(service, parsed, ref, use)
            plaintext = service.open(entry, parsed, encoded)
            return _new(DecryptResult, (plaintext, entry.key.arn, entry.material.material_id))

    def generate_mac(self, ref: str, message: bytes, algorithm: str, *, region: str | None = None) -> bytes:
        """Return the MAC of 1 to 4096 bytes under a MAC key; ``algorithm`` is AWS's name of the key's own."""
        service, key_id = self._locate(ref, region)
        with self.audits.use(service, "GenerateMac", key_id, {}):
            return _mac(service, key_id, message, algorithm, Operation.GENERATE_MAC)

    def verify_mac(
        self, ref: str, message: bytes, algorithm: str, mac: bytes, *, region: str | None = None
    ) -> None:
        """Raise InvalidMacError unless ``mac`` is that of the message."""
        service, key_id = self._locate(ref, region)
        with self.audits.use(service, "VerifyMac", key_id, {}):
            found = _mac(service, key_id, message, algorithm, Operation.VERIFY_MAC)
            if not equal(found, mac):
                raise InvalidMacError(f"MAC is not that of the message under {service.key(key_id).arn}")

    def key_of_blob(self, blob: bytes, *, ref: str | None = None, region: str | None = None) -> KeyMetadata:
        """Return the CMK that a blob is under, without opening it; ``ref`` as for ``decrypt``."""
        parsed = _parsed(blob)
        return self._entry_of(self._service_of_blob(parsed, region), parsed, ref).key

    def re_encrypt(
        self,
        blob: bytes,
        source_context: Mapping[str, str],
        destination_ref: str,
        destination_context: Mapping[str, str],
        *,
        region: str | None = None,
        source_ref: str | None = None,
        source_region: str | None = None,
    ) -> ReEncryptResult:
        """Decrypt a blob and encrypt it under another key; ``region`` is that of the destination."""
        source = self.decrypt(
            blob, source_context, ref=source_ref, region=source_region, action="ReEncryptFrom"
        )
        target = self.encrypt(
            destination_ref, source.plaintext, destination_context, region=region, action="ReEncryptTo"
        )
        return ReEncryptResult(
            target.blob, target.key_arn, target.material_id, source.key_arn, source.material_id
        )

    # --- for the file system --------------------------------------------------------------------
    def check_usable(self, key_arn: str, action: str = "Decrypt", pairs: Mapping[str, str] = NOTHING) -> None:
        """Raise if this process cannot, or may not, use the key now for ``action``.

        No HSM call once the region's metadata is read. ``pairs`` are those of the encryption context that policies
        may ask about.
        """
        service, key_id = self._locate(self.serving_key(key_arn), None)
        key = service.key(key_id)
        self.standing.require(service, action, pairs, key_id)
        service.require_use(key, Operation.DECRYPT)
        service.hsm.check_present()
        self.audits.check(service)

    def unwrap(self, blob: bytes, context: Mapping[str, str], *, ref: str) -> bytes:
        """Return the data key of a file that is opened: as ``decrypt``, but counted."""
        return self.decrypt(blob, context, ref=ref, counted=True).plaintext

    def unwrap_to_rewrap(self, blob: bytes, context: Mapping[str, str], *, ref: str) -> bytes:
        """Return the data key of a file that gets new slots: counted like ``unwrap``, as one half of a ReEncrypt."""
        return self.decrypt(blob, context, ref=ref, action="ReEncryptFrom", counted=True).plaintext

    def rewrap(self, key_arn: str, data_key: bytes, context: Mapping[str, str]) -> EncryptResult:
        """Wrap the data key of a file anew: the other half."""
        return self.encrypt(self.serving_key(key_arn), data_key, context, action="ReEncryptTo", counted=True)

    def measure(self, key_arns: Iterable[str]) -> None:
        """Measure how far the tokens of these keys are; see ``Nearness.measure``."""
        for key_arn in key_arns:
            service = self._service_near(key_arn)
            if service is not None:
                service.nearness.measure()

    def measure_again(self) -> None:
        """Measure the tokens that failed, so that they are used again once they answer."""
        with self._lock:
            failed = [service for service in self._services.values() if service.nearness.failed]
        for service in failed:
            service.nearness.measure()

    def distance(self, key_arn: str) -> float:
        """Return how far the key's token is (``Nearness.distance``). No HSM call."""
        service = self._service_near(key_arn)
        return math.inf if service is None else service.nearness.distance

    def is_fast(self, key_arn: str) -> bool:
        """Return whether the key's token is known to answer within a millisecond: calls may be made inline."""
        service = self._service_near(key_arn)
        return service is not None and service.nearness.is_fast

    def unreachable(self, key_arn: str) -> str:
        """Return why the key's token does not answer; empty if nothing is known against it. No HSM call."""
        service = self._service_near(key_arn)
        return "its region is not configured" if service is None else service.nearness.unreachable

    def fast_regions(self) -> frozenset[str]:
        """Return the regions whose token answers within a millisecond; one that cannot answer is not among them."""
        services = self._services_of(None)
        for service in services:
            service.nearness.measure()
        return frozenset(str(service.config.region) for service in services if service.nearness.is_fast)

    @property
    def hsm_calls(self) -> int:
        """How many cryptographic operations this keystore has asked of its tokens."""
        with self._lock:
            return sum(service.hsm.calls for service in self._services.values())

    # --- inside ---------------------------------------------------------------------------------
    def _service_near(self, key_arn: str) -> RegionService | None:
        """Return the region whose key is used, with or without its metadata; None if there is none."""
        try:
            region = find_reference(self.serving_key(key_arn)).region
            return None if region is None else self._services.get(region) or self._service(region)
        except KmsfsError:
            return None

    def _service_of_blob(self, parsed: Blob, region: str | None) -> RegionService:
        """Return the region that the request names, or else the blob: where to look, and nothing more."""
        if region is not None:
            return self._fresh_service(region)
        key_arn = parsed.head.key_arn
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
        self, service: RegionService, parsed: Blob, ref: str | None, use: Recording | None = None
    ) -> MaterialEntry:
        """Return what a blob is under; ``use`` learns of the key before it can turn out to be the wrong one."""
        material_id = parsed.head.material_id
        try:
            entry = service.entry(material_id)
        except UnknownMaterialError:
            self._catch_up()  # another process may have made it just now
            entry = service.entry(material_id)
        if entry.key.primary_region is not None and parsed.head.key_arn not in entry.prefixes:
            self._catch_up()  # another process may have replicated the key to that region
            entry = service.entry(material_id)
        if use is not None:
            use.found(entry.key)
        if ref is not None and self._locate(ref, service.config.region)[1] != entry.key.key_id:
            raise IncorrectKeyError(
                f"ciphertext blob is not under the key {ref}", hint=f"it is under {entry.key.arn}"
            )
        return entry


def _new_data_key(service: RegionService, key_id: KeyId, context: bytes, length: int) -> GeneratedDataKey:
    plaintext = random_bytes(length)
    sealed = service.seal(service.key(key_id), _GENERATE, plaintext, context)
    return _new(GeneratedDataKey, (plaintext, *sealed))


def _opened(service: RegionService, key_id: KeyId, blob: bytes, context: Mapping[str, str]) -> bytes | None:
    try:
        parsed, encoded = _read(blob, context)
        entry = service.entry(parsed.head.material_id)
        return service.open(entry, parsed, encoded) if entry.key.key_id == key_id else None
    except (InvalidCiphertextError, UnknownMaterialError):
        return None


def _mac(
    service: RegionService, key_id: KeyId, message: bytes, algorithm: str, operation: Operation
) -> bytes:
    if not 1 <= len(message) <= MAX_PLAINTEXT_SIZE:
        raise InvalidRequestError(f"message must be 1 to {MAX_PLAINTEXT_SIZE} bytes, not {len(message)}")
    return service.mac(service.key(key_id), operation, algorithm, message)


def _read(blob: bytes, context: Mapping[str, str]) -> tuple[Blob, bytes]:
    try:
        return parse_blob(blob), encode_context(context)
    except FormatError:
        return _parsed(blob), _encoded(context)  # says which of the two it is


def _parsed(blob: bytes) -> Blob:
    try:
        return parse_blob(blob)
    except FormatError as error:
        raise InvalidCiphertextError(f"ciphertext blob: {error}") from error


def _encoded(context: Mapping[str, str]) -> bytes:
    try:
        return encode_context(context)
    except FormatError as error:
        raise InvalidRequestError(str(error)) from error
