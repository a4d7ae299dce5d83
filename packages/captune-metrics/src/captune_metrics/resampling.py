"""Resampling images: intervals of corpus figures, and paired tests of two systems.

Any figure will do that is a function of sums: a mean is its sum over n, BLEU a function of summed
n-gram counts. So an image is one row of statistics, a resample is one row of how often each image
was drawn, and all resamples of all figures are one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from captune_metrics.display import Interval

__all__ = [
    "RESAMPLES",
    "PairedInterval",
    "Sums",
    "bootstrap",
    "bootstrap_each",
    "cohen_dz",
    "detectable_difference",
    "mean_of_sums",
    "paired_bootstrap",
    "paired_permutation",
    "paired_permutation_each",
]

Doubles = NDArray[np.float64]
# sums over n images [m, k], n -> corpus values [m]
OfSums = Callable[[Doubles, int], Doubles]
IntervalMethod = Literal["bca", "percentile"]

RESAMPLES = 10_000
_NORMAL = NormalDist()
AT_ONCE = 250_000  # images drawn at once: 2 MB of indices and as much of counts stay in the cache
# figures that differ by no more than this, relative to their size, differ by rounding only
ROUNDING = 1e-12


def checked_level(level: float) -> float:
    """`level`, or ValueError where it is no share between 0 and 1."""
    if not 0 < level < 1:
        raise ValueError(f"level {level}: expected a fraction between 0 and 1, such as 0.95")
    return level


def normal_quantile(level: float) -> float:
    """The z that `level` of a normal distribution lies within: 1.96 for 0.95."""
    return _NORMAL.inv_cdf(1 - (1 - checked_level(level)) / 2)


def mean_of_sums(sums: Doubles, n: int) -> Doubles:
    """[m, 1] sums over n images -> [m] means: the figure whose statistics are its own values."""
    means: Doubles = sums[:, 0] / n
    return means


@dataclass(frozen=True, eq=False)
class Sums:
    """A corpus figure as a function of sums over images.

    statistics: [n, k], a row an image; of_sums: as `mean_of_sums`, which is the default.
    Raises ValueError for fewer than two images (one says nothing about the spread) or a NaN.
    """

    statistics: Doubles
    of_sums: OfSums = mean_of_sums

    def __post_init__(self) -> None:
        """Hold float64, checked."""
        rows = np.asarray(self.statistics, dtype=np.float64)
        if rows.ndim != 2 or len(rows) < 2 or not np.isfinite(rows).all():
            raise ValueError(f"expected finite statistics of at least two images, got {rows.shape}")
        object.__setattr__(self, "statistics", rows)

    @classmethod
    def mean(cls, values: ArrayLike) -> Sums:
        """The mean of per-image values [n]."""
        row: Doubles = np.asarray(values, dtype=np.float64)
        if row.ndim != 1:
            raise ValueError(f"expected values in one row, got {row.shape}")
        return cls(row[:, None])

    @property
    def images(self) -> int:
        """How many rows there are."""
        return len(self.statistics)

    @property
    def total(self) -> Doubles:
        """[k]."""
        total: Doubles = self.statistics.sum(axis=0)
        return total

    @property
    def value(self) -> float:
        """The figure over all images."""
        return float(self.of(self.total[None], self.images)[0])

    def of(self, sums: Doubles, n: int) -> Doubles:
        """Values [m] of sums [m, k] over n images. Raises ValueError where one is no number."""
        values: Doubles = np.asarray(self.of_sums(sums, n), dtype=np.float64)
        if values.shape != (len(sums),) or not np.isfinite(values).all():
            raise ValueError(
                f"expected {len(sums)} finite figures of resampled images, got {values}"
            )
        return values

    def left_out(self) -> Doubles:
        """[n]: the figure without each image in turn."""
        return self.of(self.total - self.statistics, self.images - 1)


class PairedInterval(NamedTuple):
    """Two figures of the same images and their difference, from the same resamples.

    standard_error: of the difference, the standard deviation of the resampled differences.
    """

    first: Interval
    second: Interval
    difference: float
    interval: Interval
    standard_error: float


def bootstrap(
    statistics: ArrayLike,
    of_sums: OfSums = mean_of_sums,
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    method: IntervalMethod = "bca",
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of a corpus figure, resampling images (Efron 1987).

    statistics: [n, k] per-image sums; of_sums: sums [m, k] over n images, n -> values [m].
    method: "bca" corrects for bias and skew, "percentile" is the plain quantile of the resampled
    figures. The same seed gives the same interval on any machine, to rounding.
    Raises ValueError for fewer than two images or anything that is not finite.
    """
    sample = Sums(np.asarray(statistics, dtype=np.float64), of_sums)
    return bootstrap_each([sample], resamples=resamples, level=level, method=method, seed=seed)[0]


def bootstrap_each(
    figures: Sequence[Sums],
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    method: IntervalMethod = "bca",
    seed: int = 0,
) -> list[Interval]:
    """As `bootstrap`, for several figures of the same images with the same resamples."""
    tails = _tails(level)
    drawn = _resampled(figures, resamples, seed)
    return [
        _interval(values, figure.value, figure.left_out, tails, method, _size(values))
        for figure, values in zip(figures, drawn, strict=True)
    ]


