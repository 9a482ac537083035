"""A pass over an unmounted tree: what it changes, what it leaves, what it says."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from testkit.posix import opened
from testkit.tool_trees import CONTENT, Notes, contents, fill, slot_keys

from kmsfs.errors import KeyDisabledError, TreeBusyError
from kmsfs.format.layout import HEADER_COPY_SIZE
from kmsfs.ids import KeyArn
from kmsfs.keystore.service import Keystore
from kmsfs.tools.access import UnmountedTree
from kmsfs.tools.passes import Outcome, Pass, Tally
from kmsfs.tools.runners import BATCH_SIZE, InProcess
from kmsfs.tools.walk import Walk
from kmsfs.tree.rekey import Rekeyer
from kmsfs.tree.superblock_file import lock_work


@pytest.fixture
async def store(keystore: Keystore, store: Path) -> Path:
    """The store of a tree that is filled and closed."""
    async with opened(keystore, store) as posix:
        await fill(posix)
    return store


def run(
    keystore: Keystore,
    store: Path,
    *wanted: KeyArn,
    notes: Notes | None = None,
    touch: bool = False,
    zones: bool = False,
) -> Tally:
    """One pass with every file under ``wanted``; with ``zones``, those of a zone under its key instead."""
    with UnmountedTree(keystore, store, touch=touch) as tree:
        runner = InProcess(Rekeyer(keystore, tree.block.tree_id))
        one = Pass(tree, runner, notes or Notes(), lambda tally: None)
        walk = Walk(
            tree.root_fd,
            tree.keys,
            lambda zone: (KeyArn(zone),) if zones and zone else wanted,
            on_directory=lambda found: None,
            on_problem=one.fail,
        )
        return one.run(walk)


async def test_every_file_changes_once(
    keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn
) -> None:
    notes = Notes()
    tally = run(keystore, store, us_key, notes=notes)
    written = len([content for content in CONTENT.values() if content])
    assert (tally.done, tally.failures) == (written, [])
    assert tally.files == len(CONTENT) + 1
    assert slot_keys(store) == {(us_key,)}
    assert {head.key_arn for plan in notes.intended for head in plan.swap.old} == {eu_key}
    assert notes.settled == [Outcome.DONE] * written
    again = run(keystore, store, us_key)
    assert (again.done, again.current) == (0, tally.files)
    assert await contents(keystore, store) == CONTENT


async def test_a_second_slot_and_back(
    keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn
) -> None:
    run(keystore, store, eu_key, us_key)
    assert slot_keys(store) == {(eu_key, us_key)}
    run(keystore, store, us_key)
    assert slot_keys(store) == {(us_key,)}
    assert await contents(keystore, store) == CONTENT


async def test_more_files_than_a_batch(keystore: Keystore, store: Path, us_key: KeyArn) -> None:
    async with opened(keystore, store) as posix:
        for number in range(BATCH_SIZE + 5):
            await posix.put(b"many%d" % number, b"%d" % number)
    notes = Notes()
    tally = run(keystore, store, us_key, notes=notes)
    assert notes.synced == 2
    assert tally.done == len(notes.intended) == BATCH_SIZE + 5 + len(CONTENT) - 1
    assert slot_keys(store) == {(us_key,)}


@pytest.mark.parametrize("touch", [False, True])
async def test_times_stay_or_move_on_by_a_second(
    keystore: Keystore, store: Path, us_key: KeyArn, touch: bool
) -> None:
    files = [path for path in store.rglob("*") if path.is_file() and path.stat().st_size > HEADER_COPY_SIZE]
    for path in files:
        os.utime(path, ns=(10**18, 2 * 10**18))
    run(keystore, store, us_key, touch=touch)
    encrypted = [path for path in files if not path.name.startswith(("kmsfs.", ".")) or ".long." in path.name]
    assert {path.stat().st_mtime_ns for path in encrypted} == {2 * 10**18 + touch * 10**9}


async def test_damaged_files_are_listed_and_left(
    keystore: Keystore, store: Path, us_key: KeyArn, eu_key: KeyArn
) -> None:
    async with opened(keystore, store) as posix:
        damaged, cut = posix.backing(b"d/g"), posix.backing(b"d/deep/h")
    before = damaged.read_bytes()
    spoiled = bytearray(before)
    for copy in (0, HEADER_COPY_SIZE):
        spoiled[copy + 100] ^= 1
    damaged.write_bytes(spoiled)
    cut.write_bytes(before[:500])
    tally = run(keystore, store, us_key)
    assert sorted(failure.path for failure in tally.failures) == sorted(
        os.fsencode(path.relative_to(store)) for path in (damaged, cut)
    )
    assert damaged.read_bytes() == spoiled
    assert cut.read_bytes() == before[:500]
    assert tally.done == len(CONTENT) - 3


async def test_foreign_entries_are_not_touched(keystore: Keystore, store: Path, us_key: KeyArn) -> None:
    (store / "README").write_bytes(b"not of this tree")
    (store / "notes.txt").write_bytes(b"nor this")
    (store / "lost+found").mkdir()
    tally = run(keystore, store, us_key)
    assert tally.failures == []
    assert (store / "README").read_bytes() == b"not of this tree"


async def test_a_directory_without_its_record_is_listed(
    keystore: Keystore, store: Path, us_key: KeyArn
) -> None:
    async with opened(keystore, store) as posix:
        directory = posix.backing(b"d")
    (directory / ".kmsfs.dir").unlink()
    tally = run(keystore, store, us_key)
    assert [failure.path for failure in tally.failures] == [os.fsencode(directory.name)]
    assert tally.done == 2  # what lies in the root: the linked file, and the one of a long name


async def test_a_stop_before_the_last_copies_leaves_a_tree_that_reads(
    keystore: Keystore, store: Path, us_key: KeyArn, eu_key: KeyArn
) -> None:
    class StopError(Exception):
        pass

    def stop() -> None:
        raise StopError

    notes = Notes()
    notes.on_sync = stop
    with pytest.raises(StopError):
        run(keystore, store, us_key, notes=notes)
    assert slot_keys(store) == {(us_key,), (eu_key,)}
    assert await contents(keystore, store) == CONTENT
    run(keystore, store, us_key)
    assert slot_keys(store) == {(us_key,)}
    assert await contents(keystore, store) == CONTENT


async def test_files_of_a_zone_whose_key_cannot_be_used_are_listed(
    keystore: Keystore, store: Path, us_key: KeyArn, eu_key: KeyArn
) -> None:
    keystore.disable_key(us_key)
    tally = run(keystore, store, us_key)
    assert len(tally.failures) == tally.files - 1  # an empty file has no header
    assert {us_key in failure.reason for failure in tally.failures} == {True}
    assert slot_keys(store) == {(eu_key,)}


async def test_a_wanted_key_that_fails_on_the_way_ends_the_pass(
    keystore: Keystore, store: Path, us_key: KeyArn
) -> None:
    async with opened(keystore, store) as posix:
        for number in range(BATCH_SIZE):
            await posix.put(b"many%d" % number, b"%d" % number)
    notes = Notes()
    notes.on_sync = lambda: keystore.disable_key(us_key) and None
    with pytest.raises(KeyDisabledError):
        run(keystore, store, us_key, notes=notes)
    assert len(notes.settled) == BATCH_SIZE
    keystore.enable_key(us_key)
    assert run(keystore, store, us_key).failures == []
    assert await contents(keystore, store) == CONTENT


async def test_a_tree_is_worked_on_alone(keystore: Keystore, store: Path, us_key: KeyArn) -> None:
    async with opened(keystore, store):
        with pytest.raises(TreeBusyError):
            run(keystore, store, us_key)
    root = os.open(store, os.O_RDONLY)
    held = lock_work(root, store)
    with pytest.raises(TreeBusyError):
        run(keystore, store, us_key)
    os.close(held)
    os.close(root)
    assert run(keystore, store, us_key).failures == []


async def test_a_file_with_names_in_two_zones_is_settled_by_one_pass(
    keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn
) -> None:
    """Linked before the zones were made. One of its names decides, and not one after the other."""
    other = keystore.create_key(region="us-east-1").arn
    async with opened(keystore, store) as posix:
        for directory in (b"one", b"two"):
            await posix.mkdir(directory)
        await posix.put(b"one/f", b"abc")
        await posix.link(b"one/f", b"two/f")
        for directory, key in [(b"one", us_key), (b"two", other)]:
            await posix.make_zone(directory, key)
    first = run(keystore, store, eu_key, zones=True)
    assert (first.done, first.failures) == (1, [])
    again = run(keystore, store, eu_key, zones=True)
    assert (again.stale, again.files) == (0, first.files)
    async with opened(keystore, store) as posix:
        assert posix.slot_keys(b"one/f") in ([us_key], [other])


async def test_a_directory_that_cannot_be_read_to_its_end_is_listed(
    keystore: Keystore, store: Path, us_key: KeyArn, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(keystore, store) as posix:
        broken = posix.backing(b"d")
    real = os.scandir

    @contextmanager
    def scandir(fd: int) -> Iterator[Iterator[os.DirEntry[str]]]:
        def entries() -> Iterator[os.DirEntry[str]]:
            yield from listing
            if os.fstat(fd).st_ino == broken.stat().st_ino:
                raise OSError(errno.EIO, "Input/output error")

        with real(fd) as listing:
            yield entries()

    monkeypatch.setattr("kmsfs.tools.walk.os.scandir", scandir)
    tally = run(keystore, store, us_key)
    assert [(failure.path, failure.reason) for failure in tally.failures] == [
        (os.fsencode(broken.name), "input/output error")
    ]
    assert tally.done == len(CONTENT) - 1
