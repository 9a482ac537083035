"""Zones: which key a new file gets, and how a zone is made and removed."""

import errno
import json
import os
import stat
from pathlib import Path
from threading import Event

import pytest
import trio
import trio.testing
from testkit.posix import Posix
from testkit.users import effective_user

from kmsfs.errors import InvalidRequestError, KeyDisabledError, KeyNotFoundError, KmsfsError
from kmsfs.format.blob import parse_blob_head
from kmsfs.format.directory import DirectoryRecord
from kmsfs.ids import KeyArn
from kmsfs.keystore.service import Keystore
from kmsfs.tree.directories import Directories
from kmsfs.tree.inspect import inspect_path
from kmsfs.tree.zones import Zone, set_zone, zone_at, zones_below

LONG = b"z" * 200  # its encrypted name stands in a sidecar
NOWHERE = "arn:aws:kms:us-east-1:000000000000:key/12345678-1234-1234-1234-123456789012"


async def test_new_files_are_under_the_nearest_zone(posix: Posix, eu_key: KeyArn, us_key: KeyArn) -> None:
    for path in (LONG, LONG + b"/in", LONG + b"/in/eu"):
        await posix.mkdir(path)
    await posix.put(LONG + b"/in/before", b"1")
    await posix.make_zone(LONG, us_key)
    await posix.make_zone(LONG + b"/in/eu", eu_key)
    for _ in range(2):
        for directory, key in [(b"", eu_key), (b"/in", us_key), (b"/in/eu", eu_key)]:
            path = (LONG + directory if directory else b"") + b"/f"
            await posix.put(path, b"abc")
            assert posix.slot_keys(path) == [key]
            posix.unlink(path)
        await posix.reopen()
    assert posix.slot_keys(LONG + b"/in/before") == [eu_key]
    assert list(zones_below(posix.path)) == [
        Zone(os.fspath(posix.backing(LONG).relative_to(posix.path)), us_key),
        Zone(os.fspath(posix.backing(LONG + b"/in/eu").relative_to(posix.path)), eu_key),
    ]
    assert zone_at(posix.backing(LONG + b"/in/before"), posix.path) == us_key
    assert zone_at(posix.path, posix.path) == ""
    await posix.make_zone(LONG, "")
    await posix.put(LONG + b"/in/after", b"1")
    assert posix.slot_keys(LONG + b"/in/after") == [eu_key]


