"""Imports go one way, and the pure packages stay pure."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "kmsfs"

# What keeps format, crypto and envelope testable as arithmetic: no clock, no file, no network, no event loop.
IMPURE = {"os", "time", "socket", "trio", "subprocess", "threading", "pathlib", "random", "secrets"}
PURE_PACKAGES = ("envelope", "crypto", "format")
ENTROPY = (
    PACKAGE / "crypto" / "entropy.py"
)  # the only module below envelope that may ask the system for anything

SOLE_IMPORTERS = {
    "cryptography": "crypto/*.py",
    "pkcs11": "keystore/pkcs11_*.py",
    "pyfuse3": "fuse/*.py",
}


def modules_of(*places: Path) -> list[Path]:
    found = []
    for place in places:
        found += [place] if place.is_file() else sorted(place.rglob("*.py"))
    assert found
    return found


def imported_packages(module: Path) -> Iterator[str]:
    """Yield the top-level package of every import, those inside functions included."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def test_contracts_hold() -> None:
    # A process of its own: import-linter configures logging and the import path for the whole process.
    run = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    "module",
    modules_of(*(PACKAGE / name for name in PURE_PACKAGES), PACKAGE / "ids.py", PACKAGE / "errors.py"),
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_pure_modules_touch_no_system(module: Path) -> None:
    if module == ENTROPY:
        assert set(imported_packages(module)) & IMPURE <= {"os", "secrets"}
    else:
        assert not set(imported_packages(module)) & IMPURE


@pytest.mark.parametrize("library", SOLE_IMPORTERS)
def test_library_has_one_importer(library: str) -> None:
    allowed = set(PACKAGE.glob(SOLE_IMPORTERS[library]))
    importers = {module for module in modules_of(PACKAGE) if library in imported_packages(module)}
    assert importers
    assert importers <= allowed


def imports_when_imported(module: Path) -> Iterator[str]:
    """Yield what a module imports of the package before it is imported itself: not in functions, not for types."""
    waiting: list[ast.AST] = [ast.parse(module.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not isinstance(node, ast.FunctionDef | ast.If):
            waiting += ast.iter_child_nodes(node)


def test_modules_import_each_other_in_no_circle() -> None:
    """Each can be the first that is imported: commands import what they need when they run."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in modules_of(PACKAGE)}
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    graph = {name: set(imports_when_imported(path)) & names.keys() - {name} for name, path in names.items()}
    assert "kmsfs.errors" in graph["kmsfs.cli.boundary"]
    TopologicalSorter(graph).prepare()
