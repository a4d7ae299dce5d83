"""Paired tests: against scipy and full enumeration; power and false alarms by simulation."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from captune_metrics.resampling import (
    Sums,
    cohen_dz,
    detectable_difference,
    mean_of_sums,
    paired_bootstrap,
    paired_permutation,
    paired_permutation_each,
)

Floats = NDArray[np.float64]


def ratio(sums: Floats, n: int) -> Floats:
    return sums[:, 0] / sums[:, 1]


def column(values: object) -> Floats:
    return np.asarray(values, dtype=float)[:, None]


def test_a_permutation_of_means_agrees_with_scipy() -> None:
    random = np.random.default_rng(0)
    a = random.normal(size=40)
    b = a + random.normal(0.1, 0.6, size=40)
    theirs = stats.permutation_test(
        (a, b), lambda x, y, axis: y.mean(axis) - x.mean(axis), permutation_type="samples",
        n_resamples=20_000, vectorized=True, rng=random,
    ).pvalue  # fmt: skip
    ours = paired_permutation(column(a), column(b), permutations=20_000)
    error = 3 * np.sqrt(2 * theirs * (1 - theirs) / 20_000)
    assert 0.01 < theirs < 0.3
    assert ours == pytest.approx(theirs, abs=error)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("of_sums", [mean_of_sums, ratio])
def test_a_permutation_agrees_with_all_swaps_enumerated(seed: int, of_sums: object) -> None:
    random = np.random.default_rng(seed)
    words = random.integers(5, 12, size=(2, 9, 1))
    a, b = np.concatenate([random.binomial(words, [[[0.4]], [[0.6]]]), words], axis=2).astype(float)

    def difference(first: Floats, second: Floats) -> float:
        values = [of_sums(s.sum(axis=0)[None], 9)[0] for s in (first, second)]  # type: ignore[operator]
        return float(values[1] - values[0])

    observed = abs(difference(a, b))
    swaps = [np.array(swap)[:, None] for swap in product([False, True], repeat=9)]
    extreme = [
        abs(difference(np.where(swap, b, a), np.where(swap, a, b))) >= observed - 1e-12
        for swap in swaps
    ]
    expected = np.mean(extreme)
    ours = paired_permutation(a, b, of_sums, permutations=20_000, seed=seed)  # type: ignore[arg-type]
    assert ours == pytest.approx(expected, abs=4 * np.sqrt(expected / 20_000) + 1e-4)


def test_p_is_never_zero_and_one_where_nothing_differs() -> None:
    a = column(np.arange(30.0))
    assert paired_permutation(a, a + 1, permutations=999) == 1 / 1000
    assert paired_permutation(a, a, permutations=999) == 1.0
    # two images: half of the swaps leave a difference as large
    assert paired_permutation([[0.0], [0.0]], [[1.0], [1.0]]) == pytest.approx(0.5, abs=0.02)


def test_what_is_as_large_but_for_rounding_counts() -> None:
    # a lone image differs: each of the two ways to swap it gives as large a difference
    a = column([0.1, 0.3, 0.7])
    b = column([0.1, 0.3, 0.7 + 0.1])
    assert paired_permutation(a, b, permutations=500) == 1.0


def test_several_pairs_get_what_each_gets_alone_and_sides_are_alike() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 70, 1))
    rows_a, rows_b = random.integers(1, 9, size=(2, 70, 2)).astype(float)
    shared = Sums(rows_a, ratio)
    pairs = [(Sums(a), Sums(b)), (shared, Sums(rows_b, ratio)), (shared, shared)]
    together = paired_permutation_each(pairs, permutations=2_000, seed=4)
    assert together[0] == paired_permutation(a, b, permutations=2_000, seed=4)
    assert together[1] == paired_permutation(rows_a, rows_b, ratio, permutations=2_000, seed=4)
    assert together[2] == 1.0
    assert together[0] == paired_permutation(b, a, permutations=2_000, seed=4)
    assert together[0] != paired_permutation(b, a, permutations=2_000, seed=5)
    assert paired_permutation_each([]) == []


def test_the_parts_that_swaps_are_drawn_in_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 130, 1))
    whole = paired_permutation(a, b, permutations=3_000)
    monkeypatch.setattr("captune_metrics.resampling.AT_ONCE", 1_000)
    assert paired_permutation(a, b, permutations=3_000) == whole


def test_false_alarms_come_as_often_as_p_says() -> None:
    random = np.random.default_rng(2)
    shifts = [
        Sums.mean(random.exponential(size=25) * random.choice([-1, 1], size=25)) for _ in range(600)
    ]
    nothing = Sums.mean(np.zeros(25))
    p_values = paired_permutation_each([(nothing, shift) for shift in shifts], permutations=400)
    assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.05, abs=0.027)
    assert np.mean(np.array(p_values) <= 0.5) == pytest.approx(0.5, abs=0.062)


def test_the_detectable_difference_is_seen_in_four_of_five_samples() -> None:
    random = np.random.default_rng(3)
    n, spread = 60, 1.3
    smallest = detectable_difference(spread / np.sqrt(n))
    nothing = Sums.mean(np.zeros(n))
    samples = [Sums.mean(random.normal(smallest, spread, size=n)) for _ in range(600)]
    p_values = paired_permutation_each([(nothing, s) for s in samples], permutations=400)
    assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.8, abs=0.05)
    # and the standard error that a user's only sample yields is about the true one
    [paired] = paired_bootstrap([(nothing, samples[0])])
    assert paired.standard_error == pytest.approx(spread / np.sqrt(n), rel=0.25)


def test_the_detectable_difference_is_the_textbook_one() -> None:
    # Cohen's 1.96 + 0.84: n = (2.8 / d)^2 pairs see d standard deviations
    assert detectable_difference(1.0) == pytest.approx(2.8016, abs=1e-4)
    assert detectable_difference(0.5, level=0.9, power=0.5) == pytest.approx(0.8224, abs=1e-4)
    assert detectable_difference(0.0) == 0.0
    for wrong in ({"standard_error": -1.0}, {"standard_error": 1.0, "power": 1.0}):
        with pytest.raises(ValueError, match="expected"):
            detectable_difference(**wrong)


def test_cohen_dz_by_hand() -> None:
    # mean 2, deviations -1 0 1: standard deviation 1
    assert cohen_dz([1.0, 2.0, 3.0]) == pytest.approx(2.0)
    assert cohen_dz([-1.0, -2.0, -3.0]) == pytest.approx(-2.0)
    assert cohen_dz([0.1, 0.1, 0.1]) is None
    assert cohen_dz([0.0, 0.0]) is None
    with pytest.raises(ValueError, match="expected"):
        cohen_dz([1.0])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=80))
def test_a_and_b_change_places_without_changing_p(scores: list[tuple[int, int]]) -> None:
    a, b = column([x for x, _ in scores]), column([y for _, y in scores])
    p = paired_permutation(a, b, permutations=200)
    assert p == paired_permutation(b, a, permutations=200)
    assert 1 / 201 <= p <= 1
    [one] = paired_bootstrap([(Sums(a), Sums(b))], resamples=200)
    [other] = paired_bootstrap([(Sums(b), Sums(a))], resamples=200)
    assert one.difference == -other.difference
    assert one.interval.low == pytest.approx(-other.interval.high, abs=1e-9)


def test_different_images_are_refused() -> None:
    with pytest.raises(ValueError, match="expected the same images"):
        paired_permutation(np.ones((3, 1)), np.ones((4, 1)))
    with pytest.raises(ValueError, match="expected"):
        paired_permutation(np.ones((3, 1)), np.ones((3, 1)), permutations=0)
