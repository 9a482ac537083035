"""Who holds a tree."""

import os
from pathlib import Path

import pytest

from kmsfs.errors import TreeBusyError
from kmsfs.tree.superblock_file import lock_work, open_root


def test_one_tool_at_a_time_changes_the_keys_of_a_tree(store: Path) -> None:
    root_fd = open_root(store)
    work = lock_work(root_fd, store)
    with pytest.raises(TreeBusyError, match=f"{store}.*kmsfs.work"):
        lock_work(root_fd, store)
    os.close(work)
    os.close(lock_work(root_fd, store))
    assert (store / "kmsfs.work").stat().st_mode & 0o777 == 0o600
    os.close(root_fd)


def test_the_owner_of_a_tree_can_work_after_root_has(store: Path) -> None:
    os.chown(store, 65534, 65534)
    root_fd = open_root(store)
    os.close(lock_work(root_fd, store))
    os.close(root_fd)
    status = (store / "kmsfs.work").stat()
    assert (status.st_uid, status.st_gid) == (65534, 65534)
