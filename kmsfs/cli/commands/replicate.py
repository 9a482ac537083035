"""``kmsfs replicate``: keep every file of a tree under one more key, or one less."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kmsfs.cli.options import HELP_NAMES, json_option, region_option, touch_option
from kmsfs.cli.rekeying import change_tree
from kmsfs.errors import UsageError

if TYPE_CHECKING:
    from kmsfs.format.superblock import Superblock
    from kmsfs.keystore.service import Keystore
    from kmsfs.tools.changes import Change


@click.command("replicate", context_settings=HELP_NAMES)
@click.argument("tree", metavar="TREE", type=click.Path(path_type=Path))
@click.option("--to-key", metavar="KEY", help="Add this key.")
@click.option("--drop-key", metavar="KEY", help="Remove this key.")
@region_option()
@touch_option()
@json_option()
def command(
    tree: Path, to_key: str | None, drop_key: str | None, region: str | None, touch: bool, as_json: bool
) -> None:
    """Keep every file of a tree under one more key, or one less.

    TREE is a tree or a mount. With keys of two regions it opens where either region's HSM is alive. A tree has
    at most three keys.

    \b
    Example:
      kmsfs replicate ~/tree --to-key alias/files --region us-east-1
      kmsfs replicate ~/tree --drop-key alias/files --region us-east-1
    """
    from kmsfs.tools import changes

    if (to_key is None) == (drop_key is None):
        raise UsageError("give one of --to-key and --drop-key", hint="see 'kmsfs replicate --help'")

    def decide(keystore: "Keystore", block: "Superblock") -> "Change":
        if to_key is not None:
            return changes.replicate(block, keystore.resolve(to_key, region=region).arn)
        return changes.drop(block, changes.named(block, str(drop_key), keystore, region))

    change_tree(tree, decide, via="rewrap", touch=touch, as_json=as_json)
