"""How sure a share is, paired tests of shares, several tests, and rank correlation.

A p value as text: `captune.text.p_value`.

Intervals and tests of other figures are in `captune_metrics.resampling`. `scipy.stats.kendalltau`
gives the same tau, but importing scipy.stats takes as long as scoring a thousand captions, and the
interval needs each image's own part in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from captune_metrics.display import Interval
from captune_metrics.resampling import Doubles, normal_quantile

__all__ = [
    "Tau",
    "holm",
    "is_settled",
    "kendall_tau",
    "mcnemar_exact",
    "paired_difference",
    "wilson",
]

SIGNIFICANT = 0.05  # a p value below it is no luck, by the usual rule

Counts = NDArray[np.int64]


def is_settled(p: float, interval: Interval) -> bool:
    """Whether luck is no explanation of a difference with this p value and interval."""
    return p < SIGNIFICANT and (interval.low > 0 or interval.high < 0)


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share, without continuity correction (Wilson 1927).

    It keeps its level near 0 and 1 and for few images, where the textbook p +- 1.96 se does not.
    Returns shares in 0..1; of nothing (n = 0) nothing is known: (0, 1).
    Raises ValueError unless 0 <= successes <= n and 0 < level < 1.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}: expected 0 <= successes <= n")
    z = normal_quantile(level)
    if n == 0:
        return Interval(0.0, 1.0)
    share = successes / n
    centre = share + z * z / (2 * n)
    half = z * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    scale = 1 + z * z / n
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == n else (centre + half) / scale
    return Interval(low, high)


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided p of McNemar's exact test: did two answers to the same images differ by luck?

    b: images that only the first has right; c: images that only the second has right. Images that
    both have right or both have wrong say nothing about the difference and do not enter.
    Twice the smaller tail of a fair coin tossed b + c times, at most 1 (McNemar 1947).
    """
    from scipy.special import betainc  # takes longer to import than numpy

    if b < 0 or c < 0:
        raise ValueError(f"discordant counts {b} and {c}: expected none below 0")
    fewer, tosses = min(b, c), b + c
    if 2 * fewer == tosses:  # no toss at all, or as many heads as tails
        return 1.0
    # P(heads <= k of n) of a fair coin, as the regularised incomplete beta function
    return min(1.0, 2 * float(betainc(tosses - fewer, fewer + 1, 0.5)))


def paired_difference(b: int, c: int, n: int) -> Interval:
    """95 % interval of (b - c) / n, the difference of two shares measured on the same n images.

    Bonett and Price's adjusted Wald interval (2012): one is added to both discordant counts, so it
    does not collapse to a point when they are 0. b and c as in `mcnemar_exact`.
    """
    if b < 0 or c < 0 or b + c > n or n == 0:
        raise ValueError(f"{b} and {c} discordant of {n}: expected two counts within n >= 1")
    first, second = (b + 1) / (n + 2), (c + 1) / (n + 2)
    centre = first - second
    half = normal_quantile(0.95) * float(np.sqrt((first + second - centre**2) / (n + 2)))
    return Interval(max(-1.0, centre - half), min(1.0, centre + half))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values of several tests, raised so that 5 % is the risk of even one false alarm.

    Holm's step-down method (1979): as safe as Bonferroni's, never weaker. In the order given.
    Raises ValueError for anything outside 0..1.
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise ValueError("expected p values within 0..1")
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for done, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - done) * p_values[index]))
        adjusted[index] = highest
    return adjusted


class Tau(NamedTuple):
    """Kendall's tau-b, -1 to 1, and where it lies; None where one of the scores never varies."""

    tau: float | None
    interval: Interval | None


