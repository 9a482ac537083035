"""A move into another zone stops after each single system call: the file is there once, whole, and the tree reads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from testkit import stopping
from testkit.home import ALIAS, REGION, Home
from testkit.posix import Posix, opened

from kmsfs.format.blob import parse_blob_head
from kmsfs.keystore.service import Keystore
from kmsfs.tree.superblock_file import create_tree

OTHER = "us-east-1"
CONTENT, REPLACED = b"abc" * 3000, b"def"
WRITTEN = b"A" * 5000 + CONTENT[5000:]


async def furnish(keystore: Keystore, tree: Path, case: str) -> None:
    """A tree with two zones and the files of a case."""
    create_tree(keystore, tree, ALIAS, REGION)
    old, new, _ = stopping.CASES[case]
    async with opened(keystore, tree) as posix:
        for path in (b"eu", b"us"):
            await posix.mkdir(path)
        await posix.make_zone(b"us", keystore.create_key(OTHER).arn)
        await posix.put(b"eu/" + old, CONTENT)
        await posix.put(b"eu/bystander", CONTENT)
        if new != old:
            await posix.put(b"us/" + new, REPLACED)


async def found(posix: Posix) -> dict[bytes, bytes]:
    """Every file and what is in it."""
    files = {}
    for directory in (b"eu/", b"us/"):
        for name in await posix.names(directory):
            files[directory + name] = await posix.get(directory + name)
    return files


def expected(case: str) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """What is there before and after the move."""
    old, new, flags = stopping.CASES[case]
    source, target = b"eu/" + old, b"us/" + new
    content = WRITTEN if case == "an open file that was just written" else CONTENT
    before = {b"eu/bystander": CONTENT, source: content}
    after = {b"eu/bystander": CONTENT, target: content}
    if new != old:
        before[target] = REPLACED
    if flags:
        after[source] = REPLACED
    return before, after


def regions(posix: Posix, path: bytes) -> list[list[str]]:
    """The regions of the slots of both copies."""
    return [
        [parse_blob_head(blob).key_arn.split(":")[3] for blob in copy.slots] for copy in posix.copies(path)
    ]


@pytest.mark.parametrize("case", stopping.CASES)
async def test_a_stop_after_any_system_call(home: Home, tmp_path: Path, case: str) -> None:
    home.ok("region", "add", OTHER)
    copies = tmp_path / "copies"
    copies.mkdir()
    with Keystore.open(home.path) as keystore:
        await furnish(keystore, tmp_path / "tree", case)
    environment = home.env(PYTHONPATH=os.fspath(Path(stopping.__file__).parents[1]))
    command = [sys.executable, stopping.__file__, home.path, tmp_path / "tree", copies, case]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, after = expected(case)
    stops = sorted(
        (path for path in copies.iterdir() if path.name != "done"), key=lambda path: int(path.name)
    )
    assert len(stops) > 20
    moved = []
    with Keystore.open(home.path) as keystore:
        for stop in [*stops, copies / "done"]:
            async with opened(keystore, stop) as posix:
                files = await found(posix)
                assert files in (before, after), stop.name
                moved.append(files == after)
            async with opened(keystore, stop) as posix:  # and what the first look mended still reads
                assert await found(posix) == files
                await posix.rename(b"eu/bystander", b"us/bystander")
        assert moved == sorted(moved)  # once it is at its new place it stays there
        assert not moved[0]
        assert moved[-1]
        async with opened(keystore, copies / "done") as posix:
            assert regions(posix, b"us/" + stopping.CASES[case][1]) == [[OTHER], [OTHER]]
