"""Reads docs/lesson.md as a person does: runs its blocks in order, and compares what they print with the page.

``sh`` blocks are run by bash, each as it stands; ``fails`` after it means that the block ends with an error. The
``text`` or ``json`` block that follows is what it prints; without one it prints nothing.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "lesson.md"

#: What differs from run to run, and what stands in its place when page and output are compared.
VOLATILE = (
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<uuid>"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "<material>"),
    (re.compile(r"\bAKIA[0-9A-Z]{16}\b"), "<access key>"),
    (re.compile(r"127\.0\.0\.1:\d+"), "<address>"),
    (re.compile(r"\b\d{10}\.\d+"), "<date>"),
    (
        re.compile(r"(?<![\w/:])(?=[A-Za-z0-9+/]*[A-Z0-9])[A-Za-z0-9+/]{30,}(\.\.\.|={0,2})(?![\w/])"),
        "<base64>",
    ),
)


@dataclass(frozen=True)
class Step:
    """One block of commands, and what the page says that it prints."""

    commands: str
    manner: str  # "", "fails" or "server"
    prints: str
    line: int


def blocks(page: str) -> list[tuple[str, str, int]]:
    """Return language, text and line of every fenced block."""
    found = re.finditer(r"^```([^\n]+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [(block[1], block[2], page.count("\n", 0, block.start()) + 1) for block in found]


def steps(page: str) -> list[Step]:
    """Return what a reader runs, in order."""
    found = []
    pending: tuple[str, str, int] | None = None
    for language, text, line in [*blocks(page), ("end", "", 0)]:
        if pending is not None:
            printed = text if language in ("text", "json") else ""
            found.append(Step(pending[1], pending[0].partition(" ")[2], printed, pending[2]))
        pending = (language, text, line) if language.split()[0] == "sh" else None
    return found


def settled(text: str) -> str:
    """Return a text without what differs from run to run."""
    for pattern, name in VOLATILE:
        text = pattern.sub(name, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def agrees(said: str, printed: str) -> bool:
    """Whether the page says what was printed; where it ends in dots, more may follow."""
    said, printed = settled(said), settled(printed)
    return printed.startswith(said[:-3].rstrip()) if said.endswith(": ...") else said == printed


@dataclass
class Reader:
    """A person at a terminal, who puts what was printed in the place of names in capitals."""

    directory: Path
    env: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.env = {
            **os.environ,
            "HOME": str(self.directory),
            "KMSFS_HOME": str(self.directory / "keystore"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "LC_ALL": "C.UTF-8",
            **self.env,
        }

    def run(self, commands: str) -> subprocess.CompletedProcess[str]:
        """Run a block; both of its outputs are in ``stdout``."""
        for name, value in self.names.items():
            commands = re.sub(rf"\b{re.escape(name)}\b", value, commands)
        for name, value in re.findall(r"^export (\w+)=(\S*)$", commands, re.MULTILINE):
            self.env[name] = value
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=self.directory,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def take_key_id(self, printed: str) -> None:
        """Note the id that create-key printed: the first is XXX and KEYID, the second OTHERKEYID."""
        key_id = re.search(r"[0-9a-f]{8}-[0-9a-f-]{27}", printed)
        assert key_id is not None, printed
        wanted = ("XXX", "KEYID") if "KEYID" not in self.names else ("OTHERKEYID",)
        self.names.update(dict.fromkeys(wanted, key_id[0]))
