"""The leaderboard of a captioner's maps from its images: all stages, within the time that there is.

The default map is chosen on one set of images and reported on another, by captions of people and by
those that the captioner writes; then once more by pixels, and held against the sanity checks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from captune.attribution.captioned_image import CaptionedImage
from captune.attribution.deletion_insertion import MaskScorer
from captune.attribution.faithful.dataset import (
    ChosenCaptions,
    Example,
    chosen_captions,
    examples_of,
)
from captune.attribution.faithful.leaderboard import (
    FOLLOWED,
    LEAST,
    Candidates,
    CurveResults,
    ScorerOf,
    candidates_of,
    chosen,
    evaluate_curves,
    reported,
    screen,
    shuffled,
)
from captune.attribution.faithful.measure import (
    MapId,
)
from captune.attribution.faithful.pointing import Boxes
from captune.attribution.faithful.results import (
    EvalReport,
    Leaderboard,
    MapResult,
    eval_report,
    map_results,
    records_of,
)
from captune.attribution.faithful.sanity import SanityChecks, check_sanity
from captune.attribution.masking import BLURRED, mean_token, pixel_masking, token_masking
from captune.attribution.methods import map_method
from captune.captioning.captioner import Captioner
from captune.captioning.dataset import CaptionDataset
from captune.features import FeatureCache
from captune.images import Skipped
from captune.options import FaithfulOptions
from captune.progress import Advance, Progress
from captune.text import duration

# fractions of the minutes: screening, curves to choose by, curves to report, curves by pixels;
# what a stage leaves goes to the next
SCREENING, CHOOSING, REPORTING, BY_PIXELS = 0.4, 0.2, 0.3, 0.1
REFERENCE, GENERATED = "reference captions", "generated captions"
CHECKED = 8  # images of the sanity checks


class Evaluation:
    """The stages of one leaderboard in their order, within `options.minutes`."""

    def __init__(
        self,
        options: FaithfulOptions,
        captioner: Captioner,
        cache: FeatureCache | None,
        progress: Progress,
    ) -> None:
        """progress: is told how long it takes before anything long begins."""
        self.skipped: list[Skipped] = []
        self._options = options
        self._captioner, self._cache = captioner, cache
        self._model, self._encoder = captioner.model, captioner.encoder
        self._progress = progress
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
        fill = None
        if options.hide == "mean":
            fill = mean_token([one.captioned.grid for one in examples], self._model.grid)

        def hide_tokens(example: Example) -> MaskScorer:
            return token_masking(self._model, example.captioned, fill)

        candidates = candidates_of(self._model, self._encoder, quick=options.quick)
        sets = [] if val is None else self._held_back(val, val_boxes)
        with_curves = min(FOLLOWED, candidates.maps) + (candidates.baseline is not None)
        message(
            f"takes at most {duration(60 * options.minutes)} (--minutes), or longer where"
            f" {LEAST} images per stage need more: {candidates.maps} maps of"
            f" {len(candidates.methods)} methods are screened, then {with_curves} have whole curves"
        )
        ends = self._ends(holds_back=bool(sets))
        screened = self._screen(examples, candidates, hide_tokens, ends["screening"])
        names = chosen(screened, candidates.baseline)
        what = "curves to choose by"
        found = self._curves(what, [examples], names, hide_tokens, ends["choosing"])
        self._stages["choosing"] = found.curves
        best = map_results(found.measurements[0])
        default = best[0].name
        if sets:
            message(f"the most faithful map is {default}")
            names, what = reported(best, candidates.baseline), "curves to report"
            until = ends["reporting"]
            found = self._curves(what, sets, names, hide_tokens, until, boxes_after=True)
            titles = [f"{title}, images held back" for title in (REFERENCE, GENERATED)]
        else:
            message(
                "chosen and reported on the same images, which flatters the map that was chosen;"
                " give --val-captions"
            )
            titles = [f"{REFERENCE}, the images chosen on"]
        told = sets[0] if sets else examples
        self._stages |= {"reporting": found.curves, "pointing": found.boxes}
        reports = [
            eval_report(own, default, candidates.baseline, title)
            for own, title in zip(found.measurements, titles, strict=True)
        ]
        if not options.quick:
            reports.append(self._by_pixels(told, default, candidates.baseline, ends["by pixels"]))
        return Leaderboard(
            hidden=hide_tokens(examples[0]).name,
            screened=screened,
            chosen=best,
            reports=reports,
            default=default,
            sanity=self._sanity(told[:CHECKED], default),
            records=records_of(found.measurements[0], default, told),
            images=len(examples) + (len(told) if sets else 0),
            stages=self._stages,
            seconds=self._seconds,
        )

    def _ends(self, *, holds_back: bool) -> dict[str, float]:
        """When each stage has to be over, by `time.monotonic`."""
        fractions = {
            "screening": SCREENING,
            "choosing": CHOOSING,
            "reporting": REPORTING * holds_back,
            "by pixels": BY_PIXELS * (not self._options.quick),
        }
        spent, now, whole = 0.0, time.monotonic(), sum(fractions.values())
        ends = {}
        for stage, fraction in fractions.items():
            spent += fraction / whole
            ends[stage] = now + 60 * self._options.minutes * spent
        return ends

    def _chosen_captions(self, data: CaptionDataset, boxes: Boxes | None) -> ChosenCaptions:
        found = chosen_captions(data, self._model, boxes)
        if found.unwritable:
            self._progress.message(
                f"{len(found.unwritable):,} images are left out, for the captioner can write none"
                f" of their captions ({found.unwritable[0]}, ...)"
            )
        return found

    def _held_back(self, val: CaptionDataset, boxes: Boxes | None) -> list[list[Example]]:
        """The images reported on, with a caption by people and with the captioner's own."""
        captions = self._chosen_captions(val, boxes)
        return [self._examples(captions, boxes, generated=own) for own in (False, True)]

    def _examples(
        self, captions: ChosenCaptions, boxes: Boxes | None, *, generated: bool = False
    ) -> list[Example]:
        options = self._options
        with self._progress.bar(
            "captioning" if generated else "encoding", len(captions.images)
        ) as advance:
            found = examples_of(
                self._captioner,
                captions,
                None if boxes is None else boxes.categories,
                generated=generated,
                beam=options.beam,
                max_tokens=options.max_tokens,
                cache=self._cache,
                batch_size=options.batch_size,
                workers=options.workers,
                on_skip=self.skipped.append,
            )
            advance(len(captions.images))
        return shuffled(found, options.seed)

    def _screen(
        self,
        examples: Sequence[Example],
        candidates: Candidates,
        scorer_of: ScorerOf,
        until: float,
    ) -> list[MapResult]:
        with self._timed("screening", len(examples) * len(candidates.methods)) as advance:
            measurements, done = screen(
                self._model, examples, candidates, scorer_of, until=until, advance=advance
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
        what: str,
        sets: Sequence[Sequence[Example]],
        names: Sequence[MapId],
        scorer_of: ScorerOf,
        until: float,
        *,
        boxes_after: bool = False,
    ) -> CurveResults:
        images = {example.image for examples in sets for example in examples}
        with self._timed(what, len(images)) as advance:
            return evaluate_curves(
                self._model,
                sets,
                names,
                scorer_of,
                until=until,
                boxes_after=boxes_after,
                advance=advance,
            )

    def _by_pixels(
        self, examples: Sequence[Example], default: MapId, baseline: MapId | None, until: float
    ) -> EvalReport:
        """The default and the baseline once more, by pixels."""

        def hide_pixels(example: Example) -> MaskScorer:
            return pixel_masking(self._model, example.captioned, self._encoder.image)

        names = list(dict.fromkeys([default, *([baseline] if baseline else [])]))
        found = self._curves("curves by pixels", [examples], names, hide_pixels, until)
        self._stages["by pixels"] = found.curves
        return eval_report(found.measurements[0], default, baseline, f"{REFERENCE}, {BLURRED}")

    def _sanity(self, examples: Sequence[Example], default: MapId) -> SanityChecks:
        method = map_method(default.method)

        def maps_of(captioned: CaptionedImage) -> Tensor:
            words = range(len(captioned.words))
            return method.maps(self._model, captioned, default.layer_head, words)

        images = [example.captioned for example in examples]
        with self._timed("sanity checks", len(images)):
            return check_sanity(
                self._model, self._encoder.image, images, maps_of, seed=self._options.seed
            )

    @contextmanager
    def _timed(self, what: str, total: int) -> Iterator[Advance]:
        began = time.monotonic()
        with self._progress.bar(what, total) as advance:
            yield advance
        self._seconds[what] = round(time.monotonic() - began, 1)
