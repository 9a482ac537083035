"""The tree against a model of dictionaries and byte arrays: the same calls, the same answers, whatever comes between.

What comes between: the kernel forgets, files are sealed, caches are emptied, the tree is closed or its process dies.
"""

import errno
import os
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from testkit.home import ALIAS, Home
from testkit.posix import Posix

from kmsfs.keystore.service import Keystore
from kmsfs.storage.backing import RENAME_EXCHANGE, RENAME_NOREPLACE
from kmsfs.tree.superblock_file import create_tree
from kmsfs.tree.volume import TreeOptions

CHUNK = 4096
NAMES = [b"a", b"b", b"c", b"\xff\n", b"x" * 176, b"y" * 255]
EDGES = [0, 1, 10, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 5]
XATTRS = [b"user.a", b"user.b", b"trusted.c"]

names = st.sampled_from(NAMES)
picks = st.integers(0, 1 << 16)
sizes = st.sampled_from(EDGES) | st.integers(0, 5 * CHUNK)
contents = st.builds(lambda seed, size: (b"%d," % seed * size)[:size], st.integers(0, 99), sizes.filter(bool))


@dataclass(eq=False)
class Node:
    """A file, directory or symlink of the model."""

    kind: str
    data: bytearray = field(default_factory=bytearray)
    children: dict[bytes, "Node"] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)

    def write(self, offset: int, data: bytes) -> None:
        self.resize(max(len(self.data), offset))
        self.data[offset : offset + len(data)] = data

    def resize(self, size: int) -> None:
        self.data = self.data[:size].ljust(size, b"\0")


@dataclass
class Place:
    """A name of the model: where an object stands, or could."""

    parent: Node
    name: bytes
    path: bytes

    @property
    def node(self) -> Node | None:
        return self.parent.children.get(self.name)


