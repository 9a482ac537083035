"""The scenarios of HDFS's TestReencryption, on trees: pause, cancel, restart, changes in the middle."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from testkit.posix import opened
from testkit.tool_trees import CONTENT, LONG, Notes, contents, fill, slot_keys

from kmsfs.errors import InvalidRequestError, StoppedError
from kmsfs.ids import KeyArn
from kmsfs.keystore.service import Keystore
from kmsfs.tools import migration
from kmsfs.tools.access import UnmountedTree
from kmsfs.tools.convergence import Result
from kmsfs.tools.journal import NAME, Journal, State, find_last, find_open, moves, read
from kmsfs.tools.passes import Planned, Tally
from kmsfs.tools.runners import InProcess
from kmsfs.tree.rekey import Rekeyer

MORE = 30


class SmallBatches(InProcess):
    """Many batches of a few files."""

    def __init__(self, rekeyer: Rekeyer) -> None:
        super().__init__(rekeyer)
        self.batch_size = 4


@pytest.fixture
async def store(keystore: Keystore, store: Path) -> Path:
    """The store of a tree that is filled and closed."""
    async with opened(keystore, store) as posix:
        await fill(posix)
        for number in range(MORE):
            await posix.put(b"d/more%d" % number, b"%d" % number)
    return store


def run(
    keystore: Keystore,
    home: Path,
    store: Path,
    key: KeyArn,
    *,
    stop: Callable[[int], bool] = lambda batches: False,
    between: Callable[[int], None] = lambda batches: None,
) -> Result:
    """Begin or resume, with ``stop`` and ``between`` asked after each batch."""
    done = 0

    def progress(tally: Tally) -> None:
        nonlocal done
        done += 1
        between(done)

    with UnmountedTree(keystore, store) as tree:
        runner = SmallBatches(Rekeyer(keystore, tree.block.tree_id))
        with migration.open_journal(home, tree, key, touch=False) as journal:
            hooks = migration.Hooks(progress, lambda: stop(done))
            return migration.run(journal, tree, runner, Notes(), hooks)


def journal_of(keystore: Keystore, home: Path, store: Path) -> Path:
    with UnmountedTree(keystore, store) as tree:
        found = find_last(home, tree.block.tree_id, tree.path)
    assert found is not None
    return found


@pytest.mark.parametrize("batch", [1, 2, 5])
async def test_paused_after_a_batch_and_resumed(
    keystore: Keystore, tmp_path: Path, store: Path, us_key: KeyArn, batch: int
) -> None:
    with pytest.raises(StoppedError, match="paused"):
        run(keystore, tmp_path, store, us_key, stop=lambda batches: batches == batch)
    journal = journal_of(keystore, tmp_path, store)
    assert (read(journal / NAME).state, read(journal / NAME).done) == (State.PAUSED, 4 * batch)
    assert await contents(keystore, store) == CONTENT
    result = run(keystore, tmp_path, store, us_key)
    assert result.complete
    assert slot_keys(store) == {(us_key,)}
    assert read(journal / NAME).state is State.DONE
    ids = [moved.file_id for moved in moves(journal / NAME)]
    assert len(ids) == len(set(ids)) == MORE + len(CONTENT) - 1, "nothing twice, nothing missed"
    assert await contents(keystore, store) == CONTENT


async def test_asked_to_pause_from_elsewhere(
    keystore: Keystore, tmp_path: Path, store: Path, us_key: KeyArn
) -> None:
    def ask(batches: int) -> None:
        if batches == 2:
            (directory,) = (tmp_path / "migrations").glob("*/*")
            migration.ask(directory, State.PAUSED)

    with pytest.raises(StoppedError, match="paused"):
        run(keystore, tmp_path, store, us_key, between=ask)
    assert run(keystore, tmp_path, store, us_key).complete, "the wish is not remembered"


async def test_cancelled_while_it_runs(
    keystore: Keystore, tmp_path: Path, store: Path, us_key: KeyArn, eu_key: KeyArn
) -> None:
    def ask(batches: int) -> None:
        if batches == 3:
            (directory,) = (tmp_path / "migrations").glob("*/*")
            migration.ask(directory, State.CANCELLED)

    with pytest.raises(StoppedError, match="cancelled"):
        run(keystore, tmp_path, store, us_key, between=ask)
    assert slot_keys(store) == {(us_key,), (eu_key,)}
    assert await contents(keystore, store) == CONTENT
    with UnmountedTree(keystore, store) as tree:
        assert find_open(tmp_path, tree.block.tree_id, tree.path) is None
        assert tree.block.key_arns == (us_key, eu_key)
    assert run(keystore, tmp_path, store, eu_key).complete
    assert slot_keys(store) == {(eu_key,)}


async def test_files_change_while_it_is_paused(
    keystore: Keystore, tmp_path: Path, store: Path, us_key: KeyArn
) -> None:
    with pytest.raises(StoppedError):
        run(keystore, tmp_path, store, us_key, stop=lambda batches: batches == 2)
    async with opened(keystore, store) as posix:
        await posix.put(b"new", b"new")
        await posix.put(b"f", b"written again")
        await posix.rename(b"d/more1", b"d/deep/moved")
        await posix.rename(b"d/deep", b"deeper")
        posix.unlink(b"d/more2")
        await posix.truncate(b"d/g", 5)
    assert run(keystore, tmp_path, store, us_key).complete
    assert slot_keys(store) == {(us_key,)}
    async with opened(keystore, store) as posix:
        assert await posix.get(b"new") == b"new"
        assert await posix.get(b"f") == b"written again"
        assert await posix.get(b"deeper/moved") == b"1"
        assert not posix.exists(b"d/more2")
        assert await posix.get(b"d/g") == b"xxxxx"


async def test_files_vanish_in_the_middle_of_a_batch(
    keystore: Keystore, tmp_path: Path, store: Path, us_key: KeyArn
) -> None:
    async with opened(keystore, store) as posix:
        doomed = [posix.backing(b"d/more%d" % number) for number in range(MORE)]

    def remove(batches: int) -> None:
        for path in doomed[:3]:
            path.unlink(missing_ok=True)

    result = run(keystore, tmp_path, store, us_key, between=remove)
    assert (result.complete, result.failures) == (True, [])
    assert slot_keys(store) == {(us_key,)}


class CrashError(Exception):
    """The process ends in the middle of a batch."""


@contextmanager
def crashing(*, put: bool) -> Iterator[None]:
    """A batch ends right before or right after its headers are put in place."""
    real = UnmountedTree.put

    def crash(tree: UnmountedTree, planned: list[Planned], before_last: Callable[[], None]) -> object:
        if put:
            real(tree, planned, before_last)
        else:
            before_last()
        raise CrashError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UnmountedTree, "put", crash)
        yield


async def test_a_crash_between_journal_and_headers_is_told_from_one_after(
    keystore: Keystore, tmp_path: Path, store: Path, us_key: KeyArn
) -> None:
    with crashing(put=False), pytest.raises(CrashError):
        run(keystore, tmp_path, store, us_key)
    journal = journal_of(keystore, tmp_path, store)
    assert len(read(journal / NAME).unsettled) == 4
    assert run(keystore, tmp_path, store, us_key).complete
    ids = [moved.file_id for moved in moves(journal / NAME)]
    assert len(ids) == len(set(ids)) == MORE + len(CONTENT) - 1, "what had not happened is not counted"


async def test_what_a_crash_did_is_in_the_journal_wherever_the_files_have_moved_since(
    keystore: Keystore, tmp_path: Path, store: Path, us_key: KeyArn
) -> None:
    """Every later pass takes them for current: else the report would not tell what they were under."""
    with crashing(put=True), pytest.raises(CrashError):
        run(keystore, tmp_path, store, us_key)
    journal = journal_of(keystore, tmp_path, store)
    interrupted = {moved.file_id for moved in read(journal / NAME).unsettled}
    async with opened(keystore, store) as posix:
        await posix.rename(b"d", b"elsewhere")
        await posix.rename(b"f", b"elsewhere/f")
        await posix.rename(LONG, b"short")
    assert run(keystore, tmp_path, store, us_key).complete
    ids = [moved.file_id for moved in moves(journal / NAME)]
    assert len(interrupted & set(ids)) == 4
    assert len(ids) == len(set(ids)) == MORE + len(CONTENT) - 1


@pytest.mark.parametrize("put", [False, True])
async def test_what_a_crash_did_is_in_the_journal_of_one_that_is_cancelled(
    keystore: Keystore, tmp_path: Path, store: Path, us_key: KeyArn, put: bool
) -> None:
    with crashing(put=put), pytest.raises(CrashError):
        run(keystore, tmp_path, store, us_key)
    directory = journal_of(keystore, tmp_path, store)
    with (
        UnmountedTree(keystore, store) as tree,
        Journal.resume(directory, tree.block.tree_id) as journal,
    ):
        migration.cancel(journal, tree)
    reading = read(directory / NAME)
    assert (reading.state, reading.unsettled) == (State.CANCELLED, ())
    assert len(list(moves(directory / NAME))) == reading.done == (4 if put else 0)


async def test_a_journal_of_another_tree_is_refused(
    keystore: Keystore, tmp_path: Path, store: Path, us_key: KeyArn
) -> None:
    with pytest.raises(StoppedError):
        run(keystore, tmp_path, store, us_key, stop=lambda batches: True)
    journal = journal_of(keystore, tmp_path, store)
    text = (journal / NAME).read_text()
    (journal / NAME).write_text(text.replace(read(journal / NAME).task.tree_id, "0" * 32))
    with UnmountedTree(keystore, store) as tree, pytest.raises(InvalidRequestError, match="another tree"):
        Journal.resume(journal, tree.block.tree_id)


async def test_the_tree_is_not_the_journals_only_witness(
    keystore: Keystore, tmp_path: Path, store: Path, us_key: KeyArn, eu_key: KeyArn
) -> None:
    """A journal that is lost costs the report, not the tree."""
    with pytest.raises(StoppedError):
        run(keystore, tmp_path, store, us_key, stop=lambda batches: batches == 2)
    for path in (tmp_path / "migrations").rglob(NAME):
        os.unlink(path)
    assert run(keystore, tmp_path, store, us_key).complete
    assert slot_keys(store) == {(us_key,)}
