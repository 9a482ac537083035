"""The journal of a migration: whole lines only, refusals, what was done."""

import json
from pathlib import Path

import pytest

from kmsfs.errors import FormatError, InvalidRequestError, KmsfsError, UnsupportedFormatError
from kmsfs.format.blob import BlobHead, Suite
from kmsfs.ids import FileId, KeyArn, MaterialId, TreeId
from kmsfs.tools.journal import NAME, Journal, State, find_last, find_open, moves, new_task, read
from kmsfs.tools.passes import Job, Outcome, Planned
from kmsfs.tree.rekey import Swap

TREE, OTHER = TreeId(b"t" * 16), TreeId(b"o" * 16)
AT = Path("/t")
OLD = BlobHead(Suite.HSM_GCM, KeyArn("arn:old"), MaterialId(b"o" * 32))
NEW = BlobHead(Suite.HSM_GCM, KeyArn("arn:new"), MaterialId(b"n" * 32))


def planned(*numbers: int) -> list[Planned]:
    return [
        Planned(
            Job(b"d/f%d" % number, -1, b"", (KeyArn("arn:new"),)),
            Swap(FileId(bytes([number]) * 32), 1, 0, b"", (OLD,), (NEW,)),
        )
        for number in numbers
    ]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A journal with a batch of three files, of which one changed meanwhile, and one that a crash interrupted."""
    with Journal.begin(tmp_path, new_task(TREE, AT, "arn:new", ["arn:old"], touch=False)) as journal:
        journal.intend(planned(1, 2, 3))
        journal.sync()
        journal.settle(planned(1, 2, 3), [Outcome.DONE, Outcome.CHANGED, Outcome.DONE])
        journal.intend(planned(2, 4))
        journal.sync()
        return journal.directory


def test_what_it_says(directory: Path) -> None:
    reading = read(directory / NAME)
    assert (reading.state, reading.done) == (State.RUNNING, 2)
    assert (reading.task.to_key, reading.task.from_keys) == ("arn:new", ("arn:old",))
    assert [moved.path for moved in reading.unsettled] == ["d/f2", "d/f4"]
    done = list(moves(directory / NAME))
    assert [moved.file_id for moved in done] == ["01" * 32, "03" * 32]
    assert done[0].old == (("arn:old", (b"o" * 32).hex()),)
    assert done[0].new == (("arn:new", (b"n" * 32).hex()),)
    assert (directory / NAME).stat().st_mode & 0o777 == 0o600


def test_it_goes_on_after_a_line_that_was_cut_off(directory: Path) -> None:
    path = directory / NAME
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in range(1, len(lines[-1])):
        path.write_bytes(whole[:-cut])
        with Journal.resume(directory, TREE) as journal:
            assert journal.done == 2
        reading = read(path)
        assert reading.unsettled == ()
        assert reading.length == path.stat().st_size, "the torn line is gone"


def test_a_batch_that_another_process_intended_is_settled(directory: Path) -> None:
    with Journal.resume(directory, TREE) as journal:
        journal.settle_read([0])
        assert journal.done == 3
    assert [moved.path for moved in moves(directory / NAME)] == ["d/f1", "d/f3", "d/f4"]


@pytest.mark.parametrize("state", [State.CANCELLED, State.DONE])
def test_one_that_has_ended_is_not_resumed(directory: Path, tmp_path: Path, state: State) -> None:
    assert find_open(tmp_path, TREE, AT) == directory
    with Journal.resume(directory, TREE) as journal:
        journal.set_state(State.PAUSED)
        assert find_open(tmp_path, TREE, AT) == directory
        journal.set_state(state)
    assert find_open(tmp_path, TREE, AT) is None
    assert find_last(tmp_path, TREE, AT) == directory
    with pytest.raises(InvalidRequestError):
        Journal.resume(directory, TREE)


def test_the_last_one_counts_that_is_of_the_tree_at_that_place(directory: Path, tmp_path: Path) -> None:
    with Journal.begin(tmp_path, new_task(TREE, AT, "arn:x", [], touch=True)) as later:
        assert find_open(tmp_path, TREE, AT) == later.directory
    copy = new_task(TREE, tmp_path / "copy", "arn:x", [], touch=True, copy_of=AT)
    with Journal.begin(tmp_path, copy) as of_copy:
        assert find_open(tmp_path, TREE, tmp_path / "copy") == of_copy.directory
        assert find_open(tmp_path, TREE, AT) == later.directory
    assert find_open(tmp_path, TREE, tmp_path) is None
    assert find_open(tmp_path, OTHER, AT) is None


@pytest.mark.parametrize("cut", [0, 1, 40])
def test_one_that_was_stopped_before_its_first_line_was_whole_never_began(tmp_path: Path, cut: int) -> None:
    """By a kill or a full disk: nothing was changed, and it must not be in the way of the next one for ever."""
    with Journal.begin(tmp_path, new_task(TREE, AT, "arn:x", [], touch=False)) as stopped:
        pass
    path = stopped.directory / NAME
    path.write_bytes(path.read_bytes()[:cut])
    assert find_open(tmp_path, TREE, AT) is None
    with Journal.begin(tmp_path, new_task(TREE, AT, "arn:y", [], touch=False)) as journal:
        assert find_open(tmp_path, TREE, AT) == journal.directory


def test_one_of_another_tree_is_refused(directory: Path) -> None:
    with pytest.raises(InvalidRequestError, match="another tree"):
        Journal.resume(directory, OTHER)


@pytest.mark.parametrize(
    ("first", "error"),
    [
        (b"", FormatError),
        (b"not json\n", FormatError),
        (b"[]\n", FormatError),
        (b'{"kmsfs_migration": "1"}\n', FormatError),
        (b'{"kmsfs_migration": 1}\n', FormatError),
        (b'{"kmsfs_migration": 2, "new": "things"}\n', UnsupportedFormatError),
    ],
)
def test_what_is_no_journal_is_refused(directory: Path, first: bytes, error: type[KmsfsError]) -> None:
    lines = (directory / NAME).read_bytes().splitlines(keepends=True)
    (directory / NAME).write_bytes(b"".join([first, *lines[1:]]) if first else b"")
    with pytest.raises(error) as caught:
        read(directory / NAME)
    assert type(caught.value) is error


def test_damage_in_the_middle_is_told(directory: Path) -> None:
    lines = (directory / NAME).read_bytes().splitlines(keepends=True)
    lines[2] = json.dumps({"intended": []}).encode()[:-1] + b"\n"
    (directory / NAME).write_bytes(b"".join(lines))
    with pytest.raises(FormatError, match="damaged at byte"):
        read(directory / NAME)
