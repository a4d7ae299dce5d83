"""How far each score may be trusted: intervals by resampling images, the same for all metrics."""

from __future__ import annotations

from collections.abc import Mapping

from captune.metrics.scores import Scores
from captune.statistics import Interval, Sums, bootstrap_each

_FEW_IMAGES = 10


def sums_of(scores: Scores) -> Sums:
    """The corpus figure as a function of per-image sums: the mean, unless the metric says more."""
    if scores.statistics is None or scores.of_sums is None:
        return Sums.mean(list(scores.per_image.values()))
    return Sums(scores.statistics, scores.of_sums)


def few_images(images: int) -> list[str]:
    """What a reader of intervals has to know where they rest on very few images."""
    if not 1 < images < _FEW_IMAGES:
        return []
    return [
        f"with {images} images the interval is wider in truth than it says: so few cannot show how"
        " far others would differ"
    ]


def intervals_of(
    scores: Mapping[str, Scores], *, resamples: int, seed: int
) -> dict[str, Interval | None]:
    """A 95 % interval a metric; None where there is one image, which says nothing of a spread.

    What was counted over the whole set (document frequencies) is held as it is.
    """
    known = {id: score for id, score in scores.items() if len(score.per_image) > 1}
    found = bootstrap_each(
        [sums_of(score) for score in known.values()], resamples=resamples, seed=seed
    )
    return {**dict.fromkeys(scores), **dict(zip(known, found, strict=True))}
