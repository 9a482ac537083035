"""What the commands say that change a tree's keys."""

from pathlib import Path

import pytest

from kmsfs.cli.rekeying import tell
from kmsfs.errors import IncompleteError
from kmsfs.ids import TreeId
from kmsfs.tools.change_list import ChangeList
from kmsfs.tools.convergence import Result
from kmsfs.tools.passes import Failure


@pytest.mark.parametrize(
    ("failures", "said"),
    [([], "/tree: files went on moving"), ([Failure(b"f", "damaged")], "/tree: 1 files keep their old keys")],
)
def test_what_was_not_done_is_told_for_its_reason(tmp_path: Path, failures: list[Failure], said: str) -> None:
    """A tree in which nothing stood still has no files that somebody could mend."""
    changed = ChangeList(tmp_path, TreeId(b"t" * 16))
    with pytest.raises(IncompleteError, match=said):
        tell(Result(passes=20, failures=failures), Path("/tree"), changed, as_json=True)
