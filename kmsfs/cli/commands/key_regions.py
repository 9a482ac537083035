"""``kmsfs key``, continued: related keys of several regions."""

import click

from kmsfs.cli.home import open_keystore
from kmsfs.cli.key_output import print_key
from kmsfs.cli.options import HELP_NAMES, json_option, key_argument, region_option


@click.command(context_settings=HELP_NAMES)
@key_argument()
@click.option("--to", "to_region", metavar="REGION", required=True, help="Region that gets the replica.")
@click.option("--description", metavar="TEXT", default="", help="What the replica is for.")
@region_option()
@json_option()
def replicate(key: str, to_region: str, description: str, region: str | None, as_json: bool) -> None:
    """Make a replica of a multi-region key in another region.

    What either of them encrypts the other decrypts. Both regions' tokens are needed.

    \b
    Example:
      kmsfs key replicate alias/shared --to us-east-1 --region eu-west-1
    """
    with open_keystore() as keystore:
        made = keystore.replicate_key(key, to_region, description=description, region=region)
        print_key(made, as_json)


@click.command("set-primary", context_settings=HELP_NAMES)
@key_argument()
@click.option("--to", "to_region", metavar="REGION", required=True, help="Region whose replica it is to be.")
@region_option()
@json_option()
def set_primary(key: str, to_region: str, region: str | None, as_json: bool) -> None:
    """Make a replica of a multi-region key the primary, and the primary a replica.

    The primary is the one that is replicated and rotated.

    \b
    Example:
      kmsfs key set-primary alias/shared --to us-east-1 --region eu-west-1
    """
    with open_keystore() as keystore:
        print_key(keystore.update_primary_region(key, to_region, region=region), as_json)


COMMANDS = (replicate, set_primary)
