"""The file systems that are compared: each can make a fresh tree, mount it, and be left without a trace.

Both stand on the same backing directory, on tmpfs, so that what is measured is their own cost.
"""

import json
import os
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KMSFS = Path(sys.executable).with_name("kmsfs")


def command(*argv: str | Path, env: dict[str, str] | None = None) -> str:
    """Run a command to its end and return what it printed."""
    # The output goes through a file: a daemon that inherits a pipe would keep it open for ever.
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        run = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=env)
        output.seek(0)
        errors.seek(0)
        if run.returncode:
            raise subprocess.CalledProcessError(run.returncode, list(map(str, argv)), stderr=errors.read())
        return output.read()


class System(ABC):
    """One file system with a backing directory and a mount point of its own."""

    name: str

    def __init__(self, place: Path) -> None:
        self.tree = place / f"{self.name}.tree"
        self.mountpoint = place / f"{self.name}.mnt"

    @abstractmethod
    def create(self) -> None:
        """Make the empty file system."""

    @abstractmethod
    def mount(self) -> None:
        """Mount it."""

    @abstractmethod
    def unmount(self) -> None:
        """Unmount it, with all stored."""

    def remount(self) -> None:
        """Leave nothing cached, neither in the kernel nor in the daemon."""
        self.unmount()
        self.mount()

    @contextmanager
    def fresh(self) -> Iterator[Path]:
        """Mount an empty tree, and remove it afterwards."""
        for directory in (self.tree, self.mountpoint):
            directory.mkdir()
        self.create()
        self.mount()
        try:
            yield self.mountpoint
        finally:
            self.unmount()
            command("rm", "-rf", "--one-file-system", self.tree, self.mountpoint)


class Kmsfs(System):
    """kmsfs with an embedded HSM and a key made for this run."""

    name = "kmsfs"

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._env = {**os.environ, "KMSFS_HOME": str(place / "home")}
        self._kmsfs("region", "add", "us-east-1")
        self._kmsfs("key", "create", "--region", "us-east-1", "--alias", "alias/bench")

    def _kmsfs(self, *argv: str | Path) -> str:
        return command(KMSFS, *argv, env=self._env)

    def create(self) -> None:
        self._kmsfs("init", self.tree, "--key", "alias/bench", "--region", "us-east-1")

    def mount(self) -> None:
        self._kmsfs("mount", self.tree, self.mountpoint)

    def unmount(self) -> None:
        self._kmsfs("unmount", self.mountpoint)

    def daemon(self) -> int:
        """Return the process id of the daemon that serves the mount."""
        return int(json.loads(os.getxattr(self.mountpoint, "user.kmsfs.status"))["pid"])


class Gocryptfs(System):
    """gocryptfs as Debian packages it, with its defaults. What the password costs is not measured."""

    name = "gocryptfs"

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._passfile = place / "gocryptfs.password"
        self._passfile.write_text("bench\n")

    def create(self) -> None:
        command("gocryptfs", "-q", "-init", "-scryptn", "10", "-passfile", self._passfile, self.tree)

    def mount(self) -> None:
        command("gocryptfs", "-q", "-passfile", self._passfile, self.tree, self.mountpoint)

    def unmount(self) -> None:
        command("fusermount3", "-u", self.mountpoint)
