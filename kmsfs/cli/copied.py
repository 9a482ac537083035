"""The copy of a tree that is migrated in its place."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from kmsfs.cli.interrupt import stop_on_signal
from kmsfs.cli.progress import Progress
from kmsfs.errors import StoppedError

if TYPE_CHECKING:
    from pathlib import Path

    from kmsfs.ids import KeyArn
    from kmsfs.keystore.service import Keystore
    from kmsfs.tools.copying import Copied


def copied(keystore: Keystore, source: Path, destination: Path, key_arn: KeyArn, *, dry_run: bool) -> Path:
    """Copy an unmounted tree, or what is missing of its copy, and return where that is.

    The key that it is for is asked for first. A dry run only sees that it could be begun, and returns the tree.
    """
    from kmsfs.tools.copying import TreeCopy, check
    from kmsfs.tools.survey import count_files
    from kmsfs.tree.rekey import Rekeyer
    from kmsfs.tree.superblock_file import read_superblock

    Rekeyer(keystore, read_superblock(source).tree_id).targets((key_arn,))
    if dry_run:
        check(source, destination)
        return source
    with (
        TreeCopy(source, destination) as copy,
        Progress("files copied", partial(count_files, source)) as progress,
        stop_on_signal() as stop,
    ):
        keystore.note_copy(copy.block.tree_id, destination, copy.block.key_arns)

        def told(so_far: Copied) -> None:
            progress.show(so_far.files, 0)
            if stop():
                raise StoppedError(
                    f"copy of {source} is not complete: {so_far.files:,} files are in {destination}",
                    hint="go on with it: the same command again",
                )

        copy.make(told)
    return destination
