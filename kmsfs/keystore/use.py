"""Data keys, encryption, decryption, re-encryption: the part of ``Keystore`` that uses keys."""

import math
from collections.abc import Iterable, Mapping, Sequence

from kmsfs.crypto.entropy import random_bytes
from kmsfs.crypto.kdf import equal
from kmsfs.errors import (
    InvalidCiphertextError,
    InvalidMacError,
    InvalidRequestError,
    KmsfsError,
    UnknownMaterialError,
)
from kmsfs.format.blob import MAX_PLAINTEXT_SIZE
from kmsfs.ids import KeyArn, KeyId, MaterialId
from kmsfs.keystore.admission import Admission, checked, checked_blob, checked_context, named_by
from kmsfs.keystore.authorize import NO_CONTEXT, NOTHING
from kmsfs.keystore.model import KeyMetadata
from kmsfs.keystore.policy.context import merge, parameter
from kmsfs.keystore.policy.patterns import Context
from kmsfs.keystore.region import RegionService
from kmsfs.keystore.regions import find_reference
from kmsfs.keystore.results import DecryptResult, EncryptResult, GeneratedDataKey, ReEncryptResult
from kmsfs.keystore.snapshot import MaterialEntry
from kmsfs.keystore.transitions import Operation, Purpose

MAX_DATA_KEY_SIZE = 1024
_GENERATE_DATA_KEY = Purpose("GenerateDataKey", Operation.GENERATE_DATA_KEY)
_WITHOUT_PLAINTEXT = Purpose("GenerateDataKeyWithoutPlaintext", Operation.GENERATE_DATA_KEY)
_ENCRYPT = Purpose("Encrypt", Operation.ENCRYPT)
_DECRYPT = Purpose("Decrypt", Operation.DECRYPT)
_RE_ENCRYPT_FROM = Purpose("ReEncryptFrom", Operation.DECRYPT)
_RE_ENCRYPT_TO = Purpose("ReEncryptTo", Operation.ENCRYPT)
_UNWRAP = Purpose("Decrypt", Operation.DECRYPT, counted=True)
_UNWRAP_TO_REWRAP = Purpose("ReEncryptFrom", Operation.DECRYPT, counted=True)
_REWRAP = Purpose("ReEncryptTo", Operation.ENCRYPT, counted=True)
_new = tuple.__new__  # what the constructor of a named tuple, a function of Python, calls


