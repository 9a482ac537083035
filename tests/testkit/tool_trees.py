"""Trees for tools: filled, read back, and their slots as they stand on the store."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from kmsfs.errors import KmsfsError
from kmsfs.format.blob import parse_blob_head
from kmsfs.format.header import FileHeader
from kmsfs.format.layout import HEADER_COPY_SIZE
from kmsfs.keystore.service import Keystore
from kmsfs.tools.passes import Outcome, Planned
from kmsfs.tree.directories import is_entry
from testkit.posix import Posix, opened

LONG = b"n" * 200
CONTENT = {
    b"f": b"abc",
    b"empty": b"",
    b"d/g": b"x" * 10_000,
    LONG: b"long",
    b"d/deep/h": b"h",
    b"d/" + LONG + b"/i": b"i",
}


class Notes:
    """A ledger that remembers, and may fail."""

    def __init__(self) -> None:
        self.intended: list[Planned] = []
        self.synced = 0
        self.settled: list[Outcome | KmsfsError | OSError] = []
        self.on_sync: Callable[[], None] = lambda: None

    def intend(self, planned: Sequence[Planned]) -> None:
        self.intended += planned

    def sync(self) -> None:
        self.synced += 1
        self.on_sync()

    def settle(self, planned: Sequence[Planned], outcomes: Sequence[Outcome | KmsfsError | OSError]) -> None:
        assert len(planned) == len(outcomes)
        self.settled += outcomes


async def fill(posix: Posix) -> None:
    for directory in (b"d", b"d/deep", b"d/" + LONG):
        await posix.mkdir(directory)
    for path, content in CONTENT.items():
        await posix.put(path, content)
    await posix.link(b"f", b"d/link")
    await posix.symlink(b"s", b"f")
    await posix.mknod(b"fifo", 0o010600)


async def contents(keystore: Keystore, store: Path) -> dict[bytes, bytes]:
    async with opened(keystore, store) as posix:
        return {path: await posix.get(path) for path in CONTENT}


def slot_keys(store: Path) -> set[tuple[str, ...]]:
    """The key ARNs of every copy of every header, at or below a backing path."""
    found = set()
    files = [Path(at, name) for at, _, names in os.walk(store) for name in names] or [store]
    for path in files:
        if (
            path.parent.name == "kmsfs.links"
            or path.is_symlink()
            or not path.is_file()
            or not is_entry(os.fsencode(path.name))
        ):
            continue
        raw = path.read_bytes()
        for at in (0, HEADER_COPY_SIZE) if raw else ():
            slots = FileHeader.parse(raw[at : at + HEADER_COPY_SIZE]).slots
            found.add(tuple(parse_blob_head(slot).key_arn for slot in slots))
    return found
