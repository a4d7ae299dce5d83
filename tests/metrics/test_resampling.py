"""Intervals of any corpus figure: against scipy, by simulation, and in the cases without spread."""

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from captune_metrics.display import Interval
from captune_metrics.resampling import (
    Sums,
    _quantiles,
    bootstrap,
    bootstrap_each,
    paired_bootstrap,
)

Floats = NDArray[np.float64]


def bootstrap_mean(values: object, resamples: int = 5_000, **how: Any) -> Interval:
    return bootstrap_each([Sums.mean(values)], resamples=resamples, **how)[0]  # type: ignore[arg-type]


def ratio(sums: Floats, n: int) -> Floats:
    """A figure that is no mean: clipped matches over words, as BLEU's precision is."""
    return sums[:, 0] / sums[:, 1]


def brevity(sums: Floats, n: int) -> Floats:
    """BLEU-like: a precision times a brevity penalty, both of sums."""
    return ratio(sums, n) * np.exp(np.minimum(0, 1 - sums[:, 2] / sums[:, 1]))


def counts(n: int, seed: int = 0) -> Floats:
    random = np.random.default_rng(seed)
    words = random.integers(4, 20, size=n)
    matches = random.binomial(words, 0.4)
    return np.stack([matches, words, random.integers(6, 20, size=n)], axis=1).astype(float)


@pytest.mark.parametrize("method", ["bca", "percentile"])
@pytest.mark.parametrize("figure", [ratio, brevity])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_a_figure_of_sums_agrees_with_scipy(
    method: Literal["bca", "percentile"], figure: object, level: float
) -> None:
    rows = counts(60)

    def statistic(*columns: Floats, axis: int) -> Floats:
        sums = np.stack([column.sum(axis=axis) for column in columns], axis=-1)
        return figure(np.atleast_2d(sums), 0).reshape(sums.shape[:-1])  # type: ignore[operator]

    theirs = stats.bootstrap(  # scipy draws the same resamples from the same generator
        tuple(rows.T), statistic, paired=True, vectorized=True, n_resamples=3_000, method=method,
        confidence_level=level, rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    ours = bootstrap(rows, figure, resamples=3_000, level=level, method=method, seed=5)  # type: ignore[arg-type]
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_a_difference_agrees_with_scipy() -> None:
    a, b = counts(50, seed=1), counts(50, seed=2)

    def statistic(*columns: Floats, axis: int) -> Floats:
        sums = [column.sum(axis=axis) for column in columns]
        return sums[3] / sums[4] - sums[0] / sums[1]

    theirs = stats.bootstrap(
        (*a.T, *b.T), statistic, paired=True, vectorized=True, n_resamples=2_000, method="bca",
        rng=np.random.default_rng(3),
    )  # fmt: skip
    [ours] = paired_bootstrap([(Sums(a, ratio), Sums(b, ratio))], resamples=2_000, seed=3)
    low, high = theirs.confidence_interval
    assert ours.interval == pytest.approx((low, high), abs=1e-12)
    assert ours.standard_error == pytest.approx(theirs.standard_error, abs=1e-12)
    assert ours.difference == pytest.approx(statistic(*a.T, *b.T, axis=0), abs=1e-12)
    assert ours.first == pytest.approx(bootstrap(a, ratio, resamples=2_000, seed=3), abs=1e-12)
    assert ours.second == pytest.approx(bootstrap(b, ratio, resamples=2_000, seed=3), abs=1e-12)


def test_several_figures_get_what_each_gets_alone() -> None:
    rows, values = counts(40), np.random.default_rng(9).lognormal(size=40)
    together = bootstrap_each([Sums(rows, ratio), Sums.mean(values), Sums(rows, brevity)])
    alone = [bootstrap(rows, ratio), bootstrap_mean(values, resamples=10_000),
             bootstrap(rows, brevity)]  # fmt: skip
    for ours, expected in zip(together, alone, strict=True):
        assert ours == pytest.approx(expected, abs=1e-12)
    assert bootstrap_each([]) == []


def test_an_image_that_is_left_out_is_left_out_of_the_count_too() -> None:
    def spread(sums: Floats, n: int) -> Floats:
        return sums[:, 1] / n - (sums[:, 0] / n) ** 2

    x = np.random.default_rng(0).exponential(size=9)
    left_out = Sums(np.stack([x, x**2], axis=1), spread).left_out()
    assert left_out == pytest.approx([np.delete(x, i).var() for i in range(9)])
    theirs = stats.bootstrap(
        (x,), np.var, n_resamples=2_000, method="bca", rng=np.random.default_rng(0)
    ).confidence_interval
    ours = bootstrap(np.stack([x, x**2], axis=1), spread, resamples=2_000)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(
    method: Literal["bca", "percentile"],
) -> None:
    random = np.random.default_rng(0)
    covered = 0
    for seed in range(400):
        words = random.integers(4, 20, size=80)
        rows = np.stack([random.binomial(words, 0.4), words], axis=1)
        low, high = bootstrap(rows, ratio, resamples=600, method=method, seed=seed)
        covered += low <= 0.4 <= high
    # three standard errors of 400 throws at 95 %, and the bootstrap of 80 images is a little narrow
    assert 0.95 - 0.04 < covered / 400 < 0.95 + 0.033


def test_bca_covers_a_skewed_mean_better_than_the_percentile() -> None:
    random = np.random.default_rng(1)
    missed = {"bca": 0, "percentile": 0}
    for seed in range(300):
        values = random.exponential(size=30)
        for method in ("bca", "percentile"):
            low, high = bootstrap_mean(values, method=method, resamples=600, seed=seed)
            missed[method] += not low <= 1.0 <= high
    assert missed["bca"] < missed["percentile"]


def test_two_images_are_enough_and_the_interval_lies_between_them() -> None:
    low, high = bootstrap([[0.2], [0.6]])
    assert 0.2 <= low < high <= 0.6


def test_what_does_not_vary_is_a_point() -> None:
    same = np.full((7, 1), 0.1)
    assert bootstrap(same) == Interval(pytest.approx(0.1), pytest.approx(0.1))
    rows = counts(20)
    [paired] = paired_bootstrap([(Sums(rows, brevity), Sums(rows.copy(), brevity))])
    assert (paired.difference, paired.interval) == (0.0, Interval(0.0, 0.0))
    assert paired.standard_error == 0.0
    assert paired.first.low < paired.first.high
    # the values vary and their difference does not, but for rounding
    values = np.random.default_rng(0).random(30)
    [paired] = paired_bootstrap([(Sums.mean(values), Sums.mean(values + 0.1))])
    assert paired.interval == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize(
    "statistics", [[[1.0]], [], [[1.0], [float("nan")]], [[1.0], [float("inf")]], [1.0, 2.0]]
)
def test_too_few_images_and_what_is_no_number_are_refused(statistics: list[object]) -> None:
    with pytest.raises(ValueError, match="expected finite statistics"):
        bootstrap(statistics)  # type: ignore[arg-type]


def test_a_figure_that_breaks_on_some_resample_is_refused() -> None:
    rows = [[1.0, 0.0], [1.0, 2.0], [0.0, 1.0]]  # the first image alone has no words

    with pytest.raises(ValueError, match="expected"), np.errstate(divide="ignore"):
        bootstrap(rows, ratio)


def test_figures_of_different_images_are_refused() -> None:
    with pytest.raises(ValueError, match="the same images"):
        bootstrap_each([Sums(counts(3), ratio), Sums(counts(4), ratio)])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.floats(-1e3, 1e3).filter(lambda x: x == 0 or abs(x) > 1e-6), min_size=2, max_size=12
    ),
    st.sampled_from(["bca", "percentile"]),
)
def test_any_interval_is_ordered_finite_and_within_the_values(
    values: list[float], method: Literal["bca", "percentile"]
) -> None:
    low, high = bootstrap_mean(values, method=method, resamples=200, level=0.999)
    room = 1e-9 * (1 + max(map(abs, values)))
    assert min(values) - room <= low <= high <= max(values) + room


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(-20, 20), min_size=2, max_size=15),
    st.floats(0.01, 100),
    st.floats(-50, 50),
)
def test_an_interval_moves_with_its_values(values: list[int], scale: float, offset: float) -> None:
    plain = bootstrap_mean(values, resamples=300)
    moved = bootstrap_mean(scale * np.array(values) + offset, resamples=300)
    assert moved == pytest.approx(
        (scale * plain.low + offset, scale * plain.high + offset), abs=1e-6, rel=1e-6
    )


