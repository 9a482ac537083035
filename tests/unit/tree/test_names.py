"""Names, symlinks and extended attributes: any bytes in, the same bytes out, nothing clear in the store."""

import errno
import os
import stat

import pytest
from testkit.posix import Caller, Posix

from kmsfs.errors import FormatError, IntegrityError

AWKWARD = [
    b"\xff\xfe", b"new\nline", b" ", b"-rf", b"*", b"\x01", b"...", b".hidden", b"kmsfs.tree", b".kmsfs.dir",
    b"kmsfs.tmp.x", b"\xc3\xa4", b"a\xcc\x88", b"x" * 175, b"x" * 176, b"x" * 255, b"\xff" * 255,
]  # fmt: skip


async def test_names_are_bytes(posix: Posix) -> None:
    for name in AWKWARD:
        await posix.put(name, name)
    for _ in range(2):
        assert await posix.names() == sorted(AWKWARD)
        for name in AWKWARD:
            assert await posix.get(name) == name
        await posix.reopen()
    for name in AWKWARD:
        posix.unlink(name)
    assert sorted(os.listdir(posix.path)) == [".kmsfs.dir", "kmsfs.tree"]


async def test_a_name_of_256_bytes_is_too_long(posix: Posix) -> None:
    name = b"x" * 256
    for attempt in (
        posix.put(name, b""),
        posix.mkdir(name),
        posix.symlink(name, b"t"),
        posix.mknod(name, 0o100644),
    ):
        with pytest.raises(OSError, match="name too long"):
            await attempt
    await posix.put(b"x", b"")
    with pytest.raises(OSError, match="name too long"):
        await posix.rename(b"x", name)
    with pytest.raises(OSError, match="name too long"):
        await posix.link(b"x", name)
    with pytest.raises(OSError, match="name too long"):
        posix.unlink(name)


async def test_one_name_in_two_directories_looks_different(posix: Posix) -> None:
    for directory in (b"a", b"b"):
        await posix.mkdir(directory)
        await posix.put(directory + b"/same", b"")
    assert posix.backing(b"a/same").name != posix.backing(b"b/same").name


async def test_a_long_name_that_lost_its_sidecar_is_foreign(posix: Posix) -> None:
    name = b"x" * 200
    await posix.mkdir(b"d")
    await posix.put(b"d/" + name, b"abc")
    entry = posix.backing(b"d/" + name)
    sidecar = entry.with_name(entry.name + ".name")
    raw = sidecar.read_bytes()
    sidecar.unlink()
    assert await posix.names(b"d") == []
    assert await posix.get(b"d/" + name) == b"abc"  # its hash is known to who knows the name
    sidecar.write_bytes(raw[1:] + raw[:1])
    assert await posix.names(b"d") == []
    with pytest.raises(OSError, match="not empty"):
        posix.rmdir(b"d")
    sidecar.write_bytes(raw)
    assert await posix.names(b"d") == [name]


async def test_sidecars_without_an_entry_do_not_disturb(posix: Posix) -> None:
    name = b"x" * 200
    await posix.mkdir(b"d")
    await posix.put(b"d/" + name, b"abc")
    posix.backing(b"d/" + name).unlink()  # as after a stop between sidecar and entry
    await posix.reopen()
    assert await posix.names(b"d") == []
    await posix.put(b"d/" + name, b"again")
    assert await posix.get(b"d/" + name) == b"again"
    posix.backing(b"d/" + name).unlink()
    await posix.reopen()
    posix.rmdir(b"d")
    assert not posix.exists(b"d")


async def test_a_creation_that_meets_a_name_keeps_its_sidecar(posix: Posix) -> None:
    name = b"x" * 200
    await posix.put(name, b"abc")
    for attempt in (posix.create(name), posix.mkdir(name), posix.symlink(name, b"t")):
        with pytest.raises(FileExistsError):
            await attempt
    assert await posix.names() == [name]


