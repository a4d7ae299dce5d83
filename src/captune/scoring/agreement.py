"""Do the metrics agree on which captions are good? Kendall's tau-b of their per-image scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captune.metrics.scores import Scores
from captune.statistics import Interval, kendall_tau

# below this two metrics order images so differently that choosing one of them decides the result
DISAGREEMENT = 0.3
_FEWEST = 10  # images that a sentence is made of
# coco-caption's BLEU stays above 0 by a stand-in of 1e-15 a count: its fourth root is about 2e-4
_BLEU_ZERO = 1e-3


@dataclass(frozen=True)
class PairAgreement:
    """How far two metrics put the images in the same order.

    tau: Kendall's tau-b, 1 the same order, 0 none in common, -1 reversed; None where one of them
    gives every image the same score. interval: 95 %, by jackknife; None for very few images.
    """

    metrics: tuple[str, str]
    titles: tuple[str, str]
    tau: float | None
    interval: Interval | None

    @property
    def sentence(self) -> str | None:
        """What a user has to know of this pair: where it disagrees, one sentence."""
        if self.tau is None or self.tau >= DISAGREEMENT:
            return None
        first, second = self.titles
        how = "against each other" if self.tau < -DISAGREEMENT else "differently"
        spread = "" if self.interval is None else ", 95 % [{:.2f}, {:.2f}]".format(*self.interval)
        return (
            f"{first} and {second} order these images {how}: Kendall's tau {self.tau:.2f}{spread}; "
            "look at the captions on which they disagree before trusting either"
        )


@dataclass(frozen=True)
class Agreement:
    """All pairs of metrics over the same images."""

    images: int
    pairs: list[PairAgreement]

    @property
    def sentences(self) -> list[str]:
        """One a pair that disagrees; none for fewer than ten images, whose order is luck."""
        if self.images < _FEWEST:
            return []
        return [pair.sentence for pair in self.pairs if pair.sentence is not None]

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "images": self.images,
            "measure": "Kendall's tau-b of per-image scores, 95 % by jackknife on Fisher's scale",
            "pairs": [
                {
                    "metrics": list(pair.metrics),
                    "tau": pair.tau,
                    "interval": None if pair.interval is None else list(pair.interval),
                }
                for pair in self.pairs
            ],
            "sentences": self.sentences,
        }


def agreement(scores: Mapping[str, Scores]) -> Agreement:
    """Kendall's tau-b of every two metrics, over the images that both were computed for.

    Raises ValueError where two metrics were computed for different images.
    """
    images: list[str] = list(next(iter(scores.values())).per_image) if scores else []
    columns = {}
    for id, score in scores.items():
        if score.per_image.keys() != set(images):
            raise ValueError(f"{id}: expected a score for each of the {len(images)} images")
        columns[id] = levels(score.metric, np.array([score.per_image[i] for i in images]))
    pairs = []
    for first, second in combinations(scores, 2):
        tau, interval = kendall_tau(columns[first], columns[second])
        titles = (title_of(scores[first]), title_of(scores[second]))
        pairs.append(PairAgreement((first, second), titles, tau, interval))
    return Agreement(len(images), pairs)


def title_of(scores: Scores) -> str:
    """The metric as papers write it."""
    return scores.title or scores.metric


def levels(metric: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Per-image scores [n], so that what is no difference is none.

    A BLEU without a common n-gram is 0, not the stand-in of its smoothing, and scores that rounding
    alone tells apart are equal.
    """
    rounded = np.round(values, 9)
    if metric.startswith("bleu_"):
        rounded[rounded < _BLEU_ZERO] = 0.0
    return rounded
