"""Directory records and foreign entries: what is not of this tree is neither served, followed nor removed."""

import os
import shutil
from pathlib import Path

import pytest
from testkit.posix import ROOT, Posix

from kmsfs.errors import FormatError, IntegrityError, UnsupportedFormatError
from kmsfs.keystore.service import Keystore
from kmsfs.tree.volume import TreeOptions

RECORD = ".kmsfs.dir"


@pytest.fixture
async def nested(posix: Posix) -> Posix:
    for path in (b"a", b"a/b", b"c"):
        await posix.mkdir(path)
    await posix.put(b"a/b/f", b"abc")
    return posix


def edit(path: Path, at: int, new: bytes) -> None:
    with path.open("r+b") as raw:
        raw.seek(at)
        raw.write(new)


async def test_a_missing_record(nested: Posix) -> None:
    (nested.backing(b"a/b") / RECORD).unlink()
    await nested.reopen()
    with pytest.raises(IntegrityError, match="lost its record"):
        nested.find(b"a/b/f")
    with pytest.raises(IntegrityError, match="lost its record"):
        await nested.names(b"a/b")
    assert await nested.names(b"a") == [b"b"]


async def test_a_missing_root_record_refuses_the_tree(store: Path, keystore: Keystore) -> None:
    (store / RECORD).unlink()
    for _ in range(2):  # what failed has not kept the tree's lock
        with pytest.raises(IntegrityError, match="lost its record"):
            Posix(keystore, store, TreeOptions())


@pytest.mark.parametrize(
    ("at", "new", "error"),
    [
        (0, b"X", FormatError),
        (8, b"\0\2", UnsupportedFormatError),
        (11, b"\1", UnsupportedFormatError),
        (12, bytes(15), IntegrityError),
        (383, b"\xff\xff", FormatError),
        (352, bytes(32), IntegrityError),
    ],
)
async def test_an_edited_record(nested: Posix, at: int, new: bytes, error: type[Exception]) -> None:
    edit(nested.backing(b"a/b") / RECORD, at, new)
    await nested.reopen()
    with pytest.raises(error):
        nested.find(b"a/b/f")


async def test_a_record_of_another_directory(nested: Posix) -> None:
    shutil.copy(nested.backing(b"c") / RECORD, nested.backing(b"a/b") / RECORD)
    await nested.reopen()
    with pytest.raises(IntegrityError):
        nested.find(b"a/b/f")


async def test_a_directory_that_was_moved_behind_our_back(nested: Posix) -> None:
    moved = nested.backing(b"a/b")
    target = nested.backing(b"c") / "b"
    moved.rename(target)
    await nested.reopen()
    assert await nested.names(b"c") == []  # its name is sealed to the directory that it was in
    target.rename(
        nested.backing(b"c") / os.fsdecode(nested.tree.namespace._directories.entry(nested.find(b"c"), b"b"))
    )
    assert await nested.names(b"c") == [b"b"]
    with pytest.raises(IntegrityError):
        nested.find(b"c/b/f")


async def test_a_directory_that_was_exchanged_while_it_is_known(nested: Posix, tmp_path: Path) -> None:
    nested.find(b"a/b/f")
    await nested.mkdir(b"c/b")
    one, two = nested.backing(b"a/b"), nested.backing(b"c/b")
    one.rename(tmp_path / "aside")
    two.rename(one)
    with pytest.raises((OSError, IntegrityError)):
        await nested.get(b"a/b/f")


