"""The benchmark measures what it says: the same input each time, real work, honest arithmetic."""

import tarfile
from pathlib import Path

import pytest
from benchlib import files, kms_inside, migrate, sourcetree
from benchlib.memory import growth, observe
from benchlib.results import Comparison, table
from benchlib.systems import Kmsfs
from benchlib.workloads import WORKLOADS, Sizes

COMPARISON = Comparison("some work", 0.9, {"kmsfs": [2.0, 1.0, 9.0], "gocryptfs": [1.0, 3.0, 1.0]})


def test_ratio_is_of_medians_and_larger_is_faster() -> None:
    assert COMPARISON.median("kmsfs") == 2.0
    assert COMPARISON.ratio("gocryptfs") == 0.5


def test_table_shows_what_is_below_budget() -> None:
    lines = table([COMPARISON, Comparison("other", 0.4, COMPARISON.seconds)]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "below" in lines[2]
    assert "below" not in lines[3]


def test_json_keeps_every_round() -> None:
    assert COMPARISON.as_json()["seconds"] == {"kmsfs": [2.0, 1.0, 9.0], "gocryptfs": [1.0, 3.0, 1.0]}


def test_source_tree_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        sourcetree.write_tar(tmp_path / name, files=40, total_bytes=100_000)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with tarfile.open(tmp_path / "one") as archive:
        sizes = [entry.size for entry in archive if entry.isfile()]
    assert (len(sizes), sum(sizes)) == (40, 100_000)


@pytest.mark.parametrize(
    ("series", "expected"), [([9, 50, 50, 50, 50, 50, 50, 50], 0), ([1, 1, 2, 2, 3, 3, 4, 4], 2)]
)
def test_growth_leaves_out_the_warming_up(series: list[float], expected: float) -> None:
    assert growth(series) == expected


def test_every_workload_runs_on_a_mount(tmp_path: Path) -> None:
    archive = tmp_path / "source.tar"
    sourcetree.write_tar(archive, files=20, total_bytes=200_000)
    sizes = Sizes(file_bytes=1 << 20, random_reads=50, random_writes=50)
    comparisons = files.measure([Kmsfs(tmp_path)], archive, 1, sizes)
    assert [row.name for row in comparisons] == [work.name for work in WORKLOADS]
    assert all(len(row.seconds["kmsfs"]) == 1 for row in comparisons)


def test_memory_is_read_from_the_daemon(tmp_path: Path) -> None:
    archive = tmp_path / "source.tar"
    sourcetree.write_tar(archive, files=20, total_bytes=200_000)
    series = observe(Kmsfs(tmp_path), archive, 2)
    assert len(series) == 3
    assert min(series) > 5


def test_every_use_of_a_key_is_measured_for_both_suites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CALLS", "LOOPS", "BATCH", "WARM_UP", "DISTINCT"):
        monkeypatch.setattr(kms_inside, name, 3)
    rows = kms_inside.compare_in_process(tmp_path / "home", 2)
    assert [row.name.split(",")[:2] for row in rows[::2]] == [
        [f"{action} in process", f" suite {suite}"]
        for suite in (1, 2)
        for action in (
            "unwrap",
            "rewrap",
            "unwrap_data_keys",
            "wrap_data_keys",
            "generate_data_keys",
            "Decrypt",
            "Encrypt",
            "GenerateDataKey",
        )
    ]
    assert all(len(row.seconds["module"]) == 2 for row in rows)


def test_a_migration_is_measured_beside_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "PAIRS", 3)
    keys = migrate._set_up(tmp_path / "home")
    for name in ("small", "large"):
        migrate._fill(tmp_path / "home", keys[0], tmp_path / name, 5)
    (row,), peaks = migrate.compare(tmp_path / "home", keys, (tmp_path / "small", tmp_path / "large"), 1)
    assert set(row.seconds) == {"kmsfs", "module"}
    assert min(peaks) > 10
