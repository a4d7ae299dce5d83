"""A score from options to files: the run folder, the CSV, the summary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captune.errors import UserError
from captune.files import check_writable
from captune.metrics.frequency import DocumentFrequency, name_of_table
from captune.metrics.scores import Scores
from captune.options import ScoreOptions
from captune.runs import RunWriter, versions
from captune.runs.place import writes_run
from captune.runs.records import plain
from captune.scoring.places import check_outputs, read_places
from captune.scoring.score import (
    ScoredCaptions,
    deciding_options,
    intervals_of,
    make_corpus,
    score_files,
    small_sample_note,
)
from captune.tables import NotebookDisplay, write_csv

if TYPE_CHECKING:
    from captune.embedding import Bar
    from captune.runs.metrics import Agreement
    from captune.statistics import Interval


@dataclass
class ScoreResult(NotebookDisplay):
    """What one `captune score` found. intervals: by metric id, None where there is none."""

    scored: ScoredCaptions
    intervals: dict[str, Interval | None]
    agreement: Agreement | None
    metrics: dict[str, Any]
    written: dict[str, Path] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """How many images were scored."""
        return len(self.scored.candidates)

    def summary(self) -> dict[str, Any]:
        """What `--json` prints."""
        run = self.written.get("run")
        return {
            "run": None if run is None else str(run),
            "images": self.images,
            "skipped": [],
            "metrics": self.metrics,
            "agreement": plain(self.agreement),
            "notes": self.scored.notes,
            "written": {what: str(path) for what, path in self.written.items()},
        }


@writes_run("score")
def score_captions(
    options: ScoreOptions,
    *,
    command: Sequence[str] = (),
    bar: Bar,
    say: Callable[[str], None] = lambda sentence: None,
) -> ScoreResult:
    """Do what `captune score` was asked for.

    command: the words that made this run, kept in it. Raises UserError for what cannot be done.
    """
    if options.candidates is None:
        raise UserError("no captions to score; name a file: captune score CANDIDATES ...")
    files = {"--per-image": options.per_image, "--save-df": options.save_df}
    check_outputs(read_places(options, {"candidates": options.candidates}), files, options.out)
    for path in files.values():
        if path is not None:
            check_writable(path)
    if options.save_df is not None:
        name_of_table(options.save_df)
        if options.references is None:
            raise UserError("--save-df: counts the references; give them with --references FILE")
    keep = options.save_df is not None
    (scored,) = score_files([options.candidates], options, bar=bar, say=say, keep_corpus=keep)
    intervals: dict[str, Interval | None] = dict.fromkeys(scored.scores)
    found: Agreement | None = None
    if not options.no_interval:
        from captune.scoring.agreement import agreement

        intervals = intervals_of(scored.scores, resamples=options.resamples, seed=options.seed)
        found = agreement(scored.scores) if len(scored.scores) > 1 else None
        for sentence in small_sample_note(len(scored.candidates)):
            scored.notes.append(sentence)
            say(sentence)
    result = ScoreResult(scored, intervals, found, described(scored.scores, intervals))
    if options.per_image is not None:
        write_per_image(options.per_image, scored.scores, raw=options.raw_csv)
        result.written["per image"] = options.per_image
    if options.save_df is not None:
        _save_df(options, scored)
        result.written["document frequencies"] = options.save_df
    if options.out is not None:
        _write_run(options, result, command)
        result.written["run"] = options.out
    return result


def described(
    scores: Mapping[str, Scores], intervals: Mapping[str, Interval | None]
) -> dict[str, Any]:
    """The metrics as `--json` and metrics.json hold them: corpus, interval, recipe, name."""
    return {
        id: {
            "name": score.name,
            "corpus": score.corpus,
            "interval": None if intervals[id] is None else list(intervals[id] or ()),
            "recipe": score.recipe,
        }
        for id, score in scores.items()
    }


def write_per_image(path: Path, scores: Mapping[str, Scores], *, raw: bool = False) -> None:
    """A row an image, a column a metric, every digit of the floats."""
    columns = [score.per_image for score in scores.values()]
    rows = ([id, *(column[id] for column in columns)] for id in columns[0])
    write_csv(path, [["image", *scores], *rows], raw=raw)


def _save_df(options: ScoreOptions, scored: ScoredCaptions) -> None:
    assert options.save_df is not None
    corpus = scored.corpus  # of the metrics that count words, if any was asked for
    if corpus is None:
        corpus = make_corpus(scored.candidates, scored.references, options.tokenizer)
    name = name_of_table(options.save_df)
    DocumentFrequency.counted(corpus, name=name).save(options.save_df)


def _write_run(options: ScoreOptions, result: ScoreResult, command: Sequence[str]) -> None:
    assert options.out is not None
    scored = result.scored
    root = scored.root or options.out  # without images the records name none
    writer = RunWriter(options.out, kind="score", options=options, root=root, command=command)
    with writer as run:
        for id, caption in scored.candidates.items():
            image = scored.images.get(id)
            run.record(
                {
                    "image": id,
                    "path": None if image is None else image.name,
                    "caption": caption,
                    "references": scored.references.get(id, []),
                    "scores": {name: s.per_image[id] for name, s in scored.scores.items()},
                }
            )
        run.metrics = {
            "images": result.images,
            "metrics": result.metrics,
            "agreement": plain(result.agreement),
            "notes": scored.notes,
            "inputs": scored.inputs(),
            "options": deciding_options(options),
            "versions": versions(),
        }
