"""Each figure against another implementation (scipy.stats) or a published example."""

import numpy as np
import pytest
from scipy import stats

from captune.statistics import holm, mcnemar_exact, paired_difference, wilson
from captune_metrics.display import Interval


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("successes", "n"), [(0, 7), (1, 1), (3, 10), (110, 200), (1_999, 2_000)])
def test_wilson_agrees_with_scipy(successes: int, n: int, level: float) -> None:
    theirs = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    assert wilson(successes, n, level) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_reproduces_newcombe_1998_table_one() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_of_no_image_nothing_is_known() -> None:
    assert wilson(0, 0) == Interval(0.0, 1.0)


@pytest.mark.parametrize(
    ("b", "c"), [(0, 0), (0, 1), (1, 0), (5, 5), (5, 4), (59, 6), (121, 59), (10, 700), (900, 880)]
)
def test_mcnemar_agrees_with_scipy_binomtest(b: int, c: int) -> None:
    expected = stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert mcnemar_exact(b, c) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_exact(c, b) == mcnemar_exact(b, c)


def test_mcnemar_reproduces_published_values() -> None:
    # [[101, 121], [59, 33]], the table that Wikipedia and statsmodels' documentation work through
    assert mcnemar_exact(121, 59) == pytest.approx(4.434e-06, rel=1e-3)
    # by hand: 0 or 1 head of 12 tosses in 1 + 12 of 4096 ways, and as many on the other side
    assert mcnemar_exact(11, 1) == pytest.approx(26 / 4096, abs=1e-15)


@pytest.mark.parametrize("p_values", [[0.01, 0.04, 0.03, 0.005], [0.5, 0.5, 0.9], [0.2], []])
def test_holm_reproduces_r(p_values: list[float]) -> None:
    # R: p.adjust(c(.01, .04, .03, .005), "holm") and so on
    expected = {4: [0.03, 0.06, 0.06, 0.02], 3: [1.0, 1.0, 1.0], 1: [0.2], 0: []}[len(p_values)]
    assert holm(p_values) == pytest.approx(expected)


def test_paired_difference_reproduces_bonett_and_price_2012() -> None:
    # their flu-shot example: f12 = 5, f21 = 1 of n = 40 against the formula computed by hand:
    # p12 = 6/42, p21 = 2/42, difference 4/42, se = sqrt((8/42 - (4/42)^2) / 42)
    low, high = paired_difference(5, 1, 40)
    assert low == pytest.approx(0.0952381 - 1.959964 * 0.0657205, abs=1e-6)
    assert high == pytest.approx(0.0952381 + 1.959964 * 0.0657205, abs=1e-6)


def test_paired_difference_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    counts = random.multinomial(60, [0.15, 0.08, 0.77], size=2000)
    intervals = [paired_difference(int(b), int(c), 60) for b, c, _ in counts]
    covered = np.mean([low <= 0.07 <= high for low, high in intervals])
    assert covered == pytest.approx(0.95, abs=0.02)


def test_nonsense_is_refused() -> None:
    for nonsense in (
        lambda: wilson(3, 2),
        lambda: wilson(1, 2, level=95),
        lambda: mcnemar_exact(-1, 2),
        lambda: paired_difference(3, 3, 5),
        lambda: holm([0.1, float("nan")]),
    ):
        with pytest.raises(ValueError, match="expected"):
            nonsense()
