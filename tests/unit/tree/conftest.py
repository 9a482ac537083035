"""Trees in this process: a real keystore on SoftHSM, a real directory, no FUSE."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from testkit.home import ALIAS, REGION, SECOND_REGION, Home
from testkit.posix import Posix, opened

from kmsfs.ids import KeyArn
from kmsfs.keystore.service import Keystore
from kmsfs.tree.superblock_file import create_tree


@pytest.fixture
def keystore(home: Home) -> Iterator[Keystore]:
    """The keystore of ``home``."""
    with Keystore.open(home.path) as keystore:
        yield keystore


@pytest.fixture
def eu_key(keystore: Keystore) -> KeyArn:
    """The key of the tree."""
    return keystore.resolve(ALIAS, region="eu-west-1").arn


@pytest.fixture
def us_key(keystore: Keystore) -> KeyArn:
    """A key of a second region, in a token of its own."""
    return keystore.resolve(ALIAS, region=SECOND_REGION).arn


@pytest.fixture
def store(keystore: Keystore, tmp_path: Path) -> Path:
    """The backing directory of a new tree."""
    path = tmp_path / "store"
    create_tree(keystore, path, ALIAS, region=REGION)
    return path


@pytest.fixture
async def posix(keystore: Keystore, store: Path) -> AsyncIterator[Posix]:
    """The tree, open."""
    async with opened(keystore, store) as posix:
        yield posix
