"""A mount over a store, a token or a keystore that somebody damages: the documented errno, and nothing else suffers."""

import errno
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from testkit.disks import fill, read_only_view, small_filesystem
from testkit.home import ALIAS, Home, refused
from testkit.mounting import Mount, Mounter, make_tree
from testkit.reaching import eventually, opening

from kmsfs.format.layout import HEADER_COPY_SIZE, HEADER_SIZE

CHUNK = 4096
STORED_CHUNK = CHUNK + 28
CHUNKS = 5
CONTENT = b"".join(bytes([number]) * CHUNK for number in range(1, CHUNKS + 1)) + b"tail"

Edit = Callable[[bytes, bytes], bytes]
"""New backing bytes of a file from its own and another file's."""


def file_id(mount: Mount, name: str) -> str:
    found: str = json.loads(os.getxattr(mount.path / name, "user.kmsfs.info"))["file_id"]
    return found


def backing_files(mount: Mount) -> dict[str, Path]:
    """Backing file of each name in the root of the mount."""
    stored = {
        path.read_bytes()[32:64].hex(): path
        for path in mount.tree.iterdir()
        if path.is_file() and not path.is_symlink() and path.stat().st_size >= HEADER_SIZE
    }
    return {
        entry.name: stored[file_id(mount, entry.name)] for entry in mount.path.iterdir() if entry.is_file()
    }


def failure(call: Callable[[], object]) -> str:
    """The name of the errno with which ``call`` fails."""
    with pytest.raises(OSError) as caught:
        call()
    return errno.errorcode[caught.value.errno or 0]


def read_at(path: Path, offset: int, count: int = CHUNK) -> bytes:
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), count, offset)


def flipped(at: int, *, copies: int = 2) -> Edit:
    """Flip one bit of a header field, in the first copies."""

    def edit(raw: bytes, other: bytes) -> bytes:
        new = bytearray(raw)
        for copy in range(copies):
            new[copy * HEADER_COPY_SIZE + at] ^= 0x10
        return bytes(new)

    return edit


def chunk(raw: bytes, index: int) -> bytes:
    return raw[HEADER_SIZE + index * STORED_CHUNK :][:STORED_CHUNK]


def with_chunk(raw: bytes, index: int, content: bytes) -> bytes:
    start = HEADER_SIZE + index * STORED_CHUNK
    return raw[:start] + content + raw[start + len(content) :]


def chunk_flipped(at: int) -> Edit:
    def edit(raw: bytes, other: bytes) -> bytes:
        new = bytearray(raw)
        new[HEADER_SIZE + 2 * STORED_CHUNK + at] ^= 1
        return bytes(new)

    return edit


# Both copies of the header, or what follows it, such that the file cannot be opened or read at all.
UNREADABLE: dict[str, tuple[Edit, str]] = {
    "magic": (flipped(0), "EIO"),
    "version": (flipped(9), "EPROTONOSUPPORT"),
    "suite": (flipped(11), "EPROTONOSUPPORT"),
    "chunk size": (flipped(12), "EIO"),
    "state": (flipped(13), "EIO"),
    "incompatible flag": (flipped(15), "EPROTONOSUPPORT"),
    "read-only flag": (flipped(17), "EIO"),
    "slot count": (flipped(18), "EIO"),
    "hole count": (flipped(19), "EIO"),
    "generation": (flipped(31), "EIO"),
    "file id": (flipped(40), "EIO"),
    "commitment": (flipped(70), "EIO"),
    "sealed length": (flipped(103), "EIO"),
    "chunk writes": (flipped(111), "EIO"),
    "hole": (flipped(120), "EIO"),
    "slot length": (flipped(209), "EIO"),
    "wrapped key": (flipped(350), "EIO"),
    "padding": (flipped(985), "EIO"),
    "mac": (flipped(1000), "EIO"),
    "zeroed header": (lambda raw, other: bytes(HEADER_SIZE) + raw[HEADER_SIZE:], "EIO"),
    "noise": (lambda raw, other: b"\xa5" * len(raw), "EIO"),
    "cut inside the header": (lambda raw, other: raw[: HEADER_SIZE - 1], "EIO"),
    "cut to one byte": (lambda raw, other: raw[:1], "EIO"),
    "cut behind the header": (lambda raw, other: raw[:HEADER_SIZE], "EIO"),
    "cut at a chunk": (lambda raw, other: raw[: HEADER_SIZE + 3 * STORED_CHUNK], "EIO"),
    "cut inside a chunk": (lambda raw, other: raw[: HEADER_SIZE + 3 * STORED_CHUNK + 99], "EIO"),
    "cut by a byte": (lambda raw, other: raw[:-1], "EIO"),
    "a chunk removed": (
        lambda raw, other: raw[: HEADER_SIZE + STORED_CHUNK] + raw[HEADER_SIZE + 2 * STORED_CHUNK :],
        "EIO",
    ),
}

