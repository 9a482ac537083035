"""``kmsfs region``: one PKCS#11 token for each region."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kmsfs.cli.home import make_home, open_keystore
from kmsfs.cli.lazy import help_group
from kmsfs.cli.options import HELP_NAMES, json_option
from kmsfs.cli.terminal import print_fields, print_json, print_table

if TYPE_CHECKING:
    from kmsfs.keystore.model import RegionConfig

command = help_group(
    "region",
    """Configure regions: one PKCS#11 token each.

    \b
    Example:
      kmsfs region add eu-west-1
      kmsfs region list
    """,
)


@command.command(context_settings=HELP_NAMES)
@click.argument("region", metavar="REGION")
@click.option(
    "--module", metavar="PATH", type=click.Path(path_type=Path), help="PKCS#11 module (.so) of an HSM."
)
@click.option("--token", metavar="LABEL", help="Label of the token in that module.")
@click.option(
    "--pin-file", metavar="FILE", type=click.Path(path_type=Path), help="File (mode 0600) with its PIN."
)
@json_option()
def add(region: str, module: Path | None, token: str | None, pin_file: Path | None, as_json: bool) -> None:
    """Add a region.

    Without --module a SoftHSM token is made for it, with random PINs and no questions.
    The PIN of a module of your own is read from --pin-file, or from the environment variable
    KMSFS_PIN_ followed by the region with "-" as "_". It is never given on the command line.

    \b
    Example:
      kmsfs region add eu-west-1
      kmsfs region add us-east-1 --module /usr/lib/vendor/libpkcs11.so --token prod --pin-file ~/prod.pin
    """
    make_home()
    with open_keystore() as keystore:
        added = keystore.add_region(region, module=module, token_label=token, pin_file=pin_file)
    if as_json:
        print_json(added.to_json())
    else:
        print_fields(_fields(added))


@command.command("list", context_settings=HELP_NAMES)
@json_option()
def list_(as_json: bool) -> None:
    """List the configured regions.

    \b
    Example:
      kmsfs region list --json
    """
    with open_keystore() as keystore:
        regions = keystore.regions()
    if as_json:
        print_json({"regions": [region.to_json() for region in regions]})
        return
    print_table(
        ["REGION", "TOKEN", "SUITE", "MODULE"],
        [
            [region.region, region.token_label, str(int(region.suite)), str(region.module)]
            for region in regions
        ],
        empty="no region is configured; add one with 'kmsfs region add REGION'",
    )


def _fields(region: "RegionConfig") -> dict[str, str]:
    return {
        "region": region.region,
        "token": region.token_label,
        "module": str(region.module),
        "suite": str(int(region.suite)),
        "account": region.account,
    }
