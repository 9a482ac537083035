"""Re-encryption: every file gets a new data key and ciphertext; links, holes and attributes stay; stops, damage."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from testkit.disks import fill as fill_disk
from testkit.disks import small_filesystem
from testkit.posix import Posix, opened
from testkit.tool_trees import CONTENT, Notes, contents, fill, slot_keys

from kmsfs.envelope.file_key import newest_unverified
from kmsfs.errors import KeyDisabledError, TreeBusyError
from kmsfs.format.header import FileHeader
from kmsfs.format.layout import HEADER_COPY_SIZE, HEADER_SIZE, chunk_offset
from kmsfs.ids import KeyArn
from kmsfs.keystore.service import Keystore
from kmsfs.storage import backing, durable
from kmsfs.tools import changes
from kmsfs.tools.access import UnmountedTree
from kmsfs.tools.convergence import Result
from kmsfs.tools.marks import NAME, Marks
from kmsfs.tools.reencrypt import Means, Reencryption
from kmsfs.tools.runners import InProcess
from kmsfs.tree.rekey import Rekeyer
from kmsfs.tree.superblock_file import create_tree, read_superblock

OLD_NS = 1_000_000_000_123_456_789
GIB = 1 << 30


@pytest.fixture
async def store(keystore: Keystore, store: Path) -> Path:
    """The store of a tree that is filled and closed."""
    async with opened(keystore, store) as posix:
        await fill(posix)
    return store


def reencrypt(
    keystore: Keystore,
    store: Path,
    key_arn: KeyArn,
    marks: Path,
    notes: Notes | None = None,
    *,
    touch: bool = False,
) -> Result:
    """Migrate with new data keys; ``marks`` is what the runs of one migration have in common."""
    with UnmountedTree(keystore, store) as tree, Marks(marks) as made:
        rekeyer = Rekeyer(keystore, tree.block.tree_id)
        way = partial(Reencryption, Means(rekeyer, made, touch=touch))
        change = changes.migrate(tree.block, key_arn)
        return changes.apply(
            change, tree, InProcess(rekeyer), notes or Notes(), progress=lambda tally: None, way=way
        )


async def test_who_wants_it_to_stop_is_heard_where_all_is_done(
    keystore: Keystore, store: Path, us_key: KeyArn, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done before a stop may take minutes to look through."""
    monkeypatch.setattr("kmsfs.tools.reencrypt._STRIDE", 2)
    assert reencrypt(keystore, store, us_key, marks).complete
    heard: list[int] = []
    with UnmountedTree(keystore, store) as tree, Marks(marks) as made:
        rekeyer = Rekeyer(keystore, tree.block.tree_id)
        changes.apply(
            changes.migrate(tree.block, us_key),
            tree,
            InProcess(rekeyer),
            Notes(),
            progress=lambda tally: heard.append(tally.files),
            way=partial(Reencryption, Means(rekeyer, made)),
        )
    assert heard[:3] == [2, 4, 6]


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    """Where the marks of a migration go."""
    return tmp_path / NAME


def headers(store: Path) -> dict[bytes, list[FileHeader]]:
    """Both copies of every header by file id."""
    found = {}
    for at, _, names in os.walk(store):
        for path in (Path(at, name) for name in names):
            if "." in path.name or path.is_symlink() or not path.is_file():
                continue
            raw = path.read_bytes()[:HEADER_SIZE]
            if raw:
                copies = [FileHeader.parse(raw[n : n + HEADER_COPY_SIZE]) for n in (0, HEADER_COPY_SIZE)]
                found[bytes(copies[0].file_id)] = copies
    return found


def leftovers(store: Path) -> list[str]:
    return [name for _, _, names in os.walk(store) for name in names if name.startswith("kmsfs.tmp.")]