# One torn copy of the header: the other one serves.
HARMLESS: dict[str, Edit] = {
    "first copy flipped": flipped(1000, copies=1),
    "first copy zeroed": lambda raw, other: bytes(HEADER_COPY_SIZE) + raw[HEADER_COPY_SIZE:],
    "first copy torn": lambda raw, other: other[:512] + raw[512:],
    "second copy zeroed": lambda raw, other: (
        raw[:HEADER_COPY_SIZE] + bytes(HEADER_COPY_SIZE) + raw[HEADER_SIZE:]
    ),
    "second copy another file's": lambda raw, other: (
        raw[:HEADER_COPY_SIZE] + other[:HEADER_COPY_SIZE] + raw[HEADER_SIZE:]
    ),
}

# Chunk 2 (and 3, where two are exchanged): it is an error, the others are not.
CHUNK_2: dict[str, Edit] = {
    "nonce flipped": chunk_flipped(0),
    "ciphertext flipped": chunk_flipped(12),
    "last byte flipped": chunk_flipped(12 + CHUNK - 1),
    "tag flipped": chunk_flipped(STORED_CHUNK - 1),
    "zeroed": lambda raw, other: with_chunk(raw, 2, bytes(STORED_CHUNK)),
    "duplicated": lambda raw, other: with_chunk(raw, 2, chunk(raw, 1)),
    "from another file": lambda raw, other: with_chunk(raw, 2, chunk(other, 2)),
    "exchanged": lambda raw, other: with_chunk(with_chunk(raw, 2, chunk(raw, 3)), 3, chunk(raw, 2)),
}

DAMAGES: dict[str, Edit] = {
    **{name: edit for name, (edit, _) in UNREADABLE.items()},
    **HARMLESS,
    **CHUNK_2,
    "another file's header": lambda raw, other: other[:HEADER_SIZE] + raw[HEADER_SIZE:],
    "to be replaced": flipped(1000),
    "to be removed": flipped(1000),
}