async def test_a_directory_that_cannot_be_listed_is_told(
    posix: Posix, us_key: KeyArn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be zones in it."""
    for path in (b"hidden", b"zone"):
        await posix.mkdir(path)
    await posix.make_zone(b"zone", us_key)
    hidden, zone = posix.backing(b"hidden"), posix.backing(b"zone")
    hidden.chmod(0o711)
    posix.path.chmod(0o755)
    monkeypatch.chdir(posix.path)  # whose parents another user may not pass through
    with effective_user():
        found = list(zones_below(Path()))
    assert sorted(found, key=lambda zone: zone.key_arn) == [
        Zone(hidden.name, "", "directory: permission denied"),
        Zone(zone.name, us_key),
    ]


async def test_a_record_that_is_none_is_told(posix: Posix, us_key: KeyArn) -> None:
    for path in (b"cut", b"fifo", b"zone"):
        await posix.mkdir(path)
    await posix.make_zone(b"zone", us_key)
    names = {path: posix.backing(path) for path in (b"cut", b"fifo")}
    (names[b"cut"] / ".kmsfs.dir").write_bytes(b"x")
    (names[b"fifo"] / ".kmsfs.dir").unlink()
    os.mkfifo(names[b"fifo"] / ".kmsfs.dir")
    found = {zone.path: bool(zone.problem) for zone in zones_below(posix.path)}
    assert found == {
        names[b"cut"].name: True,
        names[b"fifo"].name: True,
        posix.backing(b"zone").name: False,
    }


async def test_the_root_can_be_a_zone(posix: Posix, us_key: KeyArn) -> None:
    await posix.make_zone(b"", us_key)
    await posix.put(b"f", b"abc")
    assert posix.slot_keys(b"f") == [us_key]
    assert list(zones_below(posix.path)) == [Zone(".", us_key)]


async def test_making_a_zone_leaves_the_times_of_the_directory(posix: Posix, us_key: KeyArn) -> None:
    await posix.mkdir(b"zone")
    posix.utime(b"zone", 1, 2)
    await posix.make_zone(b"zone", us_key)
    assert posix.stat(b"zone").st_mtime_ns == 2


@pytest.mark.parametrize(
    ("key", "error"),
    [
        ("disabled", KeyDisabledError),
        (NOWHERE, KeyNotFoundError),
        ("alias/files", InvalidRequestError),
        ("no key at all", KmsfsError),
    ],
)
async def test_a_key_that_nothing_can_be_made_under_makes_no_zone(
    posix: Posix, keystore: Keystore, us_key: KeyArn, eu_key: KeyArn, key: str, error: type[KmsfsError]
) -> None:
    await posix.mkdir(b"zone")
    if key == "disabled":
        keystore.disable_key(us_key)
    with pytest.raises(error):
        await posix.make_zone(b"zone", us_key if key == "disabled" else key)
    assert list(zones_below(posix.path)) == []
    await posix.put(b"zone/f", b"abc")
    assert posix.slot_keys(b"zone/f") == [eu_key]


async def test_making_a_zone_is_recorded_as_that(posix: Posix, keystore: Keystore, us_key: KeyArn) -> None:
    """And not as a file that nobody has made."""
    await posix.make_zone(b"", us_key)
    keystore.disable_key(us_key)
    with pytest.raises(KeyDisabledError):
        await posix.make_zone(b"", us_key)
    uses = {(action, key, result) for _, action, key, result in posix.tree.file_keys._uses}
    assert uses == {("kmsfs:CreateZone", us_key, result) for result in ("ok", "KeyDisabledError")}


async def test_a_record_that_was_replaced_in_part_counts_as_it_stands(
    posix: Posix, us_key: KeyArn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk failed when the new record was there: the mount says what the next one will."""

    def lost(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    await posix.mkdir(b"zone")
    with monkeypatch.context() as patch:
        patch.setattr("kmsfs.storage.durable.sync_directory", lost)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            await posix.make_zone(b"zone", us_key)
    assert [zone.key_arn for zone in zones_below(posix.path)] == [us_key]
    await posix.put(b"zone/f", b"abc")
    assert posix.slot_keys(b"zone/f") == [us_key]


async def test_only_directories_are_zones(posix: Posix, us_key: KeyArn) -> None:
    await posix.put(b"f", b"abc")
    with pytest.raises(NotADirectoryError):
        await posix.make_zone(b"f", us_key)
    with pytest.raises(FileNotFoundError):
        await set_zone(posix.tree, [b"nothing"], us_key)


async def test_a_zone_of_a_read_only_tree_stays(posix: Posix, us_key: KeyArn) -> None:
    await posix.mkdir(b"zone")
    await posix.reopen(read_only=True)
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        await posix.make_zone(b"zone", us_key)


async def test_a_zone_whose_key_is_unusable_only_refuses_to_make_files(
    posix: Posix, keystore: Keystore, us_key: KeyArn
) -> None:
    await posix.mkdir(b"zone")
    await posix.make_zone(b"zone", us_key)
    await posix.put(b"zone/f", b"abc")
    await posix.reopen()
    keystore.disable_key(us_key)
    for attempt in (posix.put(b"zone/new", b"x"), posix.get(b"zone/f")):
        with pytest.raises(KeyDisabledError):
            await attempt
    await posix.mkdir(b"zone/d")
    await posix.symlink(b"zone/s", b"target")
    await posix.mknod(b"zone/p", stat.S_IFIFO | 0o600)
    await posix.rename(b"zone/f", b"zone/d/g")
    assert posix.size(b"zone/d/g") == 3
    assert await posix.names(b"zone") == [b"d", b"p", b"s"]
    posix.unlink(b"zone/d/g")
    await posix.make_zone(b"zone", "")
    await posix.put(b"zone/new", b"x")


async def test_a_move_of_the_directory_meanwhile_keeps_the_zone(
    posix: Posix, us_key: KeyArn, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (b"a", b"a/zone", b"b"):
        await posix.mkdir(path)
    token, writing, go = trio.lowlevel.current_trio_token(), trio.Event(), Event()
    real = Directories.replace_record

    def held(self: Directories, dir_fd: int, record: DirectoryRecord) -> None:
        if record.zone and not writing.is_set():
            token.run_sync_soon(writing.set)
            assert go.wait(30)
        real(self, dir_fd, record)

    monkeypatch.setattr(Directories, "replace_record", held)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(posix.make_zone, b"a/zone", us_key)
        await writing.wait()
        nursery.start_soon(posix.rename, b"a/zone", b"b/zone")
        await trio.testing.wait_all_tasks_blocked()
        go.set()
    await posix.reopen()
    await posix.put(b"b/zone/f", b"abc")
    assert posix.slot_keys(b"b/zone/f") == [us_key]


async def test_the_key_of_files_and_directories(posix: Posix, eu_key: KeyArn, us_key: KeyArn) -> None:
    await posix.put(b"f", b"abc")
    await posix.put(b"empty", b"")
    await posix.mkdir(b"d")
    await posix.reopen()
    await posix.make_zone(b"", us_key)
    handle = await posix.create(b"new")

    def key_of(path: bytes) -> str:
        return posix.tree.key_of(posix.find(path))

    assert [key_of(path) for path in (b"f", b"empty", b"d", b"", b"new")] == [eu_key, *[us_key] * 4]
    posix.write(handle, 0, b"x")
    assert key_of(b"new") == us_key
    posix.close(handle)
    info = json.loads(posix.tree.info(posix.find(b"f")))
    assert (info["zone"], info["key_arn"]) == (us_key, eu_key)
    assert info["entry"] == posix.backing(b"f").name
    assert inspect_path(posix.backing(b"f")) == info
    for path in (b"d", b"", b"new"):
        assert inspect_path(posix.backing(path)) == json.loads(posix.tree.info(posix.find(path)))
    assert json.loads(posix.tree.info(posix.find(b"")))["is_zone"]
    for name in (b"user.kmsfs.key", b"user.kmsfs.info"):
        with pytest.raises(PermissionError):
            await posix.tree.xattrs.set(posix.find(b"f"), name, b"x")
        with pytest.raises(PermissionError):
            posix.tree.xattrs.remove(posix.find(b"f"), name)
    assert posix.tree.xattrs.list(posix.find(b"f")) == []


@pytest.mark.parametrize("how", ["removed", "replaced", "with its directory"])
async def test_a_file_without_a_name_stays_in_its_zone(posix: Posix, us_key: KeyArn, how: str) -> None:
    """What a program keeps in a file that it has removed is not to be under another region's key either."""
    for path in (b"zone", b"zone/d"):
        await posix.mkdir(path)
    await posix.make_zone(b"zone", us_key)
    handle = await posix.create(b"zone/d/f")
    inode = posix.find(b"zone/d/f")
    if how == "replaced":
        await posix.put(b"zone/g", b"other")
        await posix.rename(b"zone/g", b"zone/d/f")
    else:
        posix.unlink(b"zone/d/f")
    if how == "with its directory":
        posix.rmdir(b"zone/d")
        posix.rmdir(b"zone")
    await posix.tree.files.exchange_keys()  # as from time to time
    assert posix.tree.key_of(inode) == us_key
    assert json.loads(posix.tree.info(inode))["zone"] == us_key
    posix.write(handle, 0, b"abc")
    assert inode.file is not None
    assert inode.file.header is not None
    assert [parse_blob_head(blob).key_arn for blob in inode.file.header.slots] == [us_key]
    posix.close(handle)
