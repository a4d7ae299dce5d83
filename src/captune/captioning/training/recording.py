"""A tune from options to files: the run folder, one folder a method in it, the table.

    RUN/config.yaml     every option, for --config
    RUN/lora/           a method's tuned captioner and run (captioning.tuned)
    RUN/table.csv       one row a method
    RUN/metrics.json, run.json, records.jsonl   of the run; the records are the best method's

The same command goes on where a killed one was: finished methods are not trained again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import PartialState

from captune.captioning.bridge import bridge_class
from captune.captioning.building import build_captioner, config_of
from captune.captioning.checkpoint import (
    begin_with,
    digest_of_checkpoint,
    recipe_of,
    save_pretrained,
)
from captune.captioning.model import Captioner
from captune.captioning.precision import autocast
from captune.captioning.structure import find_parts
from captune.captioning.training import resuming, tuned
from captune.captioning.training.budget import budget, check_budget, planned
from captune.captioning.training.config import deciding, write_config
from captune.captioning.training.data import CaptionedImages
from captune.captioning.training.diagnosis import diagnose
from captune.captioning.training.estimate import estimate
from captune.captioning.training.evaluation import (
    Captioned,
    score_captions,
    validation_scores,
    write_captions,
)
from captune.captioning.training.preparation import Job, check_options, prepare, this_process
from captune.captioning.training.trainer import Bar, train
from captune.captioning.training.tuned import Tuned
from captune.captioning.tuning import method_class
from captune.features import FeatureCache
from captune.images import Skipped
from captune.metrics.scores import Scores
from captune.models.hub import silence_transformers
from captune.models.weights import digest_of
from captune.options import TuneOptions
from captune.runs import RunWriter, read_run
from captune.runs.place import run_place
from captune.tables import NotebookDisplay, of_mappings, write_csv
from captune.text import percent


@dataclass
class TuneResult(NotebookDisplay):
    """What a tune found. methods: in the order asked. best: one of them, by --select."""

    methods: list[Tuned]
    best: str
    select: str
    images: int
    trained_on: int
    skipped: list[Skipped]
    notes: list[str]
    written: dict[str, Path] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """What `--json` prints."""
        run = self.written.get("run")
        return {
            "run": None if run is None else str(run),
            "images": self.images,
            "trained_on": self.trained_on,
            "skipped": [{"path": item.path, "reason": item.reason} for item in self.skipped],
            "best": self.best,
            "select": self.select,
            "methods": [
                {
                    **one.row(),
                    "findings": one.findings,
                    "parts": one.trained,
                    "names": {id: one.scores[id]["name"] for id in one.scores},
                }
                for one in self.methods
            ],
            "notes": self.notes,
            "written": {what: str(path) for what, path in self.written.items()},
        }


def tune_captioner(
    options: TuneOptions,
    *,
    command: Sequence[str] = (),
    bar: Bar = lambda what, total: nullcontext(lambda done, said="": None),
    say: Callable[[str], None] = lambda sentence: None,
    stop: Callable[[], bool] = lambda: False,
) -> TuneResult:
    """Do what `captune tune` was asked for; the same call goes on where a killed one was.

    command: the words that made this run, kept in it. stop: says whether to end before the end,
    with a checkpoint (errors.Stopped). Raises UserError for what cannot be done.
    """
    settings = check_options(options)
    state = this_process(options)
    say = say if state.is_main_process else lambda sentence: None
    notes: list[str] = []

    def hear(sentence: str) -> None:
        notes.append(sentence)
        say(sentence)

    with ExitStack() as stack:
        if state.is_main_process:
            stack.enter_context(run_place(options, "tune", say))
        stack.enter_context(silence_transformers())
        cache = stack.enter_context(nullcontext() if options.no_cache else FeatureCache())
        job = prepare(options, settings, stack, cache, command, bar, hear)
        assert options.out is not None
        _check_budget(job)
        if state.is_main_process:
            for method in options.methods:
                tuned.begin(options.out / method, _asked(job, method))
            write_config(options, options.out / "config.yaml")
        state.wait_for_everyone()
        found = [_tune_method(job, method, say, stop) for method in options.methods]
    best = max(found, key=lambda one: one.figure(options.select))
    result = TuneResult(
        methods=found,
        best=best.method,
        select=options.select,
        images=len(job.val.data),
        trained_on=len(job.train),
        skipped=[*job.train.skipped, *job.val.data.skipped],
        notes=notes,
    )
    if state.is_main_process:
        _write_parent(job, result)
    result.written |= {"run": options.out, "table": options.out / "table.csv"}
    return result


def _asked(job: Job, method: str) -> dict[str, Any]:
    """All that the weights of a method depend on."""
    frozen, options, known = job.frozen, job.options, job.known_words
    start = _start_of(options, method)
    return {
        **deciding(options),
        "set": {part: job.settings.get(part, {}) for part in ("bridge", method)},
        "training data": job.train.digest,
        "validation data": job.val.data.digest,
        "image encoder": dataclasses.asdict(frozen.identity),
        "decoder": frozen.decoder.decoder_id,
        "augment": None if options.augment == "none" else options.augment,
        "known words": None if known is None else digest_of(dataclasses.asdict(known)),
        "start": None if start is None else digest_of_checkpoint(start),
        "score model": options.score_model if options.select == "clipscore" else None,
    }


def _built(job: Job, method: str) -> Captioner:
    captioner = _untrained(job, method)
    start = _start_of(job.options, method)
    if start is not None:
        begin_with(captioner, start)
    return captioner


def _start_of(options: TuneOptions, method: str) -> Path | None:
    """The checkpoint that a method begins with: in a run of several methods, its own."""
    if options.start is None:
        return None
    own = options.start / method
    return own if own.is_dir() else options.start


def _untrained(job: Job, method: str) -> Captioner:
    return build_captioner(
        job.frozen.decoder,
        job.frozen.shape,
        bridge=job.options.bridge,
        method=method,
        bridge_settings=job.settings.get("bridge"),
        method_settings=job.settings.get(method),
        seed=job.options.seed,
    )


def _check_budget(job: Job) -> None:
    """All methods by their formulas, before the first is trained."""
    options, parts = job.options, find_parts(job.frozen.decoder.module)
    bridge = config_of(
        bridge_class(options.bridge).Config, job.settings.get("bridge", {}), options.bridge
    )
    for method in options.methods:
        kind = method_class(method).Config
        config = config_of(kind, job.settings.get(method, {}), method)
        rows = planned(options.bridge, bridge, method, config, job.frozen.shape, parts)
        total = check_budget(rows, options.max_trainable)
        said = ", ".join(f"{row.part} {row.parameters:,}" for row in rows)
        job.say(f"{method}: {total:,} trained parameters ({said})")


def _tune_method(
    job: Job, method: str, say: Callable[[str], None], stop: Callable[[], bool]
) -> Tuned:
    """Train one method, or go on, or read what was finished before.

    say: is told what holds for this time alone; the run keeps what holds for every time.
    """
    options = job.options
    assert options.out is not None
    folder = options.out / method
    if tuned.is_finished(folder):
        say(f"{method}: was finished before; {folder} is taken as it is")
        finished = tuned.read_finished(folder)
        for found in finished.findings:
            if found["wrong"]:
                job.say(f"{method}: {found['sentence']}")
        return finished
    captioner = _built(job, method)
    left = 1 - resuming.share_done(folder / "checkpoints", options.epochs)
    expected = estimate(
        captioner,
        job.data,
        job.sample,
        options,
        processes=PartialState().num_processes,
        share_left=left,
    )
    going_on = f"goes on after {percent(1 - left, 0)}, " if left < 1 else ""
    say(f"{method}: {going_on}{expected.sentence()}")
    history = train(
        captioner,
        job.data,
        options,
        folder / "checkpoints",
        score=partial(
            validation_scores,
            captioner,
            job.sample,
            select=options.select,
            max_tokens=options.max_tokens,
        ),
        bar=job.bar,
        what=method,
        stop=stop,
    )
    with autocast(options.precision, captioner.decoder.device):
        with job.bar(f"{method}: captions", len(job.val.data)) as advance:
            written = write_captions(
                captioner, job.val, max_tokens=options.max_tokens, advance=advance
            )
        findings = diagnose(
            captioner,
            job.val,
            written,
            leaked=job.leaked,
            max_tokens=options.max_tokens,
            seed=options.seed,
        )
    scores = score_captions(written.captions, job.val)
    for finding in findings:
        if finding.wrong:
            job.say(f"{method}: {finding.sentence}")
    trained = {row.part: row.parameters for row in budget(captioner)}
    one = tuned.tuned_of(method, trained, scores, history, findings, seed=options.seed)
    if PartialState().is_main_process:
        recipe = recipe_of(
            captioner,
            job.frozen.identity,
            bridge=options.bridge,
            method=method,
            max_tokens=options.max_tokens,
            known_words=job.known_words,
        )
        save_pretrained(captioner, folder, recipe)
        _write_child(job, folder, one, written, scores)
        tuned.clear(folder / "checkpoints")
    PartialState().wait_for_everyone()
    captioner.detach()
    return one


def _write_child(
    job: Job, folder: Path, one: Tuned, written: Captioned, scores: dict[str, Scores]
) -> None:
    with _writer(job, folder) as run:
        for record in _records(job.val.data, written, scores):
            run.record(record)
        run.metrics = {"images": one.images, "tuned": dataclasses.asdict(one)}
        run.extra = {"method": one.method}


def _records(
    data: CaptionedImages, written: Captioned, scores: dict[str, Scores]
) -> list[dict[str, Any]]:
    return [
        {
            "path": image.name,
            "image_id": id,
            "caption": written.captions[id],
            "ended": written.ended[id],
            "scores": {name: score.per_image[id] for name, score in scores.items()},
        }
        for id, image in zip(data.ids, data.images, strict=True)
    ]


def _write_parent(job: Job, result: TuneResult) -> None:
    """The table and the run; the records are those of the best method."""
    out = job.options.out
    assert out is not None
    write_csv(out / "table.csv", of_mappings(one.row() for one in result.methods))
    with _writer(job, out) as run:
        for record in read_run(out / result.best).records():
            run.record(record)
        run.metrics = {
            "images": result.images,
            "trained_on": result.trained_on,
            "best": result.best,
            "select": result.select,
            "methods": [dataclasses.asdict(one) for one in result.methods],
            "leaked": len(job.leaked),
            "skipped": [{"path": item.path, "reason": item.reason} for item in result.skipped],
            "notes": result.notes,
        }


def _writer(job: Job, folder: Path) -> RunWriter:
    return RunWriter(
        folder,
        kind="tune",
        options=job.options,
        root=job.val.data.root,
        models=job.frozen.described(),
        command=job.command,
        keeps=True,
    )
