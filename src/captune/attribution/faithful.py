"""`captune faithful`: from options to the leaderboard of a captioner's maps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from captune.attribution.boxes import Boxes, read_boxes
from captune.attribution.cases import Asked, Case, cases_of, chosen_captions
from captune.attribution.leaderboard import (
    FOLLOWED,
    LEAST,
    Contest,
    Followed,
    ScoringOf,
    chosen,
    contest_of,
    follow,
    reported,
    screen,
    shuffled,
)
from captune.attribution.masking import BLURRED, mean_token, pixel_masking, token_masking
from captune.attribution.measure import MapName
from captune.attribution.methods import map_method
from captune.attribution.results import Report, Row, records_of, report_of, rows_of
from captune.attribution.sanity import Stage, cascade, correlations, entropies, sentences, shifted
from captune.attribution.subject import Subject
from captune.captioning.checkpoint import read_recipe
from captune.captioning.loading import (
    captioner_folder,
    describe_captioner,
    describe_decoder,
    load_captioner,
    open_grid_cache,
)
from captune.captioning.model import Captioner
from captune.captioning.training.data import CaptionedImages, leaking, read_captioned
from captune.embedding import Bar
from captune.features import FeatureCache
from captune.images import Skipped, find_images
from captune.models.image_text import ImageTextModel, describe_model
from captune.models.quiet import quiet_transformers
from captune.options import FaithfulOptions
from captune.runs.place import writes_run
from captune.text import duration

# shares of the minutes: screening, curves to choose by, curves to report, curves by pixels; what a
# stage leaves goes to the next
SCREENING, CHOOSING, REPORTING, STRICT = 0.4, 0.2, 0.3, 0.1
QUICK = 16  # images of each stage, where a quick look is asked for
CHECKED = 8  # images of the sanity checks
REFERENCE, GENERATED = "reference captions", "generated captions"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Sanity:
    """Of the default map: the cascade, its mean entropy and what one pixel changes."""

    stages: list[Stage]
    entropy: float
    shift: float
    told: list[str]


@dataclass
class Faithful:
    """What was found. reports: the first is the one to quote.

    hidden, strictly: how places are hidden, in most of it and in the last report. screened, chosen:
    rows of the two stages, on the images that the default map was chosen on. stages: how many
    images each stage had time for, of the screening by method.
    """

    captioner: dict[str, Any]
    models: list[dict[str, Any]]
    root: Path
    place: Path
    hidden: str
    screened: list[Row]
    chosen: list[Row]
    reports: list[Report]
    default: MapName
    sanity: Sanity
    stages: dict[str, Any]
    images: int
    skipped: list[Skipped]
    notes: list[str]
    records: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    written: dict[str, Path] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """The default map with its figures, as the first report has them."""
        return self.reports[0].sentences[0]


@writes_run("faithful")
def measure(
    options: FaithfulOptions,
    *,
    bar: Bar = lambda what, total: nullcontext(lambda done: None),
    say: Say = lambda sentence: None,
) -> Faithful:
    """Find the map that deserves belief; nothing is written. Raises UserError.

    say: is told how long it takes before anything long begins.
    """
    place = captioner_folder(options.model)
    recipe = read_recipe(place)
    boxes, val_boxes = (
        read_boxes(path) if path else None for path in (options.boxes, options.val_boxes)
    )
    notes: list[str] = []

    def hear(sentence: str) -> None:
        notes.append(sentence)
        say(sentence)

    train = _read(options.images, options.captions, options)
    val = None
    if options.val_captions is not None:
        val = _read(options.val_images or options.images, options.val_captions, options)
    for data in (train, *([val] if val else [])):
        # that a folder has more images than this file has captions of is as it should be
        for note in (note for note in data.notes if not note.startswith(f"{data.root}:")):
            hear(note)
    if val is not None and (both := leaking(train, val)):
        hear(f"{len(both):,} images that maps are chosen on are among those that are reported on")
    with ExitStack() as stack:
        stack.enter_context(quiet_transformers())
        captioner, encoder = load_captioner(options, place, recipe)
        total = len(train) + (len(val) if val else 0)
        cache = open_grid_cache(options, encoder, total, stack, hear)
        job = _Job(options, captioner, encoder, cache, bar, hear)
        return job.run(
            train,
            boxes,
            val,
            val_boxes,
            place=place,
            about=describe_captioner(options, place, recipe),
            notes=notes,
        )


def _read(images: Path, captions: Path, options: FaithfulOptions) -> CaptionedImages:
    limit = min(options.limit or QUICK, QUICK) if options.quick else options.limit
    return read_captioned(captions, find_images([images]), limit=limit, seed=options.seed)


class _Job:
    """One leaderboard; the stages in their order."""

    def __init__(
        self,
        options: FaithfulOptions,
        captioner: Captioner,
        encoder: ImageTextModel,
        cache: FeatureCache | None,
        bar: Bar,
        say: Say,
    ) -> None:
        self.options = options
        self.captioner = captioner
        self.encoder = encoder
        self.cache = cache
        self.bar = bar
        self.say = say
        self.skipped: list[Skipped] = []
        self.seconds: dict[str, float] = {}
        self.stages: dict[str, Any] = {}
        self.tokens_of: ScoringOf

    def run(
        self,
        train: CaptionedImages,
        boxes: Boxes | None,
        val: CaptionedImages | None,
        val_boxes: Boxes | None,
        *,
        place: Path,
        about: dict[str, Any],
        notes: list[str],
    ) -> Faithful:
        """All stages."""
        asked = self._asked(train, boxes)
        cases = shuffled(self._cases(asked, boxes), self.options.seed)
        fill = None
        if self.options.hide == "mean":
            fill = mean_token([case.subject.grid for case in cases], self.captioner.grid)
        self.tokens_of = partial(_hide_tokens, self.captioner, fill)
        pixels_of = partial(_hide_pixels, self.captioner, self.encoder)
        contest = contest_of(self.captioner, quick=self.options.quick)
        held_back = self._to_report(val, val_boxes)
        followed = min(FOLLOWED, contest.maps) + (contest.baseline is not None)
        self.say(
            f"takes at most {duration(60 * self.options.minutes)} (--minutes), or longer where"
            f" {LEAST} images per stage need more: {contest.maps} maps of {len(contest.methods)}"
            f" methods are screened, then {followed} have whole curves"
        )
        ends = self._ends(bool(held_back))
        screened = self._screened(cases, contest, ends["screening"])
        names = chosen(screened, contest.baseline)
        found = self._followed("curves to choose by", [cases], names, ends["choosing"])
        self.stages["choosing"] = found.curves
        best = rows_of(found.tallies[0])
        default = best[0].name
        if held_back:
            names = reported(best, contest.baseline)
            self.say(f"the best map is {default}")
            sets = [some for _, some in held_back]
            found = self._followed(
                "curves to report", sets, names, ends["reporting"], boxes_after=True
            )
            titles = [f"{title}, images held back" for title, _ in held_back]
        else:
            self.say(
                "chosen and reported on the same images, which flatters the map that was chosen;"
                " give --val-captions"
            )
            titles, sets = [f"{REFERENCE}, the images chosen on"], [cases]
        self.stages |= {"reporting": found.curves, "pointing": found.boxes}
        reports = [
            report_of(tally, default, contest.baseline, title)
            for tally, title in zip(found.tallies, titles, strict=True)
        ]
        records = records_of(found.tallies[0], default, sets[0])
        if not self.options.quick:
            reports.append(self._strict(sets[0], default, contest, pixels_of, ends["by pixels"]))
        sanity = self._sanity(sets[0][:CHECKED], default)
        return Faithful(
            captioner=about,
            models=[about, describe_model(self.encoder), describe_decoder(self.captioner.decoder)],
            root=train.root if val is None else val.root,
            place=place,
            hidden=self.tokens_of(cases[0]).name,
            screened=screened,
            chosen=best,
            reports=reports,
            default=default,
            sanity=sanity,
            stages=self.stages,
            images=len(cases) + (len(sets[0]) if held_back else 0),
            skipped=[*train.skipped, *(val.skipped if val else ()), *self.skipped],
            notes=notes,
            records=records,
            seconds=self.seconds,
        )

    def _ends(self, holds_back: bool) -> dict[str, float]:
        """When each stage has to be over, by `time.monotonic`."""
        shares = {
            "screening": SCREENING,
            "choosing": CHOOSING,
            "reporting": REPORTING * holds_back,
            "by pixels": STRICT * (not self.options.quick),
        }
        spent, now, whole = 0.0, time.monotonic(), sum(shares.values())
        ends = {}
        for stage, share in shares.items():
            spent += share / whole
            ends[stage] = now + 60 * self.options.minutes * spent
        return ends

    def _asked(self, data: CaptionedImages, boxes: Boxes | None) -> Asked:
        asked = chosen_captions(data, self.captioner, boxes)
        if asked.unwritable:
            self.say(
                f"{len(asked.unwritable):,} images are left out, for the captioner can write none"
                f" of their captions ({asked.unwritable[0]}, ...)"
            )
        return asked

    def _cases(self, asked: Asked, boxes: Boxes | None, *, generated: bool = False) -> list[Case]:
        what = "captioning" if generated else "encoding"
        with self.bar(what, len(asked.images)) as advance:
            found = cases_of(
                self.captioner,
                self.encoder,
                asked,
                None if boxes is None else boxes.categories,
                generated=generated,
                beam=self.options.beam,
                max_tokens=self.options.max_tokens,
                cache=self.cache,
                batch_size=self.options.batch_size,
                workers=self.options.workers,
                on_skip=self.skipped.append,
            )
            advance(len(asked.images))
        return found

    def _to_report(
        self, val: CaptionedImages | None, boxes: Boxes | None
    ) -> list[tuple[str, list[Case]]]:
        """(title, cases) of what is reported on."""
        if val is None:
            return []
        asked = self._asked(val, boxes)
        by_people = self._cases(asked, boxes)
        by_captioner = self._cases(asked, boxes, generated=True)
        seed = self.options.seed
        return [
            (REFERENCE, shuffled(by_people, seed)),
            (GENERATED, shuffled(by_captioner, seed)),
        ]

    def _screened(self, cases: Sequence[Case], contest: Contest, until: float) -> list[Row]:
        began = time.monotonic()
        with self.bar("screening", len(cases) * len(contest.methods)) as advance:
            tally, self.stages["screening"] = screen(
                self.captioner, cases, contest, self.tokens_of, until=until, advance=advance
            )
        on = self.stages["screening"]
        fewer = [f"{name} on {images}" for name, images in on.items() if images < len(cases)]
        if fewer:
            self.say(
                f"within its time, the screening took {', '.join(fewer)} of {len(cases)} images"
            )
        rows = rows_of(tally)
        self.seconds["screening"] = round(time.monotonic() - began, 1)
        return rows

    def _followed(
        self,
        what: str,
        sets: Sequence[Sequence[Case]],
        names: Sequence[MapName],
        until: float,
        *,
        scoring_of: ScoringOf | None = None,
        boxes_after: bool = False,
    ) -> Followed:
        began = time.monotonic()
        with self.bar(what, len({case.image for cases in sets for case in cases})) as advance:
            found = follow(
                self.captioner,
                sets,
                names,
                scoring_of or self.tokens_of,
                until=until,
                boxes_after=boxes_after,
                advance=advance,
            )
        self.seconds[what] = round(time.monotonic() - began, 1)
        return found

    def _strict(
        self,
        cases: Sequence[Case],
        default: MapName,
        contest: Contest,
        pixels_of: ScoringOf,
        until: float,
    ) -> Report:
        """The default and the baseline once more, by pixels."""
        names = list(dict.fromkeys([default, *([contest.baseline] if contest.baseline else [])]))
        found = self._followed("curves by pixels", [cases], names, until, scoring_of=pixels_of)
        self.stages["by pixels"] = found.curves
        title = f"{REFERENCE}, {BLURRED}"
        return report_of(found.tallies[0], default, contest.baseline, title)

    def _sanity(self, cases: Sequence[Case], default: MapName) -> Sanity:
        began = time.monotonic()
        method = map_method(default.method)

        def maps_of(subject: Subject) -> Tensor:
            words = range(len(subject.words))
            return method.maps(self.captioner, subject, default.choice, words)

        subjects = [case.subject for case in cases]
        with self.bar("sanity checks", 2) as advance:
            stages = cascade(self.captioner, subjects, maps_of, seed=self.options.seed)
            advance(1)
            true = [maps_of(subject) for subject in subjects]
            moved = [maps_of(shifted(subject, self.encoder.image)) for subject in subjects]
            advance(1)
        entropy = float(np.concatenate([entropies(maps) for maps in true]).mean())
        pairs = zip(true, moved, strict=True)
        shift = float(np.concatenate([correlations(a, b) for a, b in pairs]).mean())
        self.seconds["sanity checks"] = round(time.monotonic() - began, 1)
        return Sanity(stages, entropy, shift, list(sentences(stages, entropy, shift)))


def _hide_tokens(captioner: Captioner, fill: Tensor | None, case: Case) -> Any:
    return token_masking(captioner, case.subject, fill)


def _hide_pixels(captioner: Captioner, encoder: ImageTextModel, case: Case) -> Any:
    return pixel_masking(captioner, case.subject, encoder.image)
