"""Trees that tools work on: two regions with tokens of their own, a tree under the first."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from testkit.home import ALIAS, Home
from testkit.posix import Posix, opened

from kmsfs.ids import KeyArn
from kmsfs.keystore.service import Keystore
from kmsfs.tree.superblock_file import create_tree

EU, US = "eu-west-1", "us-east-1"


@pytest.fixture
def home(_prepared_pair: Home, tmp_path: Path) -> Home:
    """A home with two regions."""
    return _prepared_pair.copy_to(tmp_path / "home")


@pytest.fixture
def keystore(home: Home) -> Iterator[Keystore]:
    """The keystore of ``home``, with a second region."""
    with Keystore.open(home.path) as keystore:
        yield keystore


@pytest.fixture
def eu_key(keystore: Keystore) -> KeyArn:
    """The key of the tree."""
    return keystore.resolve(ALIAS, region=EU).arn


@pytest.fixture
def us_key(keystore: Keystore) -> KeyArn:
    """A key of the other region."""
    return keystore.resolve(ALIAS, region=US).arn


@pytest.fixture
def store(keystore: Keystore, eu_key: KeyArn, tmp_path: Path) -> Path:
    """The backing directory of a new tree."""
    path = tmp_path / "store"
    create_tree(keystore, path, eu_key)
    return path


@pytest.fixture
async def posix(keystore: Keystore, store: Path) -> AsyncIterator[Posix]:
    """The tree, open; tests that hand it to a tool close it first."""
    async with opened(keystore, store) as posix:
        yield posix
