"""``kmsfs rewrap``: bring every slot of a tree to current material, or to another key."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kmsfs.cli.options import HELP_NAMES, json_option, region_option, touch_option
from kmsfs.cli.rekeying import change_tree

if TYPE_CHECKING:
    from kmsfs.format.superblock import Superblock
    from kmsfs.keystore.service import Keystore
    from kmsfs.tools.changes import Change


@click.command("rewrap", context_settings=HELP_NAMES)
@click.argument("tree", metavar="TREE", type=click.Path(path_type=Path))
@click.option("--to-key", metavar="KEY", help="Wrap everything under this key instead.")
@region_option()
@touch_option()
@json_option()
def command(tree: Path, to_key: str | None, region: str | None, touch: bool, as_json: bool) -> None:
    """Bring every slot of a tree to its key's current material.

    TREE is a tree or a mount. Each file comes under its zone's key, or else the tree's, and under the tree's
    replicas. No data is touched, files stay readable, and the command can be stopped and repeated.

    \b
    Example:
      kmsfs key rotate alias/files
      kmsfs rewrap ~/tree
    """
    from kmsfs.tools import changes

    def decide(keystore: "Keystore", block: "Superblock") -> "Change":
        if to_key is None:
            return changes.rewrap(block)
        return changes.migrate(block, keystore.resolve(to_key, region=region).arn)

    change_tree(tree, decide, via="rewrap", touch=touch, as_json=as_json)
