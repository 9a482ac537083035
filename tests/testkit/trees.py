"""Trees under the keys that a test wants."""

import os
from pathlib import Path

from kmsfs.format.superblock import Superblock
from kmsfs.ids import KeyArn
from kmsfs.keystore.service import Keystore
from kmsfs.tree.superblock_file import declare_keys, open_root


def declare(keystore: Keystore, path: Path, *key_arns: KeyArn, renew: bool = False) -> Superblock:
    """Declare the keys of an unmounted tree, or of a mounted one that is told afterwards."""
    root_fd = open_root(path)
    try:
        return declare_keys(keystore, root_fd, path, key_arns, renew=renew)
    finally:
        os.close(root_fd)
