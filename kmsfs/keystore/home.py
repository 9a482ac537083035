"""KMSFS_HOME: where the region configurations lie, read and written whole.

config.json            where the metadata are, if not here (stores.py)
metadata.db            the metadata store
regions/REGION.json    one region's token (0600)
regions/REGION.pin     the PIN of an embedded token (0600)
trees.json             which trees are known (known_trees.py)
audit/REGION/          the region's audit log (audit_files.py)
"""

import json
import os
from pathlib import Path

from kmsfs.errors import AlreadyExistsError, MetadataUnavailableError, RegionNotFoundError
from kmsfs.format.blob import Suite
from kmsfs.ids import Region
from kmsfs.keystore import softhsm
from kmsfs.keystore.arn import check_region
from kmsfs.keystore.model import RegionConfig


def metadata_path(home: Path) -> Path:
    """Return the path of the SQLite metadata database."""
    return home / "metadata.db"


def config_path(home: Path) -> Path:
    """Return the path of the home's settings."""
    return home / "config.json"


def regions_path(home: Path) -> Path:
    """Return the directory of the region configurations."""
    return home / "regions"


def audit_path(home: Path, region: Region) -> Path:
    """Return the directory of the region's audit log."""
    return home / "audit" / region


def region_names(home: Path) -> list[Region]:
    """Return the names of the configured regions, sorted."""
    return sorted(Region(path.stem) for path in regions_path(home).glob("*.json"))


def load_region(home: Path, region: str) -> RegionConfig:
    """Read one region's configuration."""
    name = check_region(region)
    path = regions_path(home) / f"{name}.json"
    try:
        raw = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RegionNotFoundError(
            f"region {name} is not configured", hint=f"kmsfs region add {name}"
        ) from None
    try:
        return _parse(home, name, json.loads(raw))
    except (ValueError, KeyError, TypeError) as error:
        raise MetadataUnavailableError(
            f"region configuration {path} is damaged", hint="restore the file from a backup"
        ) from error


def save_region(home: Path, config: RegionConfig) -> None:
    """Write a new region's configuration; a region is configured once this file is there."""
    path = regions_path(home) / f"{config.region}.json"
    pin_file, token_dir = config.pin_file, config.token_dir
    content = {
        "region": config.region,
        "module": str(config.module),
        "token_label": config.token_label,
        # relative paths, so that a home can be moved
        "pin_file": None
        if pin_file is None
        else os.path.relpath(pin_file, home)
        if token_dir
        else str(pin_file),
        "suite": int(config.suite),
        "account": config.account,
        "token_dir": None if token_dir is None else os.path.relpath(token_dir, softhsm.tokens_path(home)),
    }
    write_new(path, json.dumps(content, indent=2) + "\n")


def make_private(path: Path) -> None:
    """Create a directory that only its owner may enter, and its parents; one that is there stays as it is."""
    for directory in (*reversed(path.parents), path):
        if not directory.exists():
            directory.mkdir(mode=0o700, exist_ok=True)


def write_new(path: Path, text: str) -> None:
    """Create ``path`` (0600) with ``text``, durably; a file that exists is left alone and an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        raise AlreadyExistsError(f"{path} exists already") from None
    finally:
        temporary.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _parse(home: Path, region: Region, content: dict[str, object]) -> RegionConfig:
    if content["region"] != region:
        raise ValueError("the file is of another region")
    pin_file, token_dir = content["pin_file"], content["token_dir"]
    return RegionConfig(
        region=region,
        module=Path(str(content["module"])),
        token_label=str(content["token_label"]),
        pin_file=None if pin_file is None else home / str(pin_file),
        suite=Suite(int(str(content["suite"]))),
        account=str(content["account"]),
        token_dir=None if token_dir is None else softhsm.tokens_path(home) / str(token_dir),
    )
