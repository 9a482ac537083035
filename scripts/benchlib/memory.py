"""``bench memory``: the daemon's memory while a tree is unpacked and removed again and again.

It has to stay small, and flat: a cache that is bounded, nothing that leaks.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchlib import sourcetree
from benchlib.files import MEMORY_BACKED
from benchlib.results import machine
from benchlib.systems import Kmsfs

BUDGET_MIB = 150


def add_parser(commands: argparse._SubParsersAction, name: str) -> None:
    parser = commands.add_parser(name, help="resident memory of the daemon over rounds of untar and rm")
    parser.add_argument("--rounds", type=int, default=100, help="rounds of untar and rm (default 100)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def growth(series: Sequence[float]) -> float:
    """Return by how much the last quarter lies above the second one: the first is warming up."""
    quarter = max(1, len(series) // 4)
    return statistics.median(series[-quarter:]) - statistics.median(series[quarter : 2 * quarter] or series)


def observe(system: Kmsfs, archive: Path, rounds: int) -> list[float]:
    """Return the daemon's resident memory after the mount and after each round."""
    with system.fresh() as mountpoint:
        pid = system.daemon()
        series = [resident_mib(pid)]
        for number in range(1, rounds + 1):
            subprocess.run(["tar", "-xf", archive, "-C", mountpoint], check=True)
            subprocess.run(["rm", "-r", mountpoint / sourcetree.ROOT_NAME], check=True)
            series.append(resident_mib(pid))
            if number == 1 or number % 10 == 0:
                print(f"after {number:4d} rounds: {series[-1]:6.1f} MiB", flush=True)
    return series


def run(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="kmsfs-bench-", dir=MEMORY_BACKED) as directory:
        place = Path(directory)
        archive = place / "source.tar"
        sourcetree.write_tar(archive)
        series = observe(Kmsfs(place), archive, args.rounds)
    print(
        f"resident memory: {series[0]:.1f} MiB at the start, {max(series):.1f} at most "
        f"(budget {BUDGET_MIB}), {series[-1]:.1f} at the end, growth {growth(series):+.1f}"
    )
    if args.json:
        args.json.write_text(
            json.dumps({"machine": machine(), "rounds": args.rounds, "mib": series}, indent=2) + "\n"
        )
    return 0
