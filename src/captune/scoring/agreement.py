"""Do the metrics agree on which captions are good? Kendall's tau-b of their per-image scores."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from captune.runs.evaluation import Agreement, AgreementPair
from captune.statistics import kendall_tau
from captune_metrics.scores import Scores

MEASURE = "Kendall's tau-b of per-image scores, 95 % by jackknife on Fisher's scale"

# below this two metrics order images so differently that choosing one of them decides the result
DISAGREEMENT = 0.3
_FEWEST = 10  # images that a sentence is made of
# coco-caption's BLEU stays above 0 by a stand-in of 1e-15 a count: its fourth root is about 2e-4
_BLEU_ZERO = 1e-3


def agreement(scores: Mapping[str, Scores]) -> Agreement:
    """Kendall's tau-b of every two metrics, over the images that both were computed for.

    Raises ValueError where two metrics were computed for different images.
    """
    images: list[str] = list(next(iter(scores.values())).per_image) if scores else []
    columns = {}
    for id, score in scores.items():
        if score.per_image.keys() != set(images):
            raise ValueError(f"{id}: expected a score for each of the {len(images)} images")
        columns[id] = comparable(score.metric, np.array([score.per_image[i] for i in images]))
    pairs = []
    for first, second in combinations(scores, 2):
        tau, interval = kendall_tau(columns[first], columns[second])
        pairs.append(AgreementPair((first, second), tau, interval))
    sentences: list[str] = []
    if len(images) >= _FEWEST:  # the order of fewer is luck
        said = (_sentence(pair, scores) for pair in pairs)
        sentences = [sentence for sentence in said if sentence is not None]
    return Agreement(images=len(images), measure=MEASURE, pairs=pairs, sentences=sentences)


def _sentence(pair: AgreementPair, scores: Mapping[str, Scores]) -> str | None:
    """What a user has to know of two metrics where they disagree."""
    if pair.tau is None or pair.tau >= DISAGREEMENT:
        return None
    first, second = (title_of(scores[id]) for id in pair.metrics)
    how = "against each other" if pair.tau < -DISAGREEMENT else "differently"
    spread = "" if pair.interval is None else ", 95 % [{:.2f}, {:.2f}]".format(*pair.interval)
    return (
        f"{first} and {second} order these images {how}: Kendall's tau {pair.tau:.2f}{spread}; "
        "look at the captions on which they disagree before trusting either"
    )


def title_of(scores: Scores) -> str:
    """The metric as papers write it."""
    return scores.title or scores.metric


def comparable(metric: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Per-image scores [n] of which equal ones are equal: what is no difference is none.

    A BLEU without a common n-gram is 0, not the stand-in of its smoothing, and scores that rounding
    alone tells apart are equal.
    """
    rounded = np.round(values, 9)
    if metric.startswith("bleu_"):
        rounded[rounded < _BLEU_ZERO] = 0.0
    return rounded