class TreeModel(RuleBasedStateMachine):
    """Rules pick among what is there by number, modulo."""

    def __init__(self, keystore: Keystore, base: Path) -> None:
        super().__init__()
        path = base / os.urandom(8).hex()
        create_tree(keystore, path, ALIAS)
        self.root = Node("directory")
        self.handles: list[tuple[int, Node]] = []
        self.posix = Posix(keystore, path, TreeOptions())

    # --- picking -----------------------------------------------------------------------------------------
    def walk(self, node: Node | None = None, path: bytes = b"") -> Iterator[Place]:
        node = node or self.root
        for name, child in node.children.items():
            yield Place(node, name, path + name)
            if child.kind == "directory":
                yield from self.walk(child, path + name + b"/")

    def pick(self, number: int, *kinds: str) -> Place:
        places = [place for place in self.walk() if place.node is not None and place.node.kind in kinds]
        assume(places)
        return places[number % len(places)]

    def free(self, number: int, name: bytes) -> Place:
        directories = [(self.root, b"")]
        directories += [
            (p.node, p.path + b"/") for p in self.walk() if p.node is not None and p.node.kind == "directory"
        ]
        parent, prefix = directories[number % len(directories)]
        return Place(parent, name, prefix + name)

    def links(self, node: Node) -> int:
        return sum(place.node is node for place in self.walk())

    def run(self, call: Awaitable[object], expected: int | None = None) -> object:
        async def made() -> object:
            return await call

        problem, result = None, None
        try:
            result = trio.run(made)
        except OSError as error:
            problem = error.errno
        assert problem == expected
        return result

    # --- making ------------------------------------------------------------------------------------------
    @rule(
        at=picks,
        name=names,
        kind=st.sampled_from(["file", "directory", "symlink"]),
        length=st.sampled_from([3, 3100]),
    )
    def make(self, at: int, name: bytes, kind: str, length: int) -> None:
        place = self.free(at, name)
        expected = errno.EEXIST if place.node else None
        if kind == "file":
            assume(not place.node)
            number = self.run(self.posix.create(place.path))
            node = Node("file")
            assert isinstance(number, int)
            self.handles.append((number, node))
        elif kind == "directory":
            self.run(self.posix.mkdir(place.path), expected)
            node = Node("directory")
        else:
            self.run(self.posix.symlink(place.path, b"t" * length), expected)
            node = Node("symlink", bytearray(b"t" * length))
        if not expected:
            place.parent.children[name] = node

    @rule(of=picks, at=picks, name=names)
    def link(self, of: int, at: int, name: bytes) -> None:
        old, new = self.pick(of, "file", "symlink"), self.free(at, name)
        self.run(self.posix.link(old.path, new.path), errno.EEXIST if new.node else None)
        if not new.node:
            assert old.node is not None
            new.parent.children[name] = old.node

    # --- content -----------------------------------------------------------------------------------------
    @rule(at=picks, offset=sizes, data=contents)
    def write(self, at: int, offset: int, data: bytes) -> None:
        place = self.pick(at, "file")
        assert place.node is not None
        self.run(self.posix.put(place.path, data, offset))
        place.node.write(offset, data)

    @rule(at=picks, data=contents)
    def append(self, at: int, data: bytes) -> None:
        place = self.pick(at, "file")
        assert place.node is not None
        self.run(self.posix.put(place.path, data, len(place.node.data)))
        place.node.write(len(place.node.data), data)

    @rule(at=picks, size=sizes)
    def truncate(self, at: int, size: int) -> None:
        place = self.pick(at, "file")
        assert place.node is not None
        self.run(self.posix.truncate(place.path, size))
        place.node.resize(size)

    @rule(at=picks, flags=st.sampled_from([os.O_RDWR, os.O_RDWR, os.O_RDWR | os.O_TRUNC]))
    def open(self, at: int, flags: int) -> None:
        place = self.pick(at, "file")
        number = self.run(self.posix.open(place.path, flags))
        assert isinstance(number, int)
        assert place.node is not None
        self.handles.append((number, place.node))
        if flags & os.O_TRUNC:
            place.node.resize(0)

    @precondition(lambda self: self.handles)
    @rule(which=picks, offset=sizes, data=contents)
    def write_handle(self, which: int, offset: int, data: bytes) -> None:
        number, node = self.handles[which % len(self.handles)]
        assert self.posix.write(number, offset, data) == len(data)
        node.write(offset, data)

    @precondition(lambda self: self.handles)
    @rule(which=picks, offset=sizes, length=sizes)
    def read_handle(self, which: int, offset: int, length: int) -> None:
        number, node = self.handles[which % len(self.handles)]
        assert self.run(self.posix.read(number, offset, length)) == node.data[offset : offset + length]

    @precondition(lambda self: self.handles)
    @rule(which=picks)
    def close(self, which: int) -> None:
        self.posix.close(self.handles.pop(which % len(self.handles))[0])

    @precondition(lambda self: self.handles)
    @rule(which=picks)
    def fsync(self, which: int) -> None:
        number, _ = self.handles[which % len(self.handles)]
        self.run(self.posix.tree.files.fsync(number, data_only=bool(which % 2)))

    # --- names -------------------------------------------------------------------------------------------
    @rule(of=picks, at=picks, name=names, flags=st.sampled_from([0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE]))
    def rename(self, of: int, at: int, name: bytes, flags: int) -> None:
        old, new = self.pick(of, "file", "directory", "symlink"), self.free(at, name)
        for one, two in ((old.path, new.path), (new.path, old.path)):
            assume(not two.startswith(one + b"/"))  # the kernel refuses these itself
        expected = self._refusal(old, new, flags)
        self.run(self.posix.rename(old.path, new.path, flags), expected)
        moving, there = old.node, new.node
        if expected or moving is there or moving is None:
            return
        del old.parent.children[old.name]
        new.parent.children[new.name] = moving
        if flags == RENAME_EXCHANGE and there is not None:
            old.parent.children[old.name] = there

    @staticmethod
    def _refusal(old: Place, new: Place, flags: int) -> int | None:
        moving, there = old.node, new.node
        assert moving is not None
        if there is None:
            return errno.ENOENT if flags == RENAME_EXCHANGE else None
        if flags == RENAME_NOREPLACE:
            return errno.EEXIST
        if flags == RENAME_EXCHANGE or moving is there:
            return None
        if moving.kind == "directory" and there.kind != "directory":
            return errno.ENOTDIR
        if there.kind == "directory" and moving.kind != "directory":
            return errno.EISDIR
        return errno.ENOTEMPTY if there.children else None

    @rule(at=picks)
    def unlink(self, at: int) -> None:
        place = self.pick(at, "file", "symlink")
        self.posix.unlink(place.path)
        del place.parent.children[place.name]

    @rule(at=picks)
    def rmdir(self, at: int) -> None:
        place = self.pick(at, "directory")
        assert place.node is not None
        if place.node.children:
            with pytest.raises(OSError, match="not empty"):
                self.posix.rmdir(place.path)
            return
        self.posix.rmdir(place.path)
        del place.parent.children[place.name]

    # --- attributes --------------------------------------------------------------------------------------
    @rule(at=picks, name=st.sampled_from(XATTRS), value=st.binary(max_size=100))
    def set_xattr(self, at: int, name: bytes, value: bytes) -> None:
        place = self.pick(at, "file", "directory")
        assert place.node is not None
        self.run(self.posix.tree.xattrs.set(self.posix.find(place.path), name, value))
        place.node.xattrs[name] = value

    @rule(at=picks, which=picks)
    def remove_xattr(self, at: int, which: int) -> None:
        place = self.pick(at, "file", "directory")
        assert place.node is not None
        assume(place.node.xattrs)
        name = sorted(place.node.xattrs)[which % len(place.node.xattrs)]
        self.posix.tree.xattrs.remove(self.posix.find(place.path), name)
        del place.node.xattrs[name]

    # --- what comes between ------------------------------------------------------------------------------
    @rule()
    def forget(self) -> None:
        self.posix.forget()

    @rule()
    def seal(self) -> None:
        self.run(self.posix.seal())

    @rule()
    def seal_halfway(self) -> None:
        self.run(self.posix.tree.volume.idle.round())

    @rule(at=picks)
    def evict(self, at: int) -> None:
        place = self.pick(at, "file")
        file = self.posix.find(place.path).file
        if file is not None and not file.handles:
            self.posix.evict(place.path)
        self.posix.tree.volume.directories.close()

    @rule()
    def mount_again(self) -> None:
        for number, _ in self.handles:
            self.posix.close(number)
        self.handles.clear()
        self.run(self.posix.reopen())

    @rule()
    def die(self) -> None:
        """The process goes; what it wrote is in the page cache."""
        self.handles.clear()
        self.posix.recover()

    # --- comparing ---------------------------------------------------------------------------------------
    @invariant()
    def names_agree(self) -> None:
        assert self.run(self.posix.names()) == sorted(self.root.children)

    @rule()
    def everything_agrees(self) -> None:
        trio.run(self._compare, self.root, b"")

    async def _compare(self, node: Node, path: bytes) -> None:
        if path:
            if node.kind == "symlink":
                assert self.posix.readlink(path) == node.data
            elif node.kind == "file":
                assert await self.posix.get(path) == node.data
            if node.kind != "directory":
                assert self.posix.size(path) == len(node.data)
                assert self.posix.stat(path).st_nlink == self.links(node)
            xattrs, inode = self.posix.tree.xattrs, self.posix.find(path)
            assert {name: xattrs.get(inode, name) for name in xattrs.list(inode)} == node.xattrs
        if node.kind == "directory":
            assert await self.posix.names(path) == sorted(node.children)
            for name, child in node.children.items():
                await self._compare(child, (path + b"/" if path else b"") + name)

    def teardown(self) -> None:
        self.everything_agrees()
        self.mount_again()
        self.everything_agrees()
        assert not list(self.posix.path.rglob("kmsfs.tmp.*"))
        trio.run(self.posix.tree.close)


def test_the_tree_behaves_as_its_model(home: Home, tmp_path: Path) -> None:
    with Keystore.open(home.path) as keystore:
        run_state_machine_as_test(
            partial(TreeModel, keystore, tmp_path),
            settings=settings(
                max_examples=60,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )
