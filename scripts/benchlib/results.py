"""From seconds to a table: medians, ratios, JSON. Pure; knows no file system.

A ratio is the other system's time divided by ours: above 1, kmsfs is faster.
"""

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

OURS = "kmsfs"


@dataclass(frozen=True)
class Comparison:
    """One workload's seconds, round by round, for each system."""

    name: str
    budget: float
    seconds: Mapping[str, Sequence[float]]

    def median(self, system: str) -> float:
        return statistics.median(self.seconds[system])

    @property
    def others(self) -> list[str]:
        return [system for system in self.seconds if system != OURS]

    def ratio(self, other: str) -> float:
        return self.median(other) / self.median(OURS)

    def as_json(self) -> dict:
        return {
            "name": self.name,
            "budget": self.budget,
            "seconds": {system: list(values) for system, values in self.seconds.items()},
            "median_seconds": {system: self.median(system) for system in self.seconds},
            "ratio": {other: self.ratio(other) for other in self.others},
        }


def table(comparisons: Sequence[Comparison]) -> str:
    """Return the comparisons as an aligned Markdown table."""
    systems = list(comparisons[0].seconds)
    others = comparisons[0].others
    header = [
        "work",
        *(f"{name}, s" for name in systems),
        *(f"ratio to {name}" for name in others),
        "budget",
        "",
    ]
    rows = [header]
    for row in comparisons:
        ratios = [row.ratio(other) for other in others]
        verdict = "" if min(ratios, default=row.budget) >= row.budget else "below"
        medians = [f"{row.median(system):.3f}" for system in systems]
        rows.append([row.name, *medians, *(f"{ratio:.2f}" for ratio in ratios), f"{row.budget:.1f}", verdict])
    widths = [max(len(line[column]) for line in rows) for column in range(len(header))]
    aligned = [
        "| "
        + " | ".join(
            [
                line[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
            ]
        )
        + " |"
        for line in rows
    ]
    aligned.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(aligned)


def machine() -> dict:
    """Return what a reader needs to know about the machine, and nothing that names it."""
    return {
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }
