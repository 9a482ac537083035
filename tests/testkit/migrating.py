"""Migrations for tests: begun as a user begins them, slow enough to be stopped in the middle."""

import subprocess
from pathlib import Path

from testkit.home import KMSFS, Home
from testkit.waiting import await_true

RATE = "300"  # calls a second, two for each file


def start(home: Home, tree: Path, *more: str) -> subprocess.Popen[str]:
    """Begin a migration to a key's ARN, or ``--resume`` one, at a few hundred files a second."""
    arguments = ("--to-key", *more) if more and more[0].startswith("arn:") else more
    return subprocess.Popen(
        [KMSFS, "migrate", tree, *arguments, "--rate", RATE, "--json"],
        env=home.env(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def await_done(home: Home, process: subprocess.Popen[str]) -> None:
    """Wait until the journal says that the first batch is done."""

    def begun() -> bool:
        assert process.poll() is None, f"ended too early: {process.communicate()}"
        journals = list((home.path / "migrations").rglob("journal.jsonl"))
        return bool(journals) and b'"undone"' in journals[0].read_bytes()

    await_true(begun)
