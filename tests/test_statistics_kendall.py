"""Kendall's tau-b: against scipy, against counting one by one, and its interval by simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from captune.statistics import _parts, kendall_tau

PAIRS = st.lists(st.tuples(st.integers(-4, 4), st.integers(0, 6)), min_size=2, max_size=40)


@settings(max_examples=200, deadline=None)
@given(PAIRS)
def test_any_tau_with_ties_agrees_with_scipy(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs).T
    ours = kendall_tau(x, y).tau
    theirs = stats.kendalltau(x, y).statistic
    if ours is None:
        assert np.isnan(theirs)
    else:
        assert ours == pytest.approx(theirs, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(PAIRS)
def test_each_image_agrees_with_the_others_as_counted_one_by_one(
    pairs: list[tuple[int, int]],
) -> None:
    x, y = (np.unique(side, return_inverse=True)[1].astype(np.int64) for side in np.array(pairs).T)
    agreeing, tied_x, tied_y = _parts(x, y)
    sign_x, sign_y = np.sign(x[:, None] - x), np.sign(y[:, None] - y)
    assert (agreeing == (sign_x * sign_y).sum(axis=1)).all()
    assert (tied_x == (sign_x == 0).sum(axis=1) - 1).all()
    assert (tied_y == (sign_y == 0).sum(axis=1) - 1).all()


@pytest.mark.parametrize("n", [4, 5_000])
def test_a_tau_of_many_images_agrees_with_scipy(n: int) -> None:
    random = np.random.default_rng(n)
    x = random.normal(size=n)
    y = np.round(0.5 * x + random.normal(size=n), 1)
    assert kendall_tau(x, y).tau == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)


@pytest.mark.parametrize(("correlation", "n"), [(0.0, 50), (0.3, 40), (0.8, 60)])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(
    correlation: float, n: int
) -> None:
    truth = 2 / np.pi * np.arcsin(correlation)  # tau of a bivariate normal
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(500):
        x, e = random.normal(size=(2, n))
        interval = kendall_tau(x, correlation * x + np.sqrt(1 - correlation**2) * e).interval
        assert interval is not None
        covered += interval.low <= truth <= interval.high
    assert covered / 500 == pytest.approx(0.95, abs=0.03)


def test_what_has_no_order_has_no_tau() -> None:
    assert kendall_tau([1, 1, 1], [1, 2, 3]) == (None, None)
    assert kendall_tau([1], [2]) == (None, None)
    assert kendall_tau([], []) == (None, None)
    assert kendall_tau([1, 2, 3, 4, 5], [2, 3, 4, 5, 6]) == (pytest.approx(1), None)
    assert kendall_tau([1, 2, 3, 4, 5], [5, 4, 3, 2, 1]) == (pytest.approx(-1), None)
    assert kendall_tau([0, 0, 0, 0, 1], [1, 2, 3, 4, 1]).interval is None  # one image varies x


def test_nonsense_is_refused() -> None:
    for x, y in (([1, 2], [1]), ([1, float("nan")], [1, 2]), ([[1, 2]], [[1, 2]])):
        with pytest.raises(ValueError, match="expected"):
            kendall_tau(x, y)
