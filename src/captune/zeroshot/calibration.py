"""Do the probabilities mean what they say? Calibration error, reliability and a fitted temperature.

A model is calibrated when, of all images it calls with a confidence of 80 %, 80 % are right. Only
the label that is put first counts here (top-label calibration, Guo et al. 2017).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from captune.runs.metrics import Calibration, Reliability, ReliabilityBin
from captune.runs.records import Interval
from captune_metrics.resampling import Doubles

if TYPE_CHECKING:
    from captune.models.encoders import Floats

Activation = Literal["softmax", "sigmoid"]
Integers = NDArray[np.intp]
Booleans = NDArray[np.bool_]

BINS = 15
FOLDS = 5
TEMPERATURES = (0.01, 100.0)
FIT_LOGITS = 2_000_000  # one number needs no more; all of 20,000 x 1,000 would take minutes
FLOOR_ROUNDS = 200


def calibrate(
    score: Callable[[Integers], Floats],
    truth: Integers,
    activation: Activation = "softmax",
    *,
    rows_at_once: int = 4096,
) -> Calibration | None:
    """Calibration of n images whose logits are asked for in parts, so they never exist at once.

    score: positions of images [k] -> their logits [k, m]; asked for every image twice.
    truth: index of the right label of each image [n].
    Images beyond the first 2,000,000 logits (20,000 images of 100 labels; at least 1,000 images),
    in a seeded random order, do not enter the fit of the temperature, but are measured like all.
    Returns None without images.
    """
    n = len(truth)
    if n == 0:
        return None
    order = np.random.default_rng(0).permutation(n)
    fold = np.empty(n, dtype=np.intp)
    fold[order] = np.arange(n) % FOLDS
    raw = _measure(score, truth, np.ones(n), activation, rows_at_once)
    if n < 2 * FOLDS:
        return Calibration(raw)
    labels = score(order[:1]).shape[1]
    sample = np.sort(order[: max(1000, FIT_LOGITS // labels)])
    logits = score(sample)
    temperature = fit_temperature(logits, truth[sample], activation)
    temperatures = np.empty(n)
    for part in range(FOLDS):
        others = fold[sample] != part
        fitted = _fit(logits[others], truth[sample][others], activation, near=temperature)
        temperatures[fold == part] = fitted
    scaled = _measure(score, truth, temperatures, activation, rows_at_once)
    return Calibration(raw, temperature, scaled)


def fit_temperature(logits: Floats, truth: Integers, activation: Activation = "softmax") -> float:
    """The T that minimises the negative log likelihood of logits / T (Guo et al. 2017).

    logits [n, m]; truth [n]. Dividing by T moves no answer, only how sure it is. The likelihood has
    one minimum (it is convex in 1 / T), searched by Brent's method over log T in 0.01..100: the
    same input gives the same T. One label leaves nothing to fit under softmax: 1.
    Do not measure calibration on the images of the fit (`calibrate` does not).
    """
    if activation == "softmax" and logits.shape[1] == 1:
        return 1.0
    return _fit(logits, truth, activation)


def negative_log_likelihood(
    logits: Floats, truth: Integers, activation: Activation = "softmax"
) -> Doubles:
    """Of each image [n], in nats: logits [n, m], truth [n].

    softmax: -log of the probability of the right label. sigmoid: the sum over the labels of the
    binary cross entropy (right label yes, all others no), which is the loss such models learn by.
    """
    right: Doubles = np.take_along_axis(logits, truth[:, None], axis=1)[:, 0].astype(np.float64)
    if activation == "softmax":
        return _log_total(logits) - right
    total: Doubles = np.logaddexp(0, logits).sum(axis=1, dtype=np.float64)
    return total - right


def top_confidence(logits: Floats, activation: Activation = "softmax") -> Doubles:
    """Probability of the label put first, of each image [n]: logits [n, m]."""
    highest = logits.max(axis=1).astype(np.float64)
    if activation == "sigmoid":
        sigmoid: Doubles = expit(highest)
        return sigmoid
    confidence: Doubles = np.exp(highest - _log_total(logits))
    return confidence


def reliability_bins(
    confidence: Doubles,
    correct: Booleans,
    bins: int = BINS,
    equal: Literal["width", "mass"] = "width",
) -> tuple[ReliabilityBin, ...]:
    """Images sorted into bins: confidence [n] in 0..1, correct [n]. Empty bins are left out.

    equal: "width", edges at 0, 1 / bins, ..., 1, each bin open below and closed above (0 belongs to
    the first); "mass", as many images in each as can be, sorted by confidence (Nguyen and O'Connor
    2015).
    """
    if equal == "width":
        place = _bins_of(confidence, bins)
        groups = [np.flatnonzero(place == index) for index in range(bins)]
        ranges = list(pairwise(np.linspace(0, 1, bins + 1)))
    else:
        groups = np.array_split(np.argsort(confidence, kind="stable"), bins)
        ranges = [(confidence[g].min(), confidence[g].max()) if g.size else (0, 0) for g in groups]
    return tuple(
        ReliabilityBin(
            low=float(low),
            high=float(high),
            count=int(group.size),
            confidence=float(confidence[group].mean()),
            accuracy=float(correct[group].mean()),
            correct=int(correct[group].sum()),
        )
        for group, (low, high) in zip(groups, ranges, strict=True)
        if group.size
    )


def expected_calibration_error(bins: tuple[ReliabilityBin, ...]) -> float:
    """Mean over images of |accuracy - confidence| of their bin, 0..1 (Naeini et al. 2015)."""
    images = sum(b.count for b in bins)
    return sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / max(images, 1)


def reliability(confidence: Doubles, correct: Booleans, nll: float = float("nan")) -> Reliability:
    """Of images with these confidences [n] in 0..1 and these answers [n].

    nll: no number where the probability of the truth is not known.
    """
    bins = reliability_bins(confidence, correct)
    of_equal_mass = reliability_bins(confidence, correct, equal="mass")
    return Reliability(
        images=len(confidence),
        ece=expected_calibration_error(bins),
        adaptive_ece=expected_calibration_error(of_equal_mass),
        ece_floor=ece_floor(confidence),
        nll=nll,
        mean_confidence=float(confidence.mean()),
        accuracy=float(correct.mean()),
        bins=bins,
    )


def ece_floor(confidence: Doubles) -> float:
    """Mean ECE of a model that is right exactly as often as its confidence [n] says.

    Each round draws whether the images are right with their own confidences as probabilities
    (consistency resampling, Broecker and Smith 2007), with a fixed seed.
    """
    random = np.random.default_rng(0)
    place = _bins_of(confidence, BINS)
    total = 0.0
    for _ in range(FLOOR_ROUNDS):
        surplus = (random.random(confidence.size) < confidence) - confidence
        total += float(np.abs(np.bincount(place, weights=surplus)).sum()) / confidence.size
    return total / FLOOR_ROUNDS


def ece_interval(confidence: Doubles, correct: Booleans) -> Interval:
    """95 % bootstrap interval of the ECE over images, with a fixed seed.

    Resampled images have larger errors than the images themselves; their mean is set right.
    """
    random = np.random.default_rng(0)
    place, surplus = _bins_of(confidence, BINS), correct - confidence
    found = []
    for _ in range(1000):
        drawn = random.integers(confidence.size, size=confidence.size)
        errors = np.bincount(place[drawn], weights=surplus[drawn])
        found.append(np.abs(errors).sum() / confidence.size)
    ece = np.abs(np.bincount(place, weights=surplus)).sum() / confidence.size
    ends = np.percentile(found, (2.5, 97.5)) - np.mean(found) + ece
    return Interval(*np.maximum(ends, 0).tolist())


def _bins_of(confidence: Doubles, bins: int) -> Integers:
    """The bin of each image [n] among those of equal width."""
    edges = np.linspace(0, 1, bins + 1)
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)


def _measure(
    score: Callable[[Integers], Floats],
    truth: Integers,
    temperatures: Doubles,
    activation: Activation,
    rows_at_once: int,
) -> Reliability:
    n = len(truth)
    confidence, nll, correct = np.empty(n), np.empty(n), np.empty(n, dtype=np.bool_)
    for start in range(0, n, rows_at_once):
        rows = np.arange(start, min(start + rows_at_once, n))
        logits = score(rows)
        correct[rows] = logits.argmax(axis=1) == truth[rows]
        scaled = (logits / temperatures[rows, None]).astype(np.float32)
        confidence[rows] = top_confidence(scaled, activation)
        nll[rows] = negative_log_likelihood(scaled, truth[rows], activation)
    return reliability(confidence, correct, float(nll.mean()))


def _log_total(logits: Floats) -> Doubles:
    """Log of the sum of exp(logits) of each image [n]."""
    highest = logits.max(axis=1, keepdims=True)
    total: Doubles = np.exp(logits - highest).sum(axis=1, dtype=np.float64)
    np.log(total, out=total)
    total += highest[:, 0]
    return total


def _fit(
    logits: Floats, truth: Integers, activation: Activation, near: float | None = None
) -> float:
    """near: a temperature beside which the minimum is looked for first."""
    from scipy.optimize import minimize_scalar  # takes longer than all that reads a run

    widest = (float(np.log(TEMPERATURES[0])), float(np.log(TEMPERATURES[1])))
    low, high = widest if near is None else (np.log(near) - 0.5, np.log(near) + 0.5)
    low, high = max(low, widest[0]), min(high, widest[1])
    doubles = logits.astype(np.float64)
    if activation == "softmax":
        doubles -= doubles.max(axis=1, keepdims=True)
    right = np.take_along_axis(doubles, truth[:, None], axis=1).mean()

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        if activation == "softmax":
            total = np.log(np.exp(doubles * scale).sum(axis=1)).mean()
        else:
            total = np.logaddexp(0, doubles * scale).sum(axis=1).mean()
        return float(total - right * scale)

    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-5})
    if near is not None and min(found.x - low, high - found.x) < 1e-3:
        return _fit(logits, truth, activation)
    # where every image is right the loss is 0 all the way down: take the end of the range
    return float(np.exp(min((low, found.x, high), key=loss)))
