"""How many images are needed: the score of a method on more and more of the training images.

Each point is trained on the first of one random order, so the smaller set lies in the larger one,
and for as many updates: an epoch goes through a small set more often, as often as makes one of the
whole set. What differs between two points is the images, not the length of the training. All share
the encoded images, and are scored on the same validation images.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from contextlib import AbstractContextManager

from captune.captioning.training.batches import MirroredViews
from captune.captioning.training.setup import TrainingSetup
from captune.progress import Advance, Progress
from captune.runs.metrics import CurvePoint
from captune.text import counted, signed
from captune_metrics.catalogue import title_of

FOLDER = "curve"  # of a run, with one folder per smaller number of images


def subset_setup(setup: TrainingSetup, images: int) -> TrainingSetup:
    """What a tune on so many of the images has; its run lies in RUN/curve/IMAGES."""
    options, whole = setup.options, setup.data
    assert options.out is not None
    count = len(setup.train)
    order = random.Random(f"curve/{options.seed}").sample(range(count), count)  # noqa: S311
    chosen = sorted(order[:images])
    places = [chosen[n % images] for n in range(count)]
    mirrored = whole.mirrored
    if mirrored is not None:
        known = set(mirrored.images)
        mirrored = MirroredViews(
            [n for n, place in enumerate(places) if place in known], mirrored.grids
        )
    data = dataclasses.replace(
        whole,
        keys=[whole.keys[place] for place in places],
        rows=[whole.rows[place] for place in places],
        mirrored=mirrored,
    )
    return dataclasses.replace(
        setup,
        options=dataclasses.replace(options, out=options.out / FOLDER / str(images)),
        train=setup.train.only(places),
        data=data,
        progress=_Prefixed(setup.progress, counted(images, "image")),
    )


class _Prefixed:
    """A progress that says which point of the curve it is about."""

    def __init__(self, progress: Progress, what: str) -> None:
        self._progress, self._what = progress, what

    def bar(self, what: str, total: int = 0) -> AbstractContextManager[Advance]:
        return self._progress.bar(f"{self._what}, {what}", total)

    def message(self, sentence: str) -> None:
        self._progress.message(f"{self._what}, {sentence}")


def conclusion(points: Sequence[CurvePoint], metric: str, validated_on: int) -> str:
    """What to conclude of the last step, in a sentence."""
    before, last = points[-2:]
    if not (before.usable and last.usable):
        which = last.images if not last.usable else before.images
        return (
            f"the tune on {which:,} images is not usable, so nothing follows for more images; train"
            " longer first (--epochs)"
        )
    times = last.images / before.images
    step = "doubling the images" if times == 2 else f"{times:.3g} times the images"
    said = f"{step}, from {before.images:,} to {last.images:,}"
    if last.difference is None or last.interval is None:
        return f"{said}: too few validation images to tell what it changed"
    low, high = last.interval
    if low == high == last.difference == 0:
        return f"{said}, made no difference in any of {validated_on:,} validation images"
    did = (
        f"added {last.difference:.3f}" if last.difference > 0 else f"made {signed(last.difference)}"
    )
    said += (
        f", {did} {title_of(metric)} (95 % {signed(low)} to {signed(high)}, {validated_on:,}"
        " validation images)"
    )
    if low > 0:
        return f"{said}; more images would help"
    if high < 0:
        return f"{said}; more images of this kind would not help"
    return f"{said}; whether more images help cannot be told from so many validation images"
