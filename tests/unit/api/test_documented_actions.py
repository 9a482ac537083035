"""docs/kms-api.md names every action of the model that is meant to be here, and says truly which are built."""

import re
from pathlib import Path

from kmsfs.api.actions import ACTIONS
from kmsfs.api.dispatch import HANDLERS
from kmsfs.api.limits import Limits

PAGE = Path(__file__).parents[3] / "docs" / "kms-api.md"


def test_the_table_of_limits() -> None:
    table = PAGE.read_text().partition("| bound | value | past it |\n")[2].partition("\n\n")[0]
    limits = Limits()
    assert [float(value) for value in re.findall(r"^\| [^|]+ \| (\d+) \|", table, re.MULTILINE)] == [
        limits.header_bytes,
        limits.body_bytes,
        limits.header_s,
        limits.body_s,
        limits.answer_s,
        limits.idle_s,
        limits.connections,
        limits.requests_per_s,
        limits.failures_per_s,
        limits.drain_s,
    ]


def test_the_table_of_actions() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (built|not yet)", PAGE.read_text(), re.MULTILINE)
    assert [name for name, _ in rows] == sorted(ACTIONS)
    assert {name for name, state in rows if state == "built"} == set(HANDLERS)
