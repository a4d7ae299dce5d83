"""`captune prompts`: which prompt is best for these images, and how sure is that?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captune.answer_files import check_ending, row_files, row_paths
from captune.errors import UserError
from captune.features.cache import cache_for
from captune.features.encode import encode_all, encode_texts
from captune.features.pipeline import Encoding
from captune.images import ImageFile, Images, find_images
from captune.jobs import Result, check_outputs, files_among, page_tables
from captune.models.encoders import Floats, describe_model
from captune.models.load import kept_model, load_image_text_model
from captune.options.codec import from_python
from captune.options.recognition import PromptsOptions
from captune.progress import SILENT, Progress
from captune.runs import RunWriter
from captune.runs.metrics import NegationProbe
from captune.runs.records import json_value
from captune.runs.writer import writes_run
from captune.tables import Table, of_mappings, write_csv
from captune.text import counted, signed
from captune.zeroshot.labels import Labels, known_truth, read_labels
from captune.zeroshot.prompts import expand, fill, negate
from captune.zeroshot.template_comparison import (
    TemplateComparison,
    compare_templates,
    probe_negation,
)


@dataclass(kw_only=True, eq=False)
class PromptsResult(Result):
    """Prompts compared on images that were encoded once.

    probes: one negation probe for each template that can be denied.
    """

    labels: Labels
    model: dict[str, Any]
    comparison: TemplateComparison
    probes: list[NegationProbe]

    def summary(self) -> dict[str, Any]:
        """What `--json` prints."""
        prompts = []
        for row, result in zip(self.comparison.rows(), self.comparison.results, strict=True):
            interval = None if result.interval is None else list(result.interval)
            prompts.append({**row, "interval": interval})
        best = self.comparison.best
        return super().summary() | {
            "model": self.model,
            "prompts": prompts,
            "best": None if best is None else self.comparison.results[best].template,
            "negation": json_value(self.probes),
        }

    def tables(self) -> list[Table]:
        """The prompts, and what the word "not" changes."""
        return page_tables("prompts", self.figures())

    def figures(self) -> dict[str, Any]:
        """What metrics.json holds of the result."""
        comparison, labels = self.comparison, self.labels
        prompts = len(comparison.results)
        return {
            "images": comparison.images,
            "scored": comparison.known,
            "labels": len(labels.ids),
            "label_names": dict(zip(labels.ids, labels.names, strict=True)),
            "best": comparison.best,
            "prompts": comparison.rows(),
            "negation": json_value(self.probes),
            "agreement": comparison.agreement,
            "calibration": [one.calibration for one in comparison.results],
            "class_changes": json_value([comparison.class_changes(i) for i in range(prompts)]),
            "skipped": self.skipped,
        }

    def sentences(self) -> list[str]:
        """What was compared, and the labels that change most."""
        comparison = self.comparison
        said = [
            f"{counted(comparison.images, 'image')} ({comparison.known:,} with a known label),"
            f" {counted(len(comparison.labels), 'label')}, model {self.model['spec']}"
        ]
        if comparison.best is None or len(comparison.results) == 1:
            return said
        best = comparison.results[comparison.best].template
        said.append(f'labels that change most against "{best}", in images recognised:')
        for index, one in enumerate(comparison.results):
            if index != comparison.best:
                changes = comparison.class_changes(index, top=4)
                words = ", ".join(f"{c.label} {signed(c.change, 0)} of {c.images}" for c in changes)
                said.append(f"  {one.template}: {words or 'none'}")
        return said


def prompts(images: Images, labels: str | Path | Sequence[str], **options: Any) -> PromptsResult:
    """Compare prompt templates on the same images, as `captune prompts`.

    images: folders, files and globs, or images in memory (`find_images`). labels: names,
    "cat,dog" or a file. options: the fields of `PromptsOptions`, such as
    prompt=["a photo of a {}", "a sketch of a {}"], out=RUN.
    The comparison is `result.comparison`. Raises UserError for what cannot be done.
    """
    return run(from_python(PromptsOptions, images=images, labels=labels, **options))


@writes_run("prompts")
def run(
    options: PromptsOptions, progress: Progress = SILENT, *, command: Sequence[str] = ()
) -> PromptsResult:
    """Compare prompts over one pass of the images; leave tables, figures and page of the run.

    Raises UserError for fewer than two templates, for labels with prompts of their own, and for
    everything that `captune classify` refuses.
    """
    labels = read_labels(options.labels)
    if labels.prompts is not None:
        raise UserError(f"{labels.source}: brings its own prompts; a comparison needs plain names")
    templates = expand(options.prompt or ["hw3"])
    if len(templates) < 2:
        raise UserError("--prompt: give two templates or more, or a named set such as hw3")
    check_ending("--csv", options.csv, ".csv")
    read = files_among(options.labels, options.truth, *options.images)
    check_outputs(read, {"--csv": options.csv}, options.out, row_paths(options.to))
    found = find_images(options.images, limit=options.limit)
    truth = known_truth(options.truth, found.images, labels, progress.message)
    skipped = list(found.skipped)
    with cache_for(options) as cache:
        model = kept_model(load_image_text_model, options)
        images, image_features = encode_all(
            found.images, model, Encoding.of(options, cache), skipped=skipped, progress=progress
        )
        indices = None
        if truth:
            indices = np.array([truth.get(image.name, -1) for image in images], dtype=np.intp)

        def text_features(template: str) -> Floats:
            assert model.text is not None
            texts = [fill(template, name) for name in labels.names]
            return encode_texts(texts, model.text, cache=cache)

        assert model.scoring is not None
        comparison = compare_templates(
            ((template, text_features(template)) for template in templates),
            image_features,
            labels.names,
            model.logits,
            activation=model.scoring.activation,
            truth=indices,
        )
        probes = [
            probe_negation(
                template,
                denied,
                image_features,
                text_features(template),
                text_features(denied),
                model.logits,
                indices,
            )
            for template in templates
            if (denied := negate(template)) is not None
        ]
    result = PromptsResult(
        images=len(images),
        skipped=skipped,
        labels=labels,
        model=describe_model(model),
        comparison=comparison,
        probes=probes,
        found=found,
    )
    if options.out is not None:
        models = [result.model]
        with RunWriter(options.out, "prompts", options, found.root, models, command) as run:
            for record in _records(result, images, indices):
                run.record(record)
            run.metrics = result.figures()
        tables = {"prompts.csv": comparison.rows(), "negation.csv": json_value(probes)}
        for name, rows in tables.items():
            if rows:
                write_csv(options.out / name, of_mappings(rows), raw=options.raw_csv)
        result.finish(options.out, progress, "plots")
    if options.csv is not None:
        write_csv(options.csv, of_mappings(comparison.rows()), raw=options.raw_csv)
        result.written["csv"] = options.csv
    with row_files(options.to, result.model, raw=options.raw_csv) as add:
        for row in comparison.rows():
            add(row)
    result.add_written(options.to)
    return result


def _records(
    result: PromptsResult, images: Sequence[ImageFile], truth: NDArray[np.intp] | None
) -> Iterator[dict[str, Any]]:
    ids = result.labels.ids
    for i, image in enumerate(images):
        answers = [
            {"id": ids[int(one.predicted[i])], "probability": float(one.confidence[i])}
            for one in result.comparison.results
        ]
        record: dict[str, Any] = {"path": image.name, "answers": answers}
        if truth is not None and truth[i] >= 0:
            record["truth"] = ids[truth[i]]
        yield record
