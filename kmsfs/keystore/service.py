"""The key management service of one KMSFS_HOME.

Opening it is cheap: see regions.py. Thread-safe.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from kmsfs.keystore import provision
from kmsfs.keystore.administration import Administration
from kmsfs.keystore.arn import ROOT, check_region
from kmsfs.keystore.audit_verify import SegmentFinding
from kmsfs.keystore.checks import check_keystore
from kmsfs.keystore.credentials import Credentials
from kmsfs.keystore.finding import Finding
from kmsfs.keystore.imports import Imports
from kmsfs.keystore.model import RegionConfig
from kmsfs.keystore.permissions import Permissions
from kmsfs.keystore.principals import Principals
from kmsfs.keystore.region import RegionService
from kmsfs.keystore.replication import Replication
from kmsfs.keystore.reports import Reports
from kmsfs.keystore.use import KeyUse


class Keystore(Administration, Imports, Replication, Permissions, Reports, KeyUse):
    """All regions of a home. Use as a context manager, or call ``close``."""

    def __init__(
        self,
        home: Path,
        *,
        via: str = "cli",
        principal: str = ROOT,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(home, via=via, principal=principal, now=now)
        services = partial(self._services_of, None)
        exclusive = partial(provision.exclusive, self.home)
        self.principals = Principals(services, exclusive, self.audits)
        self.credentials = Credentials(services, self.audits)

    @classmethod
    def open(
        cls,
        home: Path,
        *,
        via: str = "cli",
        principal: str = ROOT,
        now: Callable[[], float] = time.time,
    ) -> Self:
        """Return the keystore of ``home``; reads nothing yet.

        ``via`` is what this process is (standing.py), ``principal`` on whose behalf it uses keys, ``now`` the
        clock of what becomes due.
        """
        return cls(home, via=via, principal=principal, now=now)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add_region(
        self,
        region: str,
        *,
        module: Path | None = None,
        token_label: str | None = None,
        pin_file: Path | None = None,
    ) -> RegionConfig:
        """Set up a region on a token of ``module``; without one, on a new embedded SoftHSM token."""
        return provision.add_region(
            self.home,
            self._store,
            check_region(region),
            module=module,
            token_label=token_label,
            pin_file=pin_file,
            populate=self._populate,
        )

    def _populate(self, service: RegionService) -> None:
        self.principals.copy_to(service)
        self.credentials.copy_to(service)

    def check(self) -> list[Finding]:
        """Examine every region and return what was found; changes nothing."""
        return check_keystore(self.home, self._service)

    def verify_audit(self, region: str | None = None) -> list[SegmentFinding]:
        """Check the audit log of one region or of all; changes nothing."""
        return [found for service in self._services_of(region) for found in self.audits.verify(service)]
