"""The regions of one KMSFS_HOME as they are now, and how a key in one of them is named.

A region's metadata is read, and its module loaded, when one of its keys is first needed. Every answer comes from
verified metadata; another process's changes show after ``refresh``, which every use asks for once a second.
Everything that uses or changes a key is recorded (audits.py); what cannot be recorded is refused.
"""

import logging
import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock, RLock
from typing import TypeVar

from kmsfs.errors import (
    AliasNotFoundError,
    InvalidRequestError,
    KeyNotFoundError,
    KmsfsError,
    RegionNotFoundError,
)
from kmsfs.ids import KeyId, Region
from kmsfs.keystore import provision
from kmsfs.keystore.arn import KeyReference, parse_reference
from kmsfs.keystore.audits import Audits
from kmsfs.keystore.home import load_region, region_names
from kmsfs.keystore.model import KeyMetadata, RegionConfig
from kmsfs.keystore.multi_region import MultiRegion
from kmsfs.keystore.region import RegionService
from kmsfs.keystore.standing import Standing
from kmsfs.keystore.stores import open_store

REFRESH_INTERVAL_S = 1.0
SWEEP_RETRY_S = 60.0

T = TypeVar("T")

_log = logging.getLogger(__name__)
find_reference = lru_cache(maxsize=1024)(parse_reference)


class Regions:
    """All regions of a home. Thread-safe."""

    def __init__(self, home: Path, *, via: str, principal: str, now: Callable[[], float]) -> None:
        self.home = home.absolute()
        self._store = open_store(self.home)
        self._now = now
        self._lock = RLock()
        self._services: dict[str, RegionService] = {}
        self.standing = Standing(principal, via, now)
        permit = self.standing.require if self.standing.asks else None
        # also counts and keeps what a process records that stays
        self.audits = Audits(self.home, via, principal, permit=permit)
        self._refreshed_at = 0.0
        self._stale: set[str] = set()  # regions whose metadata changed and were not read since
        self._sweep_after: dict[str, float] = {}
        self._sweeping = Lock()
        self._multi_region = MultiRegion(self._service, partial(provision.exclusive, self.home), now)

    def close(self) -> None:
        """Log out of every token and release the metadata store."""
        with self._lock:
            self.audits.close()
            for service in self._services.values():
                service.hsm.close()
            self._services.clear()
            self._store.close()

    def regions(self) -> list[RegionConfig]:
        """Return the configured regions; needs neither module nor metadata."""
        return [load_region(self.home, name) for name in region_names(self.home)]

    def resolve(self, ref: str, *, region: str | None = None) -> KeyMetadata:
        """Return the CMK that a key ARN, alias ARN, ``alias/NAME`` or key id names."""

        def find() -> KeyMetadata:
            service, key_id = self._locate(ref, region)
            return service.key(key_id)

        return self._perhaps_new(find)

    def _perhaps_new(self, find: Callable[[], T]) -> T:
        """Find what another process may have made since the metadata were last read."""
        try:
            return find()
        except (KeyNotFoundError, AliasNotFoundError):
            self._catch_up()
            return find()

    def refresh(self) -> bool:
        """Read the metadata again if another process changed it; return whether anything differs.

        Raises why a region's metadata cannot be read, once the others have been.
        """
        differs, failures = self._catch_up()
        if failures:
            raise failures[0]
        return differs

    def _catch_up(self) -> tuple[bool, list[KmsfsError]]:
        """Do the same for who needs one region: one that fails is refused when it is used, and holds no other back."""
        failures: list[KmsfsError] = []
        differs = False
        with self._lock:
            read = [service for service in self._services.values() if service.ledger.counter is not None]
            if read and self._store.changed():
                self._stale.update(service.config.region for service in read)
            for service in read:
                try:
                    differs = self._reread(service) or differs
                except KmsfsError as error:
                    failures.append(error)
            self._refreshed_at = time.monotonic()
        for service in read:  # without the lock: nobody who uses a key waits for what is due
            self._sweep(service)
        return differs, failures

    def _reread(self, service: RegionService) -> bool:
        """Read a region's metadata again if that is still to be done; return whether anything differs."""
        region = service.config.region
        with self._lock:
            if region not in self._stale:
                return False
            before = service.ledger.counter
            after = service.ledger.reload().counter
            self._stale.discard(region)  # sticky: a reload that failed must not hide the change from the next
            return before != after

    def _sweep(self, service: RegionService) -> None:
        """Do what is due in a region; if that fails, use goes on and it is tried again in a minute."""
        region = service.config.region
        if not service.lifecycle.is_due() or time.monotonic() < self._sweep_after.get(region, 0.0):
            return
        if not self._sweeping.acquire(blocking=False):
            return  # another thread is at it
        try:
            service.lifecycle.sweep()
        except KmsfsError as error:
            self._sweep_after[region] = time.monotonic() + SWEEP_RETRY_S
            _log.warning("region %s: what is due cannot be done: %s", region, error)
        finally:
            self._sweeping.release()

    def _locate(self, ref: str, region: str | None) -> tuple[RegionService, KeyId]:
        named = find_reference(ref)
        where: str | None = named.region
        if where is None or region not in (None, where):
            where = self._region_for(named, ref, region)
        service = self._fresh_service(where)
        if named.account is not None and named.account != service.config.account:
            missing = KeyNotFoundError if named.alias is None else AliasNotFoundError
            raise missing(f"{ref} is of another account", hint="kmsfs key list shows the keys")
        if named.key_id is not None:
            return service, named.key_id
        return service, service.alias_target(str(named.alias))

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
            self._catch_up()
        service = self._services.get(region) or self._service(region)
        if region in self._stale:
            self._reread(service)
            self._sweep(service)  # a command that ends at once gets to see what is due here only
        return service

    def _fresh_services(self, region: str | None) -> list[RegionService]:
        self._catch_up()
        return [self._fresh_service(service.config.region) for service in self._services_of(region)]

    def _service(self, region: str) -> RegionService:
        with self._lock:
            service = self._services.get(region)
            if service is None:
                config = load_region(self.home, region)
                service = RegionService(config, provision.connect(self.home, config), self._store, self._now)
                service.lifecycle.relatives = self._multi_region
                self.audits.add(service)
                self._services[region] = service
                self._stale.add(config.region)
            return service

    def _services_of(self, region: str | None) -> list[RegionService]:
        names = region_names(self.home) if region is None else [Region(region)]
        return [self._service(name) for name in names]
