"""Signatures on reports, under a key pair that each region's token keeps for that: the part of ``Keystore`` for it.

The pair is made when it is first needed. Its public half is never taken on trust: it is what verifies a signature that
the private half has just made, so that nobody can slip in another by exchanging an object of the token.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from kmsfs.crypto import signatures
from kmsfs.crypto.entropy import random_bytes
from kmsfs.errors import InsecureKeyError, IntegrityError, KeyNotFoundError, UnsupportedOperationError
from kmsfs.ids import Region
from kmsfs.keystore import provision
from kmsfs.keystore.region import RegionService, report_key_id
from kmsfs.keystore.regions import Regions

DIGEST_SIZE: Final = 32
LABEL_PREFIX: Final = "kmsfs:reports:"


@dataclass(frozen=True, slots=True)
class ReportKey:
    """The public key of a region's reports (SubjectPublicKeyInfo, DER)."""

    region: Region
    der: bytes

    @property
    def pem(self) -> bytes:
        """It as a PEM file."""
        return signatures.pem(self.der)

    @property
    def fingerprint(self) -> str:
        """Its SHA-256 in hex, for people to compare."""
        return signatures.fingerprint(self.der)


class Reports(Regions):
    """What is signed on behalf of a region."""

    def report_key(self, region: str | None = None) -> ReportKey:
        """Return the public key of a region's reports; the pair is made if the token has none."""
        service = self._fresh_service(self._region_or_only(region))
        with self.audits.change(service, "kmsfs:GetReportKey", None) as change:
            self._require_pair(service)
            key = _sign(service, random_bytes(DIGEST_SIZE))[0]
            change.details = {"key": key.fingerprint}
        return key

    def sign_report(self, region: str, digest: bytes) -> tuple[ReportKey, bytes]:
        """Return the signature (ECDSA, DER) of a report whose SHA-256 is ``digest``, and the key that verifies it."""
        service = self._fresh_service(region)
        with self.audits.change(service, "kmsfs:SignReport", None, sha256=digest.hex()) as change:
            self._require_pair(service)
            key, signature = _sign(service, digest)
            change.details = {**change.details, "key": key.fingerprint}
        return key, signature

    def verify_report(self, region: str, digest: bytes, signature: bytes) -> ReportKey:
        """Return the region's key if it signed a report of that SHA-256, or raise IntegrityError."""
        service = self._fresh_service(region)
        with self.audits.change(service, "kmsfs:VerifyReport", None, sha256=digest.hex()):
            if not service.hsm.holds(report_key_id(service.config.region)):
                raise KeyNotFoundError(
                    f"region {region} has no report key: it signed no report",
                    hint="the report is of another keystore, or the token was set back to an older backup",
                )
            key = _sign(service, random_bytes(DIGEST_SIZE))[0]
            signatures.verify(key.der, digest, signature)
        return key

    def _require_pair(self, service: RegionService) -> None:
        """Make the region's key pair unless the token holds it."""
        hsm, region = service.hsm, service.config.region
        if hsm.holds(report_key_id(region)):
            return
        if not hsm.offers_signatures():
            raise UnsupportedOperationError(
                f"module {service.config.module} does not offer ECDSA on P-256: "
                f"region {region} cannot sign reports"
            )
        with self._alone_with_token(service):
            if not hsm.holds(report_key_id(region)):
                hsm.destroy(report_key_id(region))  # half a pair that a crash has left
                hsm.generate_pair(report_key_id(region), LABEL_PREFIX + region)

    @contextmanager
    def _alone_with_token(self, service: RegionService) -> Iterator[None]:
        """Hold back whoever could make the same pair: two of one id would both be refused."""
        with (
            provision.exclusive(self.home),
            self._store.exclusively(),
            service.lifecycle.materials.one_process(),
        ):
            yield


def _sign(service: RegionService, digest: bytes) -> tuple[ReportKey, bytes]:
    """Return the region's public key and a signature of ``digest`` that it verifies."""
    hsm, region = service.hsm, service.config.region
    object_id = report_key_id(region)
    signature = signatures.encode(hsm.sign(object_id, digest))
    try:
        key = ReportKey(region, signatures.public_key_der(hsm.public_key(object_id)))
        signatures.verify(key.der, digest, signature)
    except IntegrityError:
        raise InsecureKeyError(
            f"public report key in the token of region {region} is not that of the private one",
            hint="somebody replaced it: restore the token from its backup",
        ) from None
    return key, signature
