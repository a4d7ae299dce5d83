"""Do two scores put the same images in the same order? Kendall's tau-b, with an interval.

`scipy.stats.kendalltau` gives the same tau, but importing scipy.stats takes as long as scoring a
thousand captions, and the interval needs each image's own part in it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from captune_metrics.resampling import normal_quantile
from captune_metrics.text import Interval

Counts = NDArray[np.int64]


class Tau(NamedTuple):
    """Kendall's tau-b, -1 to 1, and where it lies; None where one of the scores never varies."""

    tau: float | None
    interval: Interval | None


def kendall_tau(x: ArrayLike, y: ArrayLike, level: float = 0.95) -> Tau:
    """Tau-b of two scores [n] of the same images (Kendall 1945), in O(n log n).

    The interval is normal on Fisher's scale, atanh(tau), with the jackknife's standard error
    (Arvesen 1969 for the jackknife of U-statistics). There is none below four images, nor where
    tau is 1 or -1.
    Raises ValueError for scores of different images, or a NaN.
    """
    first, second = (np.asarray(values, dtype=np.float64) for values in (x, y))
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"expected two rows of equal length, got {first.shape}, {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("expected finite scores")
    z = normal_quantile(level)
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
    half = z * error / (1 - tau * tau)
    low, high = np.tanh(np.arctanh(tau) + np.array([-half, half]))
    return Tau(tau, Interval(float(low), float(high)))


def _dense(values: NDArray[np.float64]) -> Counts:
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
