"""The key that authenticates a region's audit log: an HMAC key in the token, owned by the keystore.

Regions that were set up before there was one get it when their log is first written.
"""

import fcntl
import os
from pathlib import Path
from typing import Final

from kmsfs.ids import Region
from kmsfs.keystore.audit import audit_key_id
from kmsfs.keystore.home import make_private
from kmsfs.keystore.ports import Hsm, KeyKind

AUDIT_LABEL_PREFIX: Final = "kmsfs:audit:"


def make_audit_key(region: Region, hsm: Hsm) -> None:
    """Make the region's audit key, unless the token holds it."""
    if not hsm.holds(audit_key_id(region)):
        hsm.generate(KeyKind.HMAC, audit_key_id(region), AUDIT_LABEL_PREFIX + region)


def make_audit_key_once(region: Region, hsm: Hsm, directory: Path) -> None:
    """Do the same while other processes may: two keys of one id would both be refused."""
    make_private(directory)
    descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        make_audit_key(region, hsm)
    finally:
        os.close(descriptor)
