from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captune.attribution.deletion_insertion import centre_map
from captune.attribution.faithful.dataset import Box, BoxTarget, box_target
from captune.attribution.faithful.measure import hit, overlap

BOX = Box("dog", 0.0, 0.0, 0.5, 0.25)


def at(row: int, column: int, rows: int = 4, columns: int = 4) -> np.ndarray:
    found = np.zeros((rows, columns))
    found[row, column] = 1
    return found


def test_a_true_map_hits_and_covers() -> None:
    target = box_target([BOX], 4, 4)
    assert target.hits.sum() == 2
    assert hit(target.covered, target) == 1
    assert overlap(target.covered, target) == pytest.approx(1)
    assert hit(at(0, 1), target) == 1


def test_a_false_map_does_not() -> None:
    target = box_target([BOX], 4, 4)
    assert hit(at(3, 3), target) == 0
    assert overlap(-target.covered, target) == 0


def test_something_smaller_than_a_place_can_be_hit() -> None:
    small = Box("ball", 0.30, 0.55, 0.34, 0.6)
    target = box_target([small], 4, 4)
    assert hit(at(2, 1), target) == 1
    assert target.hits.sum() == 1
    assert overlap(target.covered, target) == pytest.approx(1)


def test_one_of_several_things_is_enough() -> None:
    target = box_target([BOX, Box("dog", 0.75, 0.75, 1, 1)], 4, 4)
    assert hit(at(3, 3), target) == 1


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    value=st.floats(-5, 5),
    corners=st.tuples(*[st.floats(0, 1)] * 4),
)
@settings(max_examples=60, deadline=None)
def test_a_constant_map_scores_as_random_points_do(
    rows: int, columns: int, value: float, corners: tuple[float, ...]
) -> None:
    left, right = sorted(corners[:2])
    top, bottom = sorted(corners[2:])
    target = box_target([Box("x", left, top, right, bottom)], rows, columns)
    constant = np.full((rows, columns), value)
    each = [
        hit(at(row, column, rows, columns), target)
        for row in range(rows)
        for column in range(columns)
    ]
    if rows * columns > 1:
        assert hit(constant, target) == pytest.approx(np.mean(each))
    fraction = float(target.covered.mean())
    # a random set of the boxes' area fractions that area's part of it
    assert overlap(constant, target) <= 1 + 1e-9
    if fraction > 0:
        kept = np.minimum(np.full_like(target.covered, fraction), target.covered).sum()
        expected = kept / (2 * target.covered.sum() - kept)
        assert overlap(constant, target) == pytest.approx(expected)


def test_what_is_no_number_is_not_the_strongest() -> None:
    target = box_target([BOX], 2, 2)
    map = np.array([[0.5, np.nan], [0.1, 0.2]])
    assert hit(map, target) == 1


def test_a_map_of_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="one grid"):
        hit(np.zeros((3, 3)), box_target([BOX], 4, 4))


def test_no_area_has_no_overlap() -> None:
    nothing = BoxTarget(np.zeros((2, 2), bool), np.zeros((2, 2)))
    assert overlap(np.ones((2, 2)), nothing) == 0


def test_the_centre_hits_what_is_in_the_middle() -> None:
    target = box_target([Box("x", 0.4, 0.4, 0.6, 0.6)], 9, 9)
    assert hit(centre_map(9, 9).numpy(), target) == 1
    # an even grid has four patches in its middle, of which one is hit
    corner = box_target([Box("x", 0.0, 0.0, 0.45, 0.45)], 4, 4)
    assert hit(centre_map(4, 4).numpy(), corner) == pytest.approx(0.25)
