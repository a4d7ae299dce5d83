"""The chance that people would agree with a caption, from what the captioner knows as it writes.

And from what it chose it by, where it chose among candidates (`rerank`).

    agreement.json    beside the captioner's config.json: schema, a logistic regression, and how its
                      chances held on images that it was not fitted on

People agree with a caption that is at least as close to what others wrote of the image as the
caption of a typical person is. Each person's caption and the captioner's are compared with those of
the other people by CIDEr-D (document frequencies of coco-val2017); the captioner's has to be as
close as the person's, and to have words in common, for half of the people or more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from captune.captioning.checkpoint import read_beside
from captune.captioning.settings import AGREEMENT
from captune.errors import UserError
from captune.runs.metrics import AgreementWeights, PeopleAgreement
from captune.runs.records import Candidate, CaptionWord
from captune.text import counted, percent
from captune_metrics.display import printable
from captune_metrics.resampling import Doubles

_MIN_IMAGES = 100  # below it, chance moves a calibration error by more than 0.1
_MIN_OF_EACH = 10  # images that people agree with, and that they do not
_PLAIN, _WITH_EVIDENCE = 4, 6  # features of any caption, and of one that was chosen
_RIDGE = 1.0  # of the standardised weights: next to nothing where there are a hundred images


def features_of(
    words: Sequence[CaptionWord], mean_log_probability: float, chosen: Candidate | None = None
) -> list[float]:
    """What the chance is computed from, in the order of `AgreementWeights`, after a constant 1.

    chosen: the caption among its candidates, where it was chosen; NaN where something of it was not
    looked at.
    """
    lowest = min((word.log_probability for word in words), default=0.0)
    known = [1.0, mean_log_probability, lowest, float(len(words))]
    evidence = [] if chosen is None else [chosen.match, chosen.neighbours]
    return known + [math.nan if one is None else one for one in evidence]


def chance_of(agreement: PeopleAgreement, features: Sequence[float]) -> float:
    """The chance, 0..1, that people would agree with a caption of these features."""
    found = np.zeros(_WITH_EVIDENCE)
    found[: len(features)] = features
    weights = np.array(msgspec.structs.astuple(agreement.weights))
    if agreement.chosen is not None and len(features) == _WITH_EVIDENCE:
        asked = np.array(msgspec.structs.astuple(agreement.chosen))
        if not np.isnan(found[asked != 0]).any():
            weights = asked
    log_odds = float(weights[weights != 0] @ found[weights != 0])
    return (1 + math.tanh(log_odds / 2)) / 2  # which overflows nowhere


def agreed_with(
    captions: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> dict[str, bool]:
    """Whether people agree with each caption, of the images that two people or more captioned."""
    from captune_metrics.cider_d import CiderD
    from captune_metrics.frequency import DocumentFrequency

    several = {id: references[id] for id in captions if len(references[id]) > 1}
    others = {
        f"{id} {left_out}": [text for i, text in enumerate(own) if i != left_out]
        for id, own in several.items()
        for left_out in range(len(own))
    }
    score = CiderD(DocumentFrequency.shipped("coco-val2017"))
    indexed = list(score.index(others).values())
    people = score.score([text for own in several.values() for text in own], indexed)
    ours = score.score([captions[id] for id, own in several.items() for _ in own], indexed)
    as_close = (ours > 0) & (ours >= people - 1e-9)  # the same words in both differ by rounding
    found, start = {}, 0
    for id, own in several.items():
        found[id] = bool(2 * as_close[start : start + len(own)].sum() >= len(own))
        start += len(own)
    return found


def fit_agreement(
    features: Mapping[str, Sequence[float]],
    captions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    beam: int,
) -> PeopleAgreement | None:
    """Fitted to captions with their features, and measured by cross-fitting.

    None for fewer than 100 images with several captions by people, and where people agree with
    fewer than 10 of the captions, or do not agree with fewer than 10. What captions were chosen by
    is a part of it where the features have it.
    """
    from scipy.special import expit  # as all that only a fit needs

    from captune.zeroshot.calibration import FOLDS, ece_interval, reliability

    agreed = agreed_with(captions, references)
    x = np.array([features[id] for id in agreed])
    y = np.array(list(agreed.values()), dtype=np.bool_)
    if len(y) < _MIN_IMAGES or min(y.sum(), (~y).sum()) < _MIN_OF_EACH:
        return None
    plain, columns = x[:, :_PLAIN], np.flatnonzero(~np.isnan(x).any(axis=0))
    x = x[:, columns]
    fold = np.random.default_rng(0).permutation(len(y)) % FOLDS
    chances = np.empty(len(y))
    for part in range(FOLDS):
        chances[fold == part] = expit(x[fold == part] @ _fit(x[fold != part], y[fold != part]))
    chosen = None
    if len(columns) > _PLAIN:
        all_weights = np.zeros(_WITH_EVIDENCE)
        all_weights[columns] = _fit(x, y)
        chosen = AgreementWeights(*all_weights.tolist())
    return PeopleAgreement(
        beam=beam,
        weights=AgreementWeights(*_fit(plain, y).tolist()),
        chosen=chosen,
        brier=float(((chances - y) ** 2).mean()),
        brier_of_rate=float(y.var()),
        ece_interval=ece_interval(chances, y),
        reliability=reliability(
            chances, y, float(-np.log(np.where(y, chances, 1 - chances)).mean())
        ),
    )


def _fit(x: Doubles, y: NDArray[np.bool_]) -> Doubles:
    """Weights [k] of a logistic regression of y [n] on x [n, k], whose first column is 1."""
    from scipy.optimize import minimize
    from scipy.special import expit

    mean, scale = x[:, 1:].mean(axis=0), np.maximum(x[:, 1:].std(axis=0), 1e-9)
    z = np.hstack([x[:, :1], (x[:, 1:] - mean) / scale])
    ridge = np.array([0.0, *[_RIDGE] * len(scale)])

    def loss(weights: Doubles) -> tuple[float, Doubles]:
        logits = z @ weights
        penalty = (ridge * weights**2).sum() / 2
        slope = (expit(logits) - y) @ z + ridge * weights
        return float((np.logaddexp(0, logits) - y * logits).sum() + penalty), slope

    found = minimize(loss, np.zeros(x.shape[1]), jac=True, method="BFGS").x
    found[1:] /= scale
    found[0] -= found[1:] @ mean
    return np.asarray(found, dtype=np.float64)


def read_agreement(folder: Path) -> PeopleAgreement | None:
    """What was fitted for the captioner in `folder`; None where nothing was.

    Raises UserError for a file that this captune cannot read.
    """
    what = "the chance that people agree", "captune tune"
    return read_beside(folder / AGREEMENT, PeopleAgreement, *what)


def require_agreement(folder: Path) -> PeopleAgreement:
    """As `read_agreement`; raises UserError where nothing was fitted."""
    found = read_agreement(folder)
    if found is None:
        raise UserError(
            f"--flag-below: nothing was fitted for {printable(folder)} that says how likely"
            f" people agree with its captions; captune tune does it where {_MIN_IMAGES} validation"
            " images or more have two captions each"
        )
    return found


def flagged_sentence(flagged: int, captions: int, below: float) -> str:
    """What to make of --flag-below."""
    if not flagged:
        return f"flagged: no caption; people agree with each with {percent(below, 0)} or more"
    return (
        f"flagged: {flagged:,} of {counted(captions, 'caption')}, with which people agree with a"
        f" probability below {percent(below, 0)}; look at these first"
    )
