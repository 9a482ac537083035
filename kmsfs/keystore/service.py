"""The key management service of one KMSFS_HOME.

Opening it is cheap: a region's metadata is read, and its module loaded, when one of its keys is first needed.
Thread-safe. Every answer comes from verified metadata; another process's changes show after ``refresh``,
which every use asks for once a second by itself.
"""

import logging
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Self

from kmsfs.crypto.entropy import random_bytes
from kmsfs.errors import (
    FormatError,
    IncorrectKeyError,
    InvalidCiphertextError,
    InvalidRequestError,
    KeyNotFoundError,
    KmsfsError,
    RegionNotFoundError,
)
from kmsfs.format.blob import MAX_PLAINTEXT_SIZE, Blob, parse_blob
from kmsfs.format.context import encode_context
from kmsfs.ids import KeyArn, KeyId, MaterialId, Region
from kmsfs.keystore import provision
from kmsfs.keystore.administration import Administration, check_description
from kmsfs.keystore.arn import KeyReference, check_region, parse_reference
from kmsfs.keystore.checks import check_keystore
from kmsfs.keystore.credentials import Credentials
from kmsfs.keystore.home import load_region, metadata_path, region_names
from kmsfs.keystore.metadata_db import SqliteMetadataStore
from kmsfs.keystore.model import (
    AliasEntry,
    DecryptResult,
    EncryptResult,
    Finding,
    GeneratedDataKey,
    KeyManager,
    KeyMetadata,
    ReEncryptResult,
    RegionConfig,
)
from kmsfs.keystore.region import RegionService
from kmsfs.keystore.snapshot import MaterialEntry
from kmsfs.keystore.transitions import Operation, next_state

REFRESH_INTERVAL_S = 1.0
SWEEP_RETRY_S = 60.0
MAX_DATA_KEY_SIZE = 1024

_log = logging.getLogger(__name__)
_parse_reference = lru_cache(maxsize=1024)(parse_reference)


