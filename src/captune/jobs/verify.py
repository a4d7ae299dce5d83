"""`captune verify`: does a page, a run or a metrics.json hold?

A page is built again from its runs and compared (`pages.checking`). A run is held against its own
records (`runs.kinds`), and its page against it; a score and a comparison are computed again from
their inputs, by the recipe that metrics.json names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from captune.errors import UserError
from captune.jobs import PAGE, Result
from captune.json_yaml import as_shown, differences
from captune.options.base import IN_MEMORY
from captune.options.codec import from_python
from captune.options.pages import VerifyOptions
from captune.options.scoring import CompareOptions, MetricOptions, ScoreOptions
from captune.progress import SILENT, Progress
from captune.runs import Run, read_run, versions
from captune.runs.evaluation import CompareMetrics, ScoreMetrics
from captune.runs.kinds import KINDS
from captune.runs.reader import ABOUT, METRICS, RECORDS, check_records, damaged, read_metrics, typed
from captune.runs.records import json_value
from captune.runs.writer import as_json
from captune.scoring.score import HOW_COMPUTED
from captune.tables import Column, Number, Table, number, numbers
from captune.text import counted
from captune_metrics.catalogue import metric_of
from captune_metrics.display import printable
from captune_metrics.frequency import CORPUS, SHIPPED

# Text metrics are arithmetic and come out the same on any machine; a model's features move with
# the processor and the libraries below it.
_TEXT_TOLERANCE = 1e-9
_MODEL_TOLERANCE = 1e-3
# of metrics.json, what is computed again
_COMPARED = (
    *("images", "images_of", "metrics", "agreement", "changed_captions", "verdicts"),
    *("contradiction", "verdict", "differences", "recipes", "recipes_b"),
)
# sentences, counts and orders follow the figures, and jump where those of a model move a little
_JUMPING = ("sentences", "verdicts", "verdict", "contradiction", "differences", "share_b_better")
_JUMPING_COUNTS = ("b_better", "a_better", "equal")
# of a recipe: where it ran, which decides nothing, and what a reader is told of only
_ANYWHERE = ("device",)
_NOTED = ("tokenizer_version", "package_version")
_SHOWN = 20  # differences on a terminal
_Recipes = Mapping[str, Mapping[str, Any]]


class _InputFile(Struct, frozen=True):
    path: Annotated[str, Meta(min_length=1, pattern=r"^[^\0]*$")]
    sha256: str


class _Inputs(Struct, frozen=True):
    candidates: _InputFile
    references: _InputFile | None = None
    images: _InputFile | None = None


class _BothInputs(Struct, frozen=True):
    a: _Inputs
    b: _Inputs


@dataclass(frozen=True)
class Check:
    """One figure that was computed again: of a score, or the difference of a comparison.

    name: the recipe in one line.
    """

    metric: str
    name: str
    recorded: float | None
    computed: float | None
    holds: bool


@dataclass(kw_only=True, eq=False)
class Verification(Result):
    """What came of it.

    is_page: whether `place` is a page; else it is a run. figures: numbers of the page, or of the
    run's own page, that were derived again. differing: a sentence for each thing that is not as
    it was.
    """

    place: Path
    is_page: bool = False
    figures: int = 0
    runs: int = 1
    checks: list[Check] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether everything came out again."""
        return not self.differing

    def summary(self) -> dict[str, Any]:
        """What `--json` prints."""
        return super().summary() | {
            "run": None if self.is_page else str(self.place),
            "page": str(self.place) if self.is_page else None,
            "holds": self.holds,
            "runs": self.runs,
            "figures": self.figures,
            "metrics": {
                one.metric: {"recorded": one.recorded, "computed": one.computed, "holds": one.holds}
                for one in self.checks
            },
            "differing": self.differing,
            "notes": self.notes,
        }

    def failure(self) -> str:
        """That it does not hold; "" where it does."""
        differing = counted(len(self.differing), "difference")
        return "" if self.holds else f"{printable(self.place)} does not hold; {differing}"

    def tables(self) -> list[Table]:
        """A row per metric that was computed again."""
        rows = [
            [
                check.name,
                number(check.recorded, "{:.6f}".format),
                number(check.computed, "{:.6f}".format),
                Number(check.holds, "yes" if check.holds else "NO"),
            ]
            for check in self.checks
        ]
        columns = [Column("metric", wide=True), *numbers("recorded", "computed"), Column("holds")]
        return [Table("verified", "computed again", columns, rows)] if rows else []

    def sentences(self) -> list[str]:
        """What differs, or that it holds."""
        if not self.holds:
            more = len(self.differing) - _SHOWN
            told = self.differing[:_SHOWN]
            return [*told, f"... and {more:,} more (all of them in --json)"] if more > 0 else told
        if self.is_page:
            figures = counted(self.figures, "figure")
            return [f"{figures} of {counted(self.runs, 'run')} derived again: the page holds"]
        how = "scored again" if self.checks else "counted again"
        derived = f", {counted(self.figures, 'figure')} of its page derived again"
        page = derived if self.figures else ""
        return [f"{self.place}: holds, {counted(self.images, 'image')} {how}{page}"]


