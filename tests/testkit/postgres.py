"""A PostgreSQL server of the tests' own: on a Unix socket only, in a short directory, stopped at the end."""

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OWNER = "kmsfs"


class Postgres:
    """A running server."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count()

    def url(self, database: str, user: str = OWNER) -> str:
        """Return what config.json says to use a database."""
        return f"postgresql+psycopg://{user}@/{database}?host={self._directory}"

    def new_database(self) -> str:
        """Make an empty database and return its name."""
        name = f"test{next(self._numbers)}"
        self.sql("postgres", f"CREATE DATABASE {name}")
        return name

    def sql(self, database: str, *statements: str) -> str:
        """Run statements as the owner, one by one."""
        commands = [word for statement in statements for word in ("-c", statement)]
        return self._run("psql", "-qAtX", "-h", self._directory, "-U", OWNER, "-d", database, *commands)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        settings = f"-c listen_addresses='' -c fsync=off -k {self._directory}"
        log = self._directory / "log"
        self._run("pg_ctl", "-s", "-w", "-D", self._directory / "data", "-l", log, "-o", settings, "start")

    def stop(self) -> None:
        """Stop the server, whoever is connected."""
        self._run("pg_ctl", "-s", "-w", "-m", "fast", "-D", self._directory / "data", "stop")

    def initialize(self) -> None:
        """Make the data directory."""
        self._run(
            "initdb", "-D", self._directory / "data", "-U", OWNER, "-A", "trust", "-E", "UTF8", "--no-sync"
        )

    def _run(self, program: str, *arguments: str | Path) -> str:
        path = max(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
        root = os.geteuid() == 0  # as whom the server refuses to run
        done = subprocess.run(
            [path, *arguments],
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            # Not a pipe for what stays: the server would hold it open.
            stdout=subprocess.DEVNULL if program == "pg_ctl" else subprocess.PIPE,
            text=True,
            check=True,
            user="postgres" if root else None,
            group="postgres" if root else None,
            extra_groups=[] if root else None,
        )
        return done.stdout or ""


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Run a server while the block runs."""
    directory = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(directory, "postgres", pwd.getpwnam("postgres").pw_gid)
        directory.chmod(0o711)
        server = Postgres(directory)
        server.initialize()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory)
