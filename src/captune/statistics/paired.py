"""Two systems on the same images: is their difference luck, how large is it, what would be seen?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from captune.statistics.resampling import (
    AT_ONCE,
    RESAMPLES,
    ROUNDING,
    Floats,
    OfSums,
    Sums,
    columns,
    mean_of_sums,
)
from captune.statistics.shares import normal_quantile


def paired_permutation(
    statistics_a: ArrayLike,
    statistics_b: ArrayLike,
    of_sums: OfSums = mean_of_sums,
    *,
    permutations: int = RESAMPLES,
    seed: int = 0,
) -> float:
    """Two-sided p: how often would swapping A and B by a coin an image give a difference as large?

    statistics_a, statistics_b: [n, k], row i of the same image; of_sums as in `bootstrap`.
    p = (1 + as large or larger) / (1 + permutations), never 0 (Phipson and Smyth 2010).
    Raises ValueError as `bootstrap`.
    """
    first = Sums(np.asarray(statistics_a, dtype=np.float64), of_sums)
    second = Sums(np.asarray(statistics_b, dtype=np.float64), of_sums)
    return paired_permutation_each([(first, second)], permutations=permutations, seed=seed)[0]


def paired_permutation_each(
    pairs: Sequence[tuple[Sums, Sums]], *, permutations: int = RESAMPLES, seed: int = 0
) -> list[float]:
    """As `paired_permutation`, for several pairs (A, B) of figures with the same swaps."""
    if permutations < 1:
        raise ValueError(f"{permutations} permutations: expected at least 1")
    if not pairs:
        return []
    if any(a.statistics.shape != b.statistics.shape for a, b in pairs):
        raise ValueError("expected the same images and statistics on both sides")
    (first, second), places = columns(pairs)
    n = len(first)
    step = second - first
    moved = np.concatenate([swapped @ step for swapped in _swaps(n, permutations, seed)])
    of_first, of_second = first.sum(axis=0) + moved, second.sum(axis=0) - moved
    found = []
    for (a, b), place in zip(pairs, places, strict=True):
        values_a, values_b = a.of(of_first[:, place], n), b.of(of_second[:, place], n)
        size = max(float(np.abs(values_a).max()), float(np.abs(values_b).max()))
        # what is as large but for rounding counts as as large
        least = abs(b.value - a.value) - ROUNDING * size
        extreme = int((np.abs(values_b - values_a) >= least).sum())
        found.append((1 + extreme) / (1 + permutations))
    return found


def _swaps(n: int, permutations: int, seed: int) -> Iterator[Floats]:
    """[m, n] of 0 and 1, in parts: which images have A and B swapped."""
    random = np.random.default_rng(seed)
    words = -(-n // 64)  # whole words a row, so that the parts do not change what is drawn
    at_once = max(1, AT_ONCE // n)
    for start in range(0, permutations, at_once):
        rows = min(at_once, permutations - start)
        drawn = random.integers(2**64, size=(rows, words), dtype=np.uint64)
        bits = drawn.astype("<u8").view(np.uint8)
        yield np.unpackbits(bits, axis=1, count=n).astype(np.float64)


def cohen_dz(differences: ArrayLike) -> float | None:
    """Mean over standard deviation of paired differences [n] (Cohen 1988, d of paired values).

    None where the differences do not vary. Raises ValueError for fewer than two or a NaN.
    """
    values = Sums.mean(differences).statistics[:, 0]
    spread = float(values.std(ddof=1))
    if spread <= ROUNDING * float(np.abs(values).max()):
        return None
    return float(values.mean()) / spread


def detectable_difference(
    standard_error: float, *, level: float = 0.95, power: float = 0.8
) -> float:
    """The smallest true difference that a two-sided test would see in `power` of such samples.

    (z of the level + z of the power) times the standard error of the difference: 2.80 of them.
    Raises ValueError for a negative standard error or a power outside 0..1.
    """
    if not (standard_error >= 0 and 0 < power < 1):
        raise ValueError(f"expected a standard error and a power, got {standard_error} and {power}")
    return (normal_quantile(level) + float(ndtri(power))) * standard_error
