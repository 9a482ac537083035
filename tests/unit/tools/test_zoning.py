"""A zone of an unmounted tree, whatever happens to the path of the tree meanwhile."""

import os
from pathlib import Path

import pytest

from kmsfs.errors import KmsfsError, TreeBusyError
from kmsfs.ids import KeyArn
from kmsfs.keystore.service import Keystore
from kmsfs.tools import zoning
from kmsfs.tools.zoning import change_zone
from kmsfs.tree.superblock_file import create_tree, lock_work, open_root, read_superblock
from kmsfs.tree.zones import zones_below


def test_a_tree_that_is_replaced_meanwhile(
    keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is locked is the one that is changed, or none is."""
    create_tree(keystore, store.with_name("other"), eu_key)
    lock_work = zoning.lock_work

    def then_replace(root_fd: int, path: Path) -> int:
        fd = lock_work(root_fd, path)
        store.rename(store.with_name("away"))
        store.with_name("other").rename(store)
        return fd

    monkeypatch.setattr(zoning, "lock_work", then_replace)
    with pytest.raises(TreeBusyError, match="replaced"):
        change_zone(keystore, store, "", us_key, None)
    for path in (store, store.with_name("away")):
        assert list(zones_below(path)) == []


def test_an_edited_superblock_says_nothing_to_the_register(
    keystore: Keystore, store: Path, us_key: KeyArn
) -> None:
    raw = (store / "kmsfs.tree").read_bytes()
    tree_id = read_superblock(store).tree_id.hex().encode()
    (store / "kmsfs.tree").write_bytes(raw.replace(tree_id, os.urandom(16).hex().encode()))
    with pytest.raises(KmsfsError):
        change_zone(keystore, store, "", us_key, None)
    keystore.schedule_key_deletion(us_key)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_lock_gives_nobody_a_file_that_was_planted_in_its_place(store: Path, tmp_path: Path) -> None:
    """Who can write to a store may link a file of root's there."""
    secret = tmp_path / "secret"
    secret.touch()
    os.chown(store, 1234, 1234)
    (store / "kmsfs.work").unlink(missing_ok=True)
    (store / "kmsfs.work").hardlink_to(secret)
    root_fd = open_root(store)
    os.close(lock_work(root_fd, store))
    assert secret.stat().st_uid == 0
    (store / "kmsfs.work").unlink()
    os.close(lock_work(root_fd, store))
    os.close(root_fd)
    assert (store / "kmsfs.work").stat().st_uid == 1234, "its own is the owner's, who is to hold it, too"
