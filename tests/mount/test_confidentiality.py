"""What a mount stores is looked at as a thief would: as names and bytes on a disk."""

import base64
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from testkit.mounting import Mount

from kmsfs.envelope.file_key import newest_unverified
from kmsfs.format.blob import parse_blob_head
from kmsfs.format.layout import HEADER_SIZE

_NOT_FILES = {"kmsfs.tree", ".kmsfs.dir"}


def secret(kind: str) -> bytes:
    """A word that occurs nowhere by chance."""
    return f"{kind}-{secrets.token_hex(8)}".encode()


def spellings(word: bytes) -> set[bytes]:
    """The forms in which a word could stand in a file: plain, encoded, in pieces."""
    forms = {word, word[::-1], word.hex().encode(), word.decode().encode("utf-16-le"), word[:10], word[-10:]}
    for shift in range(
        3
    ):  # base64 looks different at each alignment; what overlaps the neighbours is left out
        encoded = base64.urlsafe_b64encode(bytes(shift) + word)
        forms.add(encoded[4 if shift else 0 : len(encoded) // 4 * 4 - 4])
    return forms


def everything_stored(tree: Path) -> Iterator[tuple[str, bytes]]:
    """Every name, content, symlink target and attribute below ``tree``."""
    for found in [tree, *tree.rglob("*")]:
        kept = os.fsencode(found.relative_to(tree))
        for name in os.listxattr(found, follow_symlinks=False):
            kept += b"\0" + os.fsencode(name) + b"\0" + os.getxattr(found, name, follow_symlinks=False)
        if found.is_symlink():
            kept += b"\0" + os.fsencode(found.readlink())
        elif found.is_file():
            kept += b"\0" + found.read_bytes()
        yield str(found), kept


def data_files(tree: Path) -> list[Path]:
    """The backing files that hold somebody's content."""
    return [
        found
        for found in tree.rglob("*")
        if found.name not in _NOT_FILES
        and not found.name.endswith(".name")
        and found.parent.name != "kmsfs.links"
        and stat.S_ISREG(found.lstat().st_mode)
        and found.lstat().st_size
    ]


def fill_with(path: Path) -> set[bytes]:
    """Use the mount in every way that stores something; return what must not be seen."""
    words = {
        kind: secret(kind)
        for kind in ("name", "content", "target", "attribute", "value", "former", "directory")
    }
    name, content = words["name"].decode(), words["content"]
    below = path / words["directory"].decode()
    below.mkdir()
    (below / name).write_bytes(content)
    (below / f"{name}-{'x' * 150}").write_bytes(content * 5000)
    (path / f"{'y' * 150}-{name}").mkdir()
    (path / f"{name}.link").symlink_to(words["target"].decode())
    (path / f"{name}.long").symlink_to((words["target"] + b"/") * 120)
    os.link(below / name, path / f"linked-{name}")
    os.setxattr(below / name, f"user.{words['attribute'].decode()}", words["value"])
    os.setxattr(below, f"user.{words['attribute'].decode()}", words["value"] * 50)
    os.mkfifo(path / f"{name}.fifo")
    with (path / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 20)
        sparse.seek(500_000)
        sparse.write(content)
    (path / words["former"].decode()).write_bytes(content)
    (path / words["former"].decode()).rename(below / "renamed")
    (below / "renamed").write_bytes(content[:-1])
    with (below / "renamed").open("ab") as file:
        file.write(content)
        os.fsync(file.fileno())
    for number in range(20):
        (below / f"{name}-{number}").write_bytes(content)
    return set(words.values())


@pytest.fixture
def words(mounted: Mount) -> set[bytes]:
    """What was stored through ``mounted``."""
    return fill_with(mounted.path)


def test_nothing_clear_is_stored(mounted: Mount, words: set[bytes]) -> None:
    stored = dict(everything_stored(mounted.tree))
    mounted.unmount()
    sealed = dict(everything_stored(mounted.tree))
    assert len(sealed) > 30
    forms = set().union(*(spellings(word) for word in words))
    seen = {
        (where, form)
        for found in (stored, sealed)
        for where, kept in found.items()
        for form in forms
        if form in kept
    }
    assert not seen


def test_nothing_clear_is_in_the_home(mounted: Mount, words: set[bytes]) -> None:
    """The log, the metadata and the token know nothing of names and contents."""
    mounted.unmount()
    forms = set().union(*(spellings(word) for word in words))
    seen = {
        (where, form)
        for where, kept in everything_stored(mounted.home.path)
        for form in forms
        if form in kept
    }
    assert not seen


def test_equal_names_and_contents_do_not_look_equal(mounted: Mount) -> None:
    for directory in ("one", "two"):
        (mounted.path / directory).mkdir()
        (mounted.path / directory / "same").write_bytes(b"same content" * 1000)
        (mounted.path / directory / "link").symlink_to("same")
    mounted.unmount()
    files = data_files(mounted.tree)
    links = [found for found in mounted.tree.rglob("*") if found.is_symlink()]
    assert len({found.name for found in files}) == len(files) == 2
    assert len({found.name for found in links}) == len({found.readlink() for found in links}) == 2
    first, second = (found.read_bytes()[HEADER_SIZE:] for found in files)
    pieces = [{raw[at : at + 16] for at in range(0, len(raw) - 16)} for raw in (first, second)]
    assert not pieces[0] & pieces[1]


def test_every_file_carries_its_own_wrapped_key(mounted: Mount, words: set[bytes]) -> None:
    key_arn = mounted.home.json("key", "describe", "alias/files")["Arn"]
    mounted.unmount()
    files = {found.stat().st_ino: found for found in data_files(mounted.tree)}
    assert len(files) == 24
    headers = [newest_unverified(found.read_bytes()[:HEADER_SIZE]) for found in files.values()]
    assert {len(header.slots) for header in headers} == {1}
    assert {parse_blob_head(header.slots[0]).key_arn for header in headers} == {key_arn}
    for each in ("slots", "file_id", "commitment"):
        assert len({getattr(header, each) for header in headers}) == len(files), each


def test_a_copy_has_a_key_of_its_own(mounted: Mount) -> None:
    (mounted.path / "one").write_bytes(b"content" * 2000)
    (mounted.path / "two").write_bytes((mounted.path / "one").read_bytes())
    mounted.unmount()
    first, second = (
        newest_unverified(found.read_bytes()[:HEADER_SIZE]) for found in data_files(mounted.tree)
    )
    assert first.slots != second.slots


def test_what_was_overwritten_is_not_stored_under_the_same_nonce(mounted: Mount) -> None:
    path = mounted.path / "file"
    seen: list[bytes] = []
    for number in range(8):
        path.write_bytes(b"%d" % number * 4096)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        seen.append(data_files(mounted.tree)[0].read_bytes()[HEADER_SIZE : HEADER_SIZE + 12])
    assert len(set(seen)) == 8
