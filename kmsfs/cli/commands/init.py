"""``kmsfs init``: create an encrypted tree."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kmsfs.cli.home import open_keystore
from kmsfs.cli.options import HELP_NAMES, region_option
from kmsfs.cli.terminal import print_line
from kmsfs.errors import TreeExistsError, UsageError

if TYPE_CHECKING:
    from kmsfs.keystore.service import Keystore


@click.command("init", context_settings=HELP_NAMES)
@click.argument("tree", metavar="TREE", type=click.Path(path_type=Path))
@click.option(
    "--key", metavar="KEY", help="Key ARN, alias ARN, alias/NAME or key id that new files are wrapped under."
)
@region_option("Region of the key; may be left out when one region is configured.")
def command(tree: Path, key: str | None, region: str | None) -> None:
    """Create an encrypted tree.

    TREE is an empty directory, or is created with mode 0700. Without --key, the key is the only
    enabled customer key of the region.

    \b
    Example:
      kmsfs init ~/tree --key alias/files --region eu-west-1
    """
    from kmsfs.tree.superblock_file import create_tree

    path = tree.absolute()
    if path.exists() and not path.is_dir():
        raise TreeExistsError(f"{path} is not a directory", hint="name a new or empty directory")
    with open_keystore() as keystore:
        chosen = key if key is not None else _only_key(keystore, region)
        create_tree(keystore, path, chosen, region)
    print_line(f"created the tree {path}")


def _only_key(keystore: "Keystore", region: str | None) -> str:
    keys = [
        key
        for key in keystore.list_keys(region)
        if key.manager.value == "CUSTOMER" and key.state.value == "Enabled"
    ]
    if len(keys) == 1:
        return keys[0].arn
    if not keys:
        raise UsageError("no enabled key to create the tree under", hint="create one with 'kmsfs key create'")
    choices = ", ".join(key.arn for key in keys)
    raise UsageError(f"{len(keys)} keys could be meant", hint=f"choose one with --key: {choices}")
