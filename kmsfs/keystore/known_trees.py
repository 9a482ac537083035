"""Which trees this home has made or mounted, and the keys that their superblocks name: ``trees.json``.

Only there to warn before a key is deleted. A tree that was moved or copied away is not in it.
"""

import fcntl
import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from kmsfs.errors import MetadataUnavailableError
from kmsfs.ids import TreeId


@dataclass(frozen=True, slots=True)
class KnownTree:
    """A tree as it was when it was last made or mounted."""

    tree_id: str
    path: str
    key_arns: tuple[str, ...]


def trees_path(home: Path) -> Path:
    """Return the path of the register."""
    return home / "trees.json"


def known_trees(home: Path) -> list[KnownTree]:
    """Return the trees that are known."""
    path = trees_path(home)
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["trees"]
        return [KnownTree(str(e["tree_id"]), str(e["path"]), tuple(map(str, e["key_arns"]))) for e in entries]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise MetadataUnavailableError(
            f"register of trees {path} is damaged", hint="remove it: mounting a tree enters it again"
        ) from error


def note_tree(home: Path, tree_id: TreeId, path: Path, key_arns: Collection[str]) -> None:
    """Enter a tree, in place of what was known of it."""
    tree = KnownTree(tree_id.hex(), str(path.absolute()), tuple(sorted(set(key_arns))))
    lock = os.open(home / ".trees.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = known_trees(home)
        others = [known for known in before if (known.tree_id, known.path) != (tree.tree_id, tree.path)]
        if tree not in before:
            _replace(trees_path(home), [*others, tree])
    finally:
        os.close(lock)


def _replace(path: Path, trees: list[KnownTree]) -> None:
    content = [{"tree_id": tree.tree_id, "path": tree.path, "key_arns": tree.key_arns} for tree in trees]
    temporary = path.with_name(".trees.json.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump({"trees": content}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
