"""``kmsfs key``: customer master keys. Their material never leaves the token."""

from typing import TYPE_CHECKING

import click

from kmsfs.cli.commands import key_life, key_material, key_regions
from kmsfs.cli.home import open_keystore
from kmsfs.cli.key_output import last_use, print_key
from kmsfs.cli.lazy import help_group
from kmsfs.cli.options import HELP_NAMES, json_option, key_argument, region_option
from kmsfs.cli.terminal import local_time, print_json, print_table
from kmsfs.errors import RegionNotFoundError, UsageError

if TYPE_CHECKING:
    from kmsfs.keystore.service import Keystore

SPECS = ["SYMMETRIC_DEFAULT", "HMAC_224", "HMAC_256", "HMAC_384", "HMAC_512"]

command = help_group(
    "key",
    """Create and manage customer master keys.

    KEY is a key ARN, an alias ARN, or alias/NAME or a key id of the region that --region names.

    \b
    Example:
      kmsfs key create --region eu-west-1 --alias alias/files
      kmsfs key describe alias/files
    """,
)


@command.command(context_settings=HELP_NAMES)
@region_option("Region that makes and keeps the key; may be left out when one region is configured.")
@click.option("--description", metavar="TEXT", default="", help="What the key is for.")
@click.option("--alias", metavar="alias/NAME", help="Name the key at once.")
@click.option(
    "--spec", type=click.Choice(SPECS), default=SPECS[0], help="Kind of key; those of HMAC make MACs only."
)
@click.option(
    "--origin",
    type=click.Choice(["AWS_KMS", "EXTERNAL"]),
    default="AWS_KMS",
    help="EXTERNAL: its material is not made in the token, but imported.",
)
@click.option(
    "--multi-region",
    is_flag=True,
    help="It can be replicated, and its material is known to this host for a moment.",
)
@json_option()
def create(
    region: str | None,
    description: str,
    alias: str | None,
    spec: str,
    origin: str,
    multi_region: bool,
    as_json: bool,
) -> None:
    """Create a key inside a region's token.

    \b
    Example:
      kmsfs key create --region eu-west-1 --description "project files" --alias alias/files
      kmsfs key create --region eu-west-1 --multi-region --alias alias/shared
    """
    from kmsfs.keystore.model import KeySpec, Origin

    with open_keystore() as keystore:
        chosen = region if region is not None else _only_region(keystore)
        made = keystore.create_key(
            chosen,
            description=description,
            alias=alias,
            spec=KeySpec(spec),
            origin=Origin(origin),
            multi_region=multi_region,
        )
        print_key(made, as_json)


def _only_region(keystore: "Keystore") -> str:
    names = [region.region for region in keystore.regions()]
    if len(names) == 1:
        return names[0]
    if not names:
        raise RegionNotFoundError("no region is configured", hint="add one with 'kmsfs region add REGION'")
    raise UsageError("several regions are configured", hint=f"choose one with --region: {', '.join(names)}")


@command.command("list", context_settings=HELP_NAMES)
@region_option("Only the keys of this region.")
@json_option()
def list_(region: str | None, as_json: bool) -> None:
    """List keys.

    \b
    Example:
      kmsfs key list --region eu-west-1
    """
    with open_keystore() as keystore:
        keys = keystore.list_keys(region)
    if as_json:
        print_json({"Keys": [{"KeyArn": key.arn, **key.to_aws()} for key in keys]})
        return
    print_table(
        ["KEY ID", "REGION", "STATE", "CREATED", "DESCRIPTION"],
        [
            [key.key_id, key.region, key.state.value, local_time(key.created_at), key.description]
            for key in keys
        ],
        empty="no keys; create one with 'kmsfs key create'",
    )


@command.command(context_settings=HELP_NAMES)
@key_argument()
@region_option()
@json_option()
def describe(key: str, region: str | None, as_json: bool) -> None:
    """Show a key.

    \b
    Example:
      kmsfs key describe alias/files --region eu-west-1
    """
    with open_keystore() as keystore:
        history = keystore.usage_history(key, region=region)
        print_key(history.key, as_json, last_use(history))


@command.command(context_settings=HELP_NAMES)
@key_argument()
@region_option()
@json_option()
def enable(key: str, region: str | None, as_json: bool) -> None:
    """Allow a disabled key to be used again.

    \b
    Example:
      kmsfs key enable alias/files
    """
    with open_keystore() as keystore:
        print_key(keystore.enable_key(key, region=region), as_json)


@command.command(context_settings=HELP_NAMES)
@key_argument()
@region_option()
@json_option()
def disable(key: str, region: str | None, as_json: bool) -> None:
    """Refuse all use of a key until it is enabled.

    Files under it cannot be opened meanwhile; running mounts follow within seconds.

    \b
    Example:
      kmsfs key disable alias/files
    """
    with open_keystore() as keystore:
        print_key(keystore.disable_key(key, region=region), as_json)


for _more in (*key_life.COMMANDS, *key_material.COMMANDS, *key_regions.COMMANDS):
    command.add_command(_more)
