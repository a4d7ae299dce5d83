"""Which map of a captioner is the most faithful? Methods x layers x heads, in stages.

Screening: every map of every method, by one mask per word and by what people drew. Then the best of
them, and the raw attention of the last layer beside, by whole curves; the best by these is the
default map. It is chosen on one set of images and reported on another, with captions by people and
by the captioner; then once more by pixels, and held against the sanity checks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from torch import Tensor

from captune.attribution.captioned_image import CaptionedImage, captioned_images, model_of
from captune.attribution.deletion_insertion import MaskScorer
from captune.attribution.faithful.dataset import (
    Boxes,
    ChosenCaption,
    Example,
    chosen_captions,
    examples_of,
    shuffled,
)
from captune.attribution.faithful.measure import POINTING, Evaluator, MapId, Measurements
from captune.attribution.faithful.results import (
    Leaderboard,
    MapResult,
    eval_report,
    map_results,
    records_of,
)
from captune.attribution.faithful.sanity import SanityChecks, check_sanity
from captune.attribution.masking import BLURRED, mean_token, pixel_masking, token_masking
from captune.attribution.methods import MAP_METHODS
from captune.attribution.vlm_image import AnyModel
from captune.captioning.any_captioner import AnyCaptioner
from captune.captioning.captioner import Captioner
from captune.captioning.dataset import CaptionDataset
from captune.captioning.generate import GenerationSettings
from captune.captioning.model import CaptionModel
from captune.errors import UserError
from captune.features.cache import FeatureCache
from captune.images import Skipped
from captune.models.encoders import ImageTextModel
from captune.options.captioning import FaithfulOptions
from captune.progress import Advance, Progress
from captune.text import duration

# fractions of the minutes: screening, curves to choose by, curves to report, curves by pixels;
# what a stage leaves goes to the next
SCREENING, CHOOSING, REPORTING, BY_PIXELS = 0.4, 0.2, 0.3, 0.1
REFERENCE, GENERATED = "reference captions", "generated captions"
CHECKED = 8  # images of the sanity checks
FOLLOWED = 6  # maps that get whole curves, besides the baseline
LEAST = 8  # images that each stage has, whatever the time: fewer say nothing
SLOW = ("occlusion", "pixel-occlusion")
# how patches are hidden from the caption of an example
ScorerOf = Callable[[Example], MaskScorer]


@dataclass(frozen=True)
class ComparedMaps:
    """What is compared: maps by method; baseline: the original report's, where there is one."""

    methods: dict[str, list[MapId]]
    baseline: MapId | None


def compared_maps(
    captioner: AnyModel, encoder: ImageTextModel | None, *, quick: bool = False
) -> ComparedMaps:
    """All maps that there are for this captioner; quick: without those that occlude.

    The baseline is the raw attention of the last layer, the mean over its heads.
    Raises UserError where there is none at all.
    """
    methods: dict[str, list[MapId]] = {}
    for name in MAP_METHODS.names():
        if quick and name in SLOW:
            continue
        with suppress(UserError):  # the method has none for such a bridge or encoder
            method = MAP_METHODS.get(name)
            method.check_encoder(encoder)
            methods[name] = [MapId(name, one) for one in method.layer_heads(captioner)]
    if not methods:
        raise UserError("no method makes a map for this captioner")
    return ComparedMaps(methods, next(iter(methods.get("attention", ())), None))


