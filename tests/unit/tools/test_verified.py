"""``--verify``: every file opens under the key, and nothing of another key is left in its header."""

from pathlib import Path

import pytest
from testkit.posix import opened
from testkit.tool_trees import Notes

from kmsfs.format.layout import HEADER_COPY_SIZE
from kmsfs.ids import KeyArn
from kmsfs.keystore.service import Keystore
from kmsfs.tools import changes, survey
from kmsfs.tools.access import UnmountedTree
from kmsfs.tools.runners import InProcess
from kmsfs.tree.rekey import Rekeyer


@pytest.mark.parametrize("left", ["slot", "damage"])
async def test_a_header_with_an_old_copy_is_told(
    keystore: Keystore, store: Path, us_key: KeyArn, eu_key: KeyArn, left: str
) -> None:
    """As a stop between the halves of a batch leaves it: who has the old key opens the file by that copy."""
    async with opened(keystore, store) as posix:
        for name in (b"f", b"g"):
            await posix.put(name, b"abc")
        file = posix.backing(b"f")
    old = file.read_bytes()[:HEADER_COPY_SIZE]
    with UnmountedTree(keystore, store) as tree:
        runner = InProcess(Rekeyer(keystore, tree.block.tree_id))
        changes.apply(changes.migrate(tree.block, us_key), tree, runner, Notes(), progress=lambda tally: None)
        assert verified(keystore, tree, us_key) == {}
        with file.open("r+b") as opened_file:
            opened_file.seek(HEADER_COPY_SIZE)
            opened_file.write(old if left == "slot" else bytes(HEADER_COPY_SIZE))
        problems = verified(keystore, tree, us_key)
        assert problems.keys() == {file.name}
        assert (eu_key in problems[file.name]) == (left == "slot")
        changes.apply(changes.migrate(tree.block, us_key), tree, runner, Notes(), progress=lambda tally: None)
        assert verified(keystore, tree, us_key) == {}


def verified(keystore: Keystore, tree: UnmountedTree, key: KeyArn) -> dict[str, str]:
    failures = survey.verify(tree, keystore, key, lambda files, failed: None).failures
    return {failure.path.decode(): failure.reason for failure in failures}
