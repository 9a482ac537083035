"""``bench files``: kmsfs beside gocryptfs, in alternating rounds, on a backing directory in memory."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchlib import sourcetree
from benchlib.results import Comparison, machine, table
from benchlib.systems import Gocryptfs, Kmsfs, System
from benchlib.workloads import WORKLOADS, Setting, Sizes

MEMORY_BACKED = Path("/dev/shm")
QUIET_LOAD = 0.7


def add_parser(commands: argparse._SubParsersAction, name: str) -> None:
    parser = commands.add_parser(name, help="file system work beside gocryptfs (the default)")
    parser.add_argument(
        "--rounds", type=int, default=5, help="how often each system does each work (default 5)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")


def measure(systems: Sequence[System], archive: Path, rounds: int, sizes: Sizes) -> list[Comparison]:
    """Run every workload on every system, round by round; who goes first alternates."""
    seconds = {workload.name: {system.name: [] for system in systems} for workload in WORKLOADS}
    for number in range(rounds):
        for system in systems if number % 2 == 0 else reversed(systems):
            print(f"round {number + 1} of {rounds}: {system.name}", file=sys.stderr)
            with system.fresh():
                setting = Setting(system, archive, sizes)
                for workload in WORKLOADS:
                    seconds[workload.name][system.name].append(workload.run(setting))
    return [Comparison(work.name, work.budget, seconds[work.name]) for work in WORKLOADS]


def run(args: argparse.Namespace) -> int:
    host = machine()
    if host["load_before"] > QUIET_LOAD:
        print(f"the machine is busy (load {host['load_before']:.1f}): trust no figure", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="kmsfs-bench-", dir=MEMORY_BACKED) as directory:
        place = Path(directory)
        archive = place / "source.tar"
        sourcetree.write_tar(archive)
        comparisons = measure([Kmsfs(place), Gocryptfs(place)], archive, args.rounds, Sizes())
    print(table(comparisons))
    if args.json:
        report = {
            "machine": machine(),
            "rounds": args.rounds,
            "results": [row.as_json() for row in comparisons],
        }
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0
