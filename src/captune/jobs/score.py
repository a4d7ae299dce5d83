"""`captune score`: how good captions are, by metrics that name their recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captune.answer_files import check_ending, row_files, row_paths
from captune.errors import UserError
from captune.files import whole_file
from captune.jobs import Result, check_outputs
from captune.options.base import refuse_given
from captune.options.codec import from_python
from captune.options.scoring import ScoreOptions
from captune.progress import SILENT, Progress
from captune.runs import RunWriter, versions
from captune.runs.evaluation import Agreement, MetricFigure, ScoreMetrics
from captune.runs.records import ScoreRecord, json_value
from captune.runs.writer import writes_run
from captune.scoring.rank import agreement
from captune.scoring.score import (
    ScoredCaptions,
    deciding_options,
    inputs_of,
    score_files,
    small_sample_note,
)
from captune.scoring.sharded import are_shards, score_shards
from captune.tables import Column, Table, estimate, numbers, write_csv
from captune.text import counted, part_of
from captune_metrics.catalogue import title_of
from captune_metrics.corpus import Corpus
from captune_metrics.display import Interval
from captune_metrics.frequency import DocumentFrequency, name_of_table
from captune_metrics.scores import Scores, intervals_of

_SENTENCES = 3  # about metrics that disagree, on a terminal


@dataclass(kw_only=True, eq=False)
class ScoreResult(Result):
    """The scores of one file of captions.

    intervals: by metric id, None where there is none. agreement: of the metrics with one another,
    None for a single metric and without intervals.
    """

    scored: ScoredCaptions
    intervals: Mapping[str, Interval | None]
    agreement: Agreement | None

    @property
    def metrics(self) -> dict[str, MetricFigure]:
        """Each metric over all images, by its id."""
        return {
            id: MetricFigure(score.name, score.corpus, self.intervals[id], score.recipe)
            for id, score in self.scored.scores.items()
        }

    def summary(self) -> dict[str, Any]:
        """What `--json` prints."""
        return super().summary() | {
            "images_of": self.scored.images_of,
            "metrics": json_value(self.metrics),
            "agreement": json_value(self.agreement),
            "notes": self.notes,
        }

    def tables(self) -> list[Table]:
        """A row per metric."""
        sure = any(one.ends for one in self.metrics.values())
        columns = [Column("metric", wide=True)]
        columns += numbers("score [95 % interval]" if sure else "score")
        columns.append(Column("recipe", wide=True))
        rows = [
            [title_of(id), estimate(one.corpus, one.ends, "{:.4f}".format), one.name]
            for id, one in self.metrics.items()
        ]
        return [Table("scores", "scores", columns, rows)]

    def sentences(self) -> list[str]:
        """How many images, and the metrics that order them differently."""
        said = [part_of(self.images, self.scored.images_of, "image")]
        if self.agreement is not None:
            sentences = self.agreement.sentences
            said += sentences[:_SENTENCES]
            if len(sentences) > _SENTENCES:
                said.append(f"... and {counted(len(sentences) - _SENTENCES, 'pair')} more (--json)")
        return said


def score(candidates: str | Path | dict[str, Any], **options: Any) -> ScoreResult:
    """Score captions, as `captune score`.

    candidates: a caption file, a run folder, or `{"image": "caption"}` itself. options: the fields
    of `ScoreOptions`, such as references="val.json" or `{"image": ["caption", ...]}`,
    images="val/", metrics="cider,clipscore", out="runs/score".
    Raises UserError for what cannot be done.
    """
    return run(from_python(ScoreOptions, candidates=candidates, **options))


@writes_run("score")
def run(
    options: ScoreOptions, progress: Progress = SILENT, *, command: Sequence[str] = ()
) -> ScoreResult:
    """Score captions; leave the tables that were asked for, and the run with its page.

    command: the words that made this run, kept in it. Raises UserError for what cannot be done.
    """
    _refuse(options)
    assert options.candidates is not None
    if are_shards(options.candidates, options.references):
        return _of_shards(options, options.candidates, progress)
    keep = options.save_df is not None
    (scored,) = score_files([options.candidates], options, progress, keep_corpus=keep)
    intervals: dict[str, Interval | None] = dict.fromkeys(scored.scores)
    agreed = None
    notes = list(scored.notes)
    if not options.no_interval:
        intervals = intervals_of(scored.scores, resamples=options.resamples, seed=options.seed)
        agreed = agreement(scored.scores) if len(scored.scores) > 1 else None
        few = small_sample_note(len(scored.candidates))
        notes += few
        for sentence in few:
            progress.message(sentence)
    result = ScoreResult(
        images=len(scored.candidates),
        notes=notes,
        scored=scored,
        intervals=intervals,
        agreement=agreed,
    )
    if options.per_image is not None:
        _write_per_image(options.per_image, scored.scores, raw=options.raw_csv)
        result.written["per image"] = options.per_image
    _write_rows(options, scored)
    result.add_written(options.to)
    if options.save_df is not None:
        _save_df(options, options.save_df, scored)
        result.written["document frequencies"] = options.save_df
    if options.out is not None:
        root = scored.root or options.out  # without images the records name none
        with RunWriter(options.out, "score", options, root, command=command) as run:
            for record in records_of(scored):
                run.record(record)
            run.metrics = metrics_of(result, options)
        result.finish(options.out, progress)
    return result


def _of_shards(options: ScoreOptions, candidates: Path, progress: Progress) -> ScoreResult:
    refuse_given(
        options,
        ("out", "per_image", "to", "save_df", "images"),
        "is not for shards of references, of which the figures alone are kept (--json);"
        " leave it out",
    )
    scored, images, intervals = score_shards(options, candidates, progress)
    for sentence in scored.notes:
        progress.message(sentence)
    return ScoreResult(
        images=images, notes=scored.notes, scored=scored, intervals=intervals, agreement=None
    )


def records_of(scored: ScoredCaptions) -> Iterator[ScoreRecord]:
    """The lines of records.jsonl."""
    for id, caption in scored.candidates.items():
        image = scored.images.get(id)
        yield ScoreRecord(
            image=id,
            path=None if image is None else image.name,
            caption=caption,
            references=scored.references.get(id, []),
            scores={name: score.per_image[id] for name, score in scored.scores.items()},
        )


def metrics_of(result: ScoreResult, options: ScoreOptions) -> ScoreMetrics:
    """What metrics.json holds."""
    return ScoreMetrics(
        images=result.images,
        images_of=result.scored.images_of,
        metrics=result.metrics,
        agreement=result.agreement,
        notes=result.notes,
        inputs=result.scored.inputs(),
        options=deciding_options(options),
        versions=versions(),
    )


def _refuse(options: ScoreOptions) -> None:
    if options.candidates is None:
        raise UserError("no captions to score; name a file: captune score CANDIDATES ...")
    files = {"--per-image": options.per_image, "--save-df": options.save_df}
    read = inputs_of(options, {"candidates": options.candidates})
    check_outputs(read, files, options.out, row_paths(options.to))
    check_ending("--per-image", options.per_image, ".csv")
    if options.save_df is not None:
        name_of_table(options.save_df)
        if options.references is None:
            raise UserError("--save-df counts the references; give them with --references FILE")


def _write_per_image(path: Path, scores: Mapping[str, Scores], *, raw: bool) -> None:
    """A row per image, a column per metric, every digit of the floats."""
    columns = [score.per_image for score in scores.values()]
    rows = ([id, *(column[id] for column in columns)] for id in columns[0])
    write_csv(path, [["image", *scores], *rows], raw=raw)


def _write_rows(options: ScoreOptions, scored: ScoredCaptions) -> None:
    """A row per image with its caption, and the recipe of each metric in Parquet's metadata."""
    recipes = {name: one.recipe for name, one in scored.scores.items()}
    models = [one["model"] for one in recipes.values() if isinstance(one.get("model"), dict)]
    model = models[0] if models else {}
    with row_files(options.to, {**model, "recipes": recipes}, raw=options.raw_csv) as add:
        for id, caption in scored.candidates.items():
            scores = {name: float(one.per_image[id]) for name, one in scored.scores.items()}
            add({"image": id, "caption": caption, **scores})


def _save_df(options: ScoreOptions, path: Path, scored: ScoredCaptions) -> None:
    corpus = scored.corpus  # of the metrics that count words, if any was asked for
    if corpus is None:
        corpus = Corpus(scored.candidates, scored.references, options.tokenizer)
    with whole_file(path, "wb") as file:
        DocumentFrequency.counted(corpus, name=name_of_table(path)).write(file)
