"""Modules and functions stay small enough to be read in one go."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "kmsfs"
MODULES = sorted(PACKAGE.rglob("*.py")) + sorted((ROOT / "scripts").rglob("*.py"))

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 40
# Functions that may be longer, each with its reason. A table that is no longer than the limit needs no entry.
ALLOWED_FUNCTION_LINES = {
    "kmsfs/format/header.py:parse": 45,  # one field after the other, in the order of docs/format.md
}


def function_sizes(module: Path) -> dict[str, int]:
    """Return the lines of every function of a module, decorators and docstring left out."""
    sizes = {}
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node) is not None
            body = node.body[1:] if documented and len(node.body) > 1 else node.body
            name = f"{module.relative_to(ROOT)}:{node.name}"
            sizes[name] = (node.end_lineno or 0) - body[0].lineno + 1
    return sizes


def test_there_are_modules() -> None:
    assert len(MODULES) > 20


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_is_short(module: Path) -> None:
    assert len(module.read_text().splitlines()) < MAX_MODULE_LINES


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short(module: Path) -> None:
    long = {
        name: lines
        for name, lines in function_sizes(module).items()
        if lines > ALLOWED_FUNCTION_LINES.get(name, MAX_FUNCTION_LINES)
    }
    assert not long


def test_allowances_are_needed() -> None:
    sizes = {name: lines for module in MODULES for name, lines in function_sizes(module).items()}
    assert all(sizes.get(name, 0) > MAX_FUNCTION_LINES for name in ALLOWED_FUNCTION_LINES)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_says_its_job(module: Path) -> None:
    text = module.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text))
