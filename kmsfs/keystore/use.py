"""Data keys, encryption, decryption, re-encryption: the part of ``Keystore`` that uses keys."""

from collections.abc import Mapping

from kmsfs.crypto.entropy import random_bytes
from kmsfs.errors import (
    FormatError,
    IncorrectKeyError,
    InvalidCiphertextError,
    InvalidRequestError,
    KeyNotFoundError,
    RegionNotFoundError,
)
from kmsfs.format.blob import MAX_PLAINTEXT_SIZE, Blob, parse_blob
from kmsfs.format.context import encode_context
from kmsfs.ids import KeyArn, MaterialId
from kmsfs.keystore.model import DecryptResult, EncryptResult, GeneratedDataKey, KeyMetadata, ReEncryptResult
from kmsfs.keystore.region import RegionService
from kmsfs.keystore.regions import Regions, find_reference
from kmsfs.keystore.snapshot import MaterialEntry
from kmsfs.keystore.transitions import Operation, next_state

MAX_DATA_KEY_SIZE = 1024


class KeyUse(Regions):
    """The use of keys, by reference or by ciphertext blob."""

    def generate_data_key(
        self, ref: str, context: Mapping[str, str], *, region: str | None = None, length: int = 32
    ) -> GeneratedDataKey:
        """Return ``length`` new random bytes, clear and wrapped."""
        if not 1 <= length <= MAX_DATA_KEY_SIZE:
            raise InvalidRequestError(f"data key length must be 1 to {MAX_DATA_KEY_SIZE} bytes, not {length}")
        plaintext = random_bytes(length)
        blob, arn, material_id = self._seal(ref, region, Operation.GENERATE_DATA_KEY, plaintext, context)
        return GeneratedDataKey(plaintext, blob, arn, material_id)

    def encrypt(
        self, ref: str, plaintext: bytes, context: Mapping[str, str], *, region: str | None = None
    ) -> EncryptResult:
        """Encrypt 1 to 4096 bytes under a CMK."""
        if not 1 <= len(plaintext) <= MAX_PLAINTEXT_SIZE:
            raise InvalidRequestError(
                f"plaintext must be 1 to {MAX_PLAINTEXT_SIZE} bytes, not {len(plaintext)}",
                hint="encrypt larger data under a data key: kmsfs generate-data-key",
            )
        return EncryptResult(*self._seal(ref, region, Operation.ENCRYPT, plaintext, context))

    def decrypt(
        self, blob: bytes, context: Mapping[str, str], *, ref: str | None = None, region: str | None = None
    ) -> DecryptResult:
        """Decrypt a blob; ``ref`` names the only key that is acceptable."""
        parsed = _parsed(blob)
        encoded = _encoded(context)
        service, entry = self._entry_of(parsed, ref, region)
        plaintext = service.open(entry, parsed, encoded)
        return DecryptResult(plaintext, entry.key.arn, entry.material.material_id)

    def key_of_blob(self, blob: bytes, *, ref: str | None = None, region: str | None = None) -> KeyMetadata:
        """Return the CMK that a blob is under, without opening it; ``ref`` as for ``decrypt``."""
        return self._entry_of(_parsed(blob), ref, region)[1].key

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
        source = self.decrypt(blob, source_context, ref=source_ref, region=source_region)
        target = self.encrypt(destination_ref, source.plaintext, destination_context, region=region)
        return ReEncryptResult(
            target.blob, target.key_arn, target.material_id, source.key_arn, source.material_id
        )

    # --- for the file system --------------------------------------------------------------------
    def check_usable(self, key_arn: str) -> None:
        """Raise if the key cannot decrypt now. No HSM call once the region's metadata is read."""
        service, key_id = self._locate(key_arn, None)
        key = service.key(key_id)
        next_state(key.state, Operation.DECRYPT, key.arn)
        service.hsm.check_present()

    def is_fast(self, key_arn: str) -> bool:
        """Return whether the key's token answers within a millisecond, so that calls may be made inline."""
        service, _ = self._locate(key_arn, None)
        return service.is_fast()

    @property
    def hsm_calls(self) -> int:
        """How many cryptographic operations this keystore has asked of its tokens."""
        with self._lock:
            return sum(service.hsm.calls for service in self._services.values())

    # --- inside ---------------------------------------------------------------------------------
    def _seal(
        self, ref: str, region: str | None, operation: Operation, plaintext: bytes, context: Mapping[str, str]
    ) -> tuple[bytes, KeyArn, MaterialId]:
        encoded = _encoded(context)
        service, key_id = self._locate(ref, region)
        return service.seal(service.key(key_id), operation, plaintext, encoded)

    def _entry_of(
        self, parsed: Blob, ref: str | None, region: str | None
    ) -> tuple[RegionService, MaterialEntry]:
        service = self._region_of_blob(parsed.head.key_arn) if region is None else self._fresh_service(region)
        entry = service.entry(parsed.head.material_id)
        if ref is not None and self._locate(ref, service.config.region)[1] != entry.key.key_id:
            raise IncorrectKeyError(f"ciphertext blob is not under the key {ref}")
        return service, entry

    def _region_of_blob(self, key_arn: KeyArn) -> RegionService:
        """Return the region that a blob names: where to look, and nothing more."""
        try:
            region = find_reference(key_arn).region
            if region is not None:
                return self._fresh_service(region)
        except RegionNotFoundError as error:
            raise KeyNotFoundError(f"key {key_arn}: {error}", hint=error.hint) from error
        except InvalidRequestError:
            pass
        raise InvalidCiphertextError("ciphertext blob names no key ARN")


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