@pytest.mark.parametrize("method", ["bca", "percentile"])
@pytest.mark.parametrize("seed", [0, 1])
def test_bootstrap_agrees_with_scipy(method: Literal["bca", "percentile"], seed: int) -> None:
    values = np.random.default_rng(seed).lognormal(sigma=1.0, size=80)
    theirs = stats.bootstrap(  # scipy draws the same resamples from the same generator
        (values,), np.mean, n_resamples=5_000, method=method, rng=np.random.default_rng(seed)
    ).confidence_interval
    ours = bootstrap_mean(values, method=method, resamples=5_000, seed=seed)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_bootstrap_of_many_values_is_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=200)
    whole = bootstrap_mean(values, resamples=4_000)
    monkeypatch.setattr("captune_metrics.resampling.AT_ONCE", 1_000)
    assert bootstrap_mean(values, resamples=4_000) == pytest.approx(whole, abs=1e-12)


def test_bootstrap_is_the_same_for_the_same_seed_and_other_for_another() -> None:
    values = np.random.default_rng(0).normal(size=50)
    assert bootstrap_mean(values) == bootstrap_mean(list(values))
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


def test_bootstrap_of_equal_values_is_a_point() -> None:
    assert bootstrap_mean([0.1] * 5) == Interval(pytest.approx(0.1), pytest.approx(0.1))


def test_a_mean_of_one_value_or_of_no_number_is_refused() -> None:
    for values in ([1.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="expected"):
            bootstrap_mean(values)


def test_quantiles_are_numpys() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        values = np.sort(random.normal(size=random.integers(1, 500)))
        for levels in (random.random(2), np.array([0.0, 1.0])):
            assert (_quantiles(values, levels) == np.quantile(values, levels)).all()
