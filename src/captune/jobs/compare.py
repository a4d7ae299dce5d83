"""`captune compare`: which of two sets of captions is better, by how much, and is it luck?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from msgspec.structs import replace

from captune.answer_files import check_ending
from captune.errors import UserError
from captune.jobs import Result, check_outputs, page_tables
from captune.options.codec import from_python
from captune.options.scoring import CompareOptions
from captune.progress import SILENT, Progress
from captune.runs import RunWriter, versions
from captune.runs.evaluation import CompareMetrics, ImageDifference
from captune.runs.records import ComparedCaption, CompareRecord, json_value
from captune.runs.writer import writes_run
from captune.scoring.compare import Comparison, compare_captions
from captune.scoring.score import (
    ScoredCaptions,
    deciding_options,
    inputs_of,
    score_files,
    small_sample_note,
)
from captune.tables import Table, write_csv
from captune.text import part_of, signed

_SHOWN = 3  # images on either side that a person reads on a terminal


@dataclass(kw_only=True, eq=False)
class CompareResult(Result):
    """Two sets of captions on the same images. top: images shown on either side of a difference."""

    comparison: Comparison
    scored: tuple[ScoredCaptions, ScoredCaptions]
    top: int

    def summary(self) -> dict[str, Any]:
        """What `--json` prints; the differences are those of `top` images on either side."""
        figures = json_value(self.figures())
        shown = (
            *("images_of", "a", "b", "changed_captions", "metrics", "verdicts"),
            *("contradiction", "verdict", "differences", "notes"),
        )
        return super().summary() | {name: figures[name] for name in shown}

    def figures(self) -> CompareMetrics:
        """What metrics.json holds of the result; what it was computed from is added there."""
        comparison = self.comparison
        recipes = [{id: score.recipe for id, score in side.scores.items()} for side in self.scored]
        return CompareMetrics(
            images=self.images,
            images_of=self.scored[0].images_of,
            a=comparison.a,
            b=comparison.b,
            changed_captions=comparison.changed,
            metrics={id: metric.figures() for id, metric in comparison.metrics.items()},
            verdicts={id: metric.verdict for id, metric in comparison.metrics.items()},
            contradiction=comparison.contradiction(),
            verdict=comparison.verdicts(),
            differences={
                id: comparison.largest_differences(id, self.top) for id in comparison.metrics
            },
            recipes=recipes[0],
            recipes_b=None if recipes[0] == recipes[1] else recipes[1],
            notes=self.notes,
        )

    def tables(self) -> list[Table]:
        """A row per metric."""
        return page_tables("compare", self.figures())

    def headline(self) -> str:
        """Which side is better, and by which metrics."""
        return self.comparison.headline()

    def sentences(self) -> list[str]:
        """What was compared, the recipes, the verdicts and the images that differ most."""
        comparison = self.comparison
        images = part_of(comparison.images, self.scored[0].images_of, "image")
        recipes = "; ".join(metric.name for metric in comparison.metrics.values())
        return [
            f"{images}, {comparison.changed:,} with different captions",
            f"A: {comparison.a}",
            f"B: {comparison.b}",
            f"recipes: {recipes}",
            *([] if comparison.identical else comparison.verdicts()),
            *([] if comparison.identical else self._largest_differences()),
        ]

    def _largest_differences(self) -> Iterator[str]:
        """The images where each side is furthest ahead, by the metric that a reader knows best."""
        metrics = self.comparison.metrics
        # CIDEr-D where it was asked for; else the first, a BLEU of fewer than four words last
        short = ("bleu_1", "bleu_2", "bleu_3")
        leading = "cider" if "cider" in metrics else min(metrics, key=short.__contains__)
        differing = self.comparison.largest_differences(leading, self.top)
        sides = (("B", "A", differing.b_better), ("A", "B", differing.a_better))
        for side, other, items in sides:
            if items:
                shown = f", the first {_SHOWN} of {len(items)}" if len(items) > _SHOWN else ""
                title = metrics[leading].title
                yield f"{side} is furthest ahead of {other} in {title}{shown}:"
            for item in items[:_SHOWN]:
                yield from _image_lines(item)
        if any(len(items) > _SHOWN for _, _, items in sides):
            yield "  all of them, and those of the other metrics: --json, or the run of --out"


def compare(
    first: str | Path | dict[str, Any],
    second: str | Path | dict[str, Any],
    *others: str | Path,
    **options: Any,
) -> CompareResult:
    """Compare two sets of captions of the same images, as `captune compare`.

    first, second: captions A and B, as in `captune.score`. others: files of more captions; then the
    result is a `CaptionersResult`. options: the fields of
    `CompareOptions`, such as references="val.json", metrics="cider", out="runs/compare".
    Raises UserError for what cannot be done.
    """
    made = from_python(CompareOptions, first=first, second=second, others=list(others), **options)
    return run(made)


@writes_run("compare")
def run(
    options: CompareOptions, progress: Progress = SILENT, *, command: Sequence[str] = ()
) -> CompareResult:
    """Compare two sets of captions; leave the table that was asked for, and run, figures and page.

    command: the words that made this run, kept in it. Raises UserError for what cannot be done.
    """
    if options.top < 0:
        raise UserError(f"--top must be 0 or more, not {options.top}")
    others = {f"file {n}": other for n, other in enumerate(options.others, 3)}
    read = inputs_of(options, {"A": options.first, "B": options.second, **others})
    check_outputs(read, {"--csv": options.csv}, options.out)
    check_ending("--csv", options.csv, ".csv", instead="")
    if options.others:
        from captune.jobs.captioners import compare_several

        return cast("CompareResult", compare_several(options, progress, command))
    first, second = score_files([options.first, options.second], options, progress, quiet=True)
    few = small_sample_note(len(first.candidates))
    notes = list(dict.fromkeys([*first.notes, *second.notes, *few]))
    for sentence in notes:
        progress.message(sentence)
    comparison = compare_captions(first, second, resamples=options.resamples, seed=options.seed)
    result = CompareResult(
        images=comparison.images,
        notes=notes,
        comparison=comparison,
        scored=(first, second),
        top=options.top,
    )
    if options.csv is not None:
        _write_csv(options.csv, comparison, raw=options.raw_csv)
        result.written["csv"] = options.csv
    if options.out is not None:
        root = first.root or options.out  # without images the records name none
        with RunWriter(options.out, "compare", options, root, command=command) as run:
            for record in records_of(result):
                run.record(record)
            metrics = json_value(metrics_of(result, options))
            if metrics["recipes_b"] is None:
                del metrics["recipes_b"]
            run.metrics = metrics
        result.finish(options.out, progress, "plots")
    return result


def records_of(result: CompareResult) -> Iterator[CompareRecord]:
    """The lines of records.jsonl."""
    comparison = result.comparison
    metrics = comparison.metrics.items()
    for i, (image, caption) in enumerate(comparison.captions_a.items()):
        yield CompareRecord(
            image=image,
            path=comparison.paths.get(image),
            references=comparison.references.get(image, []),
            a=ComparedCaption(caption, {id: float(metric.raw_a[i]) for id, metric in metrics}),
            b=ComparedCaption(
                comparison.captions_b[image], {id: float(metric.raw_b[i]) for id, metric in metrics}
            ),
        )


def metrics_of(result: CompareResult, options: CompareOptions) -> CompareMetrics:
    """What metrics.json holds."""
    first, second = result.scored
    return replace(
        result.figures(),
        inputs={"a": first.inputs(), "b": second.inputs()},
        options=deciding_options(options),
        versions=versions(),
    )


def _write_csv(path: Path, comparison: Comparison, *, raw: bool) -> None:
    """A row per image: both captions, and both scores of every metric with all their digits."""
    metrics = comparison.metrics.values()
    scores = [f"{metric.metric}_{side}" for metric in metrics for side in "ab"]
    rows: list[list[Any]] = [["image", "caption_a", "caption_b", *scores]]
    for i, (image, caption) in enumerate(comparison.captions_a.items()):
        values = [float(side[i]) for metric in metrics for side in (metric.raw_a, metric.raw_b)]
        rows.append([image, caption, comparison.captions_b[image], *values])
    write_csv(path, rows, raw=raw)


def _image_lines(item: ImageDifference) -> Iterator[str]:
    yield f"  {item.image}  {signed(item.difference)}"
    for side, one in (("A", item.a), ("B", item.b)):
        yield f"    {side} {one.score:7.3f}  {one.caption.strip() or '(empty)'}"
    if item.references:
        more = f"  (and {len(item.references) - 1} more)" if len(item.references) > 1 else ""
        yield f"    reference  {item.references[0].strip()}{more}"