@pytest.mark.parametrize(
    "foreign",
    [
        "README", "a.b", "kmsfs.tmp.x", "kmsfs.long.AAAA", "kmsfs.long.AAAA.name", "kmsfs.other", "AAAA", "=", "ü",
        "A" * 48, "A" * 255,
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["file", "directory", "symlink"])
async def test_foreign_entries_are_not_served_and_not_removed(
    nested: Posix, foreign: str, kind: str, tmp_path: Path
) -> None:
    place = nested.backing(b"a/b") / foreign
    if kind == "file":
        place.write_bytes(b"foreign")
    elif kind == "directory":
        place.mkdir()
    else:
        place.symlink_to(tmp_path)
    assert await nested.names(b"a/b") == [b"f"]
    nested.unlink(b"a/b/f")
    leftover = foreign.startswith("kmsfs.tmp.") or foreign == "kmsfs.long.AAAA.name"
    if leftover:
        nested.rmdir(b"a/b")
        assert not nested.exists(b"a/b")
        nested.rmdir(b"a")
        assert await nested.names() == [b"c"]
        assert tmp_path.is_dir()
    else:
        with pytest.raises(OSError, match="not empty"):
            nested.rmdir(b"a/b")
        assert place.is_symlink() or place.exists()


async def test_foreign_entries_are_logged_once_for_a_directory(
    nested: Posix, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("README", "other", "a.b"):
        (nested.backing(b"a") / name).write_bytes(b"")
    for _ in range(3):
        await nested.names(b"a")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "README" not in caplog.text


@pytest.mark.parametrize("what", ["entry", "record", "directory"])
async def test_a_planted_symlink_is_never_followed(nested: Posix, tmp_path: Path, what: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / RECORD).write_bytes((nested.backing(b"a/b") / RECORD).read_bytes())
    (outside / "file").write_bytes(nested.backing(b"a/b/f").read_bytes())
    name = nested.backing(b"a/b/f").name
    (outside / name).write_bytes(nested.backing(b"a/b/f").read_bytes())
    before = {path.name: path.read_bytes() for path in outside.iterdir()}
    path, target = {
        "entry": (nested.backing(b"a/b/f"), outside / "file"),
        "record": (nested.backing(b"a/b") / RECORD, outside / RECORD),
        "directory": (nested.backing(b"a/b"), outside),
    }[what]
    await nested.reopen()
    if what == "directory":
        shutil.rmtree(path)
    else:
        path.unlink()
    path.symlink_to(target)
    for attempt in (nested.get(b"a/b/f"), nested.put(b"a/b/f", b"overwritten"), nested.put(b"a/b/g", b"new")):
        if (
            what == "entry"
            and attempt.__qualname__ == "Posix.put"
            and attempt.cr_frame.f_locals["path"] == b"a/b/g"
        ):
            await attempt
            continue
        with pytest.raises((OSError, IntegrityError)):
            await attempt
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == before


async def test_an_entry_exchanged_for_a_symlink_while_it_is_known(nested: Posix, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(nested.backing(b"a/b/f").read_bytes())
    inode = nested.find(b"a/b/f")
    nested.evict(b"a/b/f")
    path = nested.backing(b"a/b/f")
    path.unlink()
    path.symlink_to(outside)
    with pytest.raises(OSError, match="symbolic links"):
        await nested.tree.files.open(inode, os.O_RDWR, ROOT)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="another object"):
        await nested.tree.files.open(inode, os.O_RDWR, ROOT)


async def test_deep_trees_and_few_descriptors(posix: Posix) -> None:
    """More levels than directory descriptors are cached."""
    path = b"d"
    await posix.mkdir(path)
    for _ in range(399):
        path += b"/d"
        await posix.mkdir(path)
    await posix.put(path + b"/f", b"deep")
    await posix.put(b"top", b"top")
    await posix.mkdir(b"e")
    deep, shallow = posix.find(path), posix.find(b"e")
    posix.tree.volume.directories.close()  # as if others had used the cache
    await posix.tree.namespace.link(posix.find(b"top"), deep, b"linked")
    posix.tree.volume.directories.close()
    posix.tree.volume.directories.fd(shallow)
    await posix.rename(b"top", b"e/top")
    inode = posix.find(b"e/top")
    posix.tree.volume.directories.close()
    await posix.tree.namespace.link(inode, deep, b"linked again")
    assert await posix.get(path + b"/linked") == b"top"
    posix.tree.volume.directories.close()
    assert await posix.get(path + b"/linked again") == b"top"
    assert await posix.get(path + b"/f") == b"deep"
    await posix.rename(path, b"e/d")
    assert await posix.names(b"e/d") == [b"f", b"linked", b"linked again"]
