"""Output files are there whole or not at all."""

import resource
from pathlib import Path

import pytest

from kmsfs.cli.output_files import check_outputs, write_files
from kmsfs.errors import AlreadyExistsError, UsageError


def test_all_are_written_or_none(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "missing" / "second"
    with pytest.raises(FileNotFoundError, match="missing"):
        write_files({first: b"1", second: b"2"}, force=False)
    assert list(tmp_path.iterdir()) == []
    second.parent.mkdir()
    write_files({first: b"1", second: b"2"}, force=False)
    assert (first.read_bytes(), second.read_bytes()) == (b"1", b"2")
    assert {path.stat().st_mode & 0o777 for path in (first, second)} == {0o600}
    assert sorted(tmp_path.rglob("*")) == sorted([first, second.parent, second])


def test_a_file_that_came_meanwhile_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    with pytest.raises(AlreadyExistsError):
        write_files({tmp_path / "out": b"new"}, force=False)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"mine"]


@pytest.mark.parametrize("force", [False, True])
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, force: bool) -> None:
    out = tmp_path / "out"
    if force:
        out.write_bytes(b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(OSError, match="out"):
            write_files({out: b"x" * 1025}, force=force)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([b"before"] if force else [])


def test_force_replaces_regular_files_only(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"before")
    check_outputs(None, tmp_path / "out", tmp_path / "new", force=True)
    write_files({tmp_path / "out": b"after"}, force=True)
    assert (tmp_path / "out").read_bytes() == b"after"
    for other in (tmp_path, Path("/dev/null")):
        with pytest.raises(UsageError):
            check_outputs(other, force=True)
    with pytest.raises(AlreadyExistsError):
        check_outputs(tmp_path / "out", force=False)
    with pytest.raises(UsageError):
        check_outputs(tmp_path / "new", tmp_path / "new", force=True)
