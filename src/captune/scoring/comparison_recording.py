"""A comparison from options to files: the run folder, the CSV, the summary."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captune.captions import CaptionFile, match_captions
from captune.errors import MismatchedImages, UserError
from captune.files import check_writable, named, printable
from captune.options import CompareOptions
from captune.runs import RunWriter, versions
from captune.runs.place import writes_run
from captune.scoring.comparison import Comparison, Differing, MetricComparison, compare_scores
from captune.scoring.intervals import few_images
from captune.scoring.job import Scored, score_many
from captune.scoring.places import check_places, read_places
from captune.scoring.recording import deciding_options, inputs_of
from captune.tables import NotebookDisplay, write_csv

if TYPE_CHECKING:
    from captune.embedding import Bar


@dataclass
class CompareResult(NotebookDisplay):
    """What one `captune compare` found. top: images to show on either side of a difference."""

    comparison: Comparison
    scored: tuple[Scored, Scored]
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
        return {
            "a": comparison.a,
            "b": comparison.b,
            "changed_captions": comparison.changed,
            "metrics": {id: metric.summary() for id, metric in metrics},
            "verdicts": {id: metric.verdict for id, metric in metrics},
            "contradiction": comparison.contradiction(),
            "verdict": comparison.verdicts(),
            "differences": {id: self.differing(metric) for id, metric in metrics},
        }

    def differing(self, metric: MetricComparison) -> dict[str, list[dict[str, Any]]]:
        """The images where each side is furthest ahead, with both captions and the references."""
        ahead, behind = metric.most_different(self.top)
        return {
            "b_better": [self._described(item) for item in ahead],
            "a_better": [self._described(item) for item in behind],
        }

    def _described(self, item: Differing) -> dict[str, Any]:
        comparison, image = self.comparison, self.scored[0].images.get(item.image)
        return {
            "image": item.image,
            "path": None if image is None else image.name,
            "difference": item.difference,
            "a": {"caption": comparison.captions_a[item.image], "score": item.a},
            "b": {"caption": comparison.captions_b[item.image], "score": item.b},
            "references": comparison.references.get(item.image, []),
        }


@writes_run("compare")
def compare_captions(
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
    check_places(read, {"--csv": options.csv}, options.out)
    if options.csv is not None:
        check_writable(options.csv)
    first, second = score_many([options.first, options.second], options, bar=bar)
    few = few_images(len(first.candidates))
    notes = list(dict.fromkeys([*first.notes, *second.notes, *few]))
    for sentence in notes:
        say(sentence)
    comparison = compare_scored(first, second, resamples=options.resamples, seed=options.seed)
    result = CompareResult(comparison, (first, second), notes, options.top)
    if options.csv is not None:
        write_both(options.csv, comparison, raw=options.raw_csv)
        result.written["csv"] = options.csv
    if options.out is not None:
        _write_run(options, result, command)
        result.written["run"] = options.out
    return result


def compare_scored(first: Scored, second: Scored, *, resamples: int, seed: int = 0) -> Comparison:
    """A and B of the same images; B's images go by the ids that A's file spells.

    Raises MismatchedImages where one of them has an image that the other has not.
    """
    same = _same_images(first, second)
    scores = {
        id: dataclasses.replace(
            score, per_image={same[image]: value for image, value in score.per_image.items()}
        )
        for id, score in second.scores.items()
    }
    captions = {same[image]: caption for image, caption in second.candidates.items()}
    return Comparison(
        a=first.file.source,
        b=second.file.source,
        captions_a=first.candidates,
        captions_b={image: captions[image] for image in first.candidates},
        references=first.references,
        metrics=compare_scores(first.scores, scores, resamples=resamples, seed=seed),
        same_file=first.file.sha256 == second.file.sha256,
    )


def _same_images(first: Scored, second: Scored) -> dict[str, str]:
    """B's image id -> A's."""
    if first.candidates.keys() == second.candidates.keys():
        return {image: image for image in first.candidates}
    if first.reference_file is not None:
        # each goes by the references' ids, which may be all that joins them: 139 and dog.jpg
        of_reference = {found: image for image, found in _in_references(first).items()}
        return {image: of_reference[found] for image, found in _in_references(second).items()}
    candidates = {image: [caption] for image, caption in first.candidates.items()}
    # B stands where the references would, and each "caption" is the id to be found
    ids = {image: [image] for image in second.candidates}
    try:
        matched = match_captions(_file(first, candidates), _file(second, ids))
    except MismatchedImages:
        raise _mismatch(first, second) from None
    return {found: image for image, (found,) in matched.references.items()}


def _in_references(scored: Scored) -> dict[str, str]:
    """Image id of the candidates -> of the references."""
    assert scored.reference_file is not None
    ids = {image: [image] for image in scored.reference_file.captions}
    references = dataclasses.replace(scored.reference_file, captions=ids)
    matched = match_captions(scored.file, references, allow_missing=scored.missing > 0)
    return {image: found for image, (found,) in matched.references.items()}


def _file(scored: Scored, captions: dict[str, list[str]]) -> CaptionFile:
    return dataclasses.replace(scored.file, captions=captions)


def _mismatch(first: Scored, second: Scored) -> MismatchedImages:
    only = [
        (one.file.source, [image for image in one.candidates if image not in other.candidates])
        for one, other in ((first, second), (second, first))
    ]
    parts = " and ".join(
        f"{len(images):,} only in {printable(source)} ({named(images)})"
        for source, images in only
        if images
    )
    return MismatchedImages(
        f"A and B are not about the same images: {parts}; give captions of the same images, "
        "or --references to score against"
    )


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
            "inputs": {"a": inputs_of(first), "b": inputs_of(second)},
            "options": deciding_options(options),
            "versions": versions(),
        }
