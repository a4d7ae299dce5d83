"""`captune faithful`: from options to the leaderboard of a captioner's maps and its files.

leaderboard.csv     a row per map and set of images, every figure with its interval
records.jsonl       a line per image: how faithful the default map of each word is
explain.json        the default map, as `captune explain --layer auto` reads it
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from captune.attribution.captioned_image import CaptionedImage
from captune.attribution.default_map import DefaultMap, write_default
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
from captune.attribution.faithful.measure import DELETION, INSERTION, POINTING, RANDOM, MapId
from captune.attribution.faithful.pointing import Boxes, read_boxes
from captune.attribution.faithful.results import (
    EvalReport,
    MapResult,
    eval_report,
    map_results,
    records_of,
)
from captune.attribution.faithful.sanity import (
    Stage,
    cascading_randomization,
    correlations,
    entropies,
    sentences,
    shifted,
)
from captune.attribution.masking import BLURRED, mean_token, pixel_masking, token_masking
from captune.attribution.methods import map_method
from captune.captioning.checkpoint import read_recipe
from captune.captioning.loading import (
    LITE,
    captioner_folder,
    describe_captioner,
    describe_decoder,
    load_captioner,
    open_grid_cache,
)
from captune.captioning.model import Captioner
from captune.captioning.training.data import CaptionedImages, leaking, read_captioned
from captune.embedding import Bar
from captune.errors import UserError
from captune.features import FeatureCache
from captune.files import home_path, printable
from captune.images import Skipped, find_images
from captune.models.encoders import ImageTextModel, describe_model
from captune.models.hub import silence_transformers
from captune.options import FaithfulOptions
from captune.runs import RunWriter
from captune.runs.place import writes_run
from captune.tables import of_mappings, write_csv
from captune.text import duration

# fractions of the minutes: screening, curves to choose by, curves to report, curves by pixels;
# what a stage leaves goes to the next
SCREENING, CHOOSING, REPORTING, STRICT = 0.4, 0.2, 0.3, 0.1
QUICK = 16  # images of each stage, where a quick look is asked for
CHECKED = 8  # images of the sanity checks
REFERENCE, GENERATED = "reference captions", "generated captions"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Sanity:
    """Of the default map: the randomisation, its mean entropy and what one pixel changes."""

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
    screened: list[MapResult]
    chosen: list[MapResult]
    reports: list[EvalReport]
    default: MapId
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
        stack.enter_context(silence_transformers())
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
        self.tokens_of: ScorerOf

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
        examples = shuffled(self._cases(asked, boxes), self.options.seed)
        fill = None
        if self.options.hide == "mean":
            fill = mean_token([example.captioned.grid for example in examples], self.captioner.grid)
        self.tokens_of = partial(_hide_tokens, self.captioner, fill)
        pixels_of = partial(_hide_pixels, self.captioner, self.encoder)
        candidates = candidates_of(self.captioner, self.encoder, quick=self.options.quick)
        held_back = self._to_report(val, val_boxes)
        followed = min(FOLLOWED, candidates.maps) + (candidates.baseline is not None)
        self.say(
            f"takes at most {duration(60 * self.options.minutes)} (--minutes), or longer where"
            f" {LEAST} images per stage need more: {candidates.maps} maps of"
            f" {len(candidates.methods)} methods are screened, then {followed} have whole curves"
        )
        ends = self._ends(bool(held_back))
        screened = self._screened(examples, candidates, ends["screening"])
        names = chosen(screened, candidates.baseline)
        found = self._followed("curves to choose by", [examples], names, ends["choosing"])
        self.stages["choosing"] = found.curves
        best = map_results(found.measurements[0])
        default = best[0].name
        if held_back:
            names = reported(best, candidates.baseline)
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
            titles, sets = [f"{REFERENCE}, the images chosen on"], [examples]
        self.stages |= {"reporting": found.curves, "pointing": found.boxes}
        reports = [
            eval_report(measurements, default, candidates.baseline, title)
            for measurements, title in zip(found.measurements, titles, strict=True)
        ]
        records = records_of(found.measurements[0], default, sets[0])
        if not self.options.quick:
            reports.append(self._strict(sets[0], default, candidates, pixels_of, ends["by pixels"]))
        sanity = self._sanity(sets[0][:CHECKED], default)
        return Faithful(
            captioner=about,
            models=[about, describe_model(self.encoder), describe_decoder(self.captioner.decoder)],
            root=train.root if val is None else val.root,
            place=place,
            hidden=self.tokens_of(examples[0]).name,
            screened=screened,
            chosen=best,
            reports=reports,
            default=default,
            sanity=sanity,
            stages=self.stages,
            images=len(examples) + (len(sets[0]) if held_back else 0),
            skipped=[*train.skipped, *(val.skipped if val else ()), *self.skipped],
            notes=notes,
            records=records,
            seconds=self.seconds,
        )

    def _ends(self, holds_back: bool) -> dict[str, float]:
        """When each stage has to be over, by `time.monotonic`."""
        fractions = {
            "screening": SCREENING,
            "choosing": CHOOSING,
            "reporting": REPORTING * holds_back,
            "by pixels": STRICT * (not self.options.quick),
        }
        spent, now, whole = 0.0, time.monotonic(), sum(fractions.values())
        ends = {}
        for stage, fraction in fractions.items():
            spent += fraction / whole
            ends[stage] = now + 60 * self.options.minutes * spent
        return ends

    def _asked(self, data: CaptionedImages, boxes: Boxes | None) -> ChosenCaptions:
        asked = chosen_captions(data, self.captioner, boxes)
        if asked.unwritable:
            self.say(
                f"{len(asked.unwritable):,} images are left out, for the captioner can write none"
                f" of their captions ({asked.unwritable[0]}, ...)"
            )
        return asked

    def _cases(
        self, asked: ChosenCaptions, boxes: Boxes | None, *, generated: bool = False
    ) -> list[Example]:
        what = "captioning" if generated else "encoding"
        with self.bar(what, len(asked.images)) as advance:
            found = examples_of(
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
    ) -> list[tuple[str, list[Example]]]:
        """(title, examples) of what is reported on."""
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

    def _screened(
        self, examples: Sequence[Example], candidates: Candidates, until: float
    ) -> list[MapResult]:
        began = time.monotonic()
        with self.bar("screening", len(examples) * len(candidates.methods)) as advance:
            measurements, self.stages["screening"] = screen(
                self.captioner, examples, candidates, self.tokens_of, until=until, advance=advance
            )
        on = self.stages["screening"]
        fewer = [f"{name} on {images}" for name, images in on.items() if images < len(examples)]
        if fewer:
            self.say(
                f"within its time, the screening took {', '.join(fewer)} of {len(examples)} images"
            )
        rows = map_results(measurements)
        self.seconds["screening"] = round(time.monotonic() - began, 1)
        return rows

    def _followed(
        self,
        what: str,
        sets: Sequence[Sequence[Example]],
        names: Sequence[MapId],
        until: float,
        *,
        scorer_of: ScorerOf | None = None,
        boxes_after: bool = False,
    ) -> CurveResults:
        began = time.monotonic()
        with self.bar(
            what, len({example.image for examples in sets for example in examples})
        ) as advance:
            found = evaluate_curves(
                self.captioner,
                sets,
                names,
                scorer_of or self.tokens_of,
                until=until,
                boxes_after=boxes_after,
                advance=advance,
            )
        self.seconds[what] = round(time.monotonic() - began, 1)
        return found

    def _strict(
        self,
        examples: Sequence[Example],
        default: MapId,
        candidates: Candidates,
        pixels_of: ScorerOf,
        until: float,
    ) -> EvalReport:
        """The default and the baseline once more, by pixels."""
        names = list(
            dict.fromkeys([default, *([candidates.baseline] if candidates.baseline else [])])
        )
        found = self._followed("curves by pixels", [examples], names, until, scorer_of=pixels_of)
        self.stages["by pixels"] = found.curves
        title = f"{REFERENCE}, {BLURRED}"
        return eval_report(found.measurements[0], default, candidates.baseline, title)

    def _sanity(self, examples: Sequence[Example], default: MapId) -> Sanity:
        began = time.monotonic()
        method = map_method(default.method)

        def maps_of(captioned: CaptionedImage) -> Tensor:
            words = range(len(captioned.words))
            return method.maps(self.captioner, captioned, default.layer_head, words)

        images = [example.captioned for example in examples]
        with self.bar("sanity checks", 2) as advance:
            stages = cascading_randomization(
                self.captioner, images, maps_of, seed=self.options.seed
            )
            advance(1)
            true = [maps_of(captioned) for captioned in images]
            moved = [maps_of(shifted(captioned, self.encoder.image)) for captioned in images]
            advance(1)
        entropy = float(np.concatenate([entropies(maps) for maps in true]).mean())
        pairs = zip(true, moved, strict=True)
        shift = float(np.concatenate([correlations(a, b) for a, b in pairs]).mean())
        self.seconds["sanity checks"] = round(time.monotonic() - began, 1)
        return Sanity(stages, entropy, shift, list(sentences(stages, entropy, shift)))


def _hide_tokens(captioner: Captioner, fill: Tensor | None, example: Example) -> Any:
    return token_masking(captioner, example.captioned, fill)


def _hide_pixels(captioner: Captioner, encoder: ImageTextModel, example: Example) -> Any:
    return pixel_masking(captioner, example.captioned, encoder.image)


TABLE = "leaderboard.csv"
SCREENED, CHOSEN = "screening, one mask", f"{INSERTION} and {DELETION}, the images chosen on"


def check_place(options: FaithfulOptions, place: Path) -> None:
    """Raises UserError where the run would be written over the captioner itself."""
    out = options.out.resolve()
    if out in (place.resolve(), home_path(options.model).resolve()):
        raise UserError(
            f"--out {printable(str(options.out))}: is the captioner's own run; name another folder"
            " (the default map is stored beside the captioner anyway)"
        )


def write_faithful(options: FaithfulOptions, found: Faithful, command: Sequence[str]) -> None:
    """Write the run, then the default map there and, where it is a run of yours, to the captioner.

    What comes with captune is not changed: `lite` has its default from the package.
    """
    with RunWriter(
        options.out,
        kind="faithful",
        options=options,
        root=found.root,
        models=found.models,
        command=command,
    ) as run:
        for record in found.records:
            run.record(record)
        run.metrics = {"images": found.images, **content(found)}
        _write_table(run.file_path(TABLE), found)
    found.written["run"] = options.out
    found.written["table"] = options.out / TABLE
    default = default_of(found)
    write_default(options.out, default)
    if options.model != LITE:
        write_default(found.place, default)
        found.written["default"] = found.place / "explain.json"


def default_of(found: Faithful) -> DefaultMap:
    """The default map with the figures that speak for it, of the report to quote."""
    report = found.reports[0]
    rows = {row.name: row for row in report.rows}
    own, random = rows[found.default], rows[RANDOM]
    figures: dict[str, Any] = {"on": report.title, "hidden": found.hidden}
    for measure in (INSERTION, DELETION, POINTING):
        if measure in own.estimates:
            figure = own.estimates[measure]
            figures[measure] = round(figure.value, 4)
            figures[f"{measure}_interval"] = [round(value, 4) for value in figure.interval]
    for measure in (INSERTION, DELETION):
        if measure in random.estimates:
            figures[f"random_{measure}"] = round(random.estimates[measure].value, 4)
    if own.pointing_centre is not None:
        figures["pointing_centre"] = round(own.pointing_centre.value, 4)
    return DefaultMap(found.default.method, found.default.layer_head, figures, found.sentence)


def content(found: Faithful) -> dict[str, Any]:
    """What `--json` and metrics.json hold."""
    return {
        "rows": [row.as_json() for row in found.reports[0].rows],
        "default": {
            "method": found.default.method,
            "layer": found.default.layer_head.layer,
            "head": found.default.layer_head.head,
            "sentence": found.sentence,
        },
        "sentences": found.reports[0].sentences,
        "hidden": found.hidden,
        "reports": [report.as_json() for report in found.reports],
        "chosen": [row.as_json() for row in found.chosen],
        "screened": [row.as_json() for row in found.screened],
        "sanity": {
            "cascading_randomization": [
                {"randomised": stage.randomised, "correlation": stage.correlation}
                for stage in found.sanity.stages
            ],
            "entropy": found.sanity.entropy,
            "shift": found.sanity.shift,
            "sentences": found.sanity.told,
        },
        "stages": found.stages,
        "skipped": [{"path": item.path, "reason": item.reason} for item in found.skipped],
        "notes": found.notes,
        "seconds": found.seconds,
    }


def _write_table(path: Path, found: Faithful) -> None:
    write_csv(path, of_mappings(_table(found)))


def _table(found: Faithful) -> Iterator[dict[str, Any]]:
    stages: list[tuple[str, Sequence[MapResult]]] = [
        *((report.title, report.rows) for report in found.reports),
        (CHOSEN, found.chosen),
        (SCREENED, found.screened),
    ]
    for stage, rows in stages:
        for row in rows:
            cells: dict[str, Any] = {"images_and_captions": stage}
            for name, value in row.as_json().items():
                if name.startswith("better_than"):
                    continue
                if name.endswith("_interval"):
                    bare = name.removesuffix("_interval")
                    low, high = value or (None, None)
                    cells |= {f"{bare}_low": low, f"{bare}_high": high}
                else:
                    cells[name] = value
            yield cells | {"worth": row.advantage}
