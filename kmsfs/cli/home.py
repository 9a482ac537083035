"""Where the configuration is, and how a command opens the keystore that lies there."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kmsfs.keystore.arn import ROOT

if TYPE_CHECKING:
    from kmsfs.keystore.service import Keystore


def home_path() -> Path:
    """Return KMSFS_HOME, or ``kmsfs`` in the XDG data directory, as an absolute path; nothing is created."""
    chosen = os.environ.get("KMSFS_HOME")
    if chosen:
        return Path(chosen).absolute()
    data = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification: a relative path is to be ignored.
    base = Path(data) if os.path.isabs(data) else Path.home() / ".local" / "share"
    return base / "kmsfs"


def make_home() -> Path:
    """Return the home and make sure that it exists, for its owner alone."""
    home = home_path()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return home


def open_keystore(home: Path | None = None, *, via: str = "cli", principal: str = ROOT) -> "Keystore":
    """Open the keystore of the home; imported here because help must not load a database."""
    from kmsfs.keystore.service import Keystore

    return Keystore.open(home or home_path(), via=via, principal=principal)
