"""Files that go into another zone: under which keys they are before, meanwhile and after."""

import errno
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import trio
from testkit.home import Home
from testkit.posix import ROOT, Posix
from testkit.slow import SlowKeystore, let_go, started

from kmsfs.errors import HsmUnavailableError, KeyDisabledError
from kmsfs.ids import KeyArn
from kmsfs.keystore.service import Keystore
from kmsfs.storage import backing
from kmsfs.storage.backing import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT
from kmsfs.storage.durable import TEMPORARY_PREFIX
from kmsfs.tree.crossings import Crossing

LONG = b"n" * 200  # its encrypted name stands in a sidecar


@pytest.fixture
def keystore(home: Home) -> Iterator[Keystore]:
    with SlowKeystore(home.path) as keystore:
        yield keystore


@pytest.fixture
async def zones(posix: Posix, us_key: KeyArn) -> AsyncIterator[Posix]:
    """``eu`` is under the tree's key, ``us`` under one of another region."""
    for path in (b"eu", b"us"):
        await posix.mkdir(path)
    await posix.make_zone(b"us", us_key)
    yield posix
    keystore = posix.keystore
    assert isinstance(keystore, SlowKeystore)
    keystore.go.set()


def hold(posix: Posix) -> None:
    assert isinstance(posix.keystore, SlowKeystore)
    posix.keystore.hold = True


async def still(posix: Posix, path: bytes, content: bytes, key: KeyArn) -> None:
    """A file is at ``path``, whole, and under one key; also for a new mount."""
    for _ in range(2):
        assert await posix.get(path) == content
        await posix.seal()
        assert posix.slot_keys(path) == [key]
        assert not [copy for copy in posix.copies(path) if copy.dirty]
        await posix.reopen()


@pytest.mark.parametrize("known", [True, False], ids=["cached", "not known"])
@pytest.mark.parametrize("name", [b"f", LONG])
async def test_a_file_gets_the_keys_of_its_new_zone(
    zones: Posix, eu_key: KeyArn, us_key: KeyArn, known: bool, name: bytes
) -> None:
    await zones.put(b"eu/" + name, b"abc")
    zones.utime(b"eu/" + name, 1, 2)
    await zones.seal()
    if not known:
        await zones.reopen()
    await zones.rename(b"eu/" + name, b"us/" + name)
    assert zones.slot_keys(b"us/" + name) == [us_key]
    assert zones.stat(b"us/" + name).st_mtime_ns == 2
    assert not zones.exists(b"eu/" + name)
    await still(zones, b"us/" + name, b"abc", us_key)
    await zones.rename(b"us/" + name, b"eu/" + name)
    await still(zones, b"eu/" + name, b"abc", eu_key)


async def test_it_replaces_what_stands_there(zones: Posix, us_key: KeyArn) -> None:
    await zones.put(b"eu/f", b"abc")
    await zones.put(b"us/f", b"old")
    with pytest.raises(FileExistsError):
        await zones.rename(b"eu/f", b"us/f", RENAME_NOREPLACE)
    await zones.rename(b"eu/f", b"us/f")
    await still(zones, b"us/f", b"abc", us_key)


async def test_whiteout(zones: Posix, us_key: KeyArn) -> None:
    await zones.put(b"eu/f", b"abc")
    await zones.rename(b"eu/f", b"us/f", RENAME_WHITEOUT)
    assert stat.S_ISCHR(zones.stat(b"eu/f").st_mode)
    await still(zones, b"us/f", b"abc", us_key)


async def test_an_exchange_gives_both_the_keys_of_the_other_zone(
    zones: Posix, eu_key: KeyArn, us_key: KeyArn
) -> None:
    await zones.put(b"eu/f", b"abc")
    await zones.put(b"us/g", b"defg")
    await zones.rename(b"eu/f", b"us/g", RENAME_EXCHANGE)
    await still(zones, b"us/g", b"abc", us_key)
    await still(zones, b"eu/f", b"defg", eu_key)
    await zones.symlink(b"us/s", b"target")
    await zones.rename(b"eu/f", b"us/s", RENAME_EXCHANGE)
    await still(zones, b"us/s", b"defg", us_key)
    assert zones.readlink(b"eu/f") == b"target"


