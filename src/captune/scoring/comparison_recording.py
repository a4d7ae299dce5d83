"""A comparison from options to files: the run folder, the CSV, the summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captune.errors import UserError
from captune.files import check_writable
from captune.options import CompareOptions
from captune.runs import RunWriter, versions
from captune.runs.place import writes_run
from captune.runs.records import plain
from captune.scoring.compare import Comparison, compare_captions
from captune.scoring.places import check_outputs, read_places
from captune.scoring.score import (
    ScoredCaptions,
    deciding_options,
    score_files,
    small_sample_note,
)
from captune.tables import NotebookDisplay, write_csv

if TYPE_CHECKING:
    from captune.embedding import Bar


@dataclass
class CompareResult(NotebookDisplay):
    """What one `captune compare` found. top: images to show on either side of a difference."""

    comparison: Comparison
    scored: tuple[ScoredCaptions, ScoredCaptions]
    notes: list[str]
    top: int
    written: dict[str, Path] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """How many images both were scored on."""
        return self.comparison.images

    def summary(self) -> dict[str, Any]:
        """What `--json` prints; the differences are those of `top` images on either side."""
        run = self.written.get("run")
        return {
            "run": None if run is None else str(run),
            "images": self.images,
            "skipped": [],
            **self.found(),
            "notes": self.notes,
            "written": {what: str(path) for what, path in self.written.items()},
        }

    def found(self) -> dict[str, Any]:
        """The figures and sentences, as `--json` and metrics.json hold them."""
        comparison = self.comparison
        metrics = comparison.metrics.items()
        found = {
            "a": comparison.a,
            "b": comparison.b,
            "changed_captions": comparison.changed,
            "metrics": {id: metric.figures() for id, metric in metrics},
            "verdicts": {id: metric.verdict for id, metric in metrics},
            "contradiction": comparison.contradiction(),
            "verdict": comparison.verdicts(),
            "differences": {
                id: comparison.largest_differences(id, self.top) for id in comparison.metrics
            },
        }
        return dict(plain(found))


@writes_run("compare")
def run(
    options: CompareOptions,
    *,
    command: Sequence[str] = (),
    bar: Bar,
    say: Callable[[str], None] = lambda sentence: None,
) -> CompareResult:
    """Do what `captune compare` was asked for; figures are drawn by the caller.

    command: the words that made this run, kept in it. Raises UserError for what cannot be done.
    """
    if options.top < 0:
        raise UserError(f"--top {options.top}: must be 0 or more")
    read = read_places(options, {"A": options.first, "B": options.second})
    check_outputs(read, {"--csv": options.csv}, options.out)
    if options.csv is not None:
        check_writable(options.csv)
    first, second = score_files([options.first, options.second], options, bar=bar)
    few = small_sample_note(len(first.candidates))
    notes = list(dict.fromkeys([*first.notes, *second.notes, *few]))
    for sentence in notes:
        say(sentence)
    comparison = compare_captions(first, second, resamples=options.resamples, seed=options.seed)
    result = CompareResult(comparison, (first, second), notes, options.top)
    if options.csv is not None:
        write_both(options.csv, comparison, raw=options.raw_csv)
        result.written["csv"] = options.csv
    if options.out is not None:
        _write_run(options, result, command)
        result.written["run"] = options.out
    return result


def write_both(path: Path, comparison: Comparison, *, raw: bool = False) -> None:
    """A row an image: both captions, and both scores of every metric with all their digits."""
    metrics = comparison.metrics.values()
    scores = [f"{metric.metric}_{side}" for metric in metrics for side in "ab"]
    rows: list[list[Any]] = [["image", "caption_a", "caption_b", *scores]]
    for index, (image, caption) in enumerate(comparison.captions_a.items()):
        values = [float(side[index]) for metric in metrics for side in (metric.raw_a, metric.raw_b)]
        rows.append([image, caption, comparison.captions_b[image], *values])
    write_csv(path, rows, raw=raw)


def _write_run(options: CompareOptions, result: CompareResult, command: Sequence[str]) -> None:
    assert options.out is not None
    comparison, (first, second) = result.comparison, result.scored
    root = first.root or options.out  # without images the records name none
    recipes = [{id: score.recipe for id, score in side.scores.items()} for side in (first, second)]
    writer = RunWriter(options.out, kind="compare", options=options, root=root, command=command)
    with writer as run:
        for index, (image, caption) in enumerate(comparison.captions_a.items()):
            file = first.images.get(image)
            metrics = comparison.metrics.items()
            run.record(
                {
                    "image": image,
                    "path": None if file is None else file.name,
                    "references": comparison.references.get(image, []),
                    "a": {
                        "caption": caption,
                        "scores": {id: float(metric.raw_a[index]) for id, metric in metrics},
                    },
                    "b": {
                        "caption": comparison.captions_b[image],
                        "scores": {id: float(metric.raw_b[index]) for id, metric in metrics},
                    },
                }
            )
        run.metrics = {
            "images": result.images,
            **result.found(),
            "recipes": recipes[0],
            **({} if recipes[0] == recipes[1] else {"recipes_b": recipes[1]}),
            "notes": result.notes,
            "inputs": {"a": first.inputs(), "b": second.inputs()},
            "options": deciding_options(options),
            "versions": versions(),
        }
