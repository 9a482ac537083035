"""What scripts/make-vectors runs: writes tests/vectors/v1, the worked example, and the frozen tree if it is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from testkit import golden_cases as cases
from testkit.golden_tree import make_tree
from testkit.worked_example import worked_example

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "vectors" / "v1"
FROZEN = ROOT / "tests" / "trees" / "v1"
SPECIFICATION = ROOT / "docs" / "format.md"
BEGIN, END = "<!-- worked example: begin -->\n", "<!-- worked example: end -->\n"

FILES: dict[str, tuple[str, Callable[[], list[cases.Case]]]] = {
    "keys": ("docs/format.md section 1", cases.key_cases),
    "superblock": (
        "docs/format.md section 2; the tree key and id are those of keys.json",
        cases.superblock_cases,
    ),
    "header": (
        "docs/format.md section 3; the data key and file id are those of keys.json",
        cases.header_cases,
    ),
    "layout": ("docs/format.md section 4", cases.layout_cases),
    "chunks": ("docs/format.md section 4; the content key is that of keys.json", cases.chunk_cases),
    "names": ("docs/format.md section 5", cases.name_cases),
    "directory": ("docs/format.md section 6", cases.directory_cases),
    "symlinks": ("docs/format.md section 7", cases.symlink_cases),
    "xattrs": ("docs/format.md section 8", cases.xattr_cases),
    "blob": ("docs/ciphertext-blob.md", cases.blob_cases),
}


def vector_files() -> dict[str, str]:
    """Name of the file -> its text."""
    return {
        f"{name}.json": json.dumps({"about": about, "cases": make()}, indent=1) + "\n"
        for name, (about, make) in FILES.items()
    }


def specification() -> str:
    """docs/format.md with the worked example in its place."""
    text = SPECIFICATION.read_text()
    before, rest = text.split(BEGIN)
    return before + BEGIN + worked_example() + END + rest.split(END)[1]


def main() -> None:
    VECTORS.mkdir(parents=True, exist_ok=True)
    for name, text in vector_files().items():
        (VECTORS / name).write_text(text)
    SPECIFICATION.write_text(specification())
    if not FROZEN.exists():  # a frozen tree is never made again: old trees must stay readable
        FROZEN.mkdir(parents=True)
        make_tree(FROZEN)


if __name__ == "__main__":
    main()
