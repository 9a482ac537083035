"""Programs write to files and move them between zones while keys rotate and other processes rewrap the mount."""

import subprocess
import sys
from pathlib import Path

import pytest
from testkit.home import ALIAS, REGION, Home
from testkit.mounting import Mount

OTHER = "us-east-1"
BUSY = Path(__file__).parent.parent / "testkit" / "busy.py"
EXIT_INCOMPLETE = 37  # what moves faster than a rewrap looks is told


@pytest.fixture
def zones(home: Home, mounted: Mount) -> dict[str, str]:
    """The key of each directory: zones beside and in one another, for two programs."""
    home.ok("region", "add", OTHER)
    own = home.json("key", "describe", ALIAS, "--region", REGION)["Arn"]
    other = home.json("key", "create", "--region", OTHER)["Arn"]
    keys = {}
    for top in ("busy1", "busy2"):
        keys |= {top: own, f"{top}/us": other, f"{top}/us/eu": own}
    for path, key in keys.items():
        (mounted.path / path).mkdir()
        if "/" in path:
            home.ok("zone", "create", mounted.path / path, "--key", key)
    return keys


def test_files_move_between_zones_while_they_are_rewrapped(
    home: Home, mounted: Mount, zones: dict[str, str]
) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, BUSY, seed, f"busy{seed}", "1200"],
            cwd=mounted.path,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    rounds = 0
    while any(process.poll() is None for process in started):
        rounds += 1
        if rounds <= 20:  # a key is rotated 25 times at most
            home.ok("key", "rotate", sorted(set(zones.values()))[rounds % 2])
        assert home.run("rewrap", mounted.path).returncode in (0, EXIT_INCOMPLETE)
    for process in started:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    home.ok("rewrap", mounted.path)
    for _ in range(2):
        for path, key in zones.items():
            for found in (mounted.path / path).iterdir():
                if found.is_file() and found.stat().st_size:
                    info = home.json("info", found)
                    assert [slot["key_arn"] for slot in info["slots"]] == [key]
                    assert len(found.read_bytes()) == found.stat().st_size
        mounted.unmount()
        mounted.start()