async def test_every_file_gets_a_new_data_key_and_ciphertext(
    keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn, marks: Path
) -> None:
    async with opened(keystore, store) as posix:
        path = posix.backing(b"d/g")
    stored, before = path.read_bytes(), headers(store)
    notes = Notes()
    result = reencrypt(keystore, store, us_key, marks, notes)
    assert (result.complete, result.failures, result.done) == (True, [], 5)
    assert slot_keys(store) == {(us_key,)}
    assert read_superblock(store).key_arns == (us_key,)
    after = headers(store)
    assert after.keys() == before.keys(), "file ids stay"
    for file_id, (first, second) in after.items():
        assert first == second
        assert (first.dirty, first.sealed_length) == (False, before[file_id][0].sealed_length)
        assert first.commitment != before[file_id][0].commitment
    now = path.read_bytes()
    assert len(now) == len(stored)
    assert not any(now[at : at + 16] == stored[at : at + 16] for at in range(HEADER_SIZE, len(now) - 16, 16))
    assert newest_unverified(now[:HEADER_SIZE]).chunk_writes == 3
    assert {(head.key_arn,) for plan in notes.intended for head in plan.swap.old} == {(eu_key,)}
    assert len(notes.intended) == 5
    assert leftovers(store) == []
    keystore.disable_key(eu_key)
    assert await contents(keystore, store) == CONTENT


async def test_what_is_done_is_not_done_again_in_one_migration(
    keystore: Keystore, store: Path, us_key: KeyArn, marks: Path, tmp_path: Path
) -> None:
    reencrypt(keystore, store, us_key, marks)
    before = headers(store)
    assert reencrypt(keystore, store, us_key, marks).done == 0
    assert headers(store) == before
    assert reencrypt(keystore, store, us_key, tmp_path / "another").done == 5
    assert not {copies[0].commitment for copies in headers(store).values()} & {
        copies[0].commitment for copies in before.values()
    }


async def test_a_tree_that_was_rewrapped_before_is_not_taken_for_done(
    keystore: Keystore, store: Path, us_key: KeyArn, marks: Path
) -> None:
    with UnmountedTree(keystore, store) as tree:
        runner = InProcess(Rekeyer(keystore, tree.block.tree_id))
        changes.apply(changes.migrate(tree.block, us_key), tree, runner, Notes(), progress=lambda tally: None)
    assert reencrypt(keystore, store, us_key, marks).done == 5