def screen(
    examples: Sequence[Example],
    candidates: ComparedMaps,
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
            example = examples[number]
            evaluators.append(Evaluator(example, scorer_of(example), measurements))
            evaluators[number].screen_controls()
        evaluator, began = evaluators[number], time.monotonic()
        if evaluator.words:
            evaluator.screen(evaluator.maps_of(candidates.methods[name]))
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
    images = dict.fromkeys(example.image for examples in sets for example in examples)
    drawn = {one.image for examples in sets for one in examples if one.targets and boxes_after}
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
            making += _evaluate(evaluator, names, is_whole=is_whole)
        curves += is_whole
        boxes += has_boxes
        advance(1)
    return CurveResults(measurements, curves, boxes)


def _evaluate(evaluator: Evaluator, names: Sequence[MapId], *, is_whole: bool) -> float:
    """Seconds that the making of the maps took."""
    if not evaluator.words:
        return 0.0
    began = time.monotonic()
    maps = evaluator.maps_of(names)
    seconds = time.monotonic() - began
    if is_whole:
        evaluator.measure_control_curves()
        evaluator.measure_curves(maps)
    else:
        evaluator.compare_with_people(evaluator.controls | maps)
    return seconds


def chosen(rows: Sequence[MapResult], baseline: MapId | None, count: int = FOLLOWED) -> list[MapId]:
    """The maps of the first rows, and the baseline where it is none of them."""
    first = [row.name for row in rows if not row.is_control and (row.random or row.centre)][:count]
    return first if baseline is None or baseline in first else [*first, baseline]


def reported(rows: Sequence[MapResult], baseline: MapId | None) -> list[MapId]:
    """The maps to report on: the best of the rows, the one that points best, the baseline."""
    maps = [row for row in rows if not row.is_control]
    pointing = [row for row in maps if POINTING in row.estimates]
    names = [maps[0].name]
    if pointing:
        names.append(max(pointing, key=lambda row: row.estimates[POINTING].value).name)
    return list(dict.fromkeys([*names, *([baseline] if baseline else [])]))


class Evaluation:
    """The stages of one leaderboard in their order, within `options.minutes`.

    skipped: images that could not be read.
    """

    def __init__(
        self,
        options: FaithfulOptions,
        captioner: Captioner | AnyCaptioner,
        cache: FeatureCache | None,
        progress: Progress,
    ) -> None:
        """progress: is told how long it takes before anything long begins."""
        self.skipped: list[Skipped] = []
        self._options = options
        self._captioner, self._cache = captioner, cache
        self._model = model_of(captioner)
        self._progress = progress
        self._until: dict[str, float] = {}
        self._seconds: dict[str, float] = {}
        self._stages: dict[str, Any] = {}

    def run(
        self,
        train: CaptionDataset,
        boxes: Boxes | None,
        val: CaptionDataset | None,
        val_boxes: Boxes | None,
    ) -> Leaderboard:
        """The leaderboard of maps chosen on `train` and reported on `val`, or on `train` too.

        Raises UserError where no map can be faithful.
        """
        options, message = self._options, self._progress.message
        examples = self._examples(self._chosen_captions(train, boxes), boxes)
        candidates = compared_maps(self._model, self._captioner.encoder, quick=options.quick)
        baseline = candidates.baseline
        sets: list[list[Example]] = []
        if val is not None:
            captions = self._chosen_captions(val, val_boxes)
            sets = [self._examples(captions, val_boxes, generated=own) for own in (False, True)]
        hide_tokens = self._hiding_tokens(examples)
        count = sum(map(len, candidates.methods.values()))
        message(
            f"takes at most {duration(60 * options.minutes)} (--minutes), or longer where"
            f" {LEAST} images per stage need more: {count} maps of {len(candidates.methods)}"
            f" methods are screened, then {min(FOLLOWED, count) + (baseline is not None)} have"
            " whole curves"
        )
        self._until = self._ends(holds_back=bool(sets))
        screened = self._screen(examples, candidates, hide_tokens)
        names = chosen(screened, baseline)
        found = self._curves("choosing", "curves to choose by", [examples], names, hide_tokens)
        best = map_results(found.measurements[0])
        default = best[0].name
        if sets:
            message(f"the most faithful map is {default}")
            names, what = reported(best, baseline), "curves to report"
            found = self._curves("reporting", what, sets, names, hide_tokens, boxes_after=True)
            titles = [f"{title}, images held back" for title in (REFERENCE, GENERATED)]
        else:
            message(
                "chosen and reported on the same images, which flatters the map that was chosen;"
                " give --val-captions"
            )
            titles = [f"{REFERENCE}, the images chosen on"]
            self._stages["reporting"] = found.curves
        self._stages["pointing"] = found.boxes
        told = sets[0] if sets else examples
        measured = list(zip(found.measurements, titles, strict=True))
        if not options.quick:
            names = list(dict.fromkeys([default, *([baseline] if baseline else [])]))
            by_pixels = self._curves(
                *("by pixels", "curves by pixels", [told], names),
                lambda example: pixel_masking(example.captioned),
            )
            measured.append((by_pixels.measurements[0], f"{REFERENCE}, {BLURRED}"))
        return Leaderboard(
            hidden=hide_tokens(examples[0]).name,
            screened=screened,
            chosen=best,
            reports=[eval_report(own, default, baseline, title) for own, title in measured],
            default=default,
            sanity=self._sanity(told[:CHECKED], default),
            records=records_of(found.measurements[0], default, told),
            images=len(examples) + (len(told) if sets else 0),
            stages=self._stages,
            seconds=self._seconds,
        )

    def _hiding_tokens(self, examples: Sequence[Example]) -> ScorerOf:
        """What scores masks of patch tokens as --hide says."""
        fill, model = None, self._model
        if self._options.hide == "mean":
            if not isinstance(model, CaptionModel):
                raise UserError("--hide mean is for a captioner of captune tune; leave it out")
            fill = mean_token([one.captioned.grid for one in examples], model.grid)
        return lambda example: token_masking(example.captioned, fill=fill)

    def _ends(self, *, holds_back: bool) -> dict[str, float]:
        """When each stage has to be over, by `time.monotonic`."""
        fractions = {
            "screening": SCREENING,
            "choosing": CHOOSING,
            "reporting": REPORTING * holds_back,
            "by pixels": BY_PIXELS * (not self._options.quick),
        }
        second = 60 * self._options.minutes / sum(fractions.values())
        ends = accumulate(fraction * second for fraction in fractions.values())
        now = time.monotonic()
        return {stage: now + end for stage, end in zip(fractions, ends, strict=True)}

    def _chosen_captions(self, data: CaptionDataset, boxes: Boxes | None) -> list[ChosenCaption]:
        found, unwritable = chosen_captions(data, self._model, boxes)
        if unwritable:
            self._progress.message(
                f"{len(unwritable):,} images are left out, for the captioner can write none of"
                f" their captions ({unwritable[0]}, ...)"
            )
        return found

    def _examples(
        self, captions: Sequence[ChosenCaption], boxes: Boxes | None, *, generated: bool = False
    ) -> list[Example]:
        """With these captions, or with what the captioner writes of their images."""
        options = self._options
        what = "captioning" if generated else "encoding"
        with self._progress.bar(what, len(captions)) as advance:
            captioned = captioned_images(
                self._captioner,
                [one.image for one in captions],
                None if generated else [one.caption for one in captions],
                GenerationSettings.of(options, self._cache),
                on_skip=self.skipped.append,
            )
            found = examples_of(captioned, captions, None if boxes is None else boxes.categories)
            advance(len(captions))
        return shuffled(found, options.seed)

    def _screen(
        self, examples: Sequence[Example], candidates: ComparedMaps, scorer_of: ScorerOf
    ) -> list[MapResult]:
        with self._timed("screening", len(examples) * len(candidates.methods)) as advance:
            until = self._until["screening"]
            measurements, done = screen(
                examples, candidates, scorer_of, until=until, advance=advance
            )
            results = map_results(measurements)
        self._stages["screening"] = done
        fewer = [f"{name} on {images}" for name, images in done.items() if images < len(examples)]
        if fewer:
            self._progress.message(
                f"within its time, the screening took {', '.join(fewer)} of {len(examples)} images"
            )
        return results

    def _curves(
        self,
        stage: str,
        what: str,
        sets: Sequence[Sequence[Example]],
        names: Sequence[MapId],
        scorer_of: ScorerOf,
        *,
        boxes_after: bool = False,
    ) -> CurveResults:
        images = {example.image for examples in sets for example in examples}
        with self._timed(what, len(images)) as advance:
            found = evaluate_curves(
                sets,
                names,
                scorer_of,
                until=self._until[stage],
                boxes_after=boxes_after,
                advance=advance,
            )
        self._stages[stage] = found.curves
        return found

    def _sanity(self, examples: Sequence[Example], default: MapId) -> SanityChecks:
        method = MAP_METHODS.get(default.method)

        def maps_of(captioned: CaptionedImage) -> Tensor:
            return method.maps(captioned, default.layer_head, range(len(captioned.words)))

        images = [example.captioned for example in examples]
        with self._timed("sanity checks", len(images)):
            return check_sanity(self._model, images, maps_of, seed=self._options.seed)

    @contextmanager
    def _timed(self, what: str, total: int) -> Iterator[Advance]:
        began = time.monotonic()
        with self._progress.bar(what, total) as advance:
            yield advance
        self._seconds[what] = round(time.monotonic() - began, 1)
