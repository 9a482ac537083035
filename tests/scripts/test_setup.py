"""The scripts parse, refuse what they do not know, and do nothing when there is nothing to do."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
SHELL_SCRIPTS = [
    path
    for path in (ROOT / ".ci" / "run", *sorted(SCRIPTS.iterdir()))
    if path.is_file() and path.read_bytes().startswith(b"#!/usr/bin/env bash")
]


def run(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd="/")


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=lambda path: path.name)
def test_script_parses_and_is_executable(script: Path) -> None:
    parsed = run("bash", "-n", script)
    assert parsed.returncode == 0, parsed.stderr
    assert script.stat().st_mode & 0o111


def test_second_setup_does_nothing() -> None:
    # The tests run from an environment that setup made, so this is a second run.
    done = run(SCRIPTS / "setup", "--dev")
    assert (done.returncode, done.stdout) == (0, "setup: nothing to do\n"), done.stderr


@pytest.mark.parametrize("name", ["setup", "lock", "quickstart"])
def test_unknown_option_is_a_usage_error(name: str) -> None:
    refused = run(SCRIPTS / name, "--nonsense")
    assert refused.returncode == 2
    assert refused.stderr.startswith("usage: ")


def test_unknown_check_is_a_usage_error() -> None:
    refused = run(SCRIPTS / "check", "nonsense")
    assert refused.returncode == 2
    assert "no such step: nonsense" in refused.stderr
