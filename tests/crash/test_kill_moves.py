"""The mount's process dies by SIGKILL while files move between the zones of two regions."""

from pathlib import Path

import pytest
from test_kill import await_lines, crashing, kill, rest, start_writer
from testkit.home import REGION
from testkit.mounting import Mount

OTHER = "us-east-1"
__all__ = ["crashing"]


@pytest.mark.parametrize("lines", [1, 2, 3, 20, 41, 100])
def test_a_kill_while_files_move(crashing: Mount, lines: int) -> None:
    home, top = crashing.home, crashing.path
    home.ok("region", "add", OTHER)
    key = home.json("key", "create", "--region", OTHER)["Arn"]
    for name in ("eu", "us"):
        (top / name).mkdir()
    home.ok("zone", "create", top / "us", "--key", key)
    process = start_writer("moves", top)
    safe = await_lines(process, lines)
    kill(crashing)
    safe |= rest(process)
    crashing.start()
    found = {path.name: path for zone in ("eu", "us") for path in (top / zone).iterdir()}
    assert sorted(found) == ["n" * 200, "short"]
    assert sum(len(list((top / zone).iterdir())) for zone in ("eu", "us")) == 2  # each at one place
    for start, name in enumerate(("short", "n" * 200)):
        check_content(found[name], start, safe.get(name, 0))
    written = [path for path in found.values() if path.stat().st_size]
    assert all(region_of(path) in regions(crashing, path) for path in written)
    home.ok("rewrap", top)
    assert all(regions(crashing, path) == [region_of(path)] for path in written)


def check_content(path: Path, start: int, synced: int) -> None:
    content = path.read_bytes()
    assert content == b"".join(b"%d," % step * 500 for step in range(start, 4000, 2))[: len(content)]
    assert len(content) >= synced


def region_of(path: Path) -> str:
    """The region of the zone that a file is in."""
    return {"eu": REGION, "us": OTHER}[path.parent.name]


def regions(mount: Mount, path: Path) -> list[str]:
    """The regions that a file's header has slots of."""
    return [slot["region"] for slot in mount.home.json("info", path)["slots"]]
