"""Reading /proc/self/mountinfo: escapes, types, coverings, overlaps."""

import os
from pathlib import Path

import pytest

from kmsfs.errors import FormatError
from kmsfs.storage import mountinfo

LINES = rb"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw,discard
40 27 0:50 / /mnt/a\040b\011c\012d\134e rw,nosuid,nodev - fuse.kmsfs /srv/tree\040one rw,user_id=0
41 27 0:51 / /mnt/caf\303\251 ro - fuse.kmsfs /srv/two ro,user_id=0
42 40 0:52 / /mnt/a\040b\011c\012d\134e rw - tmpfs tmpfs rw
43 27 0:53 / /mnt/bytes-\377 rw - fuse.gocryptfs x rw
"""


@pytest.mark.parametrize(
    ("raw", "clear"),
    [
        (b"/plain", "/plain"),
        (rb"/a\040b", "/a b"),
        (rb"\011\012\134\043", "\t\n\\#"),
        (rb"/\134040", "/\\040"),  # an escaped backslash followed by digits is not an escape of its own
        (rb"/caf\303\251", "/café"),
        (b"/raw-\xff", "/raw-\udcff"),
    ],
)
def test_octal_escapes_are_undone(raw: bytes, clear: str) -> None:
    assert mountinfo.unescape(raw) == clear


def test_lines_parse_with_and_without_optional_fields() -> None:
    entries = mountinfo.parse(LINES)
    assert [entry.mount_id for entry in entries] == [22, 27, 40, 41, 42, 43]
    assert entries[1].fs_type == "ext4"
    assert entries[2].mount_point == "/mnt/a b\tc\nd\\e"
    assert entries[2].source == "/srv/tree one"
    assert [entry.is_kmsfs for entry in entries] == [False, False, True, True, False, False]
    assert [entry.read_only for entry in entries] == [False, False, False, True, False, False]


def test_the_topmost_mount_at_a_path_is_the_last_listed() -> None:
    entries = mountinfo.parse(LINES)
    covered = mountinfo.mount_at("/mnt/a b\tc\nd\\e", entries)
    assert covered is not None
    assert covered.fs_type == "tmpfs"
    assert mountinfo.mount_at("/mnt", entries) is None


@pytest.mark.parametrize(
    "line", [b"nonsense", b"22 27 0:21 / /proc rw,relatime proc proc rw", b"x 2 3 4 5 6 - a b c"]
)
def test_other_text_is_a_format_error(line: bytes) -> None:
    with pytest.raises(FormatError):
        mountinfo.parse_line(line)


def test_the_running_kernel_is_understood() -> None:
    assert mountinfo.mount_at("/", mountinfo.read_mounts()) is not None
    proc = mountinfo.mount_of("/proc/self/status")
    assert proc is not None
    assert proc.fs_type == "proc"


def test_a_symlink_belongs_to_the_mount_that_holds_it(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/proc/self/status")
    held, target = mountinfo.mount_of(os.fspath(link)), mountinfo.mount_of("/proc/self/status")
    assert held is not None
    assert target is not None
    assert held.mount_id != target.mount_id


def test_overlaps_in_both_directions_and_through_symlinks(tmp_path: Path) -> None:
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    beside = tmp_path / "outer-beside"
    beside.mkdir()
    link = tmp_path / "link"
    link.symlink_to(inner)
    outer = tmp_path / "outer"
    assert mountinfo.overlaps(outer, outer)
    assert mountinfo.overlaps(outer, inner)
    assert mountinfo.overlaps(inner, outer)
    assert mountinfo.overlaps(link, outer)
    assert not mountinfo.overlaps(outer, beside)
