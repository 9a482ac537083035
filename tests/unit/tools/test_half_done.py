"""A file that was given its new slots but not settled: the journal tells of it, since no later pass will."""

import os
from pathlib import Path

import pytest
from testkit.posix import opened

from kmsfs.ids import KeyArn
from kmsfs.keystore.service import Keystore
from kmsfs.tools.journal import NAME, Journal, moves, new_task, read
from kmsfs.tools.passes import Job, Outcome, Planned
from kmsfs.tree.rekey import Rekeyer
from kmsfs.tree.superblock_file import read_superblock
from kmsfs.tree.swaps import write_other_copy

IO_ERROR = OSError(5, "Input/output error")


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("outcome", [Outcome.CHANGED, IO_ERROR], ids=["changed", "failed"])
async def test_a_file_that_a_program_wrote_to_between_the_halves_is_in_the_journal(
    keystore: Keystore,
    store: Path,
    tmp_path: Path,
    us_key: KeyArn,
    eu_key: KeyArn,
    outcome: Outcome | OSError,
    written: bool,
) -> None:
    async with opened(keystore, store) as posix:
        await posix.put(b"f", b"abc")
        file = posix.backing(b"f")
    tree_id = read_superblock(store).tree_id
    rekeyer = Rekeyer(keystore, tree_id)
    swap = rekeyer.swap(file.read_bytes()[:2048], rekeyer.targets((us_key,)))
    assert swap is not None
    task = new_task(tree_id, store, us_key, [eu_key], touch=False)
    with Journal.begin(tmp_path, task) as journal, file.open("r+b") as opened_file:
        plan = Planned(
            Job(os.fsencode(file.name), opened_file.fileno(), file.read_bytes()[:2048], (us_key,)), swap
        )
        journal.intend([plan])
        if written:
            write_other_copy(opened_file.fileno(), swap)
        journal.settle([plan], [outcome])
        assert journal.done == read(journal.directory / NAME).done == written
    told = [(moved.old[0][0], moved.new[0][0]) for moved in moves(journal.directory / NAME)]
    assert told == [(eu_key, us_key)] * written
