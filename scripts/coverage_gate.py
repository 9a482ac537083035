"""Fail when the tests no longer reach the packages that must not be wrong.

Reads the data of the last full run of scripts/test. Lines and branches are counted apart, so that many
covered lines cannot hide a branch that nothing takes. Only in-process coverage counts: the daemons
that mount tests start are other processes.
"""

import json
import sys
import tempfile
from dataclasses import dataclass

from coverage import Coverage
from coverage.exceptions import CoverageException

REQUIRED_PERCENT = 95.0
PACKAGES = ("format", "crypto", "envelope", "keystore")


@dataclass
class Reach:
    """How much of one package the tests executed."""

    lines: int = 0
    lines_hit: int = 0
    branches: int = 0
    branches_hit: int = 0

    @property
    def line_percent(self) -> float:
        return 100.0 * self.lines_hit / self.lines if self.lines else 100.0

    @property
    def branch_percent(self) -> float:
        return 100.0 * self.branches_hit / self.branches if self.branches else 100.0

    @property
    def enough(self) -> bool:
        return min(self.line_percent, self.branch_percent) >= REQUIRED_PERCENT


def reach_of(report: dict, package: str) -> Reach:
    """Add up the files of ``kmsfs/package`` in coverage's JSON report."""
    reach = Reach()
    for name, entry in report["files"].items():
        if name.startswith(f"kmsfs/{package}/"):
            summary = entry["summary"]
            reach.lines += summary["num_statements"]
            reach.lines_hit += summary["covered_lines"]
            reach.branches += summary["num_branches"]
            reach.branches_hit += summary["covered_branches"]
    return reach


def worst_files(report: dict, package: str) -> list[str]:
    """Name the files of a package that lie below the bar, with what was not reached."""
    rows = []
    for name, entry in sorted(report["files"].items()):
        summary = entry["summary"]
        if not name.startswith(f"kmsfs/{package}/") or summary["percent_covered"] >= REQUIRED_PERCENT:
            continue
        lines = ", ".join(map(str, entry["missing_lines"][:8]))
        branches = ", ".join(f"{start}->{end}" for start, end in entry["missing_branches"][:8])
        rows.append(f"  {name}: lines {lines or '-'}; branches {branches or '-'}")
    return rows


def load_report() -> dict:
    """Return coverage's JSON report of what the last test run measured."""
    measured = Coverage()
    try:
        measured.load()
        with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
            measured.json_report(outfile=file.name)
            return json.load(file)
    except CoverageException as error:
        sys.exit(f"coverage: {error}\nhint: ./scripts/test without arguments measures it")


def main() -> int:
    report = load_report()
    failed = False
    for package in PACKAGES:
        reach = reach_of(report, package)
        print(
            f"coverage: kmsfs/{package}: branches {reach.branch_percent:.1f} %, "
            f"lines {reach.line_percent:.1f} % (at least {REQUIRED_PERCENT:.0f} %)"
        )
        if not reach.enough:
            failed = True
            print("\n".join(worst_files(report, package)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
