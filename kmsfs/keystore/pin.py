"""Where a token's PIN comes from: a file, the environment, or a systemd credential; never argv.

The rule: a PIN file that others may read is refused, and no message holds a PIN.
"""

import os
import stat
from pathlib import Path

from kmsfs.errors import PinUnavailableError
from kmsfs.ids import Region

MAX_PIN_SIZE = 256


def environment_name(region: Region) -> str:
    """Return the variable that may hold the region's PIN."""
    return "KMSFS_PIN_" + region.upper().replace("-", "_")


def credential_name(region: Region) -> str:
    """Return the name of the systemd credential that may hold the region's PIN."""
    return f"kmsfs-pin-{region}"


def read_pin(region: Region, pin_file: Path | None) -> str:
    """Return the region's PIN from its file or, when none is configured, from credential or environment."""
    if pin_file is not None:
        return read_pin_file(pin_file)
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory and (credential := Path(directory, credential_name(region))).exists():
        return read_pin_file(credential)
    pin = os.environ.get(environment_name(region))
    if not pin:
        raise PinUnavailableError(
            f"no PIN for region {region}",
            hint=f"set {environment_name(region)}, or add the region with --pin-file",
        )
    return pin


def read_pin_file(path: Path) -> str:
    """Return the first line of a file that only its owner may read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise PinUnavailableError(
            f"PIN file {path} cannot be read: {error.strerror}", hint="restore the file, mode 0600"
        ) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise PinUnavailableError(f"PIN file {path} is no regular file")
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise PinUnavailableError(
                f"PIN file {path} is open to others (mode {mode:04o})", hint=f"chmod 600 {path}"
            )
        raw = os.read(descriptor, MAX_PIN_SIZE + 1)
    finally:
        os.close(descriptor)
    return _decode(raw, path)


def _decode(raw: bytes, path: Path) -> str:
    line = raw.split(b"\n", 1)[0].rstrip(b"\r")
    try:
        pin = line.decode("utf-8")
    except UnicodeDecodeError:
        pin = ""
    if not pin or "\0" in pin or len(line) > MAX_PIN_SIZE:
        raise PinUnavailableError(f"PIN file {path} holds no PIN", hint="write the PIN as its first line")
    return pin
