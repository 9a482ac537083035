"""Access keys: who may sign requests to the server.

A secret lies in the metadata only sealed, under a key of the region's token that no listing shows: a stolen
database does not yield it. Access keys belong to the account, rows to a region: every region holds its own
copy, and a request is verified with that of its region, so that whoever holds one region's token cannot make
up an access key of another.
"""

import base64
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from kmsfs.crypto.entropy import random_bytes
from kmsfs.errors import IntegrityError, KmsfsError, PrincipalNotFoundError, RegionNotFoundError
from kmsfs.keystore.arn import ROOT
from kmsfs.keystore.audits import Audits
from kmsfs.keystore.ledger import Changes
from kmsfs.keystore.model import CredentialEntry, NewCredential
from kmsfs.keystore.principals import require_user
from kmsfs.keystore.region import RegionService
from kmsfs.keystore.rows import credential_values
from kmsfs.keystore.sealing import CREDENTIAL_KEY
from kmsfs.keystore.snapshot import Snapshot

if TYPE_CHECKING:
    from kmsfs.ids import Region

ACCESS_KEY_PREFIX: Final = "AKIA"
SECRET_BYTES: Final = 30
_ID_BYTES: Final = 10

_log = logging.getLogger(__name__)


class Credentials:
    """The access keys of one keystore. Thread-safe."""

    def __init__(self, services: Callable[[], Sequence[RegionService]], audits: Audits) -> None:
        self._services = services
        self._audits = audits
        self._unsealed: dict[tuple[Region, str, str], bytes] = {}

    def create(self, principal: str = ROOT) -> NewCredential:
        """Make an access key of the account's root, or of a user who is there, in every region."""
        services = self._services()
        if not services:
            raise RegionNotFoundError("no region is configured", hint="kmsfs region add REGION")
        access_key_id = ACCESS_KEY_PREFIX + base64.b32encode(random_bytes(_ID_BYTES)).decode()
        secret = base64.b64encode(random_bytes(SECRET_BYTES)).decode()
        now = time.time()
        for service in services:
            details = {"access_key_id": access_key_id, "user": principal}
            with self._audits.change(service, "iam:CreateAccessKey", None, **details):
                self._put(service, access_key_id, principal, secret.encode(), now)
        return NewCredential(access_key_id, secret)

    def list(self) -> list[CredentialEntry]:
        """Return the access keys of all regions, oldest first."""
        found: dict[str, CredentialEntry] = {}
        for service in self._services():
            found |= service.snapshot.credentials
        return sorted(found.values(), key=lambda entry: (entry.created_at, entry.access_key_id))

    def delete(self, access_key_id: str) -> None:
        """Remove an access key from every region; requests signed with it are refused from then on."""
        found, failures = False, list[KmsfsError]()
        gone = Changes(deletes=[("credentials", access_key_id)])
        for service in self._services():
            try:
                if access_key_id in service.snapshot.credentials:
                    found = True
                    with self._audits.change(
                        service, "iam:DeleteAccessKey", None, access_key_id=access_key_id
                    ):
                        service.ledger.commit(lambda _: gone)
            except KmsfsError as error:  # no use of it in the other regions waits for that one
                failures.append(error)
        if failures:
            raise failures[0]
        if not found:
            raise PrincipalNotFoundError(
                f"access key {access_key_id} does not exist", hint="kmsfs credential list shows them"
            )

    def copy_to(self, service: RegionService) -> None:
        """Give a new region the access keys that the others have."""
        for other in self._services():
            for entry in other.snapshot.credentials.values():
                if other is not service and entry.access_key_id not in service.snapshot.credentials:
                    secret = self._unseal(other, entry)
                    self._put(service, entry.access_key_id, entry.principal, secret, entry.created_at)

    def secrets(self) -> Mapping[tuple[str, str], bytes]:
        """Return the secrets by (access key id, region); a region that cannot answer has none."""
        found: dict[tuple[str, str], bytes] = {}
        for service in self._services():
            region = service.config.region
            try:
                for name, entry in service.snapshot.credentials.items():
                    found[name, region] = self._unseal(service, entry)
            except KmsfsError as error:
                _log.warning("access keys of region %s cannot be read: %s", region, error)
        return found

    def _put(
        self, service: RegionService, access_key_id: str, principal: str, secret: bytes, now: float
    ) -> None:
        region = service.config.region
        sealed = CREDENTIAL_KEY.seal(service.hsm, region, secret, access_key_id=access_key_id)
        entry = CredentialEntry(access_key_id, principal, sealed, now)

        def decide(snapshot: Snapshot) -> Changes:
            if principal != ROOT:
                require_user(snapshot, principal)  # else it would wait for a user made later
            return Changes(puts=[("credentials", credential_values(snapshot.region, entry))])

        service.ledger.commit(decide)

    def _unseal(self, service: RegionService, entry: CredentialEntry) -> bytes:
        name = (service.config.region, entry.access_key_id, entry.sealed_secret)
        secret = self._unsealed.get(name)
        if secret is None:
            secret = self._unsealed[name] = _open(service, entry)
        return secret


def _open(service: RegionService, entry: CredentialEntry) -> bytes:
    name = entry.access_key_id
    try:
        return CREDENTIAL_KEY.open(
            service.hsm, service.config.region, entry.sealed_secret, access_key_id=name
        )
    except IntegrityError:
        raise IntegrityError(f"secret of access key {name} is not authentic") from None
