"""``kmsfs init``: create an encrypted tree."""

from pathlib import Path

import click

from kmsfs.cli.home import open_keystore
from kmsfs.cli.options import HELP_NAMES, region_option
from kmsfs.cli.terminal import print_line
from kmsfs.errors import TreeExistsError


@click.command("init", context_settings=HELP_NAMES)
@click.argument("tree", metavar="TREE", type=click.Path(path_type=Path))
@click.option(
    "--key", metavar="KEY", help="Key ARN, alias ARN, alias/NAME or key id that new files are wrapped under."
)
@region_option("Region of the key; may be left out when one region is configured.")
def command(tree: Path, key: str | None, region: str | None) -> None:
    """Create an encrypted tree.

    TREE is an empty directory, or is created with mode 0700. Without --key, the key is
    alias/aws/kmsfs, which is made for the region the first time.

    \b
    Example:
      kmsfs init ~/tree --key alias/files --region eu-west-1
    """
    from kmsfs.tree.superblock_file import create_tree

    path = tree.absolute()
    if path.exists() and not path.is_dir():
        raise TreeExistsError(f"{path} is not a directory", hint="name a new or empty directory")
    with open_keystore(via="init") as keystore:
        chosen = key if key is not None else keystore.managed_key(region).arn
        block = create_tree(keystore, path, chosen, region)
        keystore.note_tree(block.tree_id, path, [slot.key_arn for slot in block.slots])
    print_line(f"created the tree {path}")