async def test_an_open_file_is_written_on(zones: Posix, us_key: KeyArn) -> None:
    handle = await zones.create(b"eu/f")
    zones.write(handle, 0, b"a" * 5000)
    await zones.rename(b"eu/f", b"us/f")
    zones.write(handle, 5000, b"b" * 5000)
    assert await zones.read(handle) == b"a" * 5000 + b"b" * 5000
    zones.close(handle)
    await still(zones, b"us/f", b"a" * 5000 + b"b" * 5000, us_key)


@pytest.mark.parametrize("used", [True, False])
async def test_an_open_file_that_was_never_written(
    zones: Posix, eu_key: KeyArn, us_key: KeyArn, used: bool
) -> None:
    await zones.put(b"eu/first", b"fills the pool")
    handle = await zones.create(b"eu/f")
    held = len(zones.pool())
    await zones.rename(b"eu/f", b"us/f")
    assert len(zones.pool()) == held + 1  # the key that it would have used is not lost
    if used:
        zones.write(handle, 0, b"abc")
    zones.close(handle)
    await zones.put(b"us/f", b"abc")
    await still(zones, b"us/f", b"abc", us_key)
    await zones.put(b"eu/again", b"abc")
    await still(zones, b"eu/again", b"abc", eu_key)


async def test_what_has_no_key_asks_no_hsm(zones: Posix, keystore: Keystore, us_key: KeyArn) -> None:
    await zones.put(b"eu/empty", b"")
    await zones.symlink(b"eu/s", b"target")
    await zones.mknod(b"eu/p", stat.S_IFIFO | 0o600)
    await zones.link(b"eu/p", b"eu/q")
    keystore.disable_key(us_key)
    before = keystore.hsm_calls
    for name in (b"empty", b"s", b"p"):
        await zones.rename(b"eu/" + name, b"us/" + name)
    await zones.link(b"eu/q", b"us/q")
    assert keystore.hsm_calls == before
    assert zones.readlink(b"us/s") == b"target"
    assert zones.size(b"us/empty") == 0


async def cannot_cross(zones: Posix, old: bytes, new: bytes, flags: int = 0) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EXDEV)):
        await zones.rename(old, new, flags)


async def test_what_is_to_be_copied_instead(zones: Posix, eu_key: KeyArn) -> None:
    await zones.mkdir(b"eu/d")
    await zones.put(b"eu/d/f", b"abc")
    await zones.put(b"us/g", b"abc")
    await zones.put(b"eu/one", b"abc")
    await zones.link(b"eu/one", b"eu/two")
    await cannot_cross(zones, b"eu/d", b"us/d")
    await cannot_cross(zones, b"eu/d", b"us/g", RENAME_EXCHANGE)
    await cannot_cross(zones, b"us/g", b"eu/d", RENAME_EXCHANGE)
    await cannot_cross(zones, b"eu/one", b"us/one")
    for name in (b"new", LONG):
        with pytest.raises(OSError, match=os.strerror(errno.EXDEV)):
            await zones.link(b"eu/d/f", b"us/" + name)
    await zones.reopen()  # nothing is known of the directory any more
    await cannot_cross(zones, b"eu/d", b"us/d")
    assert await zones.names(b"us") == [b"g"]
    assert len(os.listdir(zones.backing(b"us"))) == 2  # and no sidecar of a name that was not made
    await still(zones, b"eu/d/f", b"abc", eu_key)


@pytest.mark.parametrize("known", [True, False])
async def test_a_zone_moves_as_it_is(zones: Posix, eu_key: KeyArn, us_key: KeyArn, known: bool) -> None:
    await zones.mkdir(b"us/zone")
    await zones.make_zone(b"us/zone", eu_key)
    await zones.put(b"us/zone/f", b"abc")
    if not known:
        await zones.reopen()
    await zones.rename(b"us/zone", b"eu/zone")
    await zones.rename(b"us", b"eu/us")  # names its key, too
    await zones.put(b"eu/us/f", b"abc")
    await still(zones, b"eu/zone/f", b"abc", eu_key)
    await still(zones, b"eu/us/f", b"abc", us_key)


