"""Looking at a tree without changing it."""

from pathlib import Path

from testkit.posix import opened
from testkit.tool_trees import CONTENT, fill

from kmsfs.keystore.service import Keystore
from kmsfs.tools.survey import count_files


async def test_files_are_counted_by_their_names(keystore: Keystore, store: Path) -> None:
    assert count_files(store) == 0
    async with opened(keystore, store) as posix:
        await fill(posix)  # with a link besides
    (store / "kmsfs.tmp.1").write_bytes(b"leftover")
    (store / "foreign.file").write_bytes(b"foreign")
    assert count_files(store) == len(CONTENT) + 1
