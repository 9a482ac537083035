"""The line that says how far work is."""

import pytest

from kmsfs.cli.progress import Progress, describe


@pytest.mark.parametrize(
    ("done", "failed", "elapsed_s", "total", "line"),
    [
        (0, 0, 0.0, 0, "0 files  0/s"),
        (1500, 0, 2.0, 0, "1,500 files  750/s"),
        (1500, 2, 2.0, 0, "1,500 files  750/s  2 failed"),
        (500, 0, 10.0, 1000, "[############............]  50%  500 of 1,000 files  50/s  0:10 left"),
        (1000, 0, 10.0, 1000, "[########################] 100%  1,000 of 1,000 files  100/s  0:00 left"),
        (2000, 0, 10.0, 1000, "[########################] 100%  2,000 of 1,000 files  200/s  0:00 left"),
        (10, 0, 10.0, 40000, "[........................]   0%  10 of 40,000 files  1/s  11:06:30 left"),
    ],
)
def test_the_line(done: int, failed: int, elapsed_s: float, total: int, line: str) -> None:
    assert describe("files", done, failed, elapsed_s, total) == line


def test_nothing_is_printed_where_nobody_looks(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress("files", lambda: pytest.fail("nobody looks")) as progress:
        progress.show(5, 0)
    assert capfd.readouterr() == ("", "")
