"""The log of a mount: private under any umask, rotated by size, named by a hash."""

import stat
import subprocess
import sys
from pathlib import Path

from kmsfs.cli.logfile import log_path

SCRIPT = """
import logging, os, sys, threading, warnings
from pathlib import Path
from kmsfs.cli import logfile
os.umask(0)
logfile._MAX_SIZE = 2000
logfile.log_to_file(Path(sys.argv[1]))
{body}
"""


def log_of(home: Path, body: str) -> list[Path]:
    home.mkdir(exist_ok=True)
    path = log_path(home, Path("/tree"), Path("/mnt"))
    subprocess.run([sys.executable, "-c", SCRIPT.format(body=body), path], check=True, capture_output=True)
    return sorted(path.parent.iterdir())


def test_the_name_tells_nothing(tmp_path: Path) -> None:
    path = log_path(tmp_path, Path("/srv/secret-tree"), Path("/mnt"))
    assert path.parent == tmp_path / "log"
    assert "secret" not in path.name
    assert path != log_path(tmp_path, Path("/srv/secret-tree"), Path("/mnt2"))
    assert log_path(tmp_path, Path("/a"), Path("/bc")) != log_path(tmp_path, Path("/ab"), Path("/c"))


def test_files_are_private_and_rotate(tmp_path: Path) -> None:
    body = "for number in range(200): logging.getLogger('kmsfs.x').info('line %d', number)"
    files = log_of(tmp_path / "home", body)
    assert [path.suffix for path in files] == [".log", ".1", ".2", ".3"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE(files[0].parent.stat().st_mode) == 0o700
    assert "line 199" in files[0].read_text()
    assert all(path.stat().st_size <= 2000 for path in files)


def test_what_would_go_to_a_terminal_is_logged(tmp_path: Path) -> None:
    body = (
        "warnings.warn('be careful', stacklevel=1)\n"
        "def fail(): raise ValueError('secret data')\n"
        "thread = threading.Thread(target=fail); thread.start(); thread.join()\n"
        "logging.getLogger('other').info('chatter')\n"
    )
    (log,) = log_of(tmp_path / "home", body)
    text = log.read_text()
    assert "be careful" in text
    assert "a thread failed" in text
    assert "ValueError" in text
    assert "secret data" not in text
    assert "chatter" not in text


def test_a_crash_of_a_module_leaves_its_frames(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    path = log_path(home, Path("/tree"), Path("/mnt"))
    script = SCRIPT.format(body="import ctypes; ctypes.string_at(0)")
    done = subprocess.run([sys.executable, "-c", script, path], check=False, capture_output=True)
    assert done.returncode < 0
    assert "Segmentation fault" in path.read_text()
