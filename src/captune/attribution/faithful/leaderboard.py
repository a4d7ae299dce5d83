"""Which map of a captioner is the most faithful? Methods x layers x heads, in two stages.

Screening: every map of every method, by one mask per word and by what people drew. Then the best of
them, and the raw attention of the last layer beside, by whole curves; the best by these is the
default map. Choosing is done on one set of images, reporting on another.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from captune.attribution.deletion_insertion import MaskScorer
from captune.attribution.faithful.dataset import (
    Example,
)
from captune.attribution.faithful.measure import (
    CENTRE,
    POINTING,
    RANDOM,
    Evaluator,
    MapId,
    Measurements,
)
from captune.attribution.faithful.results import (
    MapResult,
)
from captune.attribution.methods import LayerHead, map_method, method_names
from captune.captioning.model import CaptionModel
from captune.errors import UserError
from captune.models.encoders import ImageTextModel

FOLLOWED = 6  # maps that get whole curves, besides the baseline
LEAST = 8  # images that each stage has, whatever the time: fewer say nothing
SLOW = ("occlusion", "pixel-occlusion")
# how patches are hidden from the caption of an example
ScorerOf = Callable[[Example], MaskScorer]


@dataclass(frozen=True)
class Candidates:
    """What is compared: maps by method; baseline: the original report's, where there is one."""

    methods: dict[str, list[LayerHead]]
    baseline: MapId | None

    @property
    def maps(self) -> int:
        """How many there are."""
        return sum(map(len, self.methods.values()))


def candidates_of(
    captioner: CaptionModel, encoder: ImageTextModel | None, *, quick: bool = False
) -> Candidates:
    """All maps that there are for this captioner; quick: without those that occlude.

    The baseline is the raw attention of the last layer, the mean over its heads.
    Raises UserError where there is none at all.
    """
    methods: dict[str, list[LayerHead]] = {}
    for name in method_names():
        if quick and name in SLOW:
            continue
        try:
            map_method(name).check_encoder(encoder)
            methods[name] = map_method(name).layer_heads(captioner)
        except UserError:  # the method has none for such a bridge or encoder
            continue
    if not methods:
        raise UserError("no method makes a map for this captioner")
    raw = methods.get("attention")
    return Candidates(methods, MapId("attention", raw[0]) if raw else None)


def screen(
    captioner: CaptionModel,
    examples: Sequence[Example],
    candidates: Candidates,
    scorer_of: ScorerOf,
    *,
    until: float = math.inf,
    advance: Callable[[int], None] = lambda done: None,
) -> tuple[Measurements, dict[str, int]]:
    """Every map on the first examples until the time is over; on how many examples, by method.

    The methods share the time evenly, and what a quick one leaves goes to the slow. until: by
    `time.monotonic`; every method has LEAST examples all the same. advance: is told of each
    example of each method. Raises UserError where no word is more probable with its image than
    without.
    """
    measurements = Measurements()
    evaluators: list[Evaluator] = []
    spent = dict.fromkeys(candidates.methods, 0.0)
    done = dict.fromkeys(candidates.methods, 0)
    while left := [name for name in spent if done[name] < len(examples)]:
        if time.monotonic() > until:
            left = [name for name in left if done[name] < LEAST]
            if not left:
                break
        name = min(left, key=lambda one: spent[one])
        number = done[name]
        if number == len(evaluators):
            evaluators.append(
                Evaluator(examples[number], scorer_of(examples[number]), measurements)
            )
            evaluators[number].screen_controls()
        evaluator, began = evaluators[number], time.monotonic()
        if evaluator.words:
            evaluator.screen(evaluator.maps_of(captioner, name))
        spent[name] += time.monotonic() - began
        done[name] += 1
        advance(1)
    if not any(evaluator.gaining for evaluator in evaluators):
        raise UserError(
            f"no word of {len(evaluators):,} captions is more probable with its image than without"
            " it: this captioner ignores its images, so no map of it can be faithful"
        )
    return measurements, done


@dataclass(frozen=True)
class CurveResults:
    """measurements: of each set. curves, boxes: images that had curves, and people's boxes."""

    measurements: list[Measurements]
    curves: int
    boxes: int