async def test_attributes_and_times_stay(
    keystore: Keystore, store: Path, us_key: KeyArn, marks: Path
) -> None:
    async with opened(keystore, store) as posix:
        await posix.tree.xattrs.set(posix.find(b"d/g"), b"user.colour", b"green")
        posix.chmod(b"d/g", 0o4750)
        path, directory = posix.backing(b"d/g"), posix.backing(b"d")
    subprocess.run(["setfacl", "-m", "u:12345:r", path], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:54321:rwx", directory], check=True)
    os.chown(path, 1234, 2345)
    path.chmod(0o4750)
    os.utime(path, ns=(OLD_NS, OLD_NS))
    os.utime(directory, ns=(OLD_NS, OLD_NS))
    acl = os.getxattr(path, "system.posix_acl_access")
    before, inherited_by = path.stat(), sorted(directory.iterdir())
    reencrypt(keystore, store, us_key, marks)
    after = path.stat()
    for name in ("st_mode", "st_uid", "st_gid", "st_size", "st_atime_ns", "st_mtime_ns", "st_nlink"):
        assert getattr(after, name) == getattr(before, name), name
    assert after.st_ino != before.st_ino
    assert directory.stat().st_mtime_ns == OLD_NS
    assert os.getxattr(path, "system.posix_acl_access") == acl
    others = [entry for entry in inherited_by if entry.is_file() and entry != path and "." not in entry.name]
    assert others
    assert not any("posix_acl" in name for entry in others for name in os.listxattr(entry))
    async with opened(keystore, store) as posix:
        assert posix.tree.xattrs.get(posix.find(b"d/g"), b"user.colour") == b"green"
        assert await posix.get(b"d/g") == CONTENT[b"d/g"]


async def test_touch_moves_the_modification_time_on(
    keystore: Keystore, store: Path, us_key: KeyArn, marks: Path
) -> None:
    async with opened(keystore, store) as posix:
        path = posix.backing(b"d/g")
    os.utime(path, ns=(OLD_NS, OLD_NS))
    reencrypt(keystore, store, us_key, marks, touch=True)
    assert path.stat().st_mtime_ns == OLD_NS + 1_000_000_000


async def test_hard_links_stay_links(keystore: Keystore, store: Path, us_key: KeyArn, marks: Path) -> None:
    async with opened(keystore, store) as posix:
        await posix.link(b"f", b"d/deep/" + b"m" * 250)
    reencrypt(keystore, store, us_key, marks)
    async with opened(keystore, store) as posix:
        names = [b"f", b"d/link", b"d/deep/" + b"m" * 250]
        assert len({posix.stat(name).st_ino for name in names}) == 1
        assert posix.stat(b"f").st_nlink == 3
        assert [await posix.get(name) for name in names] == [b"abc"] * 3
    assert leftovers(store) == []


async def test_a_name_outside_the_tree_keeps_the_file_as_it_is(
    keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn, marks: Path, tmp_path: Path
) -> None:
    async with opened(keystore, store) as posix:
        path = posix.backing(b"f")
    (tmp_path / "outside").hardlink_to(path)
    result = reencrypt(keystore, store, us_key, marks)
    assert [failure.reason for failure in result.failures] == ["1 of its names are outside the tree"]
    assert slot_keys(path) == {(eu_key,)}
    (tmp_path / "outside").unlink()
    assert reencrypt(keystore, store, us_key, marks).done == 1
    assert await contents(keystore, store) == CONTENT


async def test_holes_stay_holes(keystore: Keystore, store: Path, us_key: KeyArn, marks: Path) -> None:
    pieces = {0: b"begin", 300 << 20: b"x" * 5000, (500 << 20) + 123: b"middle"}
    async with opened(keystore, store) as posix:
        handle = await posix.create(b"sparse")
        for offset, data in pieces.items():
            posix.write(handle, offset, data)
        posix.close(handle)
        await posix.truncate(b"sparse", GIB + 1)
        path = posix.backing(b"sparse")
    before = path.stat()
    calls = Counted(os, "pread")
    with calls:
        reencrypt(keystore, store, us_key, marks)
    assert calls.count < 100, "what has no blocks is not read"
    after = path.stat()
    assert (after.st_size, after.st_blocks) == (before.st_size, before.st_blocks)
    async with opened(keystore, store) as posix:
        handle = await posix.open(b"sparse", os.O_RDONLY)
        assert posix.size(b"sparse") == GIB + 1
        for offset, data in pieces.items():
            expected = bytes(50) + data + bytes(50) if offset else data + bytes(100)
            assert await posix.read(handle, max(0, offset - 50), len(expected)) == expected
        assert await posix.read(handle, GIB - 10) == bytes(11)
        posix.close(handle)


class Counted:
    """Counts the calls of a function while it is entered."""

    def __init__(self, module: Any, name: str) -> None:
        self._module, self._name = module, name
        self.count = 0

    def __enter__(self) -> None:
        self._call = getattr(self._module, self._name)
        setattr(self._module, self._name, self._counting)

    def __exit__(self, *_: object) -> None:
        setattr(self._module, self._name, self._call)

    def _counting(self, *arguments: Any, **named: Any) -> Any:
        self.count += 1
        return self._call(*arguments, **named)


async def test_many_holes_between_data_stay(
    keystore: Keystore, store: Path, us_key: KeyArn, marks: Path
) -> None:
    """More holes than a header has extents: chunks with and without data lie within one extent."""
    async with opened(keystore, store) as posix:
        handle = await posix.create(b"holes")
        for number in range(40):
            posix.write(handle, number * 5 * 4096, b"%d" % number)
        posix.close(handle)
        expected = await posix.get(b"holes")
        path = posix.backing(b"holes")
    reencrypt(keystore, store, us_key, marks)
    assert newest_unverified(path.read_bytes()[:HEADER_SIZE]).chunk_writes < 90, "no hole was written"
    async with opened(keystore, store) as posix:
        assert await posix.get(b"holes") == expected


async def test_a_large_file_goes_in_runs(
    keystore: Keystore, store: Path, us_key: KeyArn, marks: Path
) -> None:
    block = os.urandom(1 << 20)
    async with opened(keystore, store) as posix:
        handle = await posix.create(b"large")
        for number in range(5):
            posix.write(handle, number << 20, block)
        posix.write(handle, 5 << 20, b"tail")
        posix.close(handle)
    reencrypt(keystore, store, us_key, marks)
    async with opened(keystore, store) as posix:
        assert await posix.get(b"large") == block * 5 + b"tail"


async def test_a_file_that_a_crash_left_unsealed(
    keystore: Keystore, store: Path, us_key: KeyArn, marks: Path
) -> None:
    async with opened(keystore, store) as posix:
        handle = await posix.open(b"d/g")
        posix.write(handle, 10_000, b"y" * 10_480)
        path = posix.backing(b"d/g")
        posix.recover()
    os.truncate(path, path.stat().st_size + 7)  # an append that was cut off
    assert reencrypt(keystore, store, us_key, marks).failures == []
    async with opened(keystore, store) as posix:
        assert await posix.get(b"d/g") == b"x" * 10_000 + b"y" * 10_480


async def test_a_damaged_file_is_left_and_listed(
    keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn, marks: Path
) -> None:
    async with opened(keystore, store) as posix:
        path = posix.backing(b"d/g")
    good = path.read_bytes()
    spoiled = bytearray(good)
    spoiled[chunk_offset(1, 4096) + 100] ^= 1
    path.write_bytes(spoiled)
    result = reencrypt(keystore, store, us_key, marks)
    assert [(failure.path, failure.reason) for failure in result.failures] == [
        (os.fsencode(path.relative_to(store)), f"file {good[32:64].hex()}: chunk 1 does not verify")
    ]
    assert (result.done, result.complete) == (4, False)
    assert path.read_bytes() == spoiled
    assert leftovers(store) == []
    assert read_superblock(store).key_arns == (us_key, eu_key)
    path.write_bytes(good)
    assert reencrypt(keystore, store, us_key, marks).done == 1
    assert read_superblock(store).key_arns == (us_key,)
    assert await contents(keystore, store) == CONTENT


async def test_a_disk_without_room_for_one_file_more(
    keystore: Keystore, eu_key: KeyArn, us_key: KeyArn, marks: Path, tmp_path: Path
) -> None:
    block = os.urandom(1 << 20)
    with small_filesystem(tmp_path / "disk", 24 << 20) as disk:
        store = disk / "store"
        create_tree(keystore, store, eu_key)
        async with opened(keystore, store) as posix:
            for number in range(4):
                await posix.put(b"%d" % number, block)
            await posix.put(b"big", b"")
            for number in range(6):
                await posix.put(b"big", block, number << 20)
            big = posix.backing(b"big")
        filler = fill_disk(disk, leave=3 << 20)
        result = reencrypt(keystore, store, us_key, marks)
        assert [(failure.path, failure.reason) for failure in result.failures] == [
            (os.fsencode(big.name), "no space left on device")
        ]
        assert result.done == 4, "the small ones make room for one another"
        assert leftovers(store) == []
        assert slot_keys(big) == {(eu_key,)}
        filler.unlink()
        assert reencrypt(keystore, store, us_key, marks).done == 1
        async with opened(keystore, store) as posix:
            assert await posix.get(b"big") == block * 6
            assert await posix.get(b"3") == block


async def test_a_rotation_meanwhile_is_followed(
    keystore: Keystore, store: Path, us_key: KeyArn, marks: Path
) -> None:
    notes = Notes()

    def rotate() -> None:
        notes.on_sync = lambda: None
        keystore.rotate_key(us_key)

    notes.on_sync = rotate
    assert reencrypt(keystore, store, us_key, marks, notes).complete
    with UnmountedTree(keystore, store) as tree:
        runner = InProcess(Rekeyer(keystore, tree.block.tree_id))
        again = changes.apply(changes.rewrap(tree.block), tree, runner, Notes(), progress=lambda tally: None)
    assert again.done == 0
    assert await contents(keystore, store) == CONTENT


async def test_a_key_that_cannot_be_used_leaves_everything(
    keystore: Keystore, store: Path, eu_key: KeyArn, us_key: KeyArn, marks: Path
) -> None:
    keystore.disable_key(us_key)
    with pytest.raises(KeyDisabledError):
        reencrypt(keystore, store, us_key, marks)
    assert slot_keys(store) == {(eu_key,)}


async def test_a_mounted_tree_is_refused(
    keystore: Keystore, posix: Posix, store: Path, us_key: KeyArn, marks: Path
) -> None:
    with pytest.raises(TreeBusyError):
        reencrypt(keystore, store, us_key, marks)


# --- stops -----------------------------------------------------------------------------------------------------------

_CHANGING = ("open", "pwrite", "ftruncate", "chown", "chmod", "utime", "setxattr", "link", "unlink", "rename")


class Snapshots:
    """Copies of a store and of the marks after every call that changes either."""

    def __init__(self, store: Path, marks: Path, into: Path) -> None:
        self._store, self._marks, self._into = store, marks, into
        self._held = ExitStack()
        into.mkdir()

    def __enter__(self) -> None:
        for module, names in ((os, _CHANGING), (backing._libc, ("syncfs",))):
            for name in names:
                call = getattr(module, name)
                setattr(module, name, self._copying(call))
                self._held.callback(setattr, module, name, call)

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def _copying(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def copied(*arguments: Any, **named: Any) -> Any:
            result = call(*arguments, **named)
            if call.__name__ != "open" or (len(arguments) > 1 and arguments[1] & os.O_CREAT):
                self._take()
            return result

        return copied

    def _take(self) -> None:
        copy = self._into / str(len(list(self._into.iterdir())))
        copy.mkdir()
        for path in (self._store, self._marks):
            if path.exists():
                subprocess.run(["cp", "-a", "--reflink=auto", path, copy], check=True)

    def __iter__(self) -> Iterator[Path]:
        return iter(sorted(self._into.iterdir(), key=lambda path: int(path.name)))


@pytest.fixture
async def two_files(keystore: Keystore, eu_key: KeyArn, tmp_path: Path) -> Path:
    """The store of a tree of one file with one name and one with three."""
    store = tmp_path / "two"
    create_tree(keystore, store, eu_key)
    async with opened(keystore, store) as posix:
        await posix.mkdir(b"d")
        await posix.put(b"one", b"1" * 5000)
        await posix.tree.xattrs.set(posix.find(b"one"), b"user.x", b"y")
        await posix.put(b"many", b"m" * 5000)
        await posix.link(b"many", b"d/a")
        await posix.link(b"many", b"d/b")
    return store


MANY = (b"many", b"d/a", b"d/b")


async def test_a_stop_after_any_change(
    keystore: Keystore, two_files: Path, us_key: KeyArn, marks: Path, tmp_path: Path
) -> None:
    snapshots = Snapshots(two_files, marks, tmp_path / "stops")
    with snapshots:
        assert reencrypt(keystore, two_files, us_key, marks).done == 2
    done = []
    for stop in snapshots:
        store = stop / two_files.name
        async with opened(keystore, store, read_only=True) as posix:
            assert await posix.get(b"one") == b"1" * 5000
            assert [await posix.get(path) for path in MANY] == [b"m" * 5000] * 3
        result = reencrypt(keystore, store, us_key, stop / NAME)
        assert (result.complete, result.failures) == (True, []), stop.name
        done.append(result.done)
        assert leftovers(store) == []
        assert slot_keys(store) == {(us_key,)}
        async with opened(keystore, store) as posix:
            assert await posix.get(b"one") == b"1" * 5000
            assert posix.tree.xattrs.get(posix.find(b"one"), b"user.x") == b"y"
            assert len({posix.stat(path).st_ino for path in MANY}) == 1, stop.name
            assert posix.stat(b"many").st_nlink == 3
            assert await posix.get(b"many") == b"m" * 5000
    assert len(done) > 30
    assert (done[0], done[-1]) == (2, 0)
    assert done == sorted(done, reverse=True), "what is done is not done again"


async def stopped_between_links(
    keystore: Keystore, store: Path, us_key: KeyArn, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leave one name at the new file and two at the old one."""

    class StopError(BaseException):
        pass

    renames = []

    def rename(*arguments: Any) -> None:
        renames.append(arguments)
        if len(renames) == 4:  # the superblock's, that of ``one``, the first of ``many``
            raise StopError
        real(*arguments)

    real = backing.rename
    with monkeypatch.context() as patched:
        patched.setattr(backing, "rename", rename)
        with pytest.raises(StopError):
            reencrypt(keystore, store, us_key, marks)


async def test_names_that_were_written_to_after_a_stop_are_not_joined_again(
    keystore: Keystore, two_files: Path, us_key: KeyArn, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stopped_between_links(keystore, two_files, us_key, marks, monkeypatch)
    async with opened(keystore, two_files) as posix:
        assert len({posix.stat(path).st_ino for path in MANY}) == 2
        lone = next(
            path for path in MANY if [posix.stat(p).st_ino for p in MANY].count(posix.stat(path).st_ino) == 1
        )
        await posix.put(lone, b"changed")
    result = reencrypt(keystore, two_files, us_key, marks)
    assert {failure.reason for failure in result.failures} == {
        "it was changed after the stop: a file of its own now"
    }
    assert reencrypt(keystore, two_files, us_key, marks).complete
    async with opened(keystore, two_files) as posix:
        read = {path: await posix.get(path) for path in MANY}
        assert read.pop(lone) == b"changed" + b"m" * 4993
        assert set(read.values()) == {b"m" * 5000}


async def test_a_file_that_is_gone_after_a_stop(
    keystore: Keystore, two_files: Path, us_key: KeyArn, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stopped_between_links(keystore, two_files, us_key, marks, monkeypatch)
    async with opened(keystore, two_files) as posix:
        for path in MANY:
            posix.unlink(path)
    assert reencrypt(keystore, two_files, us_key, marks).complete


async def test_what_does_not_take_its_place_is_removed(
    keystore: Keystore, store: Path, us_key: KeyArn, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = backing.rename

    def refuse(name: bytes, dir_fd: int, *to: Any) -> None:
        if name.startswith(durable.TEMPORARY_PREFIX) and not to[0].startswith(b"kmsfs.t"):
            raise PermissionError(1, "Operation not permitted")
        real(name, dir_fd, *to)

    with monkeypatch.context() as patched:
        patched.setattr(backing, "rename", refuse)
        result = reencrypt(keystore, store, us_key, marks)
    assert {failure.reason for failure in result.failures} == {"operation not permitted"}
    assert (len(result.failures), result.done) == (5, 0)
    assert leftovers(store) == []
    assert reencrypt(keystore, store, us_key, marks).done == 5
    assert await contents(keystore, store) == CONTENT


def test_marks_on_a_disk_that_fails(tmp_path: Path) -> None:
    with Marks(tmp_path / NAME) as made:
        made.add([b"a" * 32])
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        with pytest.raises(OSError, match="Input/output error"):
            made.add([b"b" * 32])