# --- symlinks ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("length", [1, 100, 3043, 3044, 4095])
async def test_symlinks(posix: Posix, length: int) -> None:
    target = (b"/some/where\xff" * 400)[:length]
    await posix.symlink(b"s", target)
    for _ in range(2):
        assert posix.readlink(b"s") == target
        assert posix.size(b"s") == length
        await posix.reopen()
    await posix.link(b"s", b"s2")
    posix.unlink(b"s")
    assert posix.readlink(b"s2") == target
    await posix.rename(b"s2", b"s3")
    await posix.symlink(b"other", b"x")
    await posix.rename(b"other", b"s3")
    assert posix.readlink(b"s3") == b"x"
    links = posix.path / "kmsfs.links"
    assert not links.exists() or os.listdir(links) == []


async def test_a_target_of_4096_bytes_is_too_long(posix: Posix) -> None:
    with pytest.raises(OSError, match="name too long"):
        await posix.symlink(b"s", b"x" * 4096)
    assert await posix.names() == []


async def test_a_symlink_that_was_edited_or_lost_its_target(posix: Posix) -> None:
    await posix.symlink(b"s", b"target")
    await posix.symlink(b"long", b"t" * 4000)
    short, long = posix.backing(b"s"), posix.backing(b"long")
    stored = os.readlink(short)
    for wrong in (
        "/etc/passwd",
        stored[:-1] + ("A" if stored[-1] != "A" else "B"),
        "x" * 33,
        stored + "AAAA",
    ):
        short.unlink()
        short.symlink_to(wrong)
        with pytest.raises((IntegrityError, FormatError)):
            posix.readlink(b"s")
        assert posix.size(b"s") >= 0
    for path in (posix.path / "kmsfs.links").iterdir():
        raw = path.read_bytes()
        path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(IntegrityError):
        posix.readlink(b"long")
    for path in (posix.path / "kmsfs.links").iterdir():
        path.unlink()
    with pytest.raises(IntegrityError, match="lost its target"):
        posix.readlink(b"long")
    posix.unlink(b"long")
    short.unlink()
    short.symlink_to(os.readlink(long) if long.is_symlink() else "kmsfs.link.AAAAAAAAAAAAAAAAAAAAAA")
    with pytest.raises(IntegrityError):
        posix.readlink(b"s")
    posix.unlink(b"s")


async def test_a_planted_long_symlink_can_be_removed(posix: Posix) -> None:
    await posix.symlink(b"s", b"target")
    path = posix.backing(b"s")
    path.unlink()
    path.symlink_to("kmsfs.link.AAAAAAAAAAAAAAAAAAAAAA")
    with pytest.raises(IntegrityError, match="lost its target"):
        posix.readlink(b"s")
    posix.unlink(b"s")
    assert await posix.names() == []


# --- extended attributes -------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["file", "never written", "directory"])
async def test_xattrs(posix: Posix, kind: str) -> None:
    if kind == "directory":
        await posix.mkdir(b"x")
    else:
        await posix.put(b"x", b"abc" if kind == "file" else b"")
    values = {
        b"user.a": b"1",
        b"user.b.kmsfs.c": b"",
        b"user.\xff\n": bytes(2000),
        b"trusted.t": b"2",
        b"security.s": b"3",
    }
    xattrs = posix.tree.xattrs
    assert xattrs.list(posix.find(b"x")) == []
    with pytest.raises(OSError, match="No data"):
        xattrs.get(posix.find(b"x"), b"user.a")
    for name, value in values.items():
        await xattrs.set(posix.find(b"x"), name, value)
    await posix.reopen()
    xattrs, inode = posix.tree.xattrs, posix.find(b"x")
    assert sorted(xattrs.list(inode)) == sorted(values)
    for name, value in values.items():
        assert xattrs.get(inode, name) == value
    await xattrs.set(inode, b"user.a", b"changed")
    assert xattrs.get(inode, b"user.a") == b"changed"
    for name in values:
        xattrs.remove(inode, name)
    assert xattrs.list(inode) == []
    with pytest.raises(OSError, match="No data"):
        xattrs.remove(inode, b"user.a")
    assert posix.size(b"x") == (3 if kind == "file" else 0) or kind == "directory"
    assert not [name for name in os.listxattr(posix.backing(b"x")) if "kmsfs" in name]


