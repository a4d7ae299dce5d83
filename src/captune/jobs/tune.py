"""`captune tune`: teach a frozen language model to describe images.

    RUN/config.yaml     every option, for --config
    RUN/lora/           a method's tuned captioner and run (captioning.training.state)
    RUN/table.csv       one row per method
    RUN/curve/300/lora/ of --curve: the same on fewer images
    RUN/metrics.json, run.json, records.jsonl   of the run; the records are the best method's
    RUN/plots/curves.png, report.html           drawn from them

The same command goes on where a killed one was: finished methods are not trained again.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from captune.captioning.bridge import BRIDGES
from captune.captioning.dataset import MatchedCaptions
from captune.captioning.decoder_parts import find_parts
from captune.captioning.rerank import chosen_sentence
from captune.captioning.settings import config_of
from captune.captioning.training import state
from captune.captioning.training.batches import MirroredViews
from captune.captioning.training.budget import check_budget, planned, planned_in
from captune.captioning.training.checks import check_possible, read_inputs
from captune.captioning.training.frozen import this_process
from captune.captioning.training.run import built_in, requested, run_writer, train_method
from captune.captioning.training.setup import TrainingSetup, prepare_training
from captune.captioning.training.state import with_config, write_config
from captune.captioning.tuning import TUNING_METHODS
from captune.features.cache import cache_for
from captune.jobs import Result, page_tables
from captune.models.hub import silence_transformers
from captune.options.codec import from_python
from captune.options.tuning import TuneOptions
from captune.pages.figures import draw_figures
from captune.progress import SILENT, Advance, Noting, Progress
from captune.runs import Run, read_run
from captune.runs.metrics import QUOTED, AgainstBest, Curve, CurvePoint, Tuned
from captune.runs.writer import run_place
from captune.scoring.compare import compare_scores, compare_with_best
from captune.tables import Table, of_mappings, write_csv
from captune.text import counted, signed
from captune_metrics.catalogue import title_of
from captune_metrics.scores import Scores

CURVE = "curve"  # of a run, with one folder per smaller number of images


@dataclass(kw_only=True, eq=False)
class TuneResult(Result):
    """What a tune found.

    methods: in the order asked. best: one of them, by `select`; one that is usable, if any is.
    warning: that so few updates cannot work, said before the training. curve: the score by the
    number of images, where it was asked for. against_best: the other methods less the best one.
    """

    methods: list[Tuned]
    best: str
    select: str
    trained_on: int
    warning: str | None = None
    curve: Curve | None = None
    against_best: dict[str, AgainstBest] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """What `--json` prints."""
        return super().summary() | {
            "trained_on": self.trained_on,
            "best": self.best,
            "select": self.select,
            "warning": self.warning,
            "methods": [
                {
                    **_row(one),
                    "findings": to_builtins(one.findings),
                    "parts": one.trained,
                    "names": {id: score.name for id, score in one.scores.items()},
                }
                for one in self.methods
            ],
            "curve": to_builtins(self.curve),
            "notes": self.notes,
        }

    def tables(self) -> list[Table]:
        """The methods side by side, and the scores by the number of images."""
        return page_tables("tune", self.figures())

    def figures(self) -> dict[str, Any]:
        """What metrics.json holds of the result."""
        names = (
            *("images", "trained_on", "warning", "curve", "best", "select", "methods"),
            *("against_best", "skipped", "notes"),
        )
        return {name: getattr(self, name) for name in names}

    def headline(self) -> str:
        """Which methods are not usable, before any score."""
        said = [f"{one.method}: not usable: {why}" for one in self.methods for why in one.unusable]
        return "\n".join(said)

    def sentences(self) -> list[str]:
        """What was trained on what, and what the checks of each method say."""
        best = f"best by {self.select}: {self.best}"
        if all(one.unusable for one in self.methods):
            best = "nothing usable came of it"
        return [
            *([self.curve.sentence] if self.curve else []),
            f"{counted(self.images, 'validation image')}, trained on"
            f" {counted(self.trained_on, 'image')}, {best}",
            *(
                f"{one.method}: {'problem: ' if finding.wrong else ''}{finding.sentence}"
                for one in self.methods
                for finding in one.findings
                if not finding.is_fatal
            ),
            *(
                f"{one.method}: {chosen_sentence(one.reranking)}"
                for one in self.methods
                if one.reranking is not None
            ),
        ]


def tune(
    images: str | Path,
    *,
    captions: str | Path,
    val_captions: str | Path | None = None,
    out: str | Path,
    **options: Any,
) -> TuneResult:
    """Teach a frozen language model to describe images, as `captune tune`.

    options: the fields of `TuneOptions`, such as method="lora,prefix". The same call goes
    on where a killed one was. Raises UserError for what cannot be done.
    """
    typed = {"images": images, "captions": captions, "out": out, **options}
    if val_captions is not None:  # which a config may name
        typed["val_captions"] = val_captions
    made = with_config(from_python(TuneOptions, **typed), list(typed))
    return run(made)


def run(
    options: TuneOptions,
    progress: Progress = SILENT,
    *,
    command: Sequence[str] = (),
    stop: Callable[[], bool] = lambda: False,
    inputs: Sequence[MatchedCaptions] = (),
) -> TuneResult:
    """Train, and leave table, curves and page; the same call goes on where a killed one was.

    command: the words that made this run, kept in it. stop: says whether to end before the end,
    with a checkpoint (errors.Stopped). inputs: of `checks.read_inputs`, where they were read
    already. Of several processes the first one speaks and writes.
    Raises UserError for what cannot be done.
    """
    settings = check_possible(options)
    inputs = inputs or read_inputs(options)
    process = this_process(options)
    is_first = process.is_main_process
    notes: list[str] = []
    say = progress.message if is_first else SILENT.message
    heard = Noting(progress if is_first else SILENT, notes)
    out = options.out
    assert out is not None
    with ExitStack() as stack:
        if is_first:
            stack.enter_context(run_place(options, "tune", progress.message))
            for sentence in state.resumed(options):
                say(sentence)
        stack.enter_context(silence_transformers())
        cache = stack.enter_context(cache_for(options))
        setup = prepare_training(options, inputs, settings, stack, cache, command, heard)
        _check_budget(setup)
        smaller = {size: subset_setup(setup, size) for size in options.sizes[:-1]}
        if is_first:
            trainings = [(setup, method) for method in options.methods]
            trainings += [(part, options.method) for part in smaller.values()]
            for part, method in trainings:
                state.begin(
                    _folder(part, method),
                    requested(part, method),
                    overwrite=options.overwrite,
                    say=say,
                )
            write_config(options, out / "config.yaml")
        process.wait_for_everyone()
        points = {
            size: train_method(part, options.method, part.progress.message, stop)
            for size, part in smaller.items()
        }
        methods = [train_method(setup, method, say, stop) for method in options.methods]
        best = max(methods, key=lambda one: (not one.unusable, _figure(one, options.select)))
        result = TuneResult(
            methods=methods,
            best=best.method,
            select=options.select,
            images=len(setup.val.data),
            trained_on=len(setup.train),
            warning=setup.warning,
            skipped=[*setup.train.skipped, *setup.val.data.skipped],
            notes=notes,
            written={"run": out, "table": out / "table.csv"},
        )
        if smaller and is_first:
            folders = {size: _folder(part, options.method) for size, part in smaller.items()}
            points[len(setup.train)], folders[len(setup.train)] = methods[0], out / options.method
            result.curve = _curve(options, points, folders)
        if is_first:
            _write(setup, result)
            for paths in draw_figures(read_run(out), result.skipped):
                result.written[paths[0].stem] = paths[0]
            result.finish(out, progress)
    return result


def _check_budget(setup: TrainingSetup) -> None:
    options, captioner = setup.options, setup.frozen.captioner
    if captioner is None:
        parts = find_parts(setup.frozen.decoder.module)
    bridge = config_of(
        BRIDGES.get(options.bridge).Config, setup.settings.get("bridge", {}), options.bridge
    )
    for method in options.methods:
        kind = TUNING_METHODS.get(method).Config
        config = config_of(kind, setup.settings.get(method, {}), method)
        if captioner is None:
            parameters = planned(options.bridge, bridge, method, config, setup.frozen.shape, parts)
        else:
            parameters = planned_in(captioner.vlm, method, config, options.train)
        total = check_budget(parameters, options.max_trainable)
        if captioner is not None:  # what its language model cannot take is said before any training
            built_in(setup, captioner, method).detach()
        counts = ", ".join(f"{part} {count:,}" for part, count in parameters.items())
        setup.progress.message(f"{method}: {total:,} trained parameters ({counts})")


def _write(setup: TrainingSetup, result: TuneResult) -> None:
    """Write the table and the run of all methods; its records are those of the best one."""
    out = setup.options.out
    assert out is not None
    write_csv(out / "table.csv", of_mappings(_row(one) for one in result.methods))
    runs = {one.method: read_run(out / one.method) for one in result.methods}
    known = [id for id in QUOTED if id in result.methods[0].scores]
    metric = result.select if result.select in known else known[0]
    result.against_best = against_best(runs, result.best, metric)
    with run_writer(setup, out) as run:
        for record in runs[result.best].records():
            run.record(record)
        run.metrics = result.figures() | {"leaked": len(setup.leaked)}


def _folder(setup: TrainingSetup, method: str) -> Path:
    assert setup.options.out is not None
    return setup.options.out / method


def _curve(options: TuneOptions, tuned: dict[int, Tuned], folders: dict[int, Path]) -> Curve:
    """What the tunes on fewer images and on all of them come to, each held against the last one."""
    metric = options.select if options.select == "clipscore" else "cider"
    found: list[CurvePoint] = []
    before: Scores | None = None
    for images, one in tuned.items():
        scores = _scores(read_run(folders[images]), metric)
        difference, interval = None, None
        if before is not None:
            gain = compare_scores({metric: before}, {metric: scores})[metric]
            difference, interval = gain.difference, gain.interval
        found.append(CurvePoint(images, one.scores, not one.unusable, difference, interval))
        before = scores
    said = conclusion(found, metric, next(iter(tuned.values())).images)
    return Curve(options.method, metric, options.epochs, found, said)


def against_best(runs: Mapping[str, Run], best: str, metric: str) -> dict[str, AgainstBest]:
    """The other methods less the best one.

    runs: of each method. A metric whose corpus figure is the mean of its images' can be told from
    the records; BLEU's is none, and captune compare tells it.
    """
    if metric.startswith("bleu"):
        return {}
    scores = {name: _scores(run, metric) for name, run in runs.items()}
    images = scores[best].per_image.keys()
    same = {name: {metric: one} for name, one in scores.items() if one.per_image.keys() == images}
    found = compare_with_best(same, best)
    return {name: one[metric] for name, one in found.items() if metric in one}


def _scores(run: Run, metric: str) -> Scores:
    values = {
        record.get("image_id") or record["path"]: float(record["scores"][metric])
        for record in run.records()
    }
    return Scores(metric, sum(values.values()) / max(1, len(values)), values, {})


def _figure(one: Tuned, select: str) -> float:
    """What methods are compared by; higher is better."""
    if select == "loss":
        return -math.inf if one.val_loss is None else -one.val_loss
    return one.scores[select].corpus


def _row(one: Tuned) -> dict[str, Any]:
    cells: dict[str, Any] = {"method": one.method, "usable": not one.unusable}
    cells["trained"] = one.parameters
    for id in QUOTED:
        figure = one.scores.get(id)
        low, high = (figure and figure.interval) or (None, None)
        cells |= {id: figure and figure.corpus, f"{id}_low": low, f"{id}_high": high}
    return cells | {"best_epoch": one.best_epoch, "seconds": round(one.seconds, 1)}


def subset_setup(setup: TrainingSetup, images: int) -> TrainingSetup:
    """What a tune on so many of the images has; its run lies in RUN/curve/IMAGES.

    Each point of a curve is trained on the first of one random order, so the smaller set lies in
    the larger one, and for as many updates: an epoch goes through a small set more often, as often
    as makes one of the whole set. What differs between two points is the images, not the length of
    the training. All share the encoded images, and are scored on the same validation images.
    """
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
        options=dataclasses.replace(options, out=options.out / CURVE / str(images)),
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
