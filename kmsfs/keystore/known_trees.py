"""Which trees, and backups of trees, this home knows of, and the keys that they have slots of: ``trees.json``.

Only there to tell what would be lost before a key is deleted or its old material retired. What was moved or copied away
is not in it. Nothing else depends on it: who makes or mounts a tree goes on without it.
"""

import fcntl
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

from kmsfs.errors import MetadataUnavailableError
from kmsfs.ids import TreeId

TREE: Final = "tree"


@dataclass(frozen=True, slots=True)
class KnownTree:
    """A tree, or another kind of thing made of one, as it was when it was last made or used."""

    kind: str
    tree_id: str
    path: str
    key_arns: tuple[str, ...]
    under: Mapping[str, str] = field(
        default_factory=dict
    )  # the material that every slot of a key is under (in hex), as the last pass left it; not said of other keys

    def __str__(self) -> str:
        return f"{self.kind} {self.path}"


def trees_path(home: Path) -> Path:
    """Return the path of the register."""
    return home / "trees.json"


def known_trees(home: Path) -> list[KnownTree]:
    """Return what is known; raise MetadataUnavailableError if that cannot be told."""
    path = trees_path(home)
    try:
        return [_parse(entry) for entry in json.loads(path.read_text(encoding="utf-8"))["trees"]]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise MetadataUnavailableError(
            f"register of trees {path} cannot be read: {error.strerror}"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MetadataUnavailableError(
            f"register of trees {path} is damaged",
            hint="move it away: kmsfs rewrap enters a tree anew, with the keys of its zones",
        ) from error


def note_tree(
    home: Path,
    tree_id: TreeId,
    path: Path,
    key_arns: Collection[str],
    kind: str = TREE,
    *,
    besides: bool = False,
    under: Mapping[str, str] | None = None,
) -> None:
    """Enter a tree, in place of what was known of its keys, or ``besides``; ``under`` None: as it was known.

    A register that is damaged is left as it is.
    """
    tree = KnownTree(kind, tree_id.hex(), os.path.realpath(path), tuple(sorted(set(key_arns))))
    try:
        lock = os.open(home / ".trees.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            before = known_trees(home)
            known = next((one for one in before if _same(one, tree)), tree)
            if besides:
                tree = replace(tree, key_arns=tuple(sorted({*tree.key_arns, *known.key_arns})))
            tree = replace(tree, under=known.under if under is None else dict(under))
            if tree not in before:
                _replace(trees_path(home), [*(one for one in before if not _same(one, tree)), tree])
        finally:
            os.close(lock)
    except OSError as error:
        raise MetadataUnavailableError(
            f"register of trees {trees_path(home)} cannot be written: {error.strerror}"
        ) from error


def _same(known: KnownTree, tree: KnownTree) -> bool:
    return (known.kind, known.tree_id, known.path) == (tree.kind, tree.tree_id, tree.path)


def _parse(entry: dict[str, object]) -> KnownTree:
    arns, under = entry["key_arns"], entry.get("under", {})
    if not isinstance(arns, list) or not isinstance(under, dict):
        raise TypeError("key_arns is not a list, or under no object")
    kind, tree_id, path = (str(entry[name]) for name in ("kind", "tree_id", "path"))
    return KnownTree(kind, tree_id, path, tuple(map(str, arns)), under)


def _replace(path: Path, trees: list[KnownTree]) -> None:
    temporary = path.with_name(".trees.json.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump({"trees": [asdict(tree) for tree in trees]}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)  # a tree that a power cut makes unknown again would be no reason to keep its keys
    finally:
        os.close(directory)