async def test_within_one_key_nothing_is_asked(zones: Posix, keystore: Keystore, eu_key: KeyArn) -> None:
    """Two zones of one key, and a directory without any."""
    for path in (b"one", b"two"):
        await zones.mkdir(path)
        await zones.make_zone(path, eu_key)
    await zones.put(b"eu/f", b"abc")
    await zones.mkdir(b"one/d")
    await zones.reopen()
    before = keystore.hsm_calls
    await zones.rename(b"eu/f", b"one/f")
    await zones.rename(b"one/f", b"two/f")
    await zones.link(b"two/f", b"eu/f")
    await zones.rename(b"one/d", b"two/d")
    assert keystore.hsm_calls == before


# --- when it fails ------------------------------------------------------------------------------
@pytest.mark.parametrize("written", [True, False])
async def test_without_the_hsm_of_the_new_zone_nothing_has_changed(
    zones: Posix, eu_key: KeyArn, us_key: KeyArn, keystore: Keystore, written: bool
) -> None:
    handle = await zones.create(b"eu/" + LONG)
    if written:
        zones.write(handle, 0, b"abc")
        zones.close(handle)
        await zones.seal()
        await zones.reopen()
    before = zones.copies(b"eu/" + LONG) if written else []
    keystore.disable_key(us_key)
    with pytest.raises(KeyDisabledError):
        await zones.rename(b"eu/" + LONG, b"us/" + LONG)
    assert await zones.names(b"us") == []
    assert os.listdir(zones.backing(b"us")) == [".kmsfs.dir"]
    if written:
        assert zones.copies(b"eu/" + LONG) == before
    else:
        zones.write(handle, 0, b"abc")
        zones.close(handle)
    await still(zones, b"eu/" + LONG, b"abc", eu_key)


