"""The gate counts lines and branches apart, package by package."""

import coverage_gate


def entry(lines: int, lines_hit: int, branches: int, branches_hit: int) -> dict:
    return {
        "summary": {
            "num_statements": lines,
            "covered_lines": lines_hit,
            "num_branches": branches,
            "covered_branches": branches_hit,
            "percent_covered": 100 * (lines_hit + branches_hit) / (lines + branches),
        },
        "missing_lines": [7],
        "missing_branches": [[3, 5]],
    }


REPORT = {
    "files": {
        "kmsfs/format/a.py": entry(100, 100, 10, 10),
        "kmsfs/format/b.py": entry(100, 98, 10, 9),
        "kmsfs/crypto/c.py": entry(1000, 1000, 10, 9),
        "kmsfs/cli/d.py": entry(100, 0, 10, 0),
    }
}


def test_files_of_a_package_are_added_up() -> None:
    reach = coverage_gate.reach_of(REPORT, "format")
    assert (reach.line_percent, reach.branch_percent) == (99.0, 95.0)
    assert reach.enough


def test_many_covered_lines_do_not_hide_a_missed_branch() -> None:
    reach = coverage_gate.reach_of(REPORT, "crypto")
    assert reach.line_percent == 100.0
    assert not reach.enough


def test_worst_files_are_named_with_what_is_missing() -> None:
    report = {"files": {"kmsfs/format/b.py": entry(100, 50, 10, 5)}}
    assert coverage_gate.worst_files(report, "format") == ["  kmsfs/format/b.py: lines 7; branches 3->5"]
