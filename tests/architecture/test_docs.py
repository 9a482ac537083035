"""The pages say what the code does, where both have a table."""

import errno
import re
from pathlib import Path

import pytest

from kmsfs.fuse.boundary import ERRNOS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    "number", sorted(set(ERRNOS.values()) - {errno.EINVAL}), ids=errno.errorcode.__getitem__
)
def test_operations_page_explains_every_errno(number: int) -> None:
    rows = re.findall(r"^\| (`E.*?) \|", (DOCS / "operations.md").read_text(), re.MULTILINE)
    assert any(f"`{errno.errorcode[number]}`" in row for row in rows)
