"""``kmsfs zone``: directories whose files are under keys of their own."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kmsfs.cli.home import open_keystore
from kmsfs.cli.lazy import help_group
from kmsfs.cli.options import HELP_NAMES, json_option, region_option
from kmsfs.cli.places import DirectoryPlace, directory_place
from kmsfs.cli.terminal import print_json, print_line, print_table
from kmsfs.errors import InvalidRequestError

if TYPE_CHECKING:
    from kmsfs.keystore.service import Keystore

command = help_group(
    "zone",
    """Bind directories of a tree to keys of their own.

    \b
    Example:
      kmsfs zone create ~/clear/us --key alias/files --region us-east-1
      kmsfs zone list ~/clear
    """,
)


@command.command(context_settings=HELP_NAMES)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--key", metavar="KEY", required=True, help="Key ARN, alias ARN, alias/NAME or key id of the zone."
)
@region_option()
def create(directory: Path, key: str, region: str | None) -> None:
    """Wrap what is created in and below a directory by a key of its own.

    DIR lies in a mount, or in a tree that is not mounted. What is in it already keeps its keys until
    'kmsfs rewrap'.

    \b
    Example:
      kmsfs zone create ~/clear/us --key alias/files --region us-east-1
    """
    place = directory_place(directory)
    with open_keystore(via="zone") as keystore:
        key_arn = keystore.resolve(key, region=region).arn
        _change(keystore, place, key_arn)
    print_line(f"{directory} is a zone of {key_arn}")
    if _holds_something(place):
        print_line(f"what is in it keeps its keys until 'kmsfs rewrap {place.tree}'")


@command.command(context_settings=HELP_NAMES)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
def remove(directory: Path) -> None:
    """Let a directory be part of the zone above it again.

    What is in it keeps its keys until 'kmsfs rewrap'.

    \b
    Example:
      kmsfs zone remove ~/clear/us
    """
    place = directory_place(directory)
    if not place.is_zone:
        raise InvalidRequestError(f"{directory} is no zone", hint="kmsfs zone list shows the zones")
    with open_keystore(via="zone") as keystore:
        _change(keystore, place, "")
    print_line(f"{directory} is no zone any more")
    if _holds_something(place):
        print_line(f"what is in it keeps its keys until 'kmsfs rewrap {place.tree}'")


@command.command("list", context_settings=HELP_NAMES)
@click.argument("tree", metavar="TREE", type=click.Path(path_type=Path))
@json_option()
def list_zones(tree: Path, as_json: bool) -> None:
    """List the zones of a tree, and what is wrong with their keys.

    TREE is a tree, a mount, or a directory in one of them.

    \b
    Example:
      kmsfs zone list ~/clear
    """
    from kmsfs.tools.zoning import find_zones

    place = directory_place(tree)
    with open_keystore(via="zone") as keystore:
        zones = list(find_zones(keystore, place.path, mounted=place.mount is not None))
    if as_json:
        rows = [(zone.path, zone.key_arn or None, zone.problem or None) for zone in zones]
        print_json({"zones": [dict(zip(("path", "key_arn", "problem"), row, strict=True)) for row in rows]})
        return
    print_table(
        ["PATH", "KEY", "PROBLEM"],
        [[zone.path, zone.key_arn or "-", zone.problem or "-"] for zone in zones],
        empty="there is no zone",
    )


def _change(keystore: "Keystore", place: DirectoryPlace, key_arn: str) -> None:
    from kmsfs.tools.mounted import control_of
    from kmsfs.tools.zoning import change_zone

    mounted = control_of(place.mount.details) if place.mount is not None else None
    change_zone(keystore, place.tree, place.entry, key_arn, mounted)


def _holds_something(place: DirectoryPlace) -> bool:
    from kmsfs.tree.directories import is_entry

    with os.scandir(place.path) as entries:
        return any(place.mount is not None or is_entry(os.fsencode(entry.name)) for entry in entries)
