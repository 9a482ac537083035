"""Extents behave as a set of integers does, and coarsening never loses a hole."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from kmsfs.format.holes import Extents

RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12)
STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 60), st.integers(0, 60)), max_size=30)


def members(extents: Extents) -> set[int]:
    return {index for start, stop in extents for index in range(start, stop)}


def is_normal(extents: Extents) -> bool:
    edges = [edge for extent in extents for edge in extent]
    return all(low < high for low, high in itertools.pairwise(edges))


@given(STEPS)
def test_adding_and_removing_are_union_and_difference(steps: list[tuple[bool, int, int]]) -> None:
    extents, model = Extents(), set[int]()
    for adding, start, stop in steps:
        if adding:
            extents.add(start, stop)
            model |= set(range(start, stop))
        else:
            extents.remove(start, stop)
            model -= set(range(start, stop))
        assert members(extents) == model
        assert is_normal(extents)
        assert bool(extents) == bool(model)
    assert [index in extents for index in range(-1, 62)] == [index in model for index in range(-1, 62)]


@given(RANGES, st.integers(1, 9))
def test_coarsening_is_a_superset_within_the_same_bounds(ranges: list[tuple[int, int]], limit: int) -> None:
    exact = Extents(ranges)
    coarse = exact.coarsened(limit)
    assert len(coarse) <= limit
    assert is_normal(coarse)
    assert members(coarse) >= members(exact)
    if exact:
        assert (min(members(coarse)), max(members(coarse))) == (min(members(exact)), max(members(exact)))
    if len(exact) <= limit:
        assert coarse == exact


@given(RANGES)
def test_the_order_of_adding_does_not_matter(ranges: list[tuple[int, int]]) -> None:
    assert Extents(ranges) == Extents(reversed(ranges))
