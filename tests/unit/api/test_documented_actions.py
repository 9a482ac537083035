"""docs/kms-api.md names every action of the model that is meant to be here, and says truly which are built."""

import re
from pathlib import Path

from kmsfs.api.actions import ACTIONS
from kmsfs.api.dispatch import HANDLERS

PAGE = Path(__file__).parents[3] / "docs" / "kms-api.md"


def test_the_table_of_actions() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (built|not yet)", PAGE.read_text(), re.MULTILINE)
    assert [name for name, _ in rows] == sorted(ACTIONS)
    assert {name for name, state in rows if state == "built"} == set(HANDLERS)
