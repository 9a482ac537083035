"""Identity: numbers that are used again, links, names that come and go while a file is open."""

import os
import stat

import pytest
from testkit.posix import ROOT, Posix


async def test_a_file_keeps_its_number_under_all_its_names(posix: Posix) -> None:
    await posix.put(b"a", b"abc")
    await posix.mkdir(b"d")
    await posix.link(b"a", b"d/b")
    assert posix.find(b"a") is posix.find(b"d/b")
    assert posix.stat(b"a").st_nlink == 2
    posix.unlink(b"a")
    assert await posix.get(b"d/b") == b"abc"
    assert posix.stat(b"d/b").st_nlink == 1


async def test_a_number_is_not_used_again_while_the_kernel_knows_the_old_file(posix: Posix) -> None:
    """tmpfs and ext4 give the number of a removed file to the next one."""
    await posix.put(b"old", b"old")
    old = posix.find(b"old")
    posix.unlink(b"old")
    assert old.ghost is not None
    numbers = set()
    for at in range(50):
        await posix.put(b"%d" % at, b"new")
        inode = posix.find(b"%d" % at)
        numbers.add(inode.number)
        assert inode is not old
    assert old.number not in numbers
    assert len(numbers) == 50
    assert posix.tree.volume.status(old).st_nlink == 0
    posix.forget()


async def test_a_backing_number_used_again_is_another_inode(posix: Posix) -> None:
    await posix.put(b"old", b"old")
    handle = await posix.open(b"old")
    old = posix.find(b"old")
    posix.unlink(b"old")
    await posix.put(b"new", b"new")
    new = posix.find(b"new")
    new_status = posix.stat(b"new")
    # what the backing file system may do once nobody holds the old file:
    assert posix.tree.volume.inodes.find(new_status) is new
    assert old.key not in posix.tree.volume.inodes._by_key or old.key == new.key
    assert await posix.read(handle) == b"old"
    posix.close(handle)
    posix.forget()
    assert posix.tree.volume.inodes.find(new_status) in (new, None)
    assert await posix.get(b"new") == b"new"


async def test_forgetting_leaves_only_what_is_open_or_idle(posix: Posix) -> None:
    await posix.mkdir(b"d")
    for at in range(10):
        await posix.put(b"d/%d" % at, b"x")
    handle = await posix.open(b"d/3")
    posix.forget()
    await posix.seal()
    for at in range(10):
        if at != 3:
            posix.evict(b"d/%d" % at)
    posix.forget()
    assert len(posix.tree.volume.inodes) == 2
    assert await posix.read(handle) == b"x"
    posix.close(handle)


async def test_an_open_file_survives_its_unlinking(posix: Posix) -> None:
    handle = await posix.create(b"f")
    posix.write(handle, 0, b"abc")
    inode = posix.find(b"f")
    posix.unlink(b"f")
    assert not posix.exists(b"f")
    posix.write(handle, 3, b"def")
    assert await posix.read(handle) == b"abcdef"
    assert posix.tree.volume.status(inode).st_nlink == 0
    await posix.tree.files.truncate(inode, 2, ROOT)
    assert await posix.read(handle) == b"ab"
    await posix.tree.files.fsync(handle, data_only=False)
    posix.close(handle)
    assert len(posix.tree.volume.idle) == 0
    assert posix.tree.volume.status(inode).st_nlink == 0


async def test_an_open_file_survives_being_replaced(posix: Posix) -> None:
    await posix.put(b"old", b"old")
    await posix.put(b"new", b"new")
    handle = await posix.open(b"old")
    await posix.rename(b"new", b"old")
    assert await posix.read(handle) == b"old"
    assert await posix.get(b"old") == b"new"
    posix.write(handle, 0, b"xyz")
    posix.close(handle)
    assert await posix.get(b"old") == b"new"


async def test_two_handles_share_one_file(posix: Posix) -> None:
    one = await posix.create(b"f")
    two = await posix.open(b"f")
    posix.write(one, 0, b"aaaa")
    posix.write(two, 2, b"bbbb")
    posix.write(one, 6, b"cc")
    assert await posix.read(one) == await posix.read(two) == b"aabbbbcc"
    posix.close(one)
    posix.write(two, 0, b"z")
    posix.close(two)
    await posix.reopen()
    assert await posix.get(b"f") == b"zabbbbcc"


async def test_handles_through_two_links_share_one_file(posix: Posix) -> None:
    one = await posix.create(b"a")
    await posix.link(b"a", b"b")
    two = await posix.open(b"b")
    posix.write(one, 0, b"x")
    posix.write(two, 1, b"y")
    assert await posix.read(one) == b"xy"
    posix.close(one)
    posix.close(two)


@pytest.mark.parametrize("opened", [False, True])
async def test_an_inode_lives_on_under_a_name_that_nobody_looked_up(posix: Posix, opened: bool) -> None:
    """The kernel still has the inode (an O_PATH descriptor, a mark), but its other name was never seen."""
    await posix.put(b"a", b"abc")
    await posix.link(b"a", b"b")
    await posix.reopen()
    inode = posix.find(b"a")
    handle = await posix.open(b"a") if opened else None
    posix.unlink(b"a")
    if handle is not None:
        posix.close(handle)
        await posix.seal()
        assert inode.file is not None
        posix.tree.volume.idle.discard(inode.file)
    status = posix.tree.volume.status(inode)
    assert (status.st_nlink, posix.tree.volume.size(status)) == (1, 3)
    number, _ = await posix.tree.files.open(inode, os.O_RDWR, ROOT)
    posix.write(number, 3, b"d")
    posix.close(number)
    assert await posix.get(b"b") == b"abcd"


async def test_special_files_and_their_attributes(posix: Posix) -> None:

    for name, kind, device in (
        (b"fifo", stat.S_IFIFO, 0),
        (b"socket", stat.S_IFSOCK, 0),
        (b"char", stat.S_IFCHR, os.makedev(1, 3)),
        (b"block", stat.S_IFBLK, os.makedev(7, 0)),
        (b"file", stat.S_IFREG, 0),
    ):
        await posix.mknod(name, kind | 0o640, device)
        status = posix.stat(name)
        assert (status.st_mode, status.st_rdev) == (kind | 0o640, device)
        posix.utime(name, 7, 8)
        posix.chmod(name, 0o600)
        assert posix.stat(name).st_mtime_ns == 8
    with pytest.raises(OSError, match="another object"):
        await posix.open(b"char")