def verify(place: str | Path, **options: Any) -> Verification:
    """Verify a page, a run or a metrics.json, as `captune verify`.

    options: the fields of `VerifyOptions`, such as references="moved.json".
    `result.holds` says whether it holds, `result.differing` what does not. Raises UserError for
    what is none of these and for inputs that cannot be read.
    """
    return run(from_python(VerifyOptions, place=place, **options))


def run(
    options: VerifyOptions,
    progress: Progress = SILENT,
    *,
    command: Sequence[str] = (),  # noqa: ARG001  # every job is called alike; nothing is written
) -> Verification:
    """Verify `options.place`; what moved is taken from where `options` say that it is now.

    Raises UserError for what is no page, run or metrics.json, for options that would change
    nothing, and for inputs that cannot be read.
    """
    place = options.place
    is_folder = os.path.isdir(place)  # noqa: PTH112  # pathlib's raises for a long name
    if is_folder or place.suffix == ".json":
        found = _verify_run(options, _read_run(place, is_folder=is_folder), progress)
    else:
        from captune.pages.checking import check_page

        _refuse_others(options, "a page is derived from its runs", ("runs",))
        checked = check_page(place, options.runs)
        found = Verification(
            place=place,
            is_page=True,
            figures=checked.figures,
            runs=checked.runs,
            differing=checked.differing,
            notes=checked.notes,
        )
    for note in found.notes:
        progress.message(note)
    return found


def _read_run(place: Path, *, is_folder: bool) -> Run:
    folder, name = (place, METRICS) if is_folder else (place.parent, place.name)
    has_run = name == METRICS and os.path.lexists(folder / ABOUT)
    is_alone = not has_run and (not is_folder or os.path.lexists(folder / METRICS))
    return read_metrics(folder, name) if is_alone else read_run(folder)


def _verify_run(options: VerifyOptions, run: Run, progress: Progress) -> Verification:
    runs = [run]
    if run.kind not in KINDS:
        shown = printable(f"{options.place} is a run of captune {run.kind}")
        raise UserError(f"{shown}, of which this captune knows nothing")
    if run.kind == "tune":
        from captune.pages.sources import read_runs

        runs = [source.run for source in read_runs([run.folder]).sources]
    found = Verification(place=options.place, images=run.metrics["images"], runs=len(runs))
    # a metrics.json may have been kept alone
    if (run.folder / ABOUT).is_file() or (run.folder / RECORDS).is_file():
        found.differing += [told for one in runs for told in check_records(one)]
    if run.kind == "score":
        _refuse_others(options, "a score is made as it says", _MOVED["score"])
        _score_again(found, run, options, progress)
    elif run.kind == "compare":
        _refuse_others(options, "a comparison is made as it says", _MOVED["compare"])
        _compare_again(found, run, options, progress)
    else:
        _refuse_others(options, "a run is counted again from its own records", ())
    # where the run does not hold, its page would only say so again
    if found.holds and (run.folder / ABOUT).is_file() and (run.folder / PAGE).is_file():
        _check_own_page(found, run.folder)
    return found


def _check_own_page(found: Verification, folder: Path) -> None:
    """The page that the job left in its run; one of several runs is verified by its own name."""
    from captune.pages.checking import check_page, read_page

    page = folder / PAGE
    if sum(not one.below for one in read_page(page).about.runs) != 1:
        return
    checked = check_page(page, [str(folder)])
    found.figures = checked.figures
    found.differing = [f"{PAGE}: {told}" for told in checked.differing]