async def test_xattrs_are_bound_to_their_file_and_name(posix: Posix) -> None:
    for path in (b"a", b"b"):
        await posix.put(path, b"abc")
        await posix.tree.xattrs.set(posix.find(path), b"user.n", b"of " + path)
    await posix.tree.xattrs.set(posix.find(b"a"), b"user.m", b"other")
    one, two = (os.listxattr(posix.backing(path)) for path in (b"a", b"b"))
    value = os.getxattr(posix.backing(b"b"), two[0])
    os.setxattr(posix.backing(b"a"), two[0], value)
    with pytest.raises(IntegrityError):
        posix.tree.xattrs.list(posix.find(b"a"))
    os.removexattr(posix.backing(b"a"), two[0])
    first, second = (os.getxattr(posix.backing(b"a"), name) for name in one)
    os.setxattr(posix.backing(b"a"), one[0], second)
    with pytest.raises(IntegrityError):
        posix.tree.xattrs.list(posix.find(b"a"))
    os.setxattr(posix.backing(b"a"), one[0], first[:-1] + bytes([first[-1] ^ 1]))
    with pytest.raises(IntegrityError):
        posix.tree.xattrs.list(posix.find(b"a"))


async def test_xattrs_that_cannot_be_set(posix: Posix) -> None:
    await posix.put(b"f", b"")
    await posix.symlink(b"s", b"t")
    await posix.mknod(b"p", 0o010644)
    xattrs = posix.tree.xattrs
    with pytest.raises(PermissionError):
        await xattrs.set(posix.find(b"f"), b"user.kmsfs.info", b"")
    for path in (b"s", b"p"):
        with pytest.raises(OSError, match="not supported"):
            await xattrs.set(posix.find(path), b"user.a", b"")
        assert xattrs.list(posix.find(path)) == []
    with pytest.raises(OSError, match="not supported"):
        await xattrs.set(posix.find(b"f"), b"system.nfs4_acl", b"")
    assert posix.backing(b"f").stat().st_size == 0


async def test_xattrs_in_the_store_that_are_not_ours_are_not_shown(posix: Posix) -> None:
    await posix.put(b"f", b"abc")
    os.setxattr(posix.backing(b"f"), "user.foreign", b"clear")
    assert posix.tree.xattrs.list(posix.find(b"f")) == []
    with pytest.raises(OSError, match="No data"):
        posix.tree.xattrs.get(posix.find(b"f"), b"user.foreign")


@pytest.mark.parametrize("what", ["file", "node", "fifo", "symlink", "long symlink", "directory"])
async def test_what_cannot_be_given_to_its_owner_is_not_made(
    posix: Posix, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """chown(2) says EDQUOT where the owner may have no more files."""

    def no_quota(*arguments: object, **options: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    await posix.symlink(b"first", b"t" * 4000)
    before = sorted(str(path) for path in posix.path.rglob("*"))
    name, user = b"n" * 255, Caller(1000, 1000)
    root, names = posix.tree.volume.inodes.root, posix.tree.namespace
    with monkeypatch.context() as patch:
        patch.setattr(os, "chown", no_quota)
        with pytest.raises(OSError, match="quota"):
            await {
                "file": lambda: posix.create(name, caller=user),
                "node": lambda: names.mknod(root, name, stat.S_IFREG | 0o600, 0, user),
                "fifo": lambda: names.mknod(root, name, stat.S_IFIFO | 0o600, 0, user),
                "symlink": lambda: names.symlink(root, name, b"target", user),
                "long symlink": lambda: names.symlink(root, name, b"t" * 4000, user),
                "directory": lambda: posix.mkdir(name, caller=user),
            }[what]()
    assert sorted(str(path) for path in posix.path.rglob("*")) == before
