"""What the project's own files must not say: where they were written, and from where they were fetched."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Spelt in pieces, so that this file does not contain what it looks for.
MACHINE_PATHS = re.compile(
    "|".join(("/" + "work/", "/" + "root/", "/" + "home/[a-z]+/", "/tmp" + "/w/", r"\.py" + "env"))
)
URL = re.compile(r"https?:" + "//")


def tracked_files() -> list[Path]:
    # -c safe.directory: a checkout may belong to another user than the one who runs the tests
    listing = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    files = (ROOT / name for name in listing.split("\0") if name)
    return [file for file in files if not file.is_symlink() and file.is_file()]


FILES = tracked_files()


def test_files_are_listed() -> None:
    assert ROOT / "pyproject.toml" in FILES


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_machine_paths(file: Path) -> None:
    text = file.read_bytes().decode(errors="replace")
    assert not MACHINE_PATHS.search(text)


@pytest.mark.parametrize("lock", sorted(ROOT.glob("*.lock")), ids=lambda path: path.name)
def test_lock_names_no_host(lock: Path) -> None:
    text = lock.read_text()
    assert not URL.search(text)
    assert "--index" not in text
    assert "--find-links" not in text


@pytest.mark.parametrize(
    "page", [file for file in FILES if file.suffix == ".md"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    missing = [target for target in targets if not URL.match(target) and not (page.parent / target).exists()]
    assert not missing
