"""Becoming a daemon: what the parent waits for, tells and leaves behind."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from kmsfs.cli.processes import await_end, open_process

SCRIPT = """
import os, signal, sys
from pathlib import Path
import click
from kmsfs.cli.boundary import run
from kmsfs.cli.daemon import ParentLink, start_daemon
from kmsfs.errors import KeyDisabledError

here = Path({here!r})

def work(link):
    (here / "started").write_text(str(os.getpid()))
    {work}

def command():
    start_daemon(work, log=here / "log")
    print("serving")

# Whoever runs the tests in the background has it ignored, and Python then leaves it so.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(run(click.Command("x", callback=command), []))
"""


def start(here: Path, work: str) -> subprocess.Popen[str]:
    for name in ("started", "go"):
        os.mkfifo(here / name)
    body = textwrap.indent(textwrap.dedent(work), "    ").lstrip()
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(here=str(here), work=body)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def daemon_of(here: Path) -> int:
    """Wait until the daemon has started and return a descriptor of it."""
    process = open_process(int((here / "started").read_text()))
    assert process is not None
    return process


def assert_ends(process: int) -> None:
    assert await_end(process, 60)


def test_the_parent_returns_when_the_daemon_is_ready(tmp_path: Path) -> None:
    parent = start(tmp_path, 'link.ready(); (here / "go").read_text()')
    daemon = daemon_of(tmp_path)
    assert parent.communicate() == ("serving\n", "")
    assert parent.returncode == 0
    (tmp_path / "go").write_text("")
    assert_ends(daemon)


@pytest.mark.parametrize(
    ("work", "code", "stderr"),
    [
        (
            'raise KeyDisabledError("key x is disabled", hint="enable it")',
            5,
            "kmsfs: key x is disabled\nhint: enable it\n",
        ),
        ('raise OSError(28, "No space left on device", "/log")', 1, "kmsfs: /log: no space left on device\n"),
        ("raise SystemExit(7)", 1, "kmsfs: unexpected SystemExit\n"),
    ],
)
def test_the_parent_tells_why_the_daemon_failed(tmp_path: Path, work: str, code: int, stderr: str) -> None:
    parent = start(tmp_path, work)
    daemon = daemon_of(tmp_path)
    said = parent.communicate()
    assert said[0] == ""
    assert said[1].startswith(stderr)
    assert "Traceback" not in said[1]
    assert parent.returncode == code
    assert await_end(daemon, 0)  # it is gone before its parent returns


def test_a_daemon_that_dies_without_a_word(tmp_path: Path) -> None:
    parent = start(tmp_path, "os.kill(os.getpid(), 9)")
    (tmp_path / "started").read_text()
    _, said = parent.communicate()
    assert parent.returncode == 34
    assert str(tmp_path / "log") in said


def test_a_daemon_that_cannot_even_start(tmp_path: Path) -> None:
    """Its failure comes before its pid; a process group leader may not call setsid."""
    script = (
        "import os, sys, click\n"
        "from pathlib import Path\n"
        "from kmsfs.cli.boundary import run\n"
        "from kmsfs.cli import daemon\n"
        "def refuse(): raise PermissionError(1, 'Operation not permitted')\n"
        "os.setsid = refuse\n"
        "command = click.Command('x', callback=lambda: daemon.start_daemon(print, log=Path('/log')))\n"
        "sys.exit(run(command, []))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "kmsfs: operation not permitted\n" in done.stderr
    assert "KeyError" not in done.stderr


def test_an_interrupt_takes_the_daemon_along(tmp_path: Path) -> None:
    parent = start(tmp_path, '(here / "go").read_text()')
    daemon = daemon_of(tmp_path)
    parent.send_signal(signal.SIGINT)
    assert parent.communicate() == ("", "kmsfs: interrupted\n")
    assert parent.returncode == 130
    assert await_end(daemon, 0)


def test_a_daemon_whose_parent_was_killed_stops(tmp_path: Path) -> None:
    parent = start(tmp_path, '(here / "go").read_text(); link.ready(); (here / "go").read_text()')
    daemon = daemon_of(tmp_path)
    parent.kill()
    parent.communicate()
    (tmp_path / "go").write_text("")
    assert_ends(daemon)
