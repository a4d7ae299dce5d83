"""Do maps agree with people? The pointing game and the overlap with boxes, and the centre beside.

Pointing game (Zhang et al. 2018): a map hits where its strongest place lies in a box of the word's
category. Here a place is one of the patch grid's, so it hits where its middle lies in a box, or
where a box's middle lies in it: a thing smaller than a place can be hit too, and a map that is
strongest where a thing is always hits. Of places that are equally strong, the share that hits
counts, so a constant map scores exactly what a random point would score on average.

Overlap: the map is cut at the height where as much of the image is above it as the boxes cover;
intersection over union of the two. Of places at that very height each counts by an equal part, so
a constant map gets what chance gives. Maps are compared with boxes at the patch grid's resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from captune.attribution.boxes import Box, coverage

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Target:
    """Where on the patch grid the things are that a word names.

    hits: [rows, columns], whether a place counts as in a box. covered: [rows, columns], the share
    of each place that the boxes cover.
    """

    hits: Bools
    covered: Floats


def target_of(boxes: Sequence[Box], rows: int, columns: int) -> Target:
    """The target of a word from the boxes of its category."""
    down = (np.arange(rows) + 0.5) / rows
    across = (np.arange(columns) + 0.5) / columns
    hits = np.zeros((rows, columns), dtype=bool)
    for box in boxes:
        is_down = (down >= box.top) & (down <= box.bottom)
        is_across = (across >= box.left) & (across <= box.right)
        hits |= np.outer(is_down, is_across)
        middle_down, middle_across = (box.top + box.bottom) / 2, (box.left + box.right) / 2
        row, column = int(middle_down * rows), int(middle_across * columns)
        hits[min(row, rows - 1), min(column, columns - 1)] = True
    return Target(hits, coverage(boxes, rows, columns))


def hit(map: ArrayLike, target: Target) -> float:
    """The pointing game of one map [rows, columns]: 1 or 0, between them for ties."""
    strongest = _strongest(map, target)
    return float(target.hits[strongest].mean())


def overlap(map: ArrayLike, target: Target) -> float:
    """Intersection over union of the boxes and the map cut at the boxes' area, 0 to 1."""
    values = np.asarray(map, dtype=np.float64)
    area = float(target.covered.sum())
    if area == 0:
        return 0.0
    kept = _cut(np.nan_to_num(values, nan=-np.inf).ravel(), area).reshape(values.shape)
    shared = float(np.minimum(kept, target.covered).sum())
    return shared / (2 * area - shared)


def _strongest(map: ArrayLike, target: Target) -> Bools:
    values = np.asarray(map, dtype=np.float64)
    if values.shape != target.hits.shape:
        raise ValueError(f"map {values.shape} and target {target.hits.shape}: expected one grid")
    known = np.nan_to_num(values, nan=-np.inf)
    strongest: Bools = known == known.max()
    return strongest


def _cut(values: Floats, area: float) -> Floats:
    """Which part of each place is kept so that the strongest make up `area` places."""
    levels, level = np.unique(-values, return_inverse=True)
    counts = np.bincount(level, minlength=len(levels))
    before = np.concatenate([[0], np.cumsum(counts)[:-1]])
    parts = np.clip((area - before) / counts, 0, 1)
    kept: Floats = parts[level]
    return kept
