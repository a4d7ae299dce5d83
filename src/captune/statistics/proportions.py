"""Shares of images: their intervals, paired tests of two of them, several tests at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from captune_metrics.resampling import normal_quantile
from captune_metrics.text import Interval


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


def paired_difference(b: int, c: int, n: int, level: float = 0.95) -> Interval:
    """Interval of (b - c) / n, the difference of two shares measured on the same n images.

    Bonett and Price's adjusted Wald interval (2012): one is added to both discordant counts, so it
    does not collapse to a point when they are 0. b and c as in `mcnemar_exact`.
    """
    if b < 0 or c < 0 or b + c > n or n == 0:
        raise ValueError(f"{b} and {c} discordant of {n}: expected two counts within n >= 1")
    first, second = (b + 1) / (n + 2), (c + 1) / (n + 2)
    centre = first - second
    half = normal_quantile(level) * float(np.sqrt((first + second - centre**2) / (n + 2)))
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
