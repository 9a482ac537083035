"""The lock files pin what pyproject.toml asks for, by hash."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME = ROOT / "requirements.lock"
DEVELOPMENT = ROOT / "requirements-dev.lock"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lock: Path) -> dict[str, str]:
    return {
        normal(name): version
        for name, version in re.findall(r"^([^\s\[]+)(?:\[.*\])?==(\S+)", lock.read_text(), re.MULTILINE)
    }


def asked_for(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[<>=!~ \[;]", line)[0]) for line in requirements}


def test_runtime_lock_pins_every_dependency() -> None:
    assert asked_for(PROJECT["project"]["dependencies"]) <= pins(RUNTIME).keys()


def test_development_lock_pins_every_tool() -> None:
    assert asked_for(PROJECT["dependency-groups"]["dev"]) <= pins(DEVELOPMENT).keys()


def test_development_lock_has_the_runtime_pins() -> None:
    assert pins(RUNTIME).items() <= pins(DEVELOPMENT).items()


@pytest.mark.parametrize("lock", [RUNTIME, DEVELOPMENT], ids=lambda path: path.name)
def test_every_pin_has_a_hash(lock: Path) -> None:
    blocks = re.split(r"^(?=\S)", lock.read_text(), flags=re.MULTILINE)
    assert all("--hash=sha256:" in block for block in blocks if block.strip())