_MOVED = {
    "score": ("candidates", "references", "images", "df"),
    "compare": ("a", "b", "references", "images", "df"),
}


def _refuse_others(given: VerifyOptions, why: str, allowed: Sequence[str]) -> None:
    ignored = [
        "RUN" if one.name == "runs" else f"--{one.name}"
        for one in fields(VerifyOptions)
        if one.name not in ("place", *allowed, *HOW_COMPUTED)
        and getattr(given, one.name) not in (None, [])
    ]
    if ignored:
        raise UserError(
            f"{printable(given.place)}: {why}, so {' and '.join(ignored)} would change"
            " nothing; leave that out"
        )


def _score_again(found: Verification, run: Run, given: VerifyOptions, progress: Progress) -> None:
    from captune.jobs import score

    metrics = run.typed_metrics(ScoreMetrics)
    inputs = typed(run.folder, METRICS, metrics.inputs, _Inputs, "inputs")
    recipes = {id: figure.recipe for id, figure in metrics.metrics.items()}
    has_intervals = metrics.agreement is not None or any(
        figure.interval for figure in metrics.metrics.values()
    )
    options = ScoreOptions(
        **_recorded_options(run, metrics.options, inputs, recipes, given),
        candidates=given.candidates or Path(inputs.candidates.path),
        no_interval=not has_intervals,
    )
    result = score.run(options, progress)
    again = _Again(found, run, json_value(score.metrics_of(result, options)), recipes)
    again.compare_figures("corpus")
    again.compare_inputs("", inputs, result.scored.inputs())
    again.compare_records(json_value(record) for record in score.records_of(result.scored))


def _compare_again(found: Verification, run: Run, given: VerifyOptions, progress: Progress) -> None:
    from captune.jobs import compare

    metrics = run.typed_metrics(CompareMetrics)
    inputs = typed(run.folder, METRICS, metrics.inputs, _BothInputs, "inputs")
    recipes = typed(run.folder, METRICS, metrics.recipes, dict[str, dict[str, Any]], "recipes")
    sides = (side for one in metrics.differences.values() for side in (one.a_better, one.b_better))
    options = CompareOptions(
        **_recorded_options(run, metrics.options, inputs.a, recipes, given),
        first=given.a or Path(inputs.a.candidates.path),
        second=given.b or Path(inputs.b.candidates.path),
        top=max(map(len, sides), default=0),
    )
    result = compare.run(options, progress)
    again = _Again(found, run, json_value(compare.metrics_of(result, options)), recipes)
    again.compare_figures("difference")
    for side, then, scored in zip("AB", (inputs.a, inputs.b), result.scored, strict=True):
        again.compare_inputs(f"{side}: ", then, scored.inputs())
    again.compare_records(map(json_value, compare.records_of(result)))


def _recorded_options(
    run: Run, recorded: Any, inputs: _Inputs, recipes: _Recipes, given: VerifyOptions
) -> dict[str, Any]:
    """Options of the metrics as recorded, with what was given now in the place of the old."""
    for name, value in typed(run.folder, METRICS, recorded, dict[str, Any], "options").items():
        if isinstance(value, str) and "\0" in value:
            raise damaged(run.folder, METRICS, f"options: {name} has a zero byte")
    known = {one.name: one.metadata for one in fields(MetricOptions)}
    try:
        options: MetricOptions = typed(run.folder, METRICS, recorded, MetricOptions, "options")
    except UserError as error:
        raise damaged(run.folder, METRICS, f"options: {error}") from None
    values = {name: getattr(options, name) for name in known}
    for name, about in known.items():
        if values[name] not in about.get("choices", (values[name],)):
            raise damaged(run.folder, METRICS, f"options: {name} cannot be {values[name]}")
    values["metrics"] = ",".join(recipes)
    for name, then in (("references", inputs.references), ("images", inputs.images)):
        values[name] = getattr(given, name) or (Path(then.path) if then else None)
    # a plugin may look at whatever there is, captune's own text metrics do not look at images
    if given.images is None and not any(metric_of(id).needs_images for id in recipes):
        values["images"] = None
    if given.df is not None:
        if options.df == CORPUS or options.df in SHIPPED:
            raise UserError(
                f"--df {printable(given.df)}: the run has {options.df}, which needs no other"
                " place; leave --df out"
            )
        values["df"] = str(given.df)
    for recipe in recipes.values():
        if "model" in recipe and recipe.get("dtype") in ("float32", "float16", "bfloat16"):
            values["dtype"] = recipe["dtype"]
    return values | {name: getattr(given, name) for name in HOW_COMPUTED}


