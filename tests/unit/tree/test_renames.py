"""renameat2(2): what moves, what is replaced, and what a stop after any step leaves."""

import itertools
import os
from collections.abc import Callable

import pytest
from testkit.posix import ROOT, Posix

from kmsfs.format.directory import DirectoryRecord
from kmsfs.storage import backing
from kmsfs.storage.backing import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT
from kmsfs.tree import renames

SHORT, LONG, LONG2 = b"n", b"n" * 200, b"m" * 255


async def make(posix: Posix, path: bytes, kind: str) -> None:
    if kind == "file":
        await posix.put(path, b"in " + path)
    elif kind == "empty directory":
        await posix.mkdir(path)
    elif kind == "directory":
        await posix.mkdir(path)
        await posix.mkdir(path + b"/sub")
        await posix.put(path + b"/sub/f", b"in " + path)
    elif kind == "symlink":
        await posix.symlink(path, b"to " + path)
    else:
        assert kind == "nothing"


async def look(posix: Posix, path: bytes, kind: str, was: bytes) -> None:
    """``path`` is now what ``make`` made at ``was``."""
    if kind == "nothing":
        assert not posix.exists(path)
    elif kind == "file":
        assert await posix.get(path) == b"in " + was
    elif kind == "symlink":
        assert posix.readlink(path) == b"to " + was
    elif kind == "directory":
        assert await posix.get(path + b"/sub/f") == b"in " + was
        assert await posix.names(path) == [b"sub"]
    else:
        assert await posix.names(path) == []


def no_leftovers(posix: Posix) -> None:
    """Only entries with their records and sidecars are in the store."""
    for directory, _, names in os.walk(posix.path):
        assert not [name for name in names if name.startswith("kmsfs.tmp.")]
        for name in names:
            if name.endswith(".name"):
                assert os.path.lexists(os.path.join(directory, name.removesuffix(".name")))


@pytest.mark.parametrize("kind", ["file", "directory", "empty directory", "symlink"])
@pytest.mark.parametrize(("old", "new"), list(itertools.permutations([SHORT, LONG, LONG2], 2)))
@pytest.mark.parametrize("across", [False, True])
async def test_to_a_free_name(posix: Posix, kind: str, old: bytes, new: bytes, across: bool) -> None:
    for directory in (b"a", b"b"):
        await posix.mkdir(directory)
    old, new = b"a/" + old, (b"b/" if across else b"a/") + new
    await make(posix, old, kind)
    await posix.rename(old, new, RENAME_NOREPLACE)
    await look(posix, new, kind, old)
    assert not posix.exists(old)
    await posix.reopen()
    await look(posix, new, kind, old)
    assert not posix.exists(old)
    no_leftovers(posix)
    with pytest.raises(FileNotFoundError):
        await posix.rename(old, new)


@pytest.mark.parametrize(
    ("kind", "target", "error"),
    [
        ("file", "file", None),
        ("file", "symlink", None),
        ("symlink", "file", None),
        ("file", "empty directory", IsADirectoryError),
        ("directory", "empty directory", None),
        ("directory", "directory", OSError),
        ("directory", "file", NotADirectoryError),
        ("symlink", "directory", IsADirectoryError),
    ],
)
@pytest.mark.parametrize("name", [SHORT, LONG])
@pytest.mark.parametrize("across", [False, True])
async def test_over_something(
    posix: Posix, kind: str, target: str, error: type[OSError] | None, name: bytes, across: bool
) -> None:
    for directory in (b"a", b"b"):
        await posix.mkdir(directory)
    old, new = b"a/old", (b"b/" if across else b"a/") + name
    await make(posix, old, kind)
    await make(posix, new, target)
    with pytest.raises(FileExistsError):
        await posix.rename(old, new, RENAME_NOREPLACE)
    if error is None:
        await posix.rename(old, new)
        await look(posix, new, kind, old)
        assert not posix.exists(old)
    else:
        with pytest.raises(error):
            await posix.rename(old, new)
        await look(posix, old, kind, old)
        await look(posix, new, target, new)
    no_leftovers(posix)
    await posix.reopen()
    await look(posix, new, target if error else kind, new if error else old)


@pytest.mark.parametrize(
    ("one", "two"), [("file", "file"), ("file", "directory"), ("directory", "directory"), ("symlink", "file")]
)
@pytest.mark.parametrize("across", [False, True])
async def test_exchange(posix: Posix, one: str, two: str, across: bool) -> None:
    for directory in (b"a", b"b"):
        await posix.mkdir(directory)
    old, new = b"a/" + LONG, b"b/x" if across else b"a/x"
    await make(posix, old, one)
    with pytest.raises(FileNotFoundError):
        await posix.rename(old, new, RENAME_EXCHANGE)
    await make(posix, new, two)
    await posix.rename(old, new, RENAME_EXCHANGE)
    for _ in range(2):
        await look(posix, new, one, old)
        await look(posix, old, two, new)
        await posix.reopen()
    no_leftovers(posix)