class KeyUse(Admission):
    """The use of keys, by reference or by ciphertext blob."""

    def generate_data_key(
        self,
        ref: str,
        context: Mapping[str, str],
        *,
        region: str | None = None,
        length: int = 32,
        for_use: bool = True,
    ) -> GeneratedDataKey:
        """Return ``length`` new random bytes, clear and wrapped; not ``for_use``: the caller drops the clear ones."""
        if not 1 <= length <= MAX_DATA_KEY_SIZE:
            raise InvalidRequestError(f"data key length must be 1 to {MAX_DATA_KEY_SIZE} bytes, not {length}")
        plaintext = random_bytes(length)
        purpose = _GENERATE_DATA_KEY if for_use else _WITHOUT_PLAINTEXT
        sealed = self._encrypt(purpose, ref, plaintext, context, region)
        return _new(GeneratedDataKey, (plaintext, *sealed))

    def generate_data_keys(
        self, key_arn: str, contexts: Sequence[Mapping[str, str]]
    ) -> list[GeneratedDataKey]:
        """Return a data key of 32 bytes for each context; one record counts them and holds what they share."""
        encoded_contexts = [checked_context(context) for context in contexts]
        service, key_id = self._locate(self.serving_key(key_arn), None)
        made: list[GeneratedDataKey] = []
        with self.audits.uses(service, "GenerateDataKey", key_id, contexts) as use:
            try:
                made += (_new_data_key(service, key_id, context, 32) for context in encoded_contexts)
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
        encoded_contexts = [checked_context(context) for context in contexts]
        service, key_id = self._locate(self.serving_key(key_arn), None)
        made: list[EncryptResult] = []
        with self.audits.uses(service, action, key_id, contexts) as use:
            try:
                for data_key, context in zip(data_keys, encoded_contexts, strict=True):
                    entry = service.current(key_id, Operation.ENCRYPT)
                    sealed = service.seal(entry, Operation.ENCRYPT, data_key, context)
                    made.append(_new(EncryptResult, sealed))
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
        with self.audits.uses(service, "ReEncryptFrom", key_id, contexts) as use:
            try:
                for blob, context in zip(blobs, contexts, strict=True):
                    opened.append(_opened(service, key_id, blob, context))
            finally:
                use.uses = len(opened)
        return opened

    def encrypt(
        self, ref: str, plaintext: bytes, context: Mapping[str, str], *, region: str | None = None
    ) -> EncryptResult:
        """Encrypt 1 to 4096 bytes under a CMK."""
        return _new(EncryptResult, self._encrypt(_ENCRYPT, ref, plaintext, context, region))

    def decrypt(
        self,
        blob: bytes,
        context: Mapping[str, str],
        *,
        ref: str | None = None,
        region: str | None = None,
    ) -> DecryptResult:
        """Decrypt a blob; ``ref`` names the only key that is acceptable."""
        plaintext, entry = self._decrypt(_DECRYPT, blob, context, ref, region)
        return _new(DecryptResult, (plaintext, entry.key.arn, entry.material.material_id))

    def generate_mac(self, ref: str, message: bytes, algorithm: str, *, region: str | None = None) -> bytes:
        """Return the MAC of 1 to 4096 bytes under a MAC key; ``algorithm`` is AWS's name of the key's own."""
        service, key_id = self._locate(ref, region)
        with self.audits.use(service, "GenerateMac", key_id, {}, _mac_parameters(ref, algorithm)):
            return _mac(service, key_id, message, algorithm, Operation.GENERATE_MAC)

    def verify_mac(
        self, ref: str, message: bytes, algorithm: str, mac: bytes, *, region: str | None = None
    ) -> None:
        """Raise InvalidMacError unless ``mac`` is that of the message."""
        service, key_id = self._locate(ref, region)
        with self.audits.use(service, "VerifyMac", key_id, {}, _mac_parameters(ref, algorithm)):
            found = _mac(service, key_id, message, algorithm, Operation.VERIFY_MAC)
            if not equal(found, mac):
                raise InvalidMacError(f"MAC is not that of the message under {service.key(key_id).arn}")

    def key_of_blob(self, blob: bytes, *, ref: str | None = None, region: str | None = None) -> KeyMetadata:
        """Return the CMK that a blob is under, without opening it; ``ref`` as for ``decrypt``."""
        named = checked_blob(blob)
        return self._entry_of(self._service_of_blob(named, region), named, ref).key

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
        service, key_id = self._locate(destination_ref, region)
        moves_to = service.key(key_id).arn
        plaintext, source = self._decrypt(
            _RE_ENCRYPT_FROM, blob, source_context, source_ref, source_region, moves_to
        )
        wanted = merge(
            named_by(destination_ref), parameter("kms:ReEncryptOnSameKey", source.key.arn == moves_to)
        )
        target = self._encrypt(_RE_ENCRYPT_TO, moves_to, plaintext, destination_context, region, wanted)
        return ReEncryptResult(*target, source.key.arn, source.material.material_id)

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
        return self._decrypt(_UNWRAP, blob, context, ref, None)[0]

    def unwrap_to_rewrap(self, blob: bytes, context: Mapping[str, str], *, ref: str) -> bytes:
        """Return the data key of a file that gets new slots: counted like ``unwrap``, as one half of a ReEncrypt."""
        return self._decrypt(_UNWRAP_TO_REWRAP, blob, context, ref, None)[0]

    def rewrap(self, key_arn: str, data_key: bytes, context: Mapping[str, str]) -> EncryptResult:
        """Wrap the data key of a file anew: the other half."""
        return _new(EncryptResult, self._encrypt(_REWRAP, self.serving_key(key_arn), data_key, context, None))

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

    def _encrypt(
        self,
        purpose: Purpose,
        ref: str,
        plaintext: bytes,
        context: Mapping[str, str],
        region: str | None,
        parameters: Context = NO_CONTEXT,
    ) -> tuple[bytes, KeyArn, MaterialId]:
        if not 1 <= len(plaintext) <= MAX_PLAINTEXT_SIZE:
            raise InvalidRequestError(
                f"plaintext must be 1 to {MAX_PLAINTEXT_SIZE} bytes, not {len(plaintext)}",
                hint="encrypt larger data under a data key: kmsfs generate-data-key",
            )
        encoded = checked_context(context)
        service, key_id = self._locate(ref, region)
        entry = self._admit(purpose, service, key_id, context, ref, parameters)
        use = service.seal, entry, purpose.operation, plaintext, encoded
        return self.audits.recorded(purpose, service, entry.key.arn, context, *use)

    def _decrypt(
        self,
        purpose: Purpose,
        blob: bytes,
        context: Mapping[str, str],
        ref: str | None,
        region: str | None,
        moves_to: KeyArn | None = None,
    ) -> tuple[bytes, MaterialEntry]:
        named, encoded = checked(blob, context)
        service, entry = self._admit_blob(purpose, named, context, ref, region, moves_to)
        use = service.open, entry, named, encoded
        return self.audits.recorded(purpose, service, entry.key.arn, context, *use), entry


def _new_data_key(service: RegionService, key_id: KeyId, context: bytes, length: int) -> GeneratedDataKey:
    plaintext, operation = random_bytes(length), Operation.GENERATE_DATA_KEY
    sealed = service.seal(service.current(key_id, operation), operation, plaintext, context)
    return _new(GeneratedDataKey, (plaintext, *sealed))


def _opened(service: RegionService, key_id: KeyId, blob: bytes, context: Mapping[str, str]) -> bytes | None:
    try:
        named, encoded_context = checked(blob, context)
        entry = service.entry(named.head.material_id)
        if entry.key.key_id != key_id:
            return None
        service.require_use(entry.key, Operation.DECRYPT)
        return service.open(entry, named, encoded_context)
    except (InvalidCiphertextError, UnknownMaterialError):
        return None


def _mac_parameters(ref: str, algorithm: str) -> Context:
    return merge(named_by(ref), parameter("kms:MacAlgorithm", algorithm))


def _mac(
    service: RegionService, key_id: KeyId, message: bytes, algorithm: str, operation: Operation
) -> bytes:
    if not 1 <= len(message) <= MAX_PLAINTEXT_SIZE:
        raise InvalidRequestError(f"message must be 1 to {MAX_PLAINTEXT_SIZE} bytes, not {len(message)}")
    return service.mac(service.key(key_id), operation, algorithm, message)