@pytest.fixture(scope="module")
def damaged(_prepared_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """A mount with one file for each damage and one, ``whole``, that nobody touched."""
    top = tmp_path_factory.mktemp("damaged")
    home = _prepared_home.copy_to(top / "home")
    (top / "mnt").mkdir()
    mount = Mount(home, make_tree(home, top / "tree"), top / "mnt").start()
    for name in [*DAMAGES, "whole"]:
        (mount.path / name).write_bytes(CONTENT)
    stored = backing_files(mount)
    mount.unmount()
    other = stored["whole"].read_bytes()
    for name, edit in DAMAGES.items():
        stored[name].write_bytes(edit(stored[name].read_bytes(), other))
    mount.expect_log(r"ERROR kmsfs.fuse.boundary: (open|read|getxattr|setattr|write|create): \S")
    mount.start()
    yield mount
    mount.finish()


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_cannot_be_read(damaged: Mount, name: str) -> None:
    path = damaged.path / name
    assert failure(path.read_bytes) == UNREADABLE[name][1]
    assert failure(lambda: path.open("r+b").close()) == UNREADABLE[name][1]
    assert path.lstat().st_mode


@pytest.mark.parametrize("name", HARMLESS)
def test_a_torn_header_copy_is_harmless(damaged: Mount, name: str) -> None:
    assert (damaged.path / name).read_bytes() == CONTENT


@pytest.mark.parametrize("name", CHUNK_2)
def test_a_damaged_chunk_costs_itself_alone(damaged: Mount, name: str) -> None:
    path = damaged.path / name
    lost = {2, 3} if name == "exchanged" else {2}
    for index in range(CHUNKS + 1):
        if index in lost:
            assert failure(lambda: read_at(path, index * CHUNK)) == "EIO"  # noqa: B023
        else:
            assert read_at(path, index * CHUNK) == CONTENT[index * CHUNK :][:CHUNK]
    assert failure(path.read_bytes) == "EIO"
    assert f"read: file {file_id(damaged, name)}: chunk 2 does not verify" in damaged.log.read_text()
    with path.open("r+b", buffering=0) as file:
        for index in lost:
            os.pwrite(file.fileno(), b"n" * CHUNK, index * CHUNK)
        os.fsync(file.fileno())
    assert len(path.read_bytes()) == len(CONTENT)


def test_another_files_header_opens_no_chunk(damaged: Mount) -> None:
    for index in range(CHUNKS + 1):
        assert failure(lambda: read_at(damaged.path / "another file's header", index * CHUNK)) == "EIO"  # noqa: B023


def test_the_rest_does_not_suffer(damaged: Mount) -> None:
    assert (damaged.path / "whole").read_bytes() == CONTENT
    assert sorted(os.listdir(damaged.path)) == sorted([*DAMAGES, "whole"])
    subprocess.run(["ls", "-l", damaged.path], check=True, capture_output=True)
    (damaged.path / "cut inside the header").rename(damaged.path / "renamed")
    (damaged.path / "renamed").rename(damaged.path / "cut inside the header")


@pytest.mark.parametrize("name", ["to be replaced", "to be removed"])
def test_a_damaged_file_can_be_replaced_and_removed(damaged: Mount, name: str) -> None:
    path = damaged.path / name
    assert failure(path.read_bytes) == "EIO"
    if name == "to be replaced":
        (damaged.path / "new").write_bytes(b"restored")
        (damaged.path / "new").rename(path)
    else:
        path.unlink()
        path.write_bytes(b"restored")
    assert path.read_bytes() == b"restored"


# --- entries that kmsfs did not make ------------------------------------------------------------
def test_foreign_entries_are_not_served(mounted: Mount) -> None:
    (mounted.path / "kept").write_bytes(CONTENT)
    (mounted.path / "directory").mkdir()
    mounted.unmount()
    for directory in (mounted.tree, next(path for path in mounted.tree.iterdir() if path.is_dir())):
        (directory / "README").write_text("foreign")
        (directory / ("A" * 40)).write_text("looks like a name of ours")
        (directory / ("B" * 40)).mkdir()
        (directory / ("C" * 40)).symlink_to("/etc/passwd")
        (directory / "kmsfs.tmp.left").mkdir()
        (directory / "kmsfs.tmp.left" / "x").touch()
        (directory / f"kmsfs.long.{'D' * 43}").write_text("no name file")
        (directory / f"kmsfs.long.{'E' * 43}").write_text("a wrong name file")
        (directory / f"kmsfs.long.{'E' * 43}.name").write_text("E" * 300)
        (directory / "kmsfs.links").mkdir(exist_ok=True)
        (directory / "kmsfs.tree.bak").write_text("foreign")
        os.mkfifo(directory / "F.fifo")
    mounted.start()
    mounted.expect_log("ERROR kmsfs.fuse.boundary: rmdir|holds entries that are not of this tree")
    assert sorted(os.listdir(mounted.path)) == ["directory", "kept"]
    assert os.listdir(mounted.path / "directory") == []
    assert (mounted.path / "kept").read_bytes() == CONTENT
    for name in ("README", "A" * 40, "kmsfs.tree", ".kmsfs.dir", "kmsfs.tmp.left"):
        assert not (mounted.path / name).exists()
        (mounted.path / name).write_text("a name like any other")
        assert (mounted.path / name).read_text() == "a name like any other"
        (mounted.path / name).unlink()
    assert failure((mounted.path / "directory").rmdir) == "ENOTEMPTY"
    assert (mounted.tree / "README").read_text() == "foreign"
    assert (mounted.tree / "kmsfs.tmp.left").is_dir()


def swap(path: Path, put: Callable[[Path], object]) -> None:
    """Move a backing entry out of the tree and put something else in its place."""
    path.rename(path.parent.parent / "moved-out")
    put(path)


@pytest.mark.parametrize("live", [False, True], ids=["between mounts", "under a mount"])
@pytest.mark.parametrize("what", ["directory", "file"])
def test_planted_symlinks_are_not_followed(mounted: Mount, tmp_path: Path, what: str, live: bool) -> None:
    """A thief who may write the store makes an entry point out of it: nothing there is read or changed."""
    (mounted.path / "directory").mkdir()
    (mounted.path / "directory" / "inside").write_bytes(CONTENT)
    (mounted.path / "file").write_bytes(CONTENT)
    mounted.unmount()
    kinds = {
        path.is_dir(): path for path in mounted.tree.iterdir() if not path.name.endswith((".tree", ".dir"))
    }
    outside = tmp_path / "moved-out"
    if live:
        mounted.start()
        assert (mounted.path / what).exists()
    swap(kinds[what == "directory"], lambda path: path.symlink_to(outside))
    if not live:
        mounted.start()
    before = {found: found.read_bytes() for found in [outside, *outside.rglob("*")] if found.is_file()}
    mounted.expect_log("ERROR kmsfs.fuse.boundary: ")
    victim = mounted.path / what
    for attack in (
        lambda: victim.read_bytes(),
        lambda: victim.write_bytes(b"x"),
        lambda: (victim / "inside").read_bytes(),
        lambda: (victim / "inside").write_bytes(b"x"),
        lambda: (victim / "new").write_bytes(b"x"),
        lambda: (victim / "new").mkdir(),
        lambda: os.truncate(victim, 1),
        lambda: os.setxattr(victim, "user.x", b"x"),
        lambda: os.chmod(victim, 0o777),
        lambda: os.listdir(victim)[0],
    ):
        with pytest.raises((OSError, IndexError)):
            attack()
    assert {
        found: found.read_bytes() for found in [outside, *outside.rglob("*")] if found.is_file()
    } == before
    assert (outside / "new").exists() is False
    assert outside.stat().st_mode & 0o777 != 0o777


def test_a_directory_that_was_moved_by_hand(mounted: Mount) -> None:
    for name in ("one", "two"):
        (mounted.path / name).mkdir()
    (mounted.path / "one" / "below").mkdir()
    (mounted.path / "one" / "below" / "file").write_bytes(CONTENT)
    mounted.unmount()
    stored = [path for path in mounted.tree.iterdir() if path.is_dir()]
    source = next(path for directory in stored for path in directory.iterdir() if path.is_dir())
    target = next(directory for directory in stored if directory != source.parent)
    source.rename(target / source.name)
    mounted.start()
    mounted.expect_log("holds entries that are not of this tree")
    assert [os.listdir(mounted.path / name) for name in ("one", "two")] == [[], []]
    assert sorted(os.listdir(mounted.path)) == ["one", "two"]


# --- superblocks --------------------------------------------------------------------------------
SUPERBLOCKS: dict[str, tuple[Callable[[dict[str, object]], object], int]] = {
    "unknown incompatible feature": (lambda block: block.update(incompat=["holograms"]), 41),
    "unknown read-only feature": (lambda block: block.update(ro_compat=["holograms"]), 42),
    "another tree id": (lambda block: block.update(tree_id="ab" * 16), 42),
    "no slot": (lambda block: block.update(slots=[]), 40),
    "another mac": (lambda block: block.update(mac="ab" * 32), 42),
    "a member more": (lambda block: block.update(comment=""), 40),
}


@pytest.mark.parametrize("what", SUPERBLOCKS)
def test_an_edited_superblock(home: Home, tree: Path, tmp_path: Path, what: str) -> None:
    edit, code = SUPERBLOCKS[what]
    path = tree / "kmsfs.tree"
    block = json.loads(path.read_bytes())
    edit(block)
    path.write_bytes(json.dumps(block, sort_keys=True, separators=(",", ":")).encode())
    (tmp_path / "mnt").mkdir()
    refused(home.run("mount", tree, tmp_path / "mnt"), code)


# --- stores that fail ---------------------------------------------------------------------------
def test_a_full_disk_loses_nothing(home: Home, mounter: Mounter, tmp_path: Path) -> None:
    with small_filesystem(tmp_path / "small", 4 << 20) as small:
        mount = mounter(tree=make_tree(home, small / "tree"))
        mount.expect_log("No space left")
        (mount.path / "kept").write_bytes(CONTENT)
        (mount.path / "directory" / "below").mkdir(parents=True)
        os.sync()
        filler = fill(small, leave=3 * CHUNK)
        with (mount.path / "kept").open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), b"x" * (1 << 20), len(CONTENT))
            assert failure(lambda: os.fsync(file.fileno())) == "ENOSPC"
            os.ftruncate(file.fileno(), len(CONTENT))
        filler = filler.rename(small / "first filler")
        second = fill(small)
        for refused_call in (
            lambda: (mount.path / "new").mkdir(),
            lambda: (mount.path / ("n" * 250)).touch(),
            lambda: (mount.path / "directory" / "below").rename(mount.path / "moved"),
            lambda: write_and_sync(mount.path / "new file", b"x" * CHUNK),
        ):
            assert failure(refused_call) == "ENOSPC"
        assert (mount.path / "kept").read_bytes() == CONTENT
        filler.unlink()
        second.unlink()
        write_and_sync(mount.path / "new file", b"fits")
        mount.unmount()
        mount.start()
        assert (mount.path / "kept").read_bytes() == CONTENT
        assert (mount.path / "new file").read_bytes() == b"fits"
        assert sorted(os.listdir(mount.path)) == ["directory", "kept", "new file"]
        assert os.listdir(mount.path / "directory") == ["below"]
        mount.unmount()


