"""Content of files: reading, writing, truncating, holes, for each chunk size."""

import os
from pathlib import Path

import pytest
from testkit.home import ALIAS
from testkit.posix import ROOT, Caller, Posix

from kmsfs.errors import IntegrityError, KeyExhaustedError
from kmsfs.format.header import MAX_CHUNK_WRITES
from kmsfs.format.layout import CHUNK_SIZES, backing_size, chunk_offset
from kmsfs.keystore.service import Keystore
from kmsfs.tree.superblock_file import create_tree


@pytest.fixture(params=CHUNK_SIZES)
def chunk(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def store(keystore: Keystore, tmp_path: Path, chunk: int) -> Path:
    path = tmp_path / "store"
    create_tree(keystore, path, ALIAS, chunk_size=chunk)
    return path


def pattern(length: int, seed: int = 0) -> bytes:
    """Bytes that differ from chunk to chunk."""
    return b"".join((seed + at).to_bytes(4, "big") for at in range(-(-length // 4)))[:length]


async def test_what_is_written_is_read(posix: Posix, chunk: int) -> None:
    for length in (1, chunk - 1, chunk, chunk + 1, 3 * chunk + 7, (1 << 20) + 1):
        path = b"f%d" % length
        await posix.put(path, pattern(length))
        assert await posix.get(path) == pattern(length)
        assert posix.size(path) == length
        assert posix.backing(path).stat().st_size == backing_size(length, chunk)


async def test_nothing_is_written_to_a_file_that_is_only_created(posix: Posix) -> None:
    await posix.put(b"f", b"")
    assert posix.backing(b"f").stat().st_size == 0
    assert await posix.get(b"f") == b""


@pytest.mark.parametrize("where", ["head", "tail", "across", "inside", "all", "append", "over the end"])
async def test_overwriting(posix: Posix, chunk: int, where: str) -> None:
    size = 2 * chunk + 100
    start, length = {
        "head": (0, 10),
        "tail": (size - 10, 10),
        "across": (chunk - 5, 10),
        "inside": (chunk + 5, 10),
        "all": (0, size),
        "append": (size, 10),
        "over the end": (size - 5, chunk),
    }[where]
    await posix.put(b"f", pattern(size))
    await posix.put(b"f", b"\xff" * length, start)
    expected = bytearray(pattern(size))
    expected[start : start + length] = b"\xff" * length
    assert await posix.get(b"f") == expected
    await posix.reopen()
    assert await posix.get(b"f") == expected


@pytest.mark.parametrize("old", [0, 1, 100])
@pytest.mark.parametrize("gap", [1, "chunk", "chunks"])
async def test_a_gap_reads_as_zeros(posix: Posix, chunk: int, old: int, gap: int | str) -> None:
    start = old + {"chunk": chunk, "chunks": 5 * chunk + 3}.get(str(gap), 1)
    if old:
        await posix.put(b"f", pattern(old))
    await posix.put(b"f", b"end", start)
    assert await posix.get(b"f") == pattern(old) + bytes(start - old) + b"end"


async def test_truncating_up_takes_no_space_and_reads_as_zeros(posix: Posix, chunk: int) -> None:
    await posix.put(b"f", b"abc")
    await posix.truncate(b"f", 1 << 40)
    assert posix.size(b"f") == 1 << 40
    assert posix.stat(b"f").st_blocks * 512 < 1 << 17
    handle = await posix.open(b"f")
    assert await posix.read(handle, 0, 5) == b"abc\0\0"
    assert await posix.read(handle, (1 << 40) - 3, 10) == bytes(3)
    posix.write(handle, 1 << 39, b"middle")
    assert await posix.read(handle, (1 << 39) - 2, 10) == b"\0\0middle\0\0"
    posix.close(handle)


async def test_truncating_down_and_up_again_leaves_no_old_bytes(posix: Posix, chunk: int) -> None:
    for size in (0, 1, chunk - 1, chunk, chunk + 1, 2 * chunk):
        path = b"f%d" % size
        await posix.put(path, pattern(3 * chunk))
        await posix.truncate(path, size)
        assert await posix.get(path) == pattern(3 * chunk)[:size]
        assert posix.backing(path).stat().st_size == backing_size(size, chunk)
        await posix.truncate(path, 3 * chunk)
        assert await posix.get(path) == pattern(3 * chunk)[:size] + bytes(3 * chunk - size)


async def test_truncating_inside_a_hole(posix: Posix, chunk: int) -> None:
    await posix.put(b"f", b"x", 10 * chunk)
    await posix.truncate(b"f", 5 * chunk + 17)
    assert await posix.get(b"f") == bytes(5 * chunk + 17)
    await posix.put(b"f", b"y", 5 * chunk + 20)
    assert await posix.get(b"f") == bytes(5 * chunk + 20) + b"y"


async def test_many_holes_survive_closing(posix: Posix, chunk: int) -> None:
    """More holes than the header has extents: merged ones still read what was written between them."""
    expected = bytearray(40 * chunk + 1)
    handle = await posix.create(b"f")
    for at in range(0, 41, 2):
        posix.write(handle, at * chunk, b"%d" % (at % 10))
        expected[at * chunk] = ord(b"%d" % (at % 10))
    assert await posix.read(handle) == expected
    posix.close(handle)
    await posix.seal()
    posix.evict(b"f")
    assert await posix.get(b"f") == expected


async def test_a_write_past_the_largest_size_is_refused(posix: Posix) -> None:
    handle = await posix.create(b"f")
    with pytest.raises(OSError, match="too large"):
        posix.write(handle, (1 << 63) - 2, b"x")
    with pytest.raises(OSError, match="too large"):
        await posix.truncate(b"f", (1 << 63) - 2)
    posix.close(handle)
    assert posix.size(b"f") == 0


async def test_open_with_o_trunc_empties(posix: Posix) -> None:
    await posix.put(b"f", b"abc")
    handle = await posix.open(b"f", os.O_RDWR | os.O_TRUNC)
    assert posix.size(b"f") == 0
    posix.write(handle, 0, b"z")
    posix.close(handle)
    assert await posix.get(b"f") == b"z"


@pytest.mark.parametrize("damage", ["flip", "zero", "cut", "swap"])
async def test_a_damaged_chunk_is_an_error_and_the_others_are_not(
    posix: Posix, chunk: int, damage: str
) -> None:
    await posix.put(b"f", pattern(4 * chunk))
    await posix.seal()
    posix.evict(b"f")
    start, stop = chunk_offset(1, chunk), chunk_offset(2, chunk)
    with posix.backing(b"f").open("r+b") as raw:
        body = raw.read()
        if damage == "cut":
            raw.truncate(chunk_offset(3, chunk))
        else:
            second = {
                "flip": bytes([body[start] ^ 1]) + body[start + 1 : stop],
                "zero": bytes(stop - start),
                "swap": body[stop : 2 * stop - start],
            }[damage]
            raw.seek(start)
            raw.write(second)
    if damage == "cut":
        with pytest.raises(IntegrityError, match="cut off"):
            await posix.get(b"f")
        return
    handle = await posix.open(b"f")
    with pytest.raises(IntegrityError):
        await posix.read(handle, chunk, 1)
    assert await posix.read(handle, 0, chunk) == pattern(chunk)
    with pytest.raises(IntegrityError):
        posix.write(handle, chunk + 1, b"x")  # would have to read around it
    posix.write(handle, chunk, pattern(chunk))
    posix.close(handle)
    assert await posix.get(b"f") == pattern(chunk) * 2 + pattern(4 * chunk)[2 * chunk :]


async def test_set_user_id_goes_when_another_user_writes(posix: Posix) -> None:
    await posix.put(b"f", b"abc")
    posix.chmod(b"f", 0o6755)
    handle = await posix.open(b"f", os.O_RDWR, Caller(1000, 1000))
    assert posix.stat(b"f").st_mode & 0o7777 == 0o6755
    posix.write(handle, 0, b"x")
    assert posix.stat(b"f").st_mode & 0o7777 == 0o755
    posix.close(handle)
    posix.chmod(b"f", 0o6755)
    await posix.tree.files.truncate(posix.find(b"f"), 1, ROOT)
    assert posix.stat(b"f").st_mode & 0o7777 == 0o6755


async def test_a_data_key_that_is_used_up_writes_no_more(posix: Posix, chunk: int) -> None:
    """2^31 chunk writes: what is there can be read and cut, and a copy has a key of its own."""
    old = pattern(2 * chunk)
    await posix.put(b"f", old)
    handle = await posix.open(b"f")
    posix.tree.files._handles[handle].file.chunk_writes = MAX_CHUNK_WRITES - 1
    posix.write(handle, 0, b"last")
    for offset in (0, 2 * chunk, 10 * chunk):
        with pytest.raises(KeyExhaustedError, match="limit of chunk writes"):
            posix.write(handle, offset, b"one more")
    posix.close(handle)
    now = b"last" + old[4:]
    with pytest.raises(KeyExhaustedError):
        await posix.truncate(b"f", chunk + 1)  # seals the new, shorter last chunk
    assert await posix.get(b"f") == now
    for again in (posix.recover, lambda: None):
        again()
        assert await posix.get(b"f") == now
        with pytest.raises(KeyExhaustedError):
            await posix.put(b"f", b"one more")
        await posix.seal()
        posix.evict(b"f")
    await posix.put(b"copy", await posix.get(b"f"))
    await posix.put(b"copy", b"more")
    await posix.truncate(b"f", chunk)
    assert await posix.get(b"f") == now[:chunk]
