"""``kmsfs key``, continued: key material that people bring, and take away."""

import sys
import time
from pathlib import Path
from typing import Final

import click

from kmsfs.cli.home import open_keystore
from kmsfs.cli.key_output import print_key
from kmsfs.cli.options import HELP_NAMES, json_option, key_argument, region_option

_DAY_S: Final = 86_400
_MOST: Final = 65  # bytes to read: one more than the largest key material


@click.command("import", context_settings=HELP_NAMES)
@key_argument()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--days",
    type=click.IntRange(1, 365),
    help="Days until the material is destroyed in the token; without it, the material does not expire.",
)
@click.option("--new", is_flag=True, help="New material for a key that has some: for its next rotation.")
@region_option()
@json_option()
def import_(key: str, file: Path, days: int | None, new: bool, region: str | None, as_json: bool) -> None:
    """Import key material, in the clear, into a key made with --origin EXTERNAL.

    FILE holds the raw bytes; - reads stdin. Keep them: without them, material that expired or was deleted is lost.

    \b
    Example:
      kmsfs key import alias/ours material.bin --days 365
    """
    from kmsfs.keystore.imported import Arrival

    value = sys.stdin.buffer.read(_MOST) if str(file) == "-" else _read(file)
    until = None if days is None else time.time() + days * _DAY_S
    with open_keystore() as keystore:
        arrival = Arrival(value, until, new=True if new else None)
        keystore.import_material(key, arrival, region=region)
        print_key(keystore.describe_key(key, region=region), as_json)


def _read(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(_MOST)


@click.command("delete-material", context_settings=HELP_NAMES)
@key_argument()
@region_option()
@json_option()
def delete_material(key: str, region: str | None, as_json: bool) -> None:
    """Destroy a key's imported material in the token.

    The key cannot be used until the very same material is imported again.

    \b
    Example:
      kmsfs key delete-material alias/ours
    """
    with open_keystore() as keystore:
        print_key(keystore.delete_imported_material(key, region=region), as_json)


COMMANDS = (import_, delete_material)
