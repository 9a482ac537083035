"""A store that fills up, anywhere: what was stored before is still there, and what failed has left nothing."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from testkit.disks import fill, small_filesystem
from testkit.home import ALIAS
from testkit.posix import Posix, opened

from kmsfs.keystore.service import Keystore
from kmsfs.tree.superblock_file import create_tree

PAGE = os.sysconf("SC_PAGESIZE")
CHUNK = 4096


@pytest.fixture
async def posix(keystore: Keystore, tmp_path: Path) -> AsyncIterator[Posix]:
    """A tree on a tmpfs of 4 MiB."""
    with small_filesystem(tmp_path / "small", 4 << 20) as small:
        create_tree(keystore, small / "store", ALIAS)
        async with opened(keystore, small / "store") as posix:
            yield posix


def fill_up(posix: Posix, *, leave: int = 0) -> Path:
    return fill(posix.path.parent, leave=leave)


def everything_below(path: Path) -> set[str]:
    return {str(found.relative_to(path)) for found in path.rglob("*")}


@pytest.mark.parametrize("leave", [0, 1, 2, 3, 10])
@pytest.mark.parametrize("start", [0, 100, CHUNK, 3 * CHUNK - 50, 3 * CHUNK, 9 * CHUNK + 1])
async def test_a_write_that_fails_loses_nothing(posix: Posix, leave: int, start: int) -> None:
    old = os.urandom(3 * CHUNK - 50)
    await posix.put(b"f", old)
    filler = fill_up(posix, leave=leave * PAGE)
    handle = await posix.open(b"f")
    with pytest.raises(OSError, match="No space left"):
        posix.write(handle, start, b"n" * (64 * CHUNK))
    now = await posix.read(handle)
    assert now[: min(start, len(old))] == old[:start]
    overwritten = len(now[start : len(old)].rstrip(b"n"))
    assert now[start:][: len(old) - start][-overwritten:] == old[start:][-overwritten:] or not overwritten
    assert not now[len(old) :].strip(b"n\0")
    posix.close(handle)
    filler.unlink()
    await posix.reopen()
    assert await posix.get(b"f") == now
    await posix.put(b"f", b"n" * (64 * CHUNK), start)
    assert await posix.get(b"f") == old[:start].ljust(start, b"\0") + b"n" * (64 * CHUNK)


async def test_a_data_key_whose_first_write_failed_is_no_other_files(posix: Posix) -> None:
    """Parts of what it had sealed may stand in free blocks: they would verify in that other file."""
    posix.pool().fill(3)
    filler = fill_up(posix)
    handle = await posix.create(b"f")
    ready = posix.find(b"f").file.ready  # type: ignore[union-attr]
    assert ready is not None
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            posix.write(handle, 0, b"n" * (64 * CHUNK))
    filler.unlink()
    await posix.tree.files.exchange_keys()
    posix.write(handle, 0, b"abc")
    posix.close(handle)
    for path in (b"g", b"h"):
        await posix.put(path, b"def")
    assert ready.file_id not in [posix.copies(path)[0].file_id for path in (b"f", b"g", b"h")]
    assert [await posix.get(path) for path in (b"f", b"g")] == [b"abc", b"def"]


async def test_a_first_write_that_fails_leaves_an_empty_file(posix: Posix) -> None:
    handle = await posix.create(b"f")
    for leave in (0, 1):
        filler = fill_up(posix, leave=leave * PAGE)
        with pytest.raises(OSError, match="No space left"):
            posix.write(handle, 0, bytes(20 * CHUNK))
        assert posix.backing(b"f").stat().st_size == 0
        filler.unlink()
    posix.write(handle, 0, b"fits")
    posix.close(handle)
    assert await posix.get(b"f") == b"fits"


async def test_a_write_beyond_the_end_that_fails_leaves_the_length(posix: Posix) -> None:
    await posix.put(b"f", b"abc")
    fill_up(posix)
    handle = await posix.open(b"f")
    with pytest.raises(OSError, match="No space left"):
        posix.write(handle, 100 * CHUNK, b"x")
    assert posix.size(b"f") == 3
    posix.close(handle)


async def test_truncating_works_on_a_full_store(posix: Posix) -> None:
    await posix.put(b"f", b"abc" * CHUNK)
    fill_up(posix)
    await posix.truncate(b"f", CHUNK + 5)
    assert await posix.get(b"f") == (b"abc" * CHUNK)[: CHUNK + 5]
    await posix.truncate(b"f", 0)
    posix.unlink(b"f")
    assert await posix.names() == []


CREATIONS: dict[str, Callable[[Posix], Awaitable[object]]] = {
    "directory": lambda posix: posix.mkdir(b"d"),
    "symlink": lambda posix: posix.symlink(b"s", b"t" * 2000),
    "long symlink": lambda posix: posix.symlink(b"s", b"t" * 4000),
    "file with a long name": lambda posix: posix.put(b"n" * 255, b""),
    "directory with a long name": lambda posix: posix.mkdir(b"n" * 255),
}


@pytest.mark.parametrize("what", CREATIONS)
async def test_a_creation_that_fails_leaves_nothing(posix: Posix, what: str) -> None:
    await posix.put(b"kept", b"abc")
    before = everything_below(posix.path)
    filler = fill_up(posix)
    with pytest.raises(OSError, match="No space left"):
        await CREATIONS[what](posix)
    assert everything_below(posix.path) - before <= {"kmsfs.links"}
    filler.unlink()
    await posix.mkdir(b"d")
    assert await posix.names() == [b"d", b"kept"]


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("flags", [0, 1, 2])
async def test_a_move_of_a_directory_that_fails_changes_nothing(posix: Posix, long: bool, flags: int) -> None:
    name = b"n" * 255 if long else b"n"
    for path in (b"a", b"b", b"a/d", b"a/d/e"):
        await posix.mkdir(path)
    await posix.put(b"a/d/e/f", b"abc")
    if flags == 2:
        await posix.mkdir(b"b/" + name)
    before = everything_below(posix.path)
    filler = fill_up(posix)
    descriptors = []
    for _ in range(3):
        with pytest.raises(OSError, match="No space left"):
            await posix.rename(b"a/d", b"b/" + name, flags)
        descriptors.append(len(os.listdir("/proc/self/fd")))
    assert descriptors[0] == descriptors[2]
    assert everything_below(posix.path) == before
    assert await posix.get(b"a/d/e/f") == b"abc"
    await posix.reopen()
    assert await posix.get(b"a/d/e/f") == b"abc"
    filler.unlink()
    await posix.rename(b"a/d", b"b/" + name, flags)
    assert await posix.get(b"b/" + name + b"/e/f") == b"abc"


async def test_no_free_inodes(keystore: Keystore, tmp_path: Path) -> None:
    with small_filesystem(tmp_path / "tiny", 4 << 20, inodes=10) as tiny:
        create_tree(keystore, tiny / "store", ALIAS)
        async with opened(keystore, tiny / "store") as posix:
            made = [b"%d" % at for at in range(6)]
            for name in made:
                await posix.put(name, b"abc")
            with pytest.raises(OSError, match="No space left"):
                await posix.put(b"one more", b"abc")
            assert await posix.names() == sorted(made)
            with pytest.raises(OSError, match="No space left"):
                await posix.mkdir(b"d")
            posix.unlink(made.pop())
            with pytest.raises(OSError, match="No space left"):
                await posix.mkdir(b"d")
            assert [name for name in everything_below(posix.path) if "tmp" in name] == []
            assert await posix.names() == sorted(made)
