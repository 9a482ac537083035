"""Trees in this process: a real keystore on SoftHSM, a real directory, no FUSE."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from testkit.home import ALIAS, Home
from testkit.posix import Posix, opened

from kmsfs.keystore.service import Keystore
from kmsfs.tree.superblock_file import create_tree


@pytest.fixture
def keystore(home: Home) -> Iterator[Keystore]:
    """The keystore of ``home``."""
    with Keystore.open(home.path) as keystore:
        yield keystore


@pytest.fixture
def store(keystore: Keystore, tmp_path: Path) -> Path:
    """The backing directory of a new tree."""
    path = tmp_path / "store"
    create_tree(keystore, path, ALIAS)
    return path


@pytest.fixture
async def posix(keystore: Keystore, store: Path) -> AsyncIterator[Posix]:
    """The tree, open."""
    async with opened(keystore, store) as posix:
        yield posix