def paired_bootstrap(
    pairs: Sequence[tuple[Sums, Sums]], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[PairedInterval]:
    """Intervals of A, of B and of B - A for each pair (A, B), all from the same resamples.

    Row i of every figure belongs to the same image. Raises ValueError as `bootstrap`.
    """
    tails = _tails(0.95)
    drawn = _resampled([figure for pair in pairs for figure in pair], resamples, seed)
    found = []
    for (a, b), of_a, of_b in zip(pairs, drawn[::2], drawn[1::2], strict=True):
        differences, difference = of_b - of_a, b.value - a.value
        size = max(_size(of_a), _size(of_b))

        def left_out(a: Sums = a, b: Sums = b) -> Doubles:
            return b.left_out() - a.left_out()

        found.append(
            PairedInterval(
                _interval(of_a, a.value, a.left_out, tails, "bca", size),
                _interval(of_b, b.value, b.left_out, tails, "bca", size),
                difference,
                _interval(differences, difference, left_out, tails, "bca", size),
                float(differences.std(ddof=1)),
            )
        )
    return found


def columns(groups: Sequence[tuple[Sums, ...]]) -> tuple[list[Doubles], list[slice]]:
    """Statistics side by side, one matrix [n, K] a member of a group, and each group's columns.

    Groups that share their arrays (BLEU-1 to BLEU-4) share their columns.
    Raises ValueError where they do not have the same number of images.
    """
    if len({figure.images for group in groups for figure in group}) > 1:
        raise ValueError("expected figures of the same images, got different numbers of them")
    distinct = {_arrays(group): group for group in groups}
    matrices = [
        np.concatenate([figure.statistics for figure in member], axis=1)
        for member in zip(*distinct.values(), strict=True)
    ]
    ends = np.cumsum([group[0].statistics.shape[1] for group in distinct.values()]).tolist()
    places = dict(zip(distinct, map(slice, [0, *ends], ends), strict=False))
    return matrices, [places[_arrays(group)] for group in groups]


def _arrays(group: tuple[Sums, ...]) -> tuple[int, ...]:
    return tuple(id(figure.statistics) for figure in group)


def _resampled(figures: Sequence[Sums], resamples: int, seed: int) -> list[Doubles]:
    """[resamples] values a figure."""
    if resamples < 2:
        raise ValueError(f"{resamples} resamples: expected at least 2")
    if not figures:
        return []
    (rows,), places = columns([(figure,) for figure in figures])
    n = len(rows)
    sums = np.concatenate([counts @ rows for counts in _drawn_counts(n, resamples, seed)])
    return [figure.of(sums[:, place], n) for figure, place in zip(figures, places, strict=True)]


def _drawn_counts(n: int, resamples: int, seed: int) -> Iterator[Doubles]:
    """How often each of n images is in each resample, in parts [m, n]."""
    random = np.random.default_rng(seed)
    at_once = max(1, AT_ONCE // n)
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = random.integers(n, size=(rows, n))
        drawn += n * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        yield counts.astype(np.float64)


def _tails(level: float) -> Doubles:
    tail = (1 - checked_level(level)) / 2
    return np.array([tail, 1 - tail])


def _size(values: Doubles) -> float:
    return float(np.abs(values).max())


def _interval(
    values: Doubles,
    observed: float,
    left_out: Callable[[], Doubles],
    tails: Doubles,
    method: IntervalMethod,
    size: float,
) -> Interval:
    """values: resampled figures; left_out: the jackknife, asked for by BCa only; size: of the
    figures that `values` were made from, which says what is rounding."""
    if np.ptp(values) <= ROUNDING * size:
        return Interval(observed, observed)
    values = np.sort(values)
    if method == "bca":
        tails = _bias_corrected(tails, values, observed, left_out(), ROUNDING * size)
    return Interval(*_quantiles(values, tails).tolist())


def _quantiles(values: Doubles, levels: Doubles) -> Doubles:
    """np.quantile of sorted values, which would load numpy.ma, an eighth of a short command."""
    places = levels * (values.size - 1)
    below = np.floor(places).astype(np.int64)
    low, high = values[below], values[np.minimum(below + 1, values.size - 1)]
    fraction, gap = places - below, high - low
    return np.where(fraction < 0.5, low + gap * fraction, high - gap * (1 - fraction))


def _bias_corrected(
    tails: Doubles, values: Doubles, observed: float, left_out: Doubles, rounding: float
) -> Doubles:
    """The quantiles that BCa reads instead of `tails`; values sorted."""
    # a resampled figure that equals the observed one counts half on either side
    below = np.searchsorted(values, observed - rounding, "left")
    upto = np.searchsorted(values, observed + rounding, "right")
    share = (below + upto) / (2 * values.size)
    bias = _NORMAL.inv_cdf(np.clip(share, 0.5 / values.size, 1 - 0.5 / values.size))
    influence = left_out.mean() - left_out
    spread = (influence**2).sum() ** 1.5
    acceleration = (influence**3).sum() / (6 * spread) if spread > 0 else 0.0
    shifted = bias + np.array([_NORMAL.inv_cdf(tail) for tail in tails])
    # beyond its pole the formula would turn round; up to it the quantile grows to the last one
    scale = np.maximum(1 - acceleration * shifted, 1e-9)
    return np.array([_NORMAL.cdf(z) for z in bias + shifted / scale])


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


def _swaps(n: int, permutations: int, seed: int) -> Iterator[Doubles]:
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
    return (normal_quantile(level) + _NORMAL.inv_cdf(power)) * standard_error
