"""A file of several names loses one while a tool is at it: it is brought under its keys by another name."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from testkit.home import ALIAS, Home
from testkit.mounting import Mount
from testkit.tool_trees import Notes

from kmsfs.keystore.service import Keystore
from kmsfs.tools import changes
from kmsfs.tools.access import ServedTree
from kmsfs.tools.mounted import control_of
from kmsfs.tools.passes import Planned
from kmsfs.tools.runners import InProcess
from kmsfs.tree.rekey import Rekeyer


class Unlinking(Notes):
    """A ledger that has a program remove the first name by which a pass finds a file, before the header is put."""

    def __init__(self, names: Sequence[Path]) -> None:
        super().__init__()
        self._names = {entry(path.parent): path for path in names}
        self.left: Path | None = None

    def intend(self, planned: Sequence[Planned]) -> None:
        super().intend(planned)
        if self.left is None:
            (plan,) = planned
            self._names.pop(plan.job.path.split(b"/")[0]).unlink()
            (self.left,) = self._names.values()


def entry(path: Path) -> bytes:
    return str(json.loads(os.getxattr(path, "user.kmsfs.info"))["entry"]).encode()


@pytest.mark.parametrize("zones", [False, True], ids=["one zone", "two zones"])
def test_a_file_whose_name_goes_is_found_by_another(home: Home, mounted: Mount, zones: bool) -> None:
    """Else it would be under old material alone when that is retired."""
    home.ok("region", "add", "us-east-1")
    zone_key = home.json("key", "create", "--region", "us-east-1", "--alias", ALIAS)["Arn"]
    names = [mounted.path / "a" / "f", mounted.path / "b" / "g"]
    for path in names:
        path.parent.mkdir()
    names[0].write_text("abc")
    names[1].hardlink_to(names[0])
    if zones:
        home.ok("zone", "create", mounted.path / "a", "--key", zone_key)
    home.ok("key", "rotate", ALIAS, "--region", "eu-west-1")
    ledger = Unlinking(names)
    with (
        Keystore.open(home.path) as keystore,
        ServedTree(keystore, mounted.tree, control_of(mounted.status())) as tree,
    ):
        result = changes.apply(
            changes.rewrap(tree.block),
            tree,
            InProcess(Rekeyer(keystore, tree.block.tree_id)),
            ledger,
            progress=lambda tally: None,
        )
    assert (result.complete, result.failures) == (True, [])
    assert ledger.left is not None
    assert ledger.left.read_text() == "abc"
    (slot,) = json.loads(os.getxattr(ledger.left, "user.kmsfs.info"))["slots"]
    assert result.under[slot["key_arn"]] == slot["material_id"]
