"""`captune faithful`: from options to the leaderboard of a captioner's maps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from captune.captioning.checkpoint import read_recipe
from captune.captioning.loading import (
    captioner_folder,
    describe_captioner,
    describe_decoder,
    load_captioner,
    open_grid_cache,
)
from captune.captioning.model import Captioner
from captune.captioning.training.data import CaptionedPhotos, leaking, read_captioned
from captune.embedding import Bar
from captune.explain.boxes import Boxes, read_boxes
from captune.explain.cases import Asked, Case, cases_of, chosen_captions
from captune.explain.leaderboard import (
    FOLLOWED,
    Contest,
    ScoringOf,
    chosen,
    contest_of,
    costs_of,
    follow,
    following_of,
    reported,
    screen,
    shuffled,
)
from captune.explain.masking import mean_token, pixel_masking, token_masking
from captune.explain.methods import map_method
from captune.explain.planning import Counts, Plan, plan, plan_choosing, plan_reporting
from captune.explain.reports import Report, records_of, report_of
from captune.explain.rows import Row, rows_of
from captune.explain.sanity import Stage, cascade, correlations, entropies, sentences, shifted
from captune.explain.subject import Subject
from captune.explain.tally import MapName, Tally
from captune.features import FeatureCache
from captune.images import Skipped, find_photos
from captune.models.image_text import ImageTextModel, describe_model
from captune.models.quiet import quiet_transformers
from captune.options import FaithfulOptions
from captune.runs import check_run_folder

QUICK = 16  # photos of each stage, where a quick look is asked for
CHECKED = 8  # photos of the sanity checks
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
    rows of the two stages, on the photos that the default map was chosen on.
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
    plan: Plan
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


def measure(
    options: FaithfulOptions,
    *,
    bar: Bar = lambda what, total: nullcontext(lambda done: None),
    say: Say = lambda sentence: None,
) -> Faithful:
    """Find the map that deserves belief; nothing is written. Raises UserError.

    say: is told the estimate before anything long begins.
    """
    check_run_folder(options.out)
    place = captioner_folder(options.model)
    recipe = read_recipe(place)
    boxes, val_boxes = (
        read_boxes(path) if path else None for path in (options.boxes, options.val_boxes)
    )
    notes: list[str] = []

    def hear(sentence: str) -> None:
        notes.append(sentence)
        say(sentence)

    train = _read(options.photos, options.captions, options)
    val = None
    if options.val_captions is not None:
        val = _read(options.val_photos or options.photos, options.val_captions, options)
    for data in (train, *([val] if val else [])):
        # that a folder has more photos than this file has captions of is as it should be
        for note in (note for note in data.notes if not note.startswith(f"{data.root}:")):
            hear(note)
    if val is not None and (both := leaking(train, val)):
        hear(f"{len(both):,} photos that maps are chosen on are among those that are reported on")
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


def _read(photos: Path, captions: Path, options: FaithfulOptions) -> CaptionedPhotos:
    limit = min(options.limit or QUICK, QUICK) if options.quick else options.limit
    return read_captioned(captions, find_photos([photos]), limit=limit, seed=options.seed)


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
        self.tokens_of: ScoringOf

    def run(
        self,
        train: CaptionedPhotos,
        boxes: Boxes | None,
        val: CaptionedPhotos | None,
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
        held_back, times = self._to_report(val, val_boxes)
        last = held_back[0][1] if held_back else cases
        end = time.monotonic() + 60 * self.options.minutes
        costs = costs_of(
            self.captioner,
            cases,
            contest,
            self.tokens_of,
            None if self.options.quick else pixels_of,
        )
        photos = Counts(
            choosing=len(cases),
            reporting=len(last) if held_back else 0,
            pointing=len(last) if held_back and val_boxes else 0,
            times=times,
        )
        planned = plan(costs, photos, 60 * self.options.minutes)
        followed = min(FOLLOWED, contest.maps) + (contest.baseline is not None)
        self.say(planned.sentence(contest.maps, followed))
        screened = self._screened(cases, contest, planned)
        names = chosen(screened, contest.baseline)
        following = following_of(self.captioner, cases, names, self.tokens_of)
        choosing = plan_choosing(following, photos, end - time.monotonic())
        tally = self._followed("curves to choose by", cases[:choosing], names)
        best = rows_of(tally)
        default = best[0].name
        names = reported(best, contest.baseline)
        following = following_of(self.captioner, cases, names, self.tokens_of)
        costs = replace(costs, reporting=following)
        reporting = plan_reporting(costs, photos, end - time.monotonic())
        reports: list[Report] = []
        records: list[dict[str, Any]] = []
        if held_back:
            self.say(f"the best map is {default}; {reporting.sentence}")
        else:
            self.say(
                "chosen and reported on the same photos, which flatters the map that was chosen;"
                " give --val-captions"
            )
            reports = [
                report_of(tally, default, contest.baseline, f"{REFERENCE}, the photos chosen on")
            ]
            records = records_of(tally, default, cases)
        for title, some in held_back:
            taken = some[: max(reporting.curves, reporting.pointing)]
            found = self._followed(f"curves, {title}", taken, names, reporting.curves)
            reports.append(
                report_of(found, default, contest.baseline, f"{title}, photos held back")
            )
            records = records or records_of(found, default, some)
        if not self.options.quick:
            reports.append(self._strict(last[: reporting.strict], default, contest, pixels_of))
        sanity = self._sanity(last[:CHECKED], default)
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
            plan=replace(planned, choosing=choosing, reporting=reporting),
            images=len(cases) + photos.reporting,
            skipped=[*train.skipped, *(val.skipped if val else ()), *self.skipped],
            notes=notes,
            records=records,
            seconds=self.seconds,
        )

    def _asked(self, data: CaptionedPhotos, boxes: Boxes | None) -> Asked:
        asked = chosen_captions(data, self.captioner, boxes)
        if asked.unwritable:
            self.say(
                f"{len(asked.unwritable):,} photos are left out, for the captioner can write none"
                f" of their captions ({asked.unwritable[0]}, ...)"
            )
        return asked

    def _cases(self, asked: Asked, boxes: Boxes | None, *, generated: bool = False) -> list[Case]:
        what = "captioning" if generated else "encoding"
        with self.bar(what, len(asked.photos)) as advance:
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
            advance(len(asked.photos))
        return found

    def _to_report(
        self, val: CaptionedPhotos | None, boxes: Boxes | None
    ) -> tuple[list[tuple[str, list[Case]]], int]:
        """(title, cases) of what is reported on, and how many captions a photo has there."""
        if val is None:
            return [], 1
        asked = self._asked(val, boxes)
        by_people = self._cases(asked, boxes)
        by_captioner = self._cases(asked, boxes, generated=True)
        seed = self.options.seed
        return [
            (REFERENCE, shuffled(by_people, seed)),
            (GENERATED, shuffled(by_captioner, seed)),
        ], 2

    def _screened(self, cases: Sequence[Case], contest: Contest, planned: Plan) -> list[Row]:
        began = time.monotonic()
        with self.bar("screening", len(cases)) as advance:
            tally = screen(
                self.captioner, cases, contest, planned.methods, self.tokens_of, advance=advance
            )
        rows = rows_of(tally)
        self.seconds["screening"] = round(time.monotonic() - began, 1)
        return rows

    def _followed(
        self,
        what: str,
        cases: Sequence[Case],
        names: Sequence[MapName],
        curves: int | None = None,
    ) -> Tally:
        began = time.monotonic()
        with self.bar(what, len(cases)) as advance:
            tally = follow(
                self.captioner, cases, names, self.tokens_of, curves=curves, advance=advance
            )
        self.seconds[what] = round(time.monotonic() - began, 1)
        return tally

    def _strict(
        self, cases: Sequence[Case], default: MapName, contest: Contest, pixels_of: ScoringOf
    ) -> Report:
        """The default and the baseline once more, by pixels."""
        began = time.monotonic()
        names = list(dict.fromkeys([default, *([contest.baseline] if contest.baseline else [])]))
        with self.bar("curves by pixels", len(cases)) as advance:
            tally = follow(self.captioner, cases, names, pixels_of, advance=advance)
        self.seconds["curves by pixels"] = round(time.monotonic() - began, 1)
        title = f"{REFERENCE}, {pixels_of(cases[0]).name}"
        return report_of(tally, default, contest.baseline, title)

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