class _Again:
    """What was computed again, against what is recorded; differences go into `found`."""

    def __init__(
        self, found: Verification, run: Run, now: dict[str, Any], recipes: _Recipes
    ) -> None:
        self._found = found
        self._run = run
        self._now = json.loads(as_json(now))  # as it reads after it was written
        self._by_model = {id for id, recipe in recipes.items() if "model" in recipe}
        found.images = self._now["images"]

    def compare_figures(self, shown: str) -> None:
        """metrics.json, and one figure of each metric for the table."""
        then, now = (
            {name: side.get(name) for name in _COMPARED} for side in (self._run.metrics, self._now)
        )
        notes = dict.fromkeys(_other_versions(self._run.metrics.get("versions")))
        wrong = set()
        for place, before, after in differences(then, now, self._tolerance):
            name = place.rpartition("/")[2]
            change = f"was {as_shown(before)}"
            if name in _NOTED:
                notes[f"{name} {change} then and is {as_shown(after)} now"] = None
            elif name not in _ANYWHERE and not self._jumps(place):
                wrong.add(place)
                self._found.differing.append(
                    f"metrics.json: {place} {change} and is {as_shown(after)}"
                )
        self._found.notes += notes
        for id, figures in self._run.metrics["metrics"].items():
            computed = self._now["metrics"].get(id, {}).get(shown)
            holds = f"/metrics/{id}/{shown}" not in wrong
            name = figures["name"] or id
            title = f"B − A of {name}" if shown == "difference" else name
            self._found.checks.append(Check(id, title, figures[shown], computed, holds))

    def compare_inputs(self, side: str, then: _Inputs, now: Mapping[str, Any]) -> None:
        """Whether the same bytes were read."""
        for name in ("candidates", "references", "images"):
            before, after = getattr(then, name), now[name]
            if after is None:
                continue
            if before is None:
                self._found.differing.append(f"{side}there were no {name} then")
            elif before.path != IN_MEMORY and before.sha256 != after["sha256"]:
                self._found.differing.append(
                    f"{side}the {name} are others: {printable(after['path'])} has sha256"
                    f" {after['sha256'][:12]}, computed from were {printable(before.sha256[:12])}"
                )

    def compare_records(self, now: Iterable[dict[str, Any]]) -> None:
        """The first line of the records that is not what was computed now, and how many are."""
        path = self._run.folder / RECORDS
        if not path.is_file():
            return
        other: list[str] = []
        lines = images = 0
        for then, again in zip_longest(self._run.records(), now):
            lines, images = lines + (then is not None), images + (again is not None)
            if then is None or again is None:
                continue
            then.setdefault("path", None)
            if again["path"] is None:  # nobody looked at the images
                then["path"] = None
            first = next(differences(then, again, self._tolerance), None)
            if first is not None:
                place, before, after = first
                other.append(
                    f"line {images:,} ({place} was {as_shown(before)} and is {as_shown(after)})"
                )
        shown = printable(path)
        if other:
            more = f" and {len(other) - 1:,} more" if len(other) > 1 else ""
            self._found.differing.append(f"{shown}: {other[0]}{more} came out otherwise")
        if lines != images:
            self._found.differing.append(f"{shown} has {lines:,} lines for {images:,} images")

    def _tolerance(self, place: str) -> float:
        keys = place.split("/")
        # ranks and tests move where scores of a model do, of other metrics too (Holm)
        if self._by_model and (keys[1] == "agreement" or keys[-1] in ("p", "p_holm")):
            return 10 * _MODEL_TOLERANCE
        return _MODEL_TOLERANCE if self._by_model.intersection(keys) else _TEXT_TOLERANCE

    def _jumps(self, place: str) -> bool:
        keys = set(place.split("/"))
        if keys.intersection(_JUMPING):
            return bool(self._by_model)
        return bool(keys & self._by_model and keys.intersection(_JUMPING_COUNTS))


def _other_versions(recorded: Any) -> Iterator[str]:
    then = recorded if isinstance(recorded, dict) else {}
    for package, version in versions().items():
        if then.get(package, version) != version:
            yield f"{package} was {as_shown(then[package])} then and is {version} now"
