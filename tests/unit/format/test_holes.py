"""Extents of chunk indices, case by case; tests/property/test_holes.py compares them with sets."""

import pytest

from kmsfs.format.holes import Extents

Ranges = list[tuple[int, int]]


@pytest.mark.parametrize(
    ("before", "start", "stop", "after"),
    [
        ([], 3, 3, []),
        ([], 4, 3, []),
        ([(0, 2)], 2, 4, [(0, 4)]),
        ([(0, 2)], 3, 4, [(0, 2), (3, 4)]),
        ([(5, 6)], 0, 5, [(0, 6)]),
        ([(0, 1), (2, 3), (4, 5)], 1, 4, [(0, 5)]),
        ([(0, 9)], 3, 4, [(0, 9)]),
    ],
)
def test_add(before: Ranges, start: int, stop: int, after: Ranges) -> None:
    extents = Extents(before)
    extents.add(start, stop)
    assert list(extents) == after


@pytest.mark.parametrize(
    ("before", "start", "stop", "after"),
    [
        ([], 0, 9, []),
        ([(0, 9)], 5, 5, [(0, 9)]),
        ([(0, 9)], 3, 5, [(0, 3), (5, 9)]),
        ([(0, 9)], 0, 9, []),
        ([(2, 4)], 4, 9, [(2, 4)]),
        ([(2, 4)], 0, 2, [(2, 4)]),
        ([(0, 2), (4, 6), (8, 10)], 1, 9, [(0, 1), (9, 10)]),
    ],
)
def test_remove(before: Ranges, start: int, stop: int, after: Ranges) -> None:
    extents = Extents(before)
    extents.remove(start, stop)
    assert list(extents) == after


def test_coarsening_bridges_the_smallest_gaps() -> None:
    extents = Extents([(0, 1), (2, 3), (10, 11), (13, 14)])
    assert list(extents.coarsened(4)) == list(extents)
    assert list(extents.coarsened(3)) == [(0, 3), (10, 11), (13, 14)]
    assert list(extents.coarsened(2)) == [(0, 3), (10, 14)]
    assert list(extents.coarsened(1)) == [(0, 14)]


def test_coarsening_leaves_the_original_alone() -> None:
    extents = Extents([(0, 1), (2, 3)])
    copy = extents.coarsened(8)
    copy.add(7, 9)
    assert list(extents) == [(0, 1), (2, 3)]


def test_equality_and_truth() -> None:
    assert Extents([(0, 1), (1, 2)]) == Extents([(0, 2)])
    assert Extents([(0, 1)]) != Extents()
    assert Extents() != "nothing"
    assert not Extents()
    assert Extents([(0, 1)])
    assert len(Extents([(0, 1), (5, 6)])) == 2
