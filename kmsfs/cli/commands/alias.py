"""``kmsfs alias``: names for keys that can be re-pointed without touching what uses them."""

from typing import TYPE_CHECKING

import click

from kmsfs.cli.home import open_keystore
from kmsfs.cli.lazy import help_group
from kmsfs.cli.options import HELP_NAMES, Decorator, json_option, region_option
from kmsfs.cli.terminal import print_json, print_line, print_table

if TYPE_CHECKING:
    from kmsfs.keystore.model import AliasEntry

command = help_group(
    "alias",
    """Give keys names that can be re-pointed.

    \b
    Example:
      kmsfs alias create alias/files --key 1234abcd-12ab-34cd-56ef-1234567890ab
      kmsfs alias list
    """,
)


def _name_argument() -> Decorator:
    return click.argument("name", metavar="alias/NAME")


def _key_option() -> Decorator:
    return click.option("--key", metavar="KEY", required=True, help="Key id or ARN that the alias names.")


@command.command(context_settings=HELP_NAMES)
@_name_argument()
@_key_option()
@region_option("Region of alias and key; may be left out when one region is configured.")
@json_option()
def create(name: str, key: str, region: str | None, as_json: bool) -> None:
    """Name a key.

    \b
    Example:
      kmsfs alias create alias/files --key 1234abcd-12ab-34cd-56ef-1234567890ab --region eu-west-1
    """
    with open_keystore() as keystore:
        _print_alias(keystore.create_alias(name, key, region=region), as_json)


@command.command(context_settings=HELP_NAMES)
@_name_argument()
@_key_option()
@region_option("Region of alias and key; may be left out when one region is configured.")
@json_option()
def update(name: str, key: str, region: str | None, as_json: bool) -> None:
    """Point an alias at another key of its region.

    \b
    Example:
      kmsfs alias update alias/files --key 0987dcba-09fe-87dc-65ba-ab0987654321
    """
    with open_keystore() as keystore:
        _print_alias(keystore.update_alias(name, key, region=region), as_json)


@command.command(context_settings=HELP_NAMES)
@_name_argument()
@region_option("Region of the alias; may be left out when one region is configured.")
def delete(name: str, region: str | None) -> None:
    """Delete an alias. The key stays.

    \b
    Example:
      kmsfs alias delete alias/files
    """
    with open_keystore() as keystore:
        keystore.delete_alias(name, region=region)
    print_line(f"deleted {name}")


@command.command("list", context_settings=HELP_NAMES)
@region_option("Only the aliases of this region.")
@json_option()
def list_(region: str | None, as_json: bool) -> None:
    """List aliases.

    \b
    Example:
      kmsfs alias list --region eu-west-1
    """
    with open_keystore() as keystore:
        aliases = keystore.list_aliases(region)
    if as_json:
        print_json({"Aliases": [alias.to_aws() for alias in aliases]})
        return
    print_table(
        ["ALIAS", "REGION", "KEY ID"],
        [[alias.name, alias.region, alias.target_key_id] for alias in aliases],
        empty="no aliases; create one with 'kmsfs alias create alias/NAME --key KEY'",
    )


def _print_alias(alias: "AliasEntry", as_json: bool) -> None:
    if as_json:
        print_json(alias.to_aws())
    else:
        print_line(f"{alias.name} in {alias.region} names key {alias.target_key_id}")
