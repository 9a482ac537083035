"""Homes for tests: made once in a session with a region and a key, and copied for each test.

A home can be moved: SoftHSM's configuration is written anew when its directory changed.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testkit.forkserver import Ended, ForkServer

KMSFS = Path(sys.executable).with_name("kmsfs")
REGION = "eu-west-1"
SECOND_REGION = "us-east-1"
ALIAS = "alias/files"
FORK_SERVER = ForkServer()


@dataclass(frozen=True)
class Home:
    """A KMSFS_HOME and the installed ``kmsfs`` that works on it."""

    path: Path

    def env(self, **more: str) -> dict[str, str]:
        """Return this process's environment with KMSFS_HOME set."""
        return {**os.environ, "KMSFS_HOME": str(self.path), **more}

    def run(
        self, *arguments: str | Path, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``kmsfs`` to its end and return what it said.

        With an ``env`` it is the installed script, which an environment can concern before ``kmsfs`` is imported.
        """
        if env is None:
            ended = self.run_piped(*arguments)
            said = [said.decode(errors="surrogateescape") for said in (ended.stdout, ended.stderr)]
            return subprocess.CompletedProcess([KMSFS, *arguments], ended.code, *said)
        return subprocess.run(
            [KMSFS, *arguments],
            env=self.env(**env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
        )

    def run_piped(self, *arguments: str | Path, stdin: bytes = b"") -> Ended:
        """Run ``kmsfs`` to its end, with bytes in and bytes out."""
        return FORK_SERVER.run(arguments, self.env(), stdin)

    def ok(self, *arguments: str | Path) -> str:
        """Run ``kmsfs``, which must succeed and say nothing on stderr; return its stdout."""
        done = self.run(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), (arguments, done)
        return done.stdout

    def json(self, *arguments: str | Path) -> Any:
        """Run ``kmsfs ... --json``, which must succeed, and return what it printed."""
        return json.loads(self.ok(*arguments, "--json"))

    def ailments(self) -> list[dict[str, Any]]:
        """Return what ``kmsfs doctor`` finds wrong, except dead mounts that the machine may have of others."""
        report = json.loads(self.run("doctor", "--json").stdout)
        return [
            found
            for found in report["findings"]
            if not found["ok"] and (found["name"] != "mount" or FORK_SERVER.mark in found["detail"])
        ]

    def copy_to(self, path: Path) -> "Home":
        """Return a home of its own with the same tokens, keys and aliases."""
        shutil.copytree(self.path, path, symlinks=True, ignore=shutil.ignore_patterns("*.socket"))
        return Home(path)


def make_home(path: Path, *, region: str = REGION, alias: str = ALIAS) -> Home:
    """Make a home with one region and one key named ``alias``."""
    home = Home(path)
    add_region(home, region, alias=alias)
    return home


def add_region(home: Home, region: str, *, alias: str = ALIAS) -> None:
    """Give a home one more region, with a key named ``alias``."""
    home.ok("region", "add", region)
    home.ok("key", "create", "--region", region, "--alias", alias)


def refused(done: subprocess.CompletedProcess[str], code: int) -> str:
    """Check that a command ended as errors must: code, one line, perhaps a hint, nothing on stdout."""
    lines = done.stderr.splitlines()
    assert done.returncode == code, done
    assert done.stdout == "", done
    assert lines[0].startswith("kmsfs: "), done
    assert lines[0] == lines[0].rstrip("."), done
    assert [line for line in lines[1:] if not line.startswith("hint: ")] == [], done
    assert len(lines) <= 2, done
    return done.stderr
