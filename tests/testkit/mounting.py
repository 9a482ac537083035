"""Mounts for tests: started as a user starts them, ended whatever happens, their logs read at the end."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import pytest

from kmsfs.cli.logfile import log_path
from kmsfs.storage.mountinfo import mount_at, read_mounts
from testkit.home import ALIAS, KMSFS, REGION, Home

_UNWANTED = re.compile(r"^\S+ (WARNING|ERROR|CRITICAL) |^Traceback|^Fatal Python error|^\S*Warning:")


class Mount:
    """One mount of ``tree`` on ``path``. ``start`` returns when it serves."""

    def __init__(self, home: Home, tree: Path, path: Path, *, foreground: bool = False) -> None:
        self.home = home
        self.tree = tree
        self.path = path
        self.foreground = foreground
        self.pid = 0
        self.log = log_path(home.path, tree.resolve(), path.resolve())
        self._process: subprocess.Popen[str] | None = None
        self._expected: list[str] = []

    def start(self, *options: str, env: dict[str, str] | None = None) -> "Mount":
        """Mount; the command's own return is the only thing waited for."""
        if self.foreground:
            self._start_in_foreground(*options, env=env or {})
        else:
            done = self.home.run("mount", self.tree, self.path, *options, env=env)
            assert (done.returncode, done.stderr) == (0, ""), done
        self.pid = self.status()["pid"]
        return self

    def _start_in_foreground(self, *options: str, env: dict[str, str]) -> None:
        self.log = self.path.with_name(f"{self.path.name}.stderr")
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [KMSFS, "mount", self.tree, self.path, "--foreground", *options],
                env=self.home.env(PYTHONUNBUFFERED="1", **env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        assert self._process.stdout.readline().startswith("mounted "), self.log.read_text()

    def status(self) -> dict[str, Any]:
        """Return what the mount says of itself."""
        status: dict[str, Any] = json.loads(os.getxattr(self.path, "user.kmsfs.status"))
        return status

    def is_mounted(self) -> bool:
        """Whether the kernel lists the mount, dead or alive."""
        return mount_at(str(self.path.resolve()), read_mounts()) is not None

    def unmount(self) -> None:
        """Unmount with ``kmsfs unmount``, which waits for the process."""
        self.home.ok("unmount", self.path)
        self.wait()

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> int | None:
        """Send the mount's process a signal and wait for its end; the exit code when it is our child."""
        process = os.pidfd_open(self.pid)
        try:
            signal.pidfd_send_signal(process, number)
            _await_end(process)
        finally:
            os.close(process)
        return self.wait()

    def wait(self) -> int | None:
        """Wait for a mount in the foreground; None for a daemon, which others wait for."""
        if self._process is None:
            return None
        code = self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code

    def expect_log(self, pattern: str) -> None:
        """Declare that warnings and errors matching ``pattern`` belong to the test."""
        self._expected.append(pattern)

    def unwanted_log_lines(self) -> list[str]:
        """Return the warnings and errors that nobody declared."""
        if not self.log.exists():
            return []
        return [
            line
            for line in self.log.read_text(errors="replace").splitlines()
            if _UNWANTED.search(line) and not any(re.search(pattern, line) for pattern in self._expected)
        ]

    def finish(self) -> None:
        """End the mount, by force if need be, and fail on what it should not have logged."""
        try:
            if self.is_mounted():
                self.unmount()
        finally:
            self._force_end()
        assert not (lines := self.unwanted_log_lines()), "\n".join(lines)

    def _force_end(self) -> None:
        if self.is_mounted():
            if self.pid:
                with suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
            subprocess.run(["umount", "-l", self.path.resolve()], check=False)
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        self.wait()


def _await_end(process: int) -> None:
    import select

    poll = select.poll()
    poll.register(process, select.POLLIN)
    assert poll.poll(60_000), "the mount's process does not end"


class Mounter(Protocol):
    """The fixture ``mounter``: makes a tree and a mount point, and mounts; all is undone after the test."""

    def __call__(
        self,
        *options: str,
        tree: Path | None = None,
        path: Path | None = None,
        foreground: bool = False,
        home: Home | None = None,
        start: bool = True,
    ) -> Mount: ...


def make_tree(home: Home, path: Path) -> Path:
    """Create a tree under the home's key."""
    home.ok("init", path, "--key", ALIAS, "--region", REGION)
    return path


@pytest.fixture
def tree(home: Home, tmp_path: Path) -> Path:
    """A new tree of ``home``."""
    return make_tree(home, tmp_path / "tree")


@pytest.fixture
def mounter(home: Home, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Mounter]:
    """Mount trees: ``mounter("-o", "ro")``; without ``tree`` and ``path``, the fixture's tree on ``tmp_path/mnt``."""
    mounts: list[Mount] = []
    default_home = home

    def mount(
        *options: str,
        tree: Path | None = None,
        path: Path | None = None,
        foreground: bool = False,
        home: Home | None = None,
        start: bool = True,
    ) -> Mount:
        tree = tree or request.getfixturevalue("tree")
        path = path or tmp_path / "mnt"
        path.mkdir(exist_ok=True)
        mounts.append(Mount(home or default_home, tree, path, foreground=foreground))
        return mounts[-1].start(*options) if start else mounts[-1]

    yield mount
    problems = []
    for entry in reversed(mounts):
        try:
            entry.finish()
        except AssertionError as error:
            problems.append(str(error))
    assert not problems, "\n".join(problems)


@pytest.fixture
def mounted(mounter: Mounter) -> Mount:
    """A new tree, mounted read-write on ``tmp_path/mnt``."""
    return mounter()
