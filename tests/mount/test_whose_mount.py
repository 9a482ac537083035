"""What a mount says of itself is believed of those only who could do as much to the tree anyway."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from testkit.mounting import Mount

from kmsfs.cli.mounts import MountState, ask
from kmsfs.cli.trees import tree_and_mount
from kmsfs.storage.mountinfo import MountEntry, mount_of

EVE = 1234


def entry_of(mount: Mount, user: int | None = None) -> MountEntry:
    """The mount, as if a user had made it."""
    entry = mount_of(os.fspath(mount.path))
    assert entry is not None
    assert "user_id=0" in entry.super_options
    if user is None:
        return entry
    return replace(entry, super_options=entry.super_options - {"user_id=0"} | {f"user_id={user}"})


def test_who_is_believed(mounted: Mount) -> None:
    assert ask(entry_of(mounted)).state is MountState.SERVING
    eves = ask(entry_of(mounted, EVE))
    assert (eves.state, eves.details) == (MountState.UNKNOWN, {})
    os.chown(mounted.tree, EVE, -1)
    assert ask(entry_of(mounted, EVE)).state is MountState.SERVING


def test_a_stranger_does_not_answer_for_a_tree(mounted: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else whoever may mount for others could have a command change nothing, and say that it did."""
    assert tree_and_mount(mounted.tree)[1] is not None
    monkeypatch.setattr("kmsfs.cli.trees.kmsfs_mounts", lambda: [entry_of(mounted, EVE)])
    assert tree_and_mount(mounted.tree) == (mounted.tree, None)


@pytest.mark.parametrize("said", [b"", b"[]", b"no JSON", b"\xff", json.dumps({"tree": 1}).encode()])
def test_what_says_nothing_that_a_mount_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    """Another program's file system under the same name."""
    monkeypatch.setattr(os, "getxattr", lambda path, name: said)
    entry = MountEntry(1, os.fspath(tmp_path), frozenset(), "fuse.kmsfs", "x", frozenset({"user_id=0"}))
    assert ask(entry).state is MountState.UNKNOWN


def test_the_tree_is_gone(mounted: Mount) -> None:
    """Its path does not say whose it is; the mount's own user still gets an answer."""
    away = mounted.tree.rename(mounted.tree.with_name("away"))
    assert ask(entry_of(mounted)).state is MountState.SERVING
    assert ask(entry_of(mounted, EVE)).state is MountState.UNKNOWN
    away.rename(mounted.tree)