def write_and_sync(path: Path, content: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        file.write(content)
        os.fsync(file.fileno())


def test_a_read_only_store(mounted: Mount, mounter: Mounter, tmp_path: Path) -> None:
    (mounted.path / "file").write_bytes(CONTENT)
    mounted.unmount()
    with read_only_view(mounted.tree, tmp_path / "view") as view:
        mount = mounter("-o", "ro", tree=view, path=tmp_path / "mnt2")
        assert (mount.path / "file").read_bytes() == CONTENT
        assert failure(lambda: (mount.path / "file").write_bytes(b"x")) == "EROFS"
        assert failure(lambda: (mount.path / "new").mkdir()) == "EROFS"
        mount.unmount()


# --- keys and tokens that go away ---------------------------------------------------------------
def test_a_token_that_is_taken_away(mounted: Mount, tmp_path: Path) -> None:
    for name in ("seen", "unseen"):
        (mounted.path / name).write_bytes(CONTENT)
    mounted.unmount()
    mounted.start()
    assert opening(mounted.path / "seen") == "ok"
    mounted.expect_log("ERROR kmsfs.* token|ERROR kmsfs.*region")
    tokens = mounted.home.path / "softhsm" / "tokens"
    tokens.rename(tmp_path / "away")
    for name in ("seen", "unseen"):
        eventually(lambda: opening(mounted.path / name), "ENOKEY")  # noqa: B023
        assert (mounted.path / name).stat().st_size == len(CONTENT)
    listed = subprocess.run(["ls", "-l", mounted.path], check=True, capture_output=True, text=True)
    assert listed.stderr == ""
    assert len(listed.stdout.splitlines()) == 3
    logged = mounted.log.read_text()
    for name in ("seen", "unseen"):
        assert re.search(rf"open: file {file_id(mounted, name)}: key arn:\S+: token .*; hint: ", logged)
    (mounted.path / "seen").rename(mounted.path / "renamed")
    (tmp_path / "away").rename(tokens)
    for name in ("renamed", "unseen"):
        eventually(lambda: opening(mounted.path / name), "ok")  # noqa: B023
        assert (mounted.path / name).read_bytes() == CONTENT
    (mounted.path / "new").write_bytes(CONTENT)


def test_a_key_that_another_process_disables(mounted: Mount) -> None:
    path = mounted.path / "file"
    path.write_bytes(CONTENT)
    assert opening(path) == "ok"
    mounted.expect_log("is disabled|Disabled")
    for _ in range(2):
        mounted.home.ok("key", "disable", ALIAS)
        eventually(lambda: opening(path), "EKEYREVOKED")
        assert path.stat().st_size == len(CONTENT)
        assert os.listdir(mounted.path) == ["file"]
        assert f"open: file {file_id(mounted, 'file')}: key " in mounted.log.read_text()
        mounted.home.ok("key", "enable", ALIAS)
        eventually(lambda: opening(path), "ok")
        assert path.read_bytes() == CONTENT


def test_what_is_open_stays_usable_when_its_key_is_disabled(mounted: Mount) -> None:
    """As a file that was opened stays open after chmod(2): all that a descriptor can do, and nothing by name."""
    path, old = mounted.path / "file", os.urandom(1 << 20)
    path.write_bytes(old)
    mounted.expect_log("is disabled|Disabled")
    with path.open("r+b", buffering=0) as file, (mounted.path / "new").open("x+b", buffering=0) as new:
        mounted.home.ok("key", "disable", ALIAS)
        eventually(lambda: opening(path), "EKEYREVOKED")
        assert os.pread(file.fileno(), 5000, 700_000) == old[700_000:705_000]
        os.pwrite(file.fileno(), b"written", 10)
        os.ftruncate(file.fileno(), 900_000)
        os.ftruncate(new.fileno(), 5)
        os.pwrite(new.fileno(), b"first", 0)
        os.fsync(file.fileno())
        with pytest.raises(OSError, match="revoked"):
            os.truncate(path, 1)
    assert opening(mounted.path / "new") == "EKEYREVOKED"
    mounted.home.ok("key", "enable", ALIAS)
    eventually(lambda: opening(path), "ok")
    assert path.read_bytes() == old[:10] + b"written" + old[17:900_000]
    assert (mounted.path / "new").read_bytes() == b"first"
