"""What opening does with a file whose header and length disagree: docs/format.md section 3, row by row."""

import os

import pytest
from testkit.posix import Posix

from kmsfs.errors import FormatError, IntegrityError
from kmsfs.format.layout import HEADER_SIZE, backing_size, chunk_offset

CHUNK = 4096
OLD, NEW = b"o" * (2 * CHUNK + 10), b"n" * (CHUNK + 5)


@pytest.fixture
async def sealed(posix: Posix) -> Posix:
    """A tree with the sealed, closed file ``f`` of two and a bit chunks."""
    await posix.put(b"f", OLD)
    await posix.seal()
    posix.evict(b"f")
    return posix


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings and errors so far, without the file ids; forgets them."""
    found = [f"{r.levelname}: {r.getMessage().split(': ', 1)[1]}" for r in caplog.records if r.levelno >= 30]
    caplog.clear()
    return found


async def assert_reseals(posix: Posix, path: bytes, length: int, caplog: pytest.LogCaptureFixture) -> None:
    """After a round both copies are clean and say ``length``; the next open has nothing to say."""
    await posix.seal()
    assert {(copy.dirty, copy.sealed_length) for copy in posix.copies(path)} == {(False, length)}
    logged(caplog)
    posix.evict(path)
    await posix.get(path)
    assert logged(caplog) == []


async def test_clean_and_equal_is_served(sealed: Posix, caplog: pytest.LogCaptureFixture) -> None:
    assert await sealed.get(b"f") == OLD
    assert logged(caplog) == []


@pytest.mark.parametrize("size", [2 * CHUNK + 9, 2 * CHUNK, CHUNK + 1, CHUNK, 1, 0])
async def test_clean_and_shorter_is_an_error(sealed: Posix, size: int) -> None:
    os.truncate(sealed.backing(b"f"), backing_size(size, CHUNK))
    with pytest.raises(IntegrityError, match="cut off"):
        await sealed.get(b"f")
    with pytest.raises(IntegrityError, match="cut off"):
        await sealed.open(b"f", os.O_RDWR | os.O_TRUNC)


@pytest.mark.parametrize("size", [1, 1023, 1024, HEADER_SIZE - 1])
async def test_cut_inside_the_header_is_an_error(sealed: Posix, size: int) -> None:
    os.truncate(sealed.backing(b"f"), size)
    with pytest.raises(FormatError, match="inside its header"):
        await sealed.get(b"f")


async def test_cut_to_nothing_is_as_if_never_written(sealed: Posix) -> None:
    """Docs: a rollback of a whole file, also to nothing, is what manifests are for."""
    os.truncate(sealed.backing(b"f"), 0)
    assert await sealed.get(b"f") == b""


@pytest.mark.parametrize("extra", [1, 12, 28])
async def test_clean_with_an_incomplete_chunk_behind_loses_only_that(
    sealed: Posix, extra: int, caplog: pytest.LogCaptureFixture
) -> None:
    """An append that was torn by a power cut must not cost what was sealed before."""
    await sealed.truncate(b"f", CHUNK)
    await sealed.seal()
    sealed.evict(b"f")
    with sealed.backing(b"f").open("ab") as raw:
        raw.write(bytes(extra))
    assert await sealed.get(b"f") == OLD[:CHUNK]
    assert "WARNING: dropping an incomplete chunk behind 4096 bytes" in logged(caplog)


async def test_clean_and_longer_is_served_logged_and_resealed(
    sealed: Posix, caplog: pytest.LogCaptureFixture
) -> None:
    backing = sealed.backing(b"f")
    header = backing.read_bytes()[:HEADER_SIZE]
    await sealed.put(b"f", NEW, len(OLD))
    sealed.recover()
    with backing.open("r+b") as raw:
        raw.write(header)
    assert await sealed.get(b"f") == OLD + NEW
    assert logged(caplog) == [f"WARNING: resealing {len(OLD + NEW)} bytes, its header says {len(OLD)}"]
    await assert_reseals(sealed, b"f", len(OLD + NEW), caplog)


async def test_clean_and_longer_by_garbage_drops_the_garbage(
    sealed: Posix, caplog: pytest.LogCaptureFixture
) -> None:
    await sealed.truncate(b"f", 2 * CHUNK)
    await sealed.seal()
    sealed.evict(b"f")
    with sealed.backing(b"f").open("ab") as raw:
        raw.write(b"\xa5" * (CHUNK + 28))
    assert await sealed.get(b"f") == OLD[: 2 * CHUNK]
    assert f"WARNING: dropping unfinished writes behind {2 * CHUNK} bytes" in logged(caplog)


@pytest.mark.parametrize("again", [b"", NEW])
async def test_dirty_and_equal_is_served_and_resealed(
    sealed: Posix, again: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    await sealed.put(b"f", b"!", 0)
    if again:
        await sealed.put(b"f", again, len(OLD))
    sealed.recover()
    assert any(copy.dirty for copy in sealed.copies(b"f"))
    assert await sealed.get(b"f") == b"!" + OLD[1:] + again
    assert logged(caplog) == []
    await assert_reseals(sealed, b"f", len(OLD + again), caplog)


@pytest.mark.parametrize("length", [0, 5, CHUNK, 2 * CHUNK + 1, 4 * CHUNK])
async def test_dirty_and_of_another_length_is_served_logged_and_resealed(
    posix: Posix, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    handle = await posix.create(b"f")
    posix.write(handle, 0, b"start")
    if length > 5:
        posix.write(handle, 5, bytes(range(256)) * 64 * 4)
        await posix.truncate(b"f", length)
        posix.write(handle, length, b"more")
    expected = await posix.read(handle)
    posix.recover()
    assert await posix.get(b"f") == expected
    said = logged(caplog)
    assert len(said) == (1 if length > 5 else 0)
    assert all(line.startswith(f"WARNING: resealing {len(expected)} bytes") for line in said)
    await assert_reseals(posix, b"f", len(expected), caplog)


async def test_dirty_with_a_torn_append_keeps_what_is_whole(
    posix: Posix, caplog: pytest.LogCaptureFixture
) -> None:
    await posix.put(b"f", OLD)
    with posix.backing(b"f").open("r+b") as raw:
        raw.truncate(chunk_offset(2, CHUNK) + 20)
    posix.recover()
    assert await posix.get(b"f") == OLD[: 2 * CHUNK]
    said = logged(caplog)
    assert said[0] == f"WARNING: dropping an incomplete chunk behind {2 * CHUNK} bytes"
    assert len(said) == 2
    assert posix.backing(b"f").stat().st_size == backing_size(2 * CHUNK, CHUNK)
    await assert_reseals(posix, b"f", 2 * CHUNK, caplog)


async def test_dirty_with_a_bad_last_chunk_stays_unsealed_until_it_is_cut(
    posix: Posix, caplog: pytest.LogCaptureFixture
) -> None:
    await posix.put(b"f", OLD)
    with posix.backing(b"f").open("r+b") as raw:
        raw.truncate(chunk_offset(2, CHUNK) + 33)
    posix.recover()
    handle = await posix.open(b"f")
    assert logged(caplog) == ["ERROR: last chunk does not verify after a crash; it stays unsealed"]
    assert await posix.read(handle, 0, 2 * CHUNK) == OLD[: 2 * CHUNK]
    with pytest.raises(IntegrityError):
        await posix.read(handle, 2 * CHUNK, 1)
    await posix.tree.files.fsync(handle, data_only=True)
    posix.close(handle)
    await posix.seal()
    assert any(copy.dirty for copy in posix.copies(b"f"))
    await posix.truncate(b"f", 2 * CHUNK)
    assert await posix.get(b"f") == OLD[: 2 * CHUNK]
    await assert_reseals(posix, b"f", 2 * CHUNK, caplog)


async def test_dirty_of_equal_length_has_its_last_chunk_checked(
    posix: Posix, caplog: pytest.LogCaptureFixture
) -> None:
    await posix.put(b"f", OLD)
    with posix.backing(b"f").open("r+b") as raw:
        raw.seek(-5, os.SEEK_END)
        raw.write(b"12345")
    posix.recover()
    with pytest.raises(IntegrityError):
        await posix.get(b"f")
    assert logged(caplog) == ["ERROR: last chunk does not verify after a crash; it stays unsealed"]


@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK + 1, 2 * CHUNK + 1])
async def test_a_truncation_that_stopped_after_its_last_chunk_is_finished(
    sealed: Posix, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    handle = await sealed.open(b"f")
    file = sealed.tree.files._handles[handle].file
    long = os.fstat(file.fd).st_size
    behind = sealed.backing(b"f").read_bytes()
    assert file.begin_shrink(size)
    file.finish_shrink(size)
    with sealed.backing(b"f").open("r+b") as raw:  # undo the last step, the cut
        kept = raw.seek(0, os.SEEK_END)
        raw.write(behind[kept:long])
    sealed.recover()
    assert await sealed.get(b"f") == OLD[:size]
    assert logged(caplog) == [f"WARNING: finishing a truncation to {size} bytes"]
    await assert_reseals(sealed, b"f", size, caplog)


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1])
async def test_a_truncation_that_was_only_announced_did_not_happen(
    sealed: Posix, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    handle = await sealed.open(b"f")
    sealed.tree.files._handles[handle].file.begin_shrink(size)
    sealed.recover()
    assert await sealed.get(b"f") == OLD
    assert logged(caplog) == [f"WARNING: resealing {len(OLD)} bytes, its header says {size}"]
    await assert_reseals(sealed, b"f", len(OLD), caplog)


async def test_a_truncation_and_longer_writes_after_it_are_kept(
    sealed: Posix, caplog: pytest.LogCaptureFixture
) -> None:
    handle = await sealed.open(b"f")
    await sealed.truncate(b"f", 10)
    sealed.write(handle, 10, NEW * 3)
    sealed.recover()
    assert await sealed.get(b"f") == OLD[:10] + NEW * 3
    await assert_reseals(sealed, b"f", len(NEW * 3) + 10, caplog)


async def test_one_torn_copy_is_served_from_the_other(
    sealed: Posix, caplog: pytest.LogCaptureFixture
) -> None:
    for torn in (0, 1024):
        with sealed.backing(b"f").open("r+b") as raw:
            good = raw.read(HEADER_SIZE)
            raw.seek(torn)
            raw.write(bytes(512))
        assert await sealed.get(b"f") == OLD
        assert logged(caplog) == []
        await sealed.seal()
        assert sealed.copies(b"f")[0] == sealed.copies(b"f")[1]
        sealed.evict(b"f")
        assert sealed.backing(b"f").read_bytes()[:HEADER_SIZE] == good


async def test_two_torn_copies_are_an_error(sealed: Posix) -> None:
    with sealed.backing(b"f").open("r+b") as raw:
        raw.seek(100)
        raw.write(b"\xff")
        raw.seek(1024 + 100)
        raw.write(b"\xff")
    with pytest.raises(IntegrityError):
        await sealed.get(b"f")


async def test_a_read_only_mount_recovers_without_writing(
    posix: Posix, caplog: pytest.LogCaptureFixture
) -> None:
    await posix.put(b"torn", OLD)
    await posix.put(b"cut", OLD)
    torn, cut = posix.backing(b"torn"), posix.backing(b"cut")
    os.truncate(torn, chunk_offset(2, CHUNK) + 20)
    handle = await posix.open(b"cut")
    file = posix.tree.files._handles[handle].file
    whole = cut.read_bytes()
    file.begin_shrink(5)
    file.finish_shrink(5)
    shrunk = cut.read_bytes()
    cut.write_bytes(shrunk + whole[len(shrunk) :])
    before = torn.read_bytes(), cut.read_bytes()
    posix.recover(read_only=True)
    assert await posix.get(b"torn") == OLD[: 2 * CHUNK]
    assert await posix.get(b"cut") == OLD[:5]
    with pytest.raises(OSError, match="Read-only"):
        await posix.open(b"cut", os.O_RDWR)
    await posix.reopen()
    assert (torn.read_bytes(), cut.read_bytes()) == before