def evaluate_curves(
    captioner: CaptionModel,
    sets: Sequence[Sequence[Example]],
    names: Sequence[MapId],
    scorer_of: ScorerOf,
    *,
    until: float = math.inf,
    boxes_after: bool = False,
    advance: Callable[[int], None] = lambda done: None,
) -> CurveResults:
    """Whole curves of these maps, image after image, until the time is over.

    sets: of several captions of the same images; an image has curves in all of them or in none.
    until: as in `screen`. boxes_after: keep up to half of the time for further images, which are
    only compared with what people drew: that takes no masks.
    """
    by_image = [{example.image: example for example in examples} for examples in sets]
    everything = [example for examples in sets for example in examples]
    images = list(dict.fromkeys(example.image for example in everything))
    drawn = {example.image for example in everything if example.targets} if boxes_after else ()
    measurements = [Measurements() for _ in sets]
    began, making, curves, boxes = time.monotonic(), 0.0, 0, 0
    is_whole = True
    for number, image in enumerate(images):
        now = time.monotonic()
        kept_s = min((until - began) / 2, making / max(1, curves) * max(0, len(drawn) - boxes))
        is_whole = is_whole and (number < LEAST or now + kept_s < until)
        if not is_whole and (now > until or not boxes_after):
            break
        has_boxes = False
        for examples, own in zip(by_image, measurements, strict=True):
            example = examples.get(image)
            if example is None or not (is_whole or example.targets):
                continue
            has_boxes = has_boxes or bool(example.targets)
            evaluator = Evaluator(example, scorer_of(example), own, curves=is_whole)
            making += _evaluate(evaluator, captioner, names, is_whole=is_whole)
        curves += is_whole
        boxes += has_boxes
        advance(1)
    return CurveResults(measurements, curves, boxes)


def _evaluate(
    evaluator: Evaluator, captioner: CaptionModel, names: Sequence[MapId], *, is_whole: bool
) -> float:
    """Seconds that the making of the maps took."""
    if not evaluator.words:
        return 0.0
    began = time.monotonic()
    maps = maps_by_name(evaluator, captioner, names)
    seconds = time.monotonic() - began
    if is_whole:
        evaluator.measure_control_curves()
        evaluator.measure_curves(maps)
    else:
        evaluator.compare_with_people(evaluator.controls | maps)
    return seconds


def maps_by_name(
    evaluator: Evaluator, captioner: CaptionModel, names: Sequence[MapId]
) -> dict[MapId, Tensor]:
    """The maps of these names, those of one method at once."""
    methods: dict[str, list[LayerHead]] = {}
    for name in names:
        methods.setdefault(name.method, []).append(name.layer_head)
    found: dict[MapId, Tensor] = {}
    for method, layer_heads in methods.items():
        found |= evaluator.maps_of(captioner, method, layer_heads)
    return {name: found[name] for name in names}


def chosen(rows: Sequence[MapResult], baseline: MapId | None, count: int = FOLLOWED) -> list[MapId]:
    """The maps of the first rows, and the baseline where it is none of them."""
    maps = [row.name for row in rows if row.random or row.centre]
    first = [name for name in maps if name not in (RANDOM, CENTRE)][:count]
    return first if baseline is None or baseline in first else [*first, baseline]


def reported(rows: Sequence[MapResult], baseline: MapId | None) -> list[MapId]:
    """The maps to report on: the best of the rows, the one that points best, the baseline."""
    maps = [row for row in rows if row.name not in (RANDOM, CENTRE)]
    pointing = [row for row in maps if POINTING in row.estimates]
    names = [maps[0].name]
    if pointing:
        names.append(max(pointing, key=lambda row: row.estimates[POINTING].value).name)
    return list(dict.fromkeys([*names, *([baseline] if baseline else [])]))


def shuffled(examples: Sequence[Example], seed: int) -> list[Example]:
    """In a random order that depends on the seed only: what takes the first few takes a sample."""
    order = list(examples)
    random.Random(seed).shuffle(order)  # noqa: S311
    return order
