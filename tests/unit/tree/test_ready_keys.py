"""The data keys of open files that were never written: they follow their keys."""

import trio
from testkit.posix import Posix

from kmsfs.format.blob import parse_blob_head
from kmsfs.format.header import FileHeader
from kmsfs.format.layout import HEADER_COPY_SIZE
from kmsfs.ids import KeyArn
from kmsfs.tree.open_file import OpenFile


def open_file(posix: Posix, path: bytes) -> OpenFile:
    file = posix.find(path).file
    assert file is not None
    return file


def materials(posix: Posix, path: bytes) -> list[bytes]:
    """The material that each slot of a file names."""
    raw = posix.backing(path).read_bytes()[:HEADER_COPY_SIZE]
    return [parse_blob_head(slot).material_id for slot in FileHeader.parse(raw).slots]


async def test_a_file_that_is_open_over_a_rotation_is_written_under_the_new_material(
    posix: Posix, eu_key: KeyArn
) -> None:
    """The old material may have been retired when it is written."""
    handle = await posix.create(b"f")
    before = open_file(posix, b"f").ready
    rotated = posix.keystore.rotate_key(eu_key)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(posix.tree.files.follow_keys, 0.001)
        while open_file(posix, b"f").ready is before:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    posix.write(handle, 0, b"abc")
    posix.close(handle)
    assert materials(posix, b"f") == [rotated.current_material_id]


async def test_a_reload_exchanges_them_at_once(posix: Posix, eu_key: KeyArn) -> None:
    handle = await posix.create(b"f")
    rotated = posix.keystore.rotate_key(eu_key)
    await posix.tree.reload()
    posix.write(handle, 0, b"abc")
    posix.close(handle)
    assert materials(posix, b"f") == [rotated.current_material_id]


async def test_a_key_that_cannot_be_used_keeps_what_was_made_under_it(posix: Posix, eu_key: KeyArn) -> None:
    handle = await posix.create(b"f")
    before = open_file(posix, b"f").ready
    posix.keystore.rotate_key(eu_key)
    posix.keystore.disable_key(eu_key)
    calls = posix.keystore.hsm_calls
    await posix.tree.files.exchange_keys()
    assert (open_file(posix, b"f").ready, posix.keystore.hsm_calls) == (before, calls)
    rotated = posix.keystore.enable_key(eu_key)
    await posix.tree.files.exchange_keys()
    posix.write(handle, 0, b"abc")
    posix.close(handle)
    assert materials(posix, b"f") == [rotated.current_material_id]
