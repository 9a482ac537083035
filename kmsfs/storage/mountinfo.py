"""What is mounted where, read from /proc/self/mountinfo.

The kernel's own list is the only source: no state file can lie about it. Parsing is pure; the
functions that look at the system say so. Paths are ``str`` as ``os.fsdecode`` gives them.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kmsfs.errors import FormatError

KMSFS_TYPE: Final = "fuse.kmsfs"
_MOUNTINFO: Final = "/proc/self/mountinfo"
_USER: Final = "user_id="
_OCTAL: Final = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True)
class MountEntry:
    """One line of mountinfo."""

    mount_id: int
    mount_point: str
    options: frozenset[str]
    fs_type: str
    source: str
    super_options: frozenset[str]

    @property
    def is_kmsfs(self) -> bool:
        """Whether this is a mount that a kmsfs process serves, or served until it died."""
        return self.fs_type == KMSFS_TYPE

    @property
    def user(self) -> int | None:
        """Whose FUSE mount this is, by the kernel's word; None for what is none."""
        named = [option for option in self.super_options if option.startswith(_USER)]
        return int(named[0].removeprefix(_USER)) if named else None

    @property
    def read_only(self) -> bool:
        """Whether the mount refuses writes."""
        return "ro" in self.options or "ro" in self.super_options


def unescape(field: bytes) -> str:
    r"""Undo the kernel's octal escapes (space, tab, newline, backslash and ``#``)."""
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field))


def parse_line(line: bytes) -> MountEntry:
    """Parse one line; the optional fields between the options and the lone ``-`` are skipped."""
    fields = line.split(b" ")
    try:
        dash = fields.index(b"-", 6)
        mount_id, point, options = int(fields[0]), fields[4], fields[5]
        fs_type, source, super_options = fields[dash + 1 : dash + 4]
    except (ValueError, IndexError) as error:
        raise FormatError("a line of mountinfo does not parse") from error
    return MountEntry(
        mount_id,
        unescape(point),
        frozenset(unescape(options).split(",")),
        unescape(fs_type),
        unescape(source),
        frozenset(unescape(super_options).split(",")),
    )


def parse(raw: bytes) -> list[MountEntry]:
    """Parse the whole of mountinfo, in the kernel's order: later lines cover earlier ones."""
    return [parse_line(line) for line in raw.split(b"\n") if line]


def read_mounts() -> list[MountEntry]:
    """Return what this process sees mounted now."""
    return parse(Path(_MOUNTINFO).read_bytes())


def kmsfs_mounts() -> list[MountEntry]:
    """Return the kmsfs mounts that this process sees, dead ones included."""
    return [entry for entry in read_mounts() if entry.is_kmsfs]


def mount_at(path: str, mounts: Iterable[MountEntry]) -> MountEntry | None:
    """Return the topmost mount whose mount point is exactly ``path`` (absolute, resolved)."""
    found = None
    for entry in mounts:
        if entry.mount_point == path:
            found = entry
    return found


def mount_of(path: str) -> MountEntry | None:
    """Return the mount that holds ``path`` itself, a symlink not followed.

    The kernel is asked for the mount id of an O_PATH descriptor, so that mounts which cover one
    another, bind mounts and symlinks on the way need no thought here.
    """
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fdinfo = Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="ascii")
    finally:
        os.close(descriptor)
    mount_id = next(int(line.split()[1]) for line in fdinfo.splitlines() if line.startswith("mnt_id:"))
    return next((entry for entry in read_mounts() if entry.mount_id == mount_id), None)


def overlaps(one: Path, other: Path) -> bool:
    """Whether one directory is the other or lies in it, in either direction.

    Compared by device and inode along the resolved parents, so that a bind mount cannot hide it.
    """
    return is_within(one, other) or is_within(other, one)


def is_within(inner: Path, outer: Path) -> bool:
    """Whether ``inner`` is the directory ``outer`` or lies in it."""
    target = outer.stat()
    resolved = inner.resolve()
    return any(os.path.samestat(parent.stat(), target) for parent in (resolved, *resolved.parents))