async def test_whiteout(posix: Posix) -> None:
    await posix.put(b"a", b"abc")
    await posix.rename(b"a", b"b", RENAME_WHITEOUT)
    assert posix.stat(b"a").st_rdev == 0
    assert posix.stat(b"a").st_mode & 0o170000 == 0o020000
    assert await posix.get(b"b") == b"abc"


async def test_two_links_to_one_file_stay(posix: Posix) -> None:
    await posix.put(b"a", b"abc")
    await posix.link(b"a", b"b")
    await posix.rename(b"a", b"b")
    assert await posix.names() == [b"a", b"b"]


async def test_a_directory_into_itself(posix: Posix) -> None:
    await posix.mkdir(b"a")
    await posix.mkdir(b"a/b")
    with pytest.raises(OSError, match="Invalid argument"):
        await posix.rename(b"a", b"a/b/c")
    assert await posix.names(b"a/b") == []
    await posix.reopen()
    assert await posix.names(b"a/b") == []


async def test_unknown_flags(posix: Posix) -> None:
    await posix.put(b"a", b"")
    with pytest.raises(OSError, match="Invalid argument"):
        await posix.rename(b"a", b"b", 8)


async def test_known_inodes_follow(posix: Posix) -> None:
    for directory in (b"a", b"b", b"a/d", b"a/d/e"):
        await posix.mkdir(directory)
    await posix.put(b"a/d/e/f", b"abc")
    file, inner = posix.find(b"a/d/e/f"), posix.find(b"a/d/e")
    await posix.rename(b"a/d", b"b/d")
    assert posix.find(b"b/d/e/f") is file
    assert posix.find(b"b/d/e") is inner
    posix.evict(b"b/d/e/f")
    number, _ = await posix.tree.files.open(file, os.O_RDONLY, ROOT)
    assert await posix.read(number) == b"abc"
    posix.close(number)
    await posix.put(b"b/d/e/g", b"new")
    await posix.reopen()
    assert await posix.names(b"b/d/e") == [b"f", b"g"]


class StoppedError(Exception):
    """Stands for the end of the process."""


def stop_at(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Let the next rename of a directory end where ``step`` says."""

    def stopping(call: Callable[..., None], *, before: bool) -> Callable[..., None]:
        def stopped(*arguments: object) -> None:
            if not before:
                call(*arguments)
            raise StoppedError

        return stopped

    when, _, what = step.partition(" ")
    if what == "rename":
        monkeypatch.setattr(renames.backing, "rename", stopping(backing.rename, before=when == "before"))
    else:
        call = getattr(renames.Move, what)
        monkeypatch.setattr(renames.Move, what, stopping(call, before=when == "before"))


STEPS = [
    "before announce",
    "after announce",
    "before rename",
    "after rename",
    "before finish",
    "after finish",
]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("flags", [0, RENAME_EXCHANGE])
async def test_a_stop_at_any_step_leaves_a_tree_that_reads(
    posix: Posix, monkeypatch: pytest.MonkeyPatch, step: str, flags: int
) -> None:
    for directory in (b"a", b"b"):
        await posix.mkdir(directory)
    await make(posix, b"a/d", "directory")
    if flags:
        await make(posix, b"b/d", "directory")
    with monkeypatch.context() as patch:
        if "rename" in step:  # records are replaced by renames too: only the move itself stops
            patch.setattr(renames.Move, "announce", _announce_without_rename)
        stop_at(patch, step)
        with pytest.raises(StoppedError):
            await posix.rename(b"a/d", b"b/d", flags)
    posix.recover()
    moved = step in ("after rename", "before finish", "after finish")
    if flags:
        await look(posix, b"b/d", "directory", b"a/d" if moved else b"b/d")
        await look(posix, b"a/d", "directory", b"b/d" if moved else b"a/d")
    else:
        await look(posix, b"b/d" if moved else b"a/d", "directory", b"a/d")
        assert not posix.exists(b"a/d" if moved else b"b/d")
    # and it can still be moved, made and removed in
    here, there = (b"b/d", b"a/e") if moved else (b"a/d", b"b/e")
    await posix.rename(here, there)
    await posix.put(there + b"/sub/g", b"new")
    await posix.reopen()
    assert await posix.names(there + b"/sub") == [b"f", b"g"]


def _announce_without_rename(move: renames.Move) -> None:
    """Write the record that names both parents in place."""
    record = DirectoryRecord(move._record.dir_id, move._old, move._new)
    fd = os.open(b".kmsfs.dir", os.O_WRONLY, dir_fd=move._fd)
    os.write(fd, move._directories._keys.seal_directory(record))
    os.close(fd)
