"""Trees that may only be read: because their store, or a feature that this version does not know, says so."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from testkit.disks import read_only_view
from testkit.home import refused
from testkit.mounting import Mount, Mounter

from kmsfs.cli.exitcodes import ExitCode
from kmsfs.envelope.tree_key import TreeKeys
from kmsfs.format import aad
from kmsfs.format.superblock import Superblock
from kmsfs.keystore.service import Keystore
from kmsfs.storage.mountinfo import mount_at, read_mounts


def add_feature(mount: Mount, name: str) -> None:
    """Give the tree a read-only-compatible feature, as a later version would."""
    path = mount.tree / "kmsfs.tree"
    block = Superblock.parse(path.read_bytes())
    with Keystore.open(mount.home.path) as keystore:
        tree_key = keystore.decrypt(block.slots[0].blob, aad.tree_context(block.tree_id)).plaintext
    keys = TreeKeys(tree_key, block.tree_id)
    path.write_bytes(keys.seal_superblock(replace(block, ro_compat=(name,))).pack())


def snapshot(top: Path) -> dict[Path, tuple[bytes, float]]:
    return {path: (path.read_bytes(), path.stat().st_mtime) for path in top.rglob("*") if path.is_file()}


def test_a_read_only_store_is_mounted_only_for_reading(
    mounted: Mount, mounter: Mounter, tmp_path: Path
) -> None:
    (mounted.path / "file").write_bytes(b"abc")
    mounted.unmount()
    with read_only_view(mounted.tree, tmp_path / "view") as view:
        said = refused(mounted.home.run("mount", view, mounted.path), ExitCode.MOUNT_FAILED)
        assert "is read-only" in said
        assert "-o ro" in said
        assert not mounted.is_mounted()
        mount = mounter("-o", "ro", tree=view, path=tmp_path / "mnt2")
        assert (mount.path / "file").read_bytes() == b"abc"
        mount.unmount()


def test_a_tree_with_an_unknown_read_only_feature_cannot_be_changed(mounted: Mount) -> None:
    (mounted.path / "directory").mkdir()
    (mounted.path / "file").write_bytes(b"abc")
    mounted.unmount()
    add_feature(mounted, "future")
    before = snapshot(mounted.tree)
    mounted.start()
    entry = mount_at(str(mounted.path), read_mounts())
    assert entry is not None
    assert entry.read_only
    assert mounted.status()["read_only"] is True
    assert (mounted.path / "file").read_bytes() == b"abc"
    for change in (
        lambda: (mounted.path / "file").write_bytes(b"x"),
        lambda: (mounted.path / "file").unlink(),
        lambda: (mounted.path / "file").rename(mounted.path / "other"),
        lambda: (mounted.path / "file").chmod(0o600),
        lambda: (mounted.path / "directory").rmdir(),
        lambda: (mounted.path / "new").mkdir(),
        lambda: (mounted.path / "new").touch(),
        lambda: os.setxattr(mounted.path / "file", "user.x", b""),
    ):
        with pytest.raises(OSError, match="Read-only file system"):
            change()
    mounted.unmount()
    assert snapshot(mounted.tree) == before