def kendall_tau(x: ArrayLike, y: ArrayLike) -> Tau:
    """Tau-b of two scores [n] of the same images (Kendall 1945), in O(n log n).

    The 95 % interval is normal on Fisher's scale, atanh(tau), with the jackknife's standard error
    (Arvesen 1969 for the jackknife of U-statistics). There is none below four images, nor where
    tau is 1 or -1.
    Raises ValueError for scores of different images, or a NaN.
    """
    first, second = (np.asarray(values, dtype=np.float64) for values in (x, y))
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"expected two rows of equal length, got {first.shape}, {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("expected finite scores")
    n = first.size
    if n < 2:
        return Tau(None, None)
    agreeing, tied_x, tied_y = _parts(_dense(first), _dense(second))
    s, ties_x, ties_y = (int(part.sum()) // 2 for part in (agreeing, tied_x, tied_y))
    pairs = n * (n - 1) // 2
    if ties_x == pairs or ties_y == pairs:
        return Tau(None, None)
    tau = s / float(np.sqrt(float(pairs - ties_x) * float(pairs - ties_y)))
    if n < 4 or not -1 + 1e-12 < tau < 1 - 1e-12:
        return Tau(tau, None)
    # leaving image i out takes away its own pairs
    fewer = pairs - (n - 1)
    varied = (fewer - (ties_x - tied_x)).astype(float) * (fewer - (ties_y - tied_y))
    if not varied.all():  # without one image nothing varies any more
        return Tau(tau, None)
    left_out = (s - agreeing) / np.sqrt(varied)
    error = float(np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum()))
    half = normal_quantile(0.95) * error / (1 - tau * tau)
    low, high = np.tanh(np.arctanh(tau) + np.array([-half, half]))
    return Tau(tau, Interval(float(low), float(high)))


def _dense(values: Doubles) -> Counts:
    """Values as 0, 1, 2, ... in their order, equal ones alike."""
    dense: Counts = np.unique(values, return_inverse=True)[1].astype(np.int64)
    return dense


def _parts(x: Counts, y: Counts) -> tuple[Counts, Counts, Counts]:
    """For each image, over the others: concordant less discordant, tied in x, tied in y.

    x, y [n]: dense ranks. Of the nine ways that another image can lie (lower, equal or higher in x
    and in y), one is counted and the rest follow from the margins.
    """
    n = x.size
    by_x, by_y = np.sort(x), np.sort(y)
    lower_x, lower_y = np.searchsorted(by_x, x), np.searchsorted(by_y, y)
    equal_x = np.searchsorted(by_x, x, "right") - lower_x
    equal_y = np.searchsorted(by_y, y, "right") - lower_y
    keys = np.sort(x * n + y)
    same = np.searchsorted(keys, x * n + y, "right") - np.searchsorted(keys, x * n + y)
    equal_x_lower_y = np.searchsorted(keys, x * n + y) - np.searchsorted(keys, x * n)
    keys = np.sort(y * n + x)
    lower_x_equal_y = np.searchsorted(keys, y * n + x) - np.searchsorted(keys, y * n)
    lower = _lower_in_both(x, y)
    lower_x_higher_y = lower_x - lower - lower_x_equal_y
    higher_x_lower_y = lower_y - lower - equal_x_lower_y
    # all others, less those that are not higher in both
    not_higher_y = lower_x - lower_x_higher_y + equal_x_lower_y + same + higher_x_lower_y
    higher_x_equal_y = equal_y - same - lower_x_equal_y
    equal_x_higher_y = equal_x - same - equal_x_lower_y
    higher = n - not_higher_y - lower_x_higher_y - higher_x_equal_y - equal_x_higher_y
    agreeing = lower + higher - lower_x_higher_y - higher_x_lower_y
    return agreeing, equal_x - 1, equal_y - 1


def _lower_in_both(x: Counts, y: Counts) -> Counts:
    """For each image, how many are lower in x and in y.

    In the order of x (equal ones by falling y), that is how many before it are lower in y: two
    numbers are told apart by the highest bit in which they differ, so the images are grouped by
    the bits above it, and the zeros before each one are counted, one bit at a time.
    """
    order = np.lexsort((-y, x))
    rest = y[order]
    counts = np.zeros(x.size, dtype=np.int64)
    for bit in range(int(y.max()).bit_length() - 1, -1, -1):
        group, ones = rest >> (bit + 1), (rest >> bit) & 1
        zeros_before = np.cumsum(1 - ones)
        start = np.searchsorted(group, group)
        before_group = np.where(start > 0, zeros_before[start - 1], 0)
        counts[order] += np.where(ones == 1, zeros_before - before_group, 0)
        again = np.argsort(rest >> bit, kind="stable")
        order, rest = order[again], rest[again]
    return counts
