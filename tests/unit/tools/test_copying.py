"""A copy of a store: whole and faithful, or no tree; begun anew or gone on with after a stop."""

import errno
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from testkit.disks import read_only_view, small_filesystem
from testkit.posix import Posix, opened
from testkit.tool_trees import CONTENT, Notes, contents, fill, slot_keys

from kmsfs.errors import InvalidRequestError, NotATreeError, TreeBusyError, TreeExistsError
from kmsfs.ids import KeyArn
from kmsfs.keystore.service import Keystore
from kmsfs.tools import changes, copying
from kmsfs.tools.access import UnmountedTree
from kmsfs.tools.copying import Copied, TreeCopy, finish
from kmsfs.tools.runners import InProcess
from kmsfs.tree.rekey import Rekeyer
from kmsfs.tree.superblock_file import create_tree, read_superblock

OLD_NS = 1_000_000_000_123_456_789
TARGET = b"t" * 3500


@pytest.fixture
async def store(keystore: Keystore, store: Path) -> Path:
    """The store of a tree with one of everything, closed."""
    async with opened(keystore, store) as posix:
        await fill(posix)
        await posix.symlink(b"far", TARGET)
        await posix.tree.xattrs.set(posix.find(b"d/g"), b"user.colour", b"green")
        await posix.tree.xattrs.set(posix.find(b"d"), b"user.colour", b"blue")
        await posix.truncate(b"d/deep/h", 64 << 20)
        await posix.mknod(b"null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        posix.chmod(b"d/g", 0o4711)
        posix.chmod(b"d/deep", 0o500)
        directory, file = posix.backing(b"d"), posix.backing(b"d/g")
    os.chown(file, 1234, 2345)
    file.chmod(0o4711)
    subprocess.run(["setfacl", "-d", "-m", "u:54321:rwx", directory], check=True)
    subprocess.run(["setfacl", "-m", "u:12345:r", file], check=True)
    for at, directories, files in os.walk(store, topdown=False):
        for name in [*directories, *files]:
            os.utime(Path(at, name), ns=(OLD_NS, OLD_NS), follow_symlinks=False)
    os.utime(store, ns=(OLD_NS, OLD_NS))
    return store


def copy(source: Path, destination: Path, progress: Callable[[Copied], None] = lambda copied: None) -> Copied:
    with TreeCopy(source, destination) as copying:
        return copying.make(progress)


def everything(store: Path) -> dict[str, tuple[object, ...]]:
    """All that a copy is to have, by path; which names are of one file shows in the first of them."""
    found: dict[str, tuple[object, ...]] = {}
    first: dict[int, str] = {}
    for at, directories, files in os.walk(store):
        for name in sorted([*directories, *files, "."]):
            path = Path(at, name)
            if name in ("kmsfs.work", "kmsfs.copying") or name.startswith("kmsfs.tmp."):
                continue
            status = path.lstat()
            kind = stat.S_IFMT(status.st_mode)
            content: object = None
            if kind == stat.S_IFREG:
                content = sha256(path.read_bytes()).digest()
            elif kind == stat.S_IFLNK:
                content = path.readlink()
            names = [] if kind == stat.S_IFLNK else sorted(os.listxattr(path))
            key = str(path.relative_to(store))
            found[key] = (
                (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_rdev, content),
                status.st_nlink if kind != stat.S_IFDIR else 0,
                first.setdefault(status.st_ino, key) if kind != stat.S_IFDIR else key,
                [(name, os.getxattr(path, name)) for name in names],
                status.st_blocks if kind == stat.S_IFREG else 0,
            )
    return found


async def test_a_copy_has_everything(keystore: Keystore, store: Path, tmp_path: Path) -> None:
    (store / "kmsfs.tmp.0123").write_bytes(b"leftover")
    (store / "kmsfs.work").touch()
    os.utime(store, ns=(OLD_NS, OLD_NS))
    before = everything(store)
    destination = tmp_path / "new" / "copy"
    copied = copy(store, destination)
    assert everything(destination) == everything(store) == before
    assert copied.files == sum(1 for path, _ in _regular(destination)) - len(["the superblock"])
    assert not {"kmsfs.tmp.0123", "kmsfs.work"} & set(os.listdir(destination))
    async with opened(keystore, destination) as posix:
        assert posix.readlink(b"far") == TARGET
        assert posix.tree.xattrs.get(posix.find(b"d/g"), b"user.colour") == b"green"
    assert read_superblock(destination) == read_superblock(store)


@pytest.mark.parametrize("call", ["open_source", "copy_content"])
async def test_a_file_that_cannot_be_read_is_named_where_it_is(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """And not where it was to be copied to: there is nothing to mend there."""

    def bad_sector(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(f"kmsfs.tools.entries.{call}", bad_sector)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)) as caught:
        copy(store, tmp_path / "copy")
    named = Path(str(caught.value.filename))
    assert named.is_relative_to(store)
    assert named.is_file()


def _regular(store: Path) -> Iterator[tuple[int, Path]]:
    """The regular files, each once, without the mark."""
    inodes = {}
    for at, _, names in os.walk(store):
        for path in (Path(at, name) for name in names):
            if path.is_file() and not path.is_symlink() and path.name != "kmsfs.copying":
                inodes[path.stat().st_ino] = path
    yield from inodes.items()


async def test_the_copy_changes_and_the_tree_does_not(
    keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn, tmp_path: Path
) -> None:
    before = everything(store)
    copy(store, tmp_path / "copy")
    with UnmountedTree(keystore, tmp_path / "copy") as tree:
        runner = InProcess(Rekeyer(keystore, tree.block.tree_id))
        change = changes.migrate(tree.block, us_key)
        assert changes.apply(change, tree, runner, Notes(), progress=lambda tally: None).complete
    finish(tmp_path / "copy")
    assert "kmsfs.copying" not in os.listdir(tmp_path / "copy")
    finish(tmp_path / "copy")
    assert (slot_keys(tmp_path / "copy"), slot_keys(store)) == ({(us_key,)}, {(eu_key,)})
    assert everything(store) == before
    keystore.disable_key(eu_key)
    read = await contents(keystore, tmp_path / "copy")
    assert read.pop(b"d/deep/h")[:100] == b"h" + bytes(99)
    assert read.items() <= CONTENT.items()


async def test_a_tree_that_others_only_read(keystore: Keystore, store: Path, tmp_path: Path) -> None:
    with read_only_view(store, tmp_path / "view") as view:
        async with opened(keystore, view, read_only=True):
            copy(view, tmp_path / "copy")
    assert everything(tmp_path / "copy") == everything(store)


async def test_a_tree_that_is_mounted_is_refused(posix: Posix, store: Path, tmp_path: Path) -> None:
    with pytest.raises(TreeBusyError):
        copy(store, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


class StopError(Exception):
    """What a test stops a copy with."""


@pytest.mark.parametrize("after", [1, 4, 7])
async def test_a_copy_that_was_stopped_is_no_tree_and_gone_on_with(
    store: Path, tmp_path: Path, after: int
) -> None:
    destination = tmp_path / "copy"

    def stop(copied: Copied) -> None:
        if copied.files == after:
            raise StopError

    with pytest.raises(StopError):
        copy(store, destination, stop)
    with pytest.raises(NotATreeError):
        read_superblock(destination)
    (destination / "kmsfs.tmp.77").mkdir()
    copy(store, destination)
    assert everything(destination) == everything(store)


@pytest.fixture
async def wide(keystore: Keystore, store: Path) -> Path:
    """The store with 300 files more."""
    async with opened(keystore, store) as posix:
        for number in range(300):
            await posix.put(b"many-%d" % number, b"%d" % number * 100)
    return store


def half_a_copy(source: Path, destination: Path) -> None:
    """All but the superblock, all of it durable as far as the mark knows."""
    copy(source, destination)
    (destination / "kmsfs.tree").unlink()
    mark = destination / "kmsfs.copying"
    mark.write_text(f"{mark.read_text().split()[0]} {2**62}")


def inodes(store: Path) -> dict[str, int]:
    """By path, of the regular files of one name."""
    return {
        str(path.relative_to(store)): path.stat().st_ino
        for _, path in _regular(store)
        if path.stat().st_nlink == 1 and path.name not in ("kmsfs.copying", "kmsfs.tree")
    }


async def test_nothing_durable_is_copied_twice(wide: Path, tmp_path: Path) -> None:
    destination = tmp_path / "copy"
    half_a_copy(wide, destination)
    before = inodes(destination)
    assert len(before) > 300
    assert copy(wide, destination).files >= len(before)
    assert inodes(destination) == before
    assert everything(destination) == everything(wide)


async def test_what_may_not_be_durable_is_copied_again(wide: Path, tmp_path: Path) -> None:
    """After a power cut a file can have its size and times, and zeros for its content."""
    destination = tmp_path / "copy"
    half_a_copy(wide, destination)
    mark = destination / "kmsfs.copying"
    mark.write_text(f"{mark.read_text().split()[0]} {min(_changed(destination)) + 1}")
    for path in (Path(destination, name) for name in inodes(destination)):
        status = path.stat()
        path.write_bytes(bytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    copy(wide, destination)
    assert everything(destination) == everything(wide)


def _changed(store: Path) -> list[int]:
    return [path.stat().st_ctime_ns for _, path in _regular(store)]


async def test_how_far_a_copy_is_durable_is_marked(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = tmp_path / "copy"
    monkeypatch.setattr(copying, "_MAX_UNSAFE_FILES", 100)

    def stop(copied: Copied) -> None:
        if copied.files == 250:
            raise StopError

    with pytest.raises(StopError):
        copy(wide, destination, stop)
    _, durable_ns = (destination / "kmsfs.copying").read_text().split()
    safe = {
        path: ino
        for path, ino in inodes(destination).items()
        if (destination / path).stat().st_ctime_ns < int(durable_ns) and path in inodes(wide)
    }
    assert 0 < len(safe) < 250
    copy(wide, destination)
    assert safe.items() <= inodes(destination).items()
    assert everything(destination) == everything(wide)


async def test_what_changed_between_two_runs_is_copied_as_it_is_now(
    keystore: Keystore, wide: Path, tmp_path: Path
) -> None:
    destination = tmp_path / "copy"
    half_a_copy(wide, destination)
    async with opened(keystore, wide) as posix:
        same_size = posix.backing(b"many-1")
        before = same_size.stat()
        await posix.put(b"many-1", b"x" * 100)
        posix.unlink(b"many-2")
        await posix.rename(b"many-3", b"d/moved")
        await posix.mkdir(b"many-2")
        await posix.put(b"many-2/new", b"new")
        posix.chmod(b"many-4", 0o640)
        await posix.link(b"many-5", b"d/also-5")
    os.utime(same_size, ns=(before.st_atime_ns, before.st_mtime_ns))
    copy(wide, destination)
    assert everything(destination) == everything(wide)


async def test_a_whole_copy_is_gone_on_with_until_its_change_is_complete(store: Path, tmp_path: Path) -> None:
    destination = tmp_path / "copy"
    copy(store, destination)
    (destination / "mine").touch()  # as the change would
    assert copy(store, destination) == Copied()
    assert (destination / "mine").exists()
    finish(destination)
    with pytest.raises(TreeExistsError, match="is a tree already"):
        copy(store, destination)


async def test_what_is_no_place_for_a_copy(
    keystore: Keystore, store: Path, eu_key: KeyArn, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    with pytest.raises(TreeExistsError, match="not empty"):
        copy(store, tmp_path / "full")
    assert (tmp_path / "full" / "precious").exists()
    create_tree(keystore, tmp_path / "other", eu_key)
    copy(tmp_path / "other", tmp_path / "copy")
    (tmp_path / "copy" / "kmsfs.tree").unlink()
    with pytest.raises(TreeExistsError, match="another tree"):
        copy(store, tmp_path / "copy")
    with pytest.raises(NotATreeError):
        copy(tmp_path / "full", tmp_path / "fresh")
    assert not (tmp_path / "fresh").exists()


@pytest.mark.parametrize("inside", ["new", "d/new", "", ".."])
async def test_one_within_the_other_is_refused(store: Path, tmp_path: Path, inside: str) -> None:
    (tmp_path / "alias").symlink_to(store)
    before = set(os.listdir(store))
    for path in (store / inside, tmp_path / "alias" / inside):
        with pytest.raises(InvalidRequestError, match="lie in one another"):
            copy(store, path)
    assert set(os.listdir(store)) == before


async def test_a_copy_into_the_tree_by_way_of_a_bind_mount_does_not_copy_itself(
    store: Path, tmp_path: Path
) -> None:
    """No path tells where that leads to, and it would go on until the disk is full."""
    inside = next(path for path in store.iterdir() if path.is_dir() and "." not in path.name)
    view = tmp_path / "view"
    view.mkdir()
    subprocess.run(["mount", "--bind", inside, view], check=True)
    try:
        with pytest.raises(InvalidRequestError, match="lie in one another"):
            copy(store, view / "copy")
    finally:
        subprocess.run(["umount", view], check=True)
    depth = max(str(path).count("/") for path in (inside / "copy").rglob("*"))
    assert depth - str(inside).count("/") < 10


async def test_a_full_disk_leaves_no_tree(store: Path, tmp_path: Path, keystore: Keystore) -> None:
    async with opened(keystore, store) as posix:
        for number in range(3):
            await posix.put(b"big", os.urandom(1 << 20), number << 20)
    before = everything(store)
    with small_filesystem(tmp_path / "disk", 1 << 20) as disk:
        with pytest.raises(OSError, match="No space left") as raised:
            copy(store, disk / "copy")
        assert str(raised.value.filename).startswith(f"{disk}/copy/")
        with pytest.raises(NotATreeError):
            read_superblock(disk / "copy")
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        copy(store, disk / "copy")
        assert {path: all_[:1] for path, all_ in everything(disk / "copy").items()} == {
            path: all_[:1] for path, all_ in before.items()
        }
    assert everything(store) == before