class Keystore(Administration):
    """All regions of a home. Use as a context manager, or call ``close``."""

    def __init__(self, home: Path, *, now: Callable[[], float] = time.time) -> None:
        self.home = home.absolute()
        self._store = SqliteMetadataStore(metadata_path(self.home))
        self._now = now
        self._lock = RLock()
        self._services: dict[str, RegionService] = {}
        self._refreshed_at = 0.0
        self._stale = False
        self.credentials = Credentials(self.home, lambda: self._services_of(None))
        self._sweep_after = 0.0

    @classmethod
    def open(cls, home: Path, *, now: Callable[[], float] = time.time) -> Self:
        """Return the keystore of ``home``; reads nothing yet. ``now`` is the clock of what becomes due."""
        return cls(home, now=now)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Log out of every token and release the metadata store."""
        with self._lock:
            for service in self._services.values():
                service.hsm.close()
            self._services.clear()
            self._store.close()

    # --- regions --------------------------------------------------------------------------------
    def regions(self) -> list[RegionConfig]:
        """Return the configured regions; needs neither module nor metadata."""
        return [load_region(self.home, name) for name in region_names(self.home)]

    def add_region(
        self,
        region: str,
        *,
        module: Path | None = None,
        token_label: str | None = None,
        pin_file: Path | None = None,
    ) -> RegionConfig:
        """Set up a region on a token of ``module``; without one, on a new embedded SoftHSM token."""
        config = provision.add_region(
            self.home,
            self._store,
            check_region(region),
            module=module,
            token_label=token_label,
            pin_file=pin_file,
        )
        self.credentials.copy_to(self._service(config.region))
        return config

    # --- keys -----------------------------------------------------------------------------------
    def create_key(self, region: str, *, description: str = "", alias: str | None = None) -> KeyMetadata:
        """Generate a CMK in the region's token, and its alias if one is named."""
        check_description(description)
        return self._service(region).lifecycle.create(description, alias)

    def describe_key(self, ref: str, *, region: str | None = None) -> KeyMetadata:
        """Return the CMK that ``ref`` names, as it is now."""
        self.refresh()
        return self.resolve(ref, region=region)

    def list_keys(self, region: str | None = None) -> list[KeyMetadata]:
        """Return the CMKs of one region or of all, oldest first within each."""
        self.refresh()
        keys = [
            [key for key in service.snapshot.keys.values() if key.manager is not KeyManager.OWNED]
            for service in self._services_of(region)
        ]
        return [key for found in keys for key in sorted(found, key=lambda key: (key.created_at, key.key_id))]

    def enable_key(self, ref: str, *, region: str | None = None) -> KeyMetadata:
        """Enable a CMK."""
        return self._change_state(ref, region, Operation.ENABLE)

    def disable_key(self, ref: str, *, region: str | None = None) -> KeyMetadata:
        """Disable a CMK: nothing is encrypted or decrypted under it until it is enabled again."""
        return self._change_state(ref, region, Operation.DISABLE)

    def resolve(self, ref: str, *, region: str | None = None) -> KeyMetadata:
        """Return the CMK that a key ARN, alias ARN, ``alias/NAME`` or key id names."""
        service, key_id = self._locate(ref, region)
        return service.key(key_id)

    def managed_key(self, region: str | None = None) -> KeyMetadata:
        """Return the region's key for trees that name none, made the first time."""
        return self._fresh_service(self._region_or_only(region)).managed_key()

    # --- aliases --------------------------------------------------------------------------------
    def create_alias(self, name: str, target_ref: str, *, region: str | None = None) -> AliasEntry:
        """Point a new alias at a key of the same region."""
        service, key_id = self._locate(target_ref, region)
        return service.aliases.create(name, key_id)

    def update_alias(self, name: str, target_ref: str, *, region: str | None = None) -> AliasEntry:
        """Point an alias at another key of the same region."""
        service, key_id = self._locate(target_ref, region)
        return service.aliases.update(name, key_id)

    def delete_alias(self, name: str, *, region: str | None = None) -> None:
        """Remove an alias; its key stays."""
        self._service(self._region_or_only(region)).aliases.delete(name)

    def list_aliases(self, region: str | None = None) -> list[AliasEntry]:
        """Return the aliases of one region or of all, by name within each."""
        self.refresh()
        aliases = [service.snapshot.aliases for service in self._services_of(region)]
        return [found[name] for found in aliases for name in sorted(found)]

    # --- use ------------------------------------------------------------------------------------
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

    def refresh(self) -> bool:
        """Read the metadata again if another process changed it; return whether anything differs."""
        with self._lock:
            read = [service for service in self._services.values() if service.ledger.counter is not None]
            differs = False
            if read:
                # sticky: a reload that fails must not hide the change from the next call
                self._stale = self._store.changed() or self._stale
                if self._stale:
                    before = [service.ledger.counter for service in read]
                    differs = before != [service.ledger.reload().counter for service in read]
                    self._stale = False
            self._refreshed_at = time.monotonic()
            for service in read:
                self._sweep(service)
            return differs

    def _sweep(self, service: RegionService) -> None:
        """Do what is due in a region; if that fails, use goes on and it is tried again in a minute."""
        if time.monotonic() < self._sweep_after:
            return
        try:
            service.lifecycle.sweep()
        except KmsfsError as error:
            self._sweep_after = time.monotonic() + SWEEP_RETRY_S
            _log.warning("region %s: what is due cannot be done: %s", service.config.region, error)

    def is_fast(self, key_arn: str) -> bool:
        """Return whether the key's token answers within a millisecond, so that calls may be made inline."""
        service, _ = self._locate(key_arn, None)
        return service.is_fast()

    @property
    def hsm_calls(self) -> int:
        """How many cryptographic operations this keystore has asked of its tokens."""
        with self._lock:
            return sum(service.hsm.calls for service in self._services.values())

    def check(self) -> list[Finding]:
        """Examine every region and return what was found; changes nothing."""
        return check_keystore(self.home, self._service)

    # --- inside ---------------------------------------------------------------------------------
    def _seal(
        self, ref: str, region: str | None, operation: Operation, plaintext: bytes, context: Mapping[str, str]
    ) -> tuple[bytes, KeyArn, MaterialId]:
        encoded = _encoded(context)
        service, key_id = self._locate(ref, region)
        return service.seal(service.key(key_id), operation, plaintext, encoded)

    def _change_state(self, ref: str, region: str | None, operation: Operation) -> KeyMetadata:
        service, key_id = self._locate(ref, region)
        return service.lifecycle.change_state(key_id, operation)

    def _locate(self, ref: str, region: str | None) -> tuple[RegionService, KeyId]:
        named = _parse_reference(ref)
        service = self._fresh_service(self._region_for(named, ref, region))
        if named.account is not None and named.account != service.config.account:
            raise KeyNotFoundError(f"{ref} is of another account", hint="kmsfs key list shows the keys")
        if named.key_id is not None:
            return service, named.key_id
        return service, service.alias_target(str(named.alias))

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
            region = _parse_reference(key_arn).region
            if region is not None:
                return self._fresh_service(region)
        except RegionNotFoundError as error:
            raise KeyNotFoundError(f"key {key_arn}: {error}", hint=error.hint) from error
        except InvalidRequestError:
            pass
        raise InvalidCiphertextError("ciphertext blob names no key ARN")

    def _region_for(self, named: KeyReference, ref: str, region: str | None) -> str:
        if named.region is None:
            return self._region_or_only(region)
        if region is not None and region != named.region:
            raise KeyNotFoundError(f"{ref} is not a key of region {region}", hint="name a key of that region")
        return named.region

    def _region_or_only(self, region: str | None) -> str:
        if region is not None:
            return region
        names = region_names(self.home)
        if len(names) == 1:
            return names[0]
        if not names:
            raise RegionNotFoundError("no region is configured", hint="kmsfs region add REGION")
        raise InvalidRequestError(
            "several regions are configured", hint="name the key by its ARN, or give --region"
        )

    def _fresh_service(self, region: str) -> RegionService:
        if time.monotonic() - self._refreshed_at > REFRESH_INTERVAL_S:
            self.refresh()
        return self._services.get(region) or self._service(region)

    def _service(self, region: str) -> RegionService:
        with self._lock:
            service = self._services.get(region)
            if service is None:
                config = load_region(self.home, region)
                service = RegionService(config, provision.connect(self.home, config), self._store, self._now)
                self._services[region] = service
            return service

    def _services_of(self, region: str | None) -> list[RegionService]:
        names = region_names(self.home) if region is None else [Region(region)]
        return [self._service(name) for name in names]


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
