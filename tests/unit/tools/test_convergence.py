"""Passes over a tree that a mount changes meanwhile: what moves out of a pass's way is found all the same."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from testkit.posix import opened
from testkit.tool_trees import Notes, slot_keys

from kmsfs.ids import KeyArn
from kmsfs.keystore.service import Keystore
from kmsfs.tools.access import UnmountedTree
from kmsfs.tools.convergence import Convergence, Result
from kmsfs.tools.passes import Tally
from kmsfs.tools.runners import InProcess
from kmsfs.tools.walk import FoundDirectory
from kmsfs.tree.rekey import Rekeyer

NAMES = (b"a", b"b", b"c")
DIRECTORIES = (b"d", b"e")


class Moving(UnmountedTree):
    """A tree in which others move things whenever they are asked what they moved, as a script says."""

    alone = False
    moves: Iterator[list[bytes] | None]

    def moved(self) -> list[tuple[int, bytes]] | None:
        """What the script says was moved: by inode where it can be found."""
        paths = next(self.moves, [])
        return None if paths is None else [(self.ino(path), path) for path in paths]

    def ino(self, path: bytes) -> int:
        """The inode that was told to be at a path, wherever it is by now."""
        return self.inos.get(path, 0)

    inos: dict[bytes, int]


class Places:
    """The store of a closed tree, whose entries are renamed as a mount would."""

    def __init__(self, store: Path, entries: dict[bytes, bytes]) -> None:
        self.store, self.entries = store, entries

    def __getitem__(self, path: bytes) -> Path:
        return self.store / os.fsdecode(self.entries[path])

    def move(self, old: bytes, new: bytes) -> None:
        self[old].rename(self[new])


@pytest.fixture
async def places(keystore: Keystore, store: Path) -> Places:
    """A tree with the file ``a`` alone, and the entries that other names would have."""
    entries = {}
    async with opened(keystore, store) as posix:
        for name in NAMES:
            await posix.put(name, b"abc")
        for name in DIRECTORIES:
            await posix.mkdir(name)
        await posix.put(b"d/f", b"abc")
        for path in (*NAMES, *DIRECTORIES, b"d/f"):
            entries[path] = os.fsencode(posix.backing(path).relative_to(store))
        for name in NAMES[1:]:
            posix.unlink(name)
        posix.rmdir(b"e")
    return Places(store, entries)


def run(
    keystore: Keystore,
    places: Places,
    key: KeyArn,
    script: Callable[[Moving], Iterator[list[bytes] | None]],
    on_directory: Callable[[FoundDirectory], None] = lambda found: None,
    progress: Callable[[Tally], None] = lambda tally: None,
) -> Result:
    with Moving(keystore, places.store) as tree:
        tree.inos = {}
        tree.moves = script(tree)
        runner = InProcess(Rekeyer(keystore, tree.block.tree_id))
        return Convergence(
            tree, runner, Notes(), lambda zone: (key,), on_directory=on_directory, progress=progress
        ).run()


async def test_what_moves_on_before_it_is_looked_at_is_looked_at_where_it_is(
    keystore: Keystore, places: Places, us_key: KeyArn
) -> None:
    """Else the file would be under the old key alone when that goes."""
    aside = places.store / "kmsfs.tmp.aside"

    def script(tree: Moving) -> Iterator[list[bytes]]:
        for name in NAMES:
            tree.inos[places.entries[name]] = places[b"a"].stat().st_ino
        places[b"a"].rename(aside)  # where no pass comes
        yield []
        aside.rename(places[b"c"])
        yield [places.entries[b"b"]]  # by the time that is heard, it is at c
        yield [places.entries[b"c"]]

    result = run(keystore, places, us_key, script)
    assert slot_keys(places.store) == {(us_key,)}
    assert (result.complete, result.failures) == (True, [])


async def test_a_directory_that_moves_for_ever_holds_nothing_up(
    keystore: Keystore, places: Places, us_key: KeyArn
) -> None:
    asked = 0

    def script(tree: Moving) -> Iterator[list[bytes]]:
        nonlocal asked
        for name in DIRECTORIES:
            tree.inos[places.entries[name]] = places[b"d"].stat().st_ino
        old, new = DIRECTORIES
        yield []
        while True:
            asked += 1
            places.move(old, new)
            yield [places.entries[new]]
            old, new = new, old

    result = run(keystore, places, us_key, script)
    assert (result.complete, result.failures) == (True, [])
    assert asked < 10
    assert slot_keys(places.store) == {(us_key,)}


async def test_what_fails_only_once_is_no_failure(keystore: Keystore, places: Places, us_key: KeyArn) -> None:
    """A directory on its way to another parent may be caught between two records."""
    record = places[b"d"] / ".kmsfs.dir"
    aside = places.store / "kmsfs.tmp.record"

    def script(tree: Moving) -> Iterator[list[bytes]]:
        tree.inos[places.entries[b"d"]] = places[b"d"].stat().st_ino
        yield []
        yield []
        record.rename(aside)
        yield [places.entries[b"d"]]
        aside.rename(record)
        yield []

    result = run(keystore, places, us_key, script)
    assert (result.complete, result.failures) == (True, [])


async def test_more_moves_than_are_remembered_mean_another_pass(
    keystore: Keystore, places: Places, us_key: KeyArn
) -> None:
    def script(tree: Moving) -> Iterator[list[bytes] | None]:
        yield None
        yield []
        yield None
        yield []

    assert run(keystore, places, us_key, script).passes == 3


async def test_a_directory_whose_zone_cannot_be_changed_is_listed(
    keystore: Keystore, places: Places, us_key: KeyArn
) -> None:
    def refuse(found: FoundDirectory) -> None:
        if found.path:
            raise PermissionError(13, "Permission denied")

    result = run(keystore, places, us_key, lambda tree: iter([]), refuse)
    assert {(one.path, one.reason) for one in result.failures} == {
        (places.entries[b"d"], "permission denied")
    }
    assert slot_keys(places.store) == {(us_key,)}


async def test_a_directory_that_goes_while_its_zone_is_changed_is_no_failure(
    keystore: Keystore, places: Places, us_key: KeyArn
) -> None:
    def gone(found: FoundDirectory) -> None:
        if found.path:
            raise FileNotFoundError(2, "No such file or directory")

    result = run(keystore, places, us_key, lambda tree: iter([]), gone)
    assert (result.complete, result.failures) == (True, [])


async def test_who_wants_it_to_stop_is_heard_where_nothing_is_to_do(
    keystore: Keystore, places: Places, us_key: KeyArn, eu_key: KeyArn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmsfs.tools.passes._STRIDE", 1)
    heard: list[Tally] = []
    result = run(keystore, places, eu_key, lambda tree: iter([]), progress=heard.append)
    assert (result.done, result.current) == (0, 2)
    assert len(heard) == 2
