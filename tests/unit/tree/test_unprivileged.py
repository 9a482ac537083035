"""A mount that is not root's: it can do to a tree what a program of the same user can do to a plain directory."""

import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from testkit.home import ALIAS, Home
from testkit.posix import Caller, Posix, opened
from testkit.users import NOBODY, effective_user

from kmsfs.errors import FormatError
from kmsfs.keystore.service import Keystore
from kmsfs.tree.superblock_file import create_tree

USER = Caller(NOBODY, NOBODY)
MODES = (0o000, 0o100, 0o200, 0o300, 0o400, 0o500, 0o555, 0o644, 0o1644)


@pytest.fixture
def home(_prepared_home: Home) -> Iterator[Home]:
    """A home of the user's, where he can get at it: other users cannot pass through tmp_path."""
    top = Path(tempfile.mkdtemp(prefix="kmsfs-"))
    try:
        top.chmod(0o755)
        home = _prepared_home.copy_to(top / "home")
        (top / "store").mkdir()
        for path in top.rglob("*"):
            os.chown(path, NOBODY, NOBODY)
        yield home
    finally:
        shutil.rmtree(top)


@pytest.fixture
async def own(home: Home) -> AsyncIterator[Posix]:
    """A tree of a user who is not root, open in a process of that user."""
    store = home.path.with_name("store")
    with effective_user(), Keystore.open(home.path) as keystore:
        create_tree(keystore, store, ALIAS)
        async with opened(keystore, store) as posix:
            await posix.mkdir(b"d", caller=USER)
            yield posix


def mode(posix: Posix, path: bytes) -> int:
    return stat.S_IMODE(posix.stat(path).st_mode)


@pytest.mark.parametrize("bits", MODES)
async def test_an_empty_directory_of_any_mode_can_be_made_and_removed(own: Posix, bits: int) -> None:
    await own.mkdir(b"e", bits, USER)
    assert mode(own, b"e") == bits
    own.rmdir(b"e")
    assert not own.exists(b"e")
    assert [entry for entry in os.listdir(own.tree.volume.root_fd) if entry.startswith("kmsfs.tmp.")] == []


@pytest.mark.parametrize("bits", MODES)
async def test_a_full_directory_of_any_mode_stays_and_keeps_its_mode(own: Posix, bits: int) -> None:
    await own.mkdir(b"e", caller=USER)
    await own.put(b"e/f", b"")
    own.chmod(b"e", bits)
    with pytest.raises(OSError, match="not empty"):
        own.rmdir(b"e")
    assert mode(own, b"e") == bits


@pytest.mark.parametrize("bits", MODES)
async def test_an_empty_directory_of_any_mode_can_be_replaced(own: Posix, bits: int) -> None:
    await own.mkdir(b"e", bits, USER)
    await own.mkdir(b"new", 0o711, USER)
    await own.rename(b"new", b"e")
    assert mode(own, b"e") == 0o711


@pytest.mark.parametrize("bits", [0o200, 0o300, 0o700])
async def test_a_directory_that_its_owner_may_write_can_move(own: Posix, bits: int) -> None:
    await own.mkdir(b"e", caller=USER)
    await own.put(b"e/f", b"abc")
    own.chmod(b"e", bits)
    own.utime(b"e", 1_000_000_007, 2_000_000_009)
    await own.rename(b"e", b"d/e")
    assert mode(own, b"d/e") == bits
    own.chmod(b"d/e", 0o700)
    assert await own.get(b"d/e/f") == b"abc"


@pytest.mark.parametrize("bits", [0o400, 0o600])
async def test_a_directory_without_search_permission_lists_its_names(own: Posix, bits: int) -> None:
    await own.mkdir(b"e", caller=USER)
    await own.put(b"e/f", b"abc")
    await own.put(b"e/" + b"n" * 250, b"abc")
    own.chmod(b"e", bits)
    await own.reopen()
    assert await own.names(b"e") == [b"f", b"n" * 250]
    assert mode(own, b"e") == bits


@pytest.mark.parametrize("bits", [0o000, 0o200, 0o222, 0o400, 0o444])
async def test_a_file_keeps_its_mode_through_what_the_kernel_lets_through(own: Posix, bits: int) -> None:
    await own.put(b"f", b"abc")
    own.chmod(b"f", bits)
    await own.reopen()
    if bits & stat.S_IWUSR:
        handle = await own.open(b"f", os.O_WRONLY, USER)
        own.write(handle, 3, b"def")
        own.close(handle)
    await own.truncate(b"f", 2)
    assert mode(own, b"f") == bits
    await own.reopen()
    own.chmod(b"f", 0o400)
    assert await own.get(b"f") == b"ab"


async def test_reading_a_read_only_file_does_not_touch_it(own: Posix) -> None:
    await own.put(b"f", b"abc")
    own.chmod(b"f", 0o444)
    await own.reopen()
    before = own.stat(b"f").st_ctime_ns
    assert await own.get(b"f") == b"abc"
    assert own.stat(b"f").st_ctime_ns == before


async def test_the_names_of_attributes_can_be_listed_of_a_file_that_may_not_be_read(own: Posix) -> None:
    await own.put(b"f", b"abc")
    await own.tree.xattrs.set(own.find(b"f"), b"user.a", b"1")
    own.chmod(b"f", 0o200)
    await own.reopen()
    assert own.tree.xattrs.list(own.find(b"f")) == [b"user.a"]
    assert mode(own, b"f") == 0o200


async def test_a_loan_ends_when_the_call_fails(own: Posix) -> None:
    await own.put(b"f", b"abc")
    await own.reopen()
    own.backing(b"f").write_bytes(bytes(3000))
    own.chmod(b"f", 0o200)
    with pytest.raises(FormatError):
        await own.open(b"f", os.O_WRONLY, USER)
    assert mode(own, b"f") == 0o200
