"""A pass over an unmounted tree: what it changes, what it leaves, what it says."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from testkit.posix import Posix, opened

from kmsfs.errors import KeyDisabledError, KmsfsError, TreeBusyError
from kmsfs.format.blob import parse_blob_head
from kmsfs.format.header import FileHeader
from kmsfs.format.layout import HEADER_COPY_SIZE
from kmsfs.ids import KeyArn
from kmsfs.keystore.service import Keystore
from kmsfs.tools.access import UnmountedTree
from kmsfs.tools.passes import BATCH_SIZE, InProcess, Outcome, Pass, Planned, Tally
from kmsfs.tools.walk import Walk
from kmsfs.tree.rekey import Rekeyer
from kmsfs.tree.superblock_file import lock_work

LONG = b"n" * 200
CONTENT = {
    b"f": b"abc",
    b"empty": b"",
    b"d/g": b"x" * 10_000,
    LONG: b"long",
    b"d/deep/h": b"h",
    b"d/" + LONG + b"/i": b"i",
}


class Notes:
    """A ledger that remembers, and may fail."""

    def __init__(self) -> None:
        self.intended: list[Planned] = []
        self.synced = 0
        self.settled: list[Outcome | KmsfsError | OSError] = []
        self.on_sync: Callable[[], None] = lambda: None

    def intend(self, planned: Sequence[Planned]) -> None:
        self.intended += planned

    def sync(self) -> None:
        self.synced += 1
        self.on_sync()

    def settle(self, planned: Sequence[Planned], outcomes: Sequence[Outcome | KmsfsError | OSError]) -> None:
        assert len(planned) == len(outcomes)
        self.settled += outcomes


async def fill(posix: Posix) -> None:
    for directory in (b"d", b"d/deep", b"d/" + LONG):
        await posix.mkdir(directory)
    for path, content in CONTENT.items():
        await posix.put(path, content)
    await posix.link(b"f", b"d/link")
    await posix.symlink(b"s", b"f")
    await posix.mknod(b"fifo", 0o010600)


@pytest.fixture
async def store(keystore: Keystore, store: Path) -> Path:
    """The store of a tree that is filled and closed."""
    async with opened(keystore, store) as posix:
        await fill(posix)
    return store


async def contents(keystore: Keystore, store: Path) -> dict[bytes, bytes]:
    async with opened(keystore, store) as posix:
        return {path: await posix.get(path) for path in CONTENT}


def run(
    keystore: Keystore, store: Path, *wanted: KeyArn, notes: Notes | None = None, touch: bool = False
) -> Tally:
    """One pass with every file under ``wanted``."""
    with UnmountedTree(keystore, store, touch=touch) as tree:
        runner = InProcess(Rekeyer(keystore, tree.block.tree_id))
        one = Pass(tree, runner, notes or Notes(), lambda tally: None)
        walk = Walk(
            tree.root_fd,
            tree.keys,
            lambda zone: wanted,
            on_directory=lambda found: None,
            on_problem=one.fail,
        )
        return one.run(walk)


def slot_keys(store: Path) -> set[tuple[str, ...]]:
    """The key ARNs of every copy of every header."""
    found = set()
    for directory, _, names in os.walk(store):
        for name in names:
            path = Path(directory, name)
            if path.is_symlink() or not path.is_file() or "." in name.replace("kmsfs.long.", ""):
                continue
            raw = path.read_bytes()
            for at in (0, HEADER_COPY_SIZE) if raw else ():
                slots = FileHeader.parse(raw[at : at + HEADER_COPY_SIZE]).slots
                found.add(tuple(parse_blob_head(slot).key_arn for slot in slots))
    return found


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


async def test_a_wanted_key_that_cannot_be_used_ends_the_pass(
    keystore: Keystore, store: Path, us_key: KeyArn, eu_key: KeyArn
) -> None:
    keystore.disable_key(us_key)
    with pytest.raises(KeyDisabledError):
        run(keystore, store, us_key)
    assert slot_keys(store) == {(eu_key,)}


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
