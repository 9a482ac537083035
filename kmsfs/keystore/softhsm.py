"""The embedded SoftHSM: its files under KMSFS_HOME, and nothing of PKCS#11.

softhsm/softhsm2.conf says where the tokens are; softhsm/tokens/UUID/ is one token, one for each region.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kmsfs.errors import HsmUnavailableError, ModuleInvalidError, TokenNotFoundError

MODULE_PATHS: Final = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
)


@dataclass(frozen=True, slots=True)
class SoftHsmToken:
    """Where an embedded token lives: SoftHSM's configuration and the token's own directory."""

    conf: Path
    directory: str

    def exists(self) -> bool:
        """Return whether the token's directory is there: one stat."""
        try:
            os.stat(self.directory)
        except OSError:
            return False
        return True


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold back the other processes that lock this directory of embedded tokens."""
    try:
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _away(directory, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def find_module() -> Path:
    """Return the path of the installed SoftHSM module."""
    for candidate in MODULE_PATHS:
        if os.path.exists(candidate):
            return Path(candidate)
    raise ModuleInvalidError(
        "SoftHSM is not installed",
        hint="install it (Debian: apt install softhsm2), or name a module with --module",
    )


def conf_path(home: Path) -> Path:
    """Return the path of SoftHSM's configuration under ``home``."""
    return home / "softhsm" / "softhsm2.conf"


def tokens_path(home: Path) -> Path:
    """Return the directory of the embedded tokens under ``home``."""
    return home / "softhsm" / "tokens"


def prepare(home: Path) -> None:
    """Create the directory of the embedded tokens and SoftHSM's configuration."""
    conf_path(home).parent.mkdir(mode=0o700, exist_ok=True)
    tokens_path(home).mkdir(mode=0o700, exist_ok=True)
    write_conf(home)


def write_conf(home: Path) -> None:
    """Write the configuration anew if ``home`` moved.

    Never creates the token directory: an empty one would be in the way of the one that is moved back.
    """
    path = conf_path(home)
    try:
        _write(path, home)
    except OSError as error:
        raise _away(path.parent, error) from error


def _write(path: Path, home: Path) -> None:
    text = f"directories.tokendir = {tokens_path(home)}\nobjectstore.backend = file\nlog.level = ERROR\n"
    if path.exists() and path.read_text() == text:
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.rename(path)


def token_directory(home: Path, serial: str) -> Path:
    """Return the directory of the token with that serial number: its UUID ends in it."""
    for directory in tokens_path(home).iterdir():
        if directory.name.replace("-", "").endswith(serial):
            return directory
    raise HsmUnavailableError(f"SoftHSM keeps token {serial} in no directory below {tokens_path(home)}")


def _away(directory: Path, error: OSError) -> TokenNotFoundError:
    return TokenNotFoundError(
        f"directory of embedded tokens {directory} cannot be used: {error.strerror}",
        hint="put the directory back",
    )