@pytest.mark.parametrize("written", [True, False])
async def test_a_rename_that_the_store_refuses_takes_the_slots_back(
    zones: Posix, eu_key: KeyArn, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    await zones.put(b"eu/first", b"fills the pool")
    handle = await zones.create(b"eu/f")
    if written:
        zones.write(handle, 0, b"abc")
    with monkeypatch.context() as patch:
        patch.setattr(backing, "rename", refuse)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            await zones.rename(b"eu/f", b"us/f")
    if written:
        assert zones.slot_keys(b"eu/f") == [eu_key]
    else:
        zones.write(handle, 0, b"abc")
    zones.close(handle)
    await still(zones, b"eu/f", b"abc", eu_key)


async def test_old_slots_that_cannot_be_dropped_do_not_fail_the_rename(
    zones: Posix,
    eu_key: KeyArn,
    us_key: KeyArn,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    real = backing.rename

    def then_fail(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        patch.setattr(os, "pwrite", full)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    await zones.put(b"eu/f", b"abc")
    await zones.seal()
    with monkeypatch.context() as patch:
        patch.setattr(backing, "rename", then_fail)
        await zones.rename(b"eu/f", b"us/f")
    assert "keeps slots of two zones" in caplog.text
    assert zones.slot_keys(b"us/f") == [us_key, eu_key]
    await zones.reopen()
    assert await zones.get(b"us/f") == b"abc"


async def test_a_refused_rename_of_an_unwritten_file_whose_new_zone_changed_twice(
    zones: Posix, eu_key: KeyArn, us_key: KeyArn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key that it had before is what it has again, not one of those in between."""

    rename = backing.rename

    def refuse(name: bytes, *arguments: object) -> None:
        if not name.startswith(TEMPORARY_PREFIX):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(name, *arguments)  # type: ignore[arg-type]

    others = [zones.keystore.create_key(region="us-east-1").arn for _ in range(2)]
    real = Crossing.prepare

    async def then_change(self: Crossing) -> None:
        await real(self)
        if others:
            await zones.make_zone(b"us", others.pop())

    handle = await zones.create(b"eu/f")
    with monkeypatch.context() as patch:
        patch.setattr(Crossing, "prepare", then_change)
        patch.setattr(backing, "rename", refuse)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            await zones.rename(b"eu/f", b"us/f")
    zones.write(handle, 0, b"abc")
    zones.close(handle)
    await still(zones, b"eu/f", b"abc", eu_key)


@pytest.mark.parametrize("flags", [0, RENAME_EXCHANGE])
async def test_old_slots_go_when_the_new_names_are_durable(
    zones: Posix, us_key: KeyArn, monkeypatch: pytest.MonkeyPatch, flags: int
) -> None:
    """Else a power cut could leave the file at its old place without a slot of that place's key."""
    await zones.put(b"eu/f", b"abc")
    await zones.put(b"us/f", b"def")
    await zones.seal()
    done = watched(monkeypatch)
    await zones.rename(b"eu/f", b"us/f", flags)
    after = done[done.index("rename") + 1 :]
    directories = {f"sync {zones.backing(path).stat().st_ino}" for path in (b"eu", b"us")}
    assert directories <= set(after[: after.index("write")])
    assert zones.slot_keys(b"us/f") == [us_key]


def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is renamed, written into files, and made durable of directories, from now on and in that order."""
    done: list[str] = []
    rename, write, sync = backing.rename, os.pwrite, os.fsync

    def noting(call: Callable[..., Any], what: Callable[[Any], str]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            done.append(what(arguments[0]))
            return call(*arguments)

        return noted

    monkeypatch.setattr(backing, "rename", noting(rename, lambda _: "rename"))
    monkeypatch.setattr(os, "pwrite", noting(write, lambda _: "write"))
    monkeypatch.setattr(os, "fsync", noting(sync, lambda fd: f"sync {os.fstat(fd).st_ino}"))
    return done


async def test_names_that_cannot_be_made_durable_keep_the_slots_of_both_places(
    zones: Posix,
    eu_key: KeyArn,
    us_key: KeyArn,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    await zones.put(b"eu/f", b"abc")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        await zones.rename(b"eu/f", b"us/f")
    assert "keeps slots of two zones" in caplog.text
    assert zones.slot_keys(b"us/f") == [us_key, eu_key]
    assert await zones.get(b"us/f") == b"abc"


# --- meanwhile ------------------------------------------------------------------------------------
async def test_a_slow_hsm_stalls_nobody_and_the_file_is_used_meanwhile(
    zones: Posix, eu_key: KeyArn, us_key: KeyArn
) -> None:
    await zones.put(b"eu/f", b"abc")
    await zones.put(b"eu/g", b"abc")
    hold(zones)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(zones.rename, b"eu/f", b"us/f")
        await started(zones)
        assert await zones.get(b"eu/g") == b"abc"
        handle = await zones.open(b"eu/f")
        zones.write(handle, 3, b"d" * 9000)
        assert await zones.get(b"eu/f") == b"abc" + b"d" * 9000
        let_go(zones)
    zones.write(handle, 0, b"A")
    zones.close(handle)
    await still(zones, b"us/f", b"Abc" + b"d" * 9000, us_key)


async def test_an_hsm_that_fails_after_a_while(zones: Posix, eu_key: KeyArn) -> None:
    await zones.put(b"eu/f", b"abc")
    hold(zones)

    async def fails() -> None:
        with pytest.raises(HsmUnavailableError):
            await zones.rename(b"eu/f", b"us/f")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fails)
        await started(zones)
        let_go(zones, fail=True)
    let_go(zones)
    await still(zones, b"eu/f", b"abc", eu_key)


async def test_a_first_write_while_the_key_is_exchanged(zones: Posix, us_key: KeyArn) -> None:
    handle = await zones.create(b"eu/f")
    zones.pool(b"us").drain()
    hold(zones)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(zones.rename, b"eu/f", b"us/f")
        await started(zones)
        zones.write(handle, 0, b"abc")
        let_go(zones)
    zones.close(handle)
    await still(zones, b"us/f", b"abc", us_key)


async def test_an_open_that_waits_for_its_key_while_the_file_moves(zones: Posix, us_key: KeyArn) -> None:
    await zones.put(b"eu/f", b"")
    zones.pool().drain()
    hold(zones)
    handles = []

    async def open_f(inode: object) -> None:
        handles.append((await zones.tree.files.open(inode, os.O_RDWR, ROOT))[0])  # type: ignore[arg-type]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_f, zones.find(b"eu/f"))
        await started(zones)
        await zones.rename(b"eu/f", b"us/f")
        let_go(zones)
    zones.write(handles[0], 0, b"abc")
    zones.close(handles[0])
    await still(zones, b"us/f", b"abc", us_key)


async def test_a_zone_that_changes_while_a_file_moves_into_it(zones: Posix, eu_key: KeyArn) -> None:
    await zones.put(b"eu/f", b"abc")
    hold(zones)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(zones.rename, b"eu/f", b"us/f")
        await started(zones)
        await zones.make_zone(b"us", "")
        let_go(zones)
    await still(zones, b"us/f", b"abc", eu_key)
