"""A comparison of prompts from options to files: one image pass, tables, the run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captune.embedding import Bar, encode_all
from captune.errors import UserError
from captune.features import FeatureCache, encode_texts
from captune.files import check_writable
from captune.images import ImageFile, Skipped, find_images
from captune.models.image_text import Floats, ImageTextModel, describe_model
from captune.models.load import load_image_text_model
from captune.options import PromptsOptions
from captune.runs import RunWriter
from captune.runs.place import writes_run
from captune.tables import NotebookDisplay, of_mappings, write_csv
from captune.zeroshot.comparison import TemplateComparison, TemplateResult, compare_templates
from captune.zeroshot.labels import Labels, read_labels
from captune.zeroshot.negation import NegationProbe, negate, probe_negation
from captune.zeroshot.prompts import expand, fill
from captune.zeroshot.truth import known_truth


@dataclass
class PromptStudy(NotebookDisplay):
    """Prompts compared on images that were encoded once.

    probes: one negation probe for each template that can be denied.
    written: what was written where.
    """

    labels: Labels
    model: dict[str, Any]
    images: list[ImageFile]
    comparison: TemplateComparison
    probes: list[NegationProbe]
    skipped: list[Skipped]
    written: dict[str, Path] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """What `--json` prints."""
        run = self.written.get("run")
        prompts = []
        for row, result in zip(self.comparison.rows(), self.comparison.results, strict=True):
            interval = None if result.interval is None else list(result.interval)
            prompts.append({**row, "interval": interval})
        best = self.comparison.best
        return {
            "run": None if run is None else str(run),
            "images": len(self.images),
            "skipped": [{"path": item.path, "reason": item.reason} for item in self.skipped],
            "model": self.model,
            "prompts": prompts,
            "best": None if best is None else self.comparison.results[best].template,
            "negation": [probe.row() for probe in self.probes],
            "written": {what: str(path) for what, path in self.written.items()},
        }


@writes_run("prompts")
def compare_prompts(
    options: PromptsOptions,
    *,
    command: Sequence[str],
    bar: Bar,
    say: Callable[[str], None] = lambda sentence: None,
) -> PromptStudy:
    """Do what `captune prompts` was asked for, without the figures.

    Raises UserError for fewer than two templates, for labels with prompts of their own, and for
    everything that `captune classify` refuses.
    """
    labels = read_labels(options.labels)
    if labels.prompts is not None:
        raise UserError(f"{labels.source}: brings its own prompts; a comparison needs plain names")
    templates = expand(options.prompt or ["hw3"])
    if len(templates) < 2:
        raise UserError("--prompt: give two templates or more, or a named set such as hw3")
    if options.csv is not None:
        check_writable(options.csv)
    found = find_images(options.images)
    truth = known_truth(options.truth, found.images, labels, say)
    skipped = list(found.skipped)
    with nullcontext() if options.no_cache else FeatureCache() as cache:
        model = load_image_text_model(options.model, device=options.device, dtype=options.dtype)
        images, image_features = encode_all(
            options, skipped, model=model, found=found, cache=cache, bar=bar
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
        probes = list(_probe(templates, image_features, text_features, model, indices))
    study = PromptStudy(labels, describe_model(model), images, comparison, probes, skipped)
    if options.out is not None:
        _write_run(study, options, found.root, indices, command)
        study.written["run"] = options.out
    if options.csv is not None:
        write_csv(options.csv, of_mappings(comparison.rows()), raw=options.raw_csv)
        study.written["csv"] = options.csv
    return study


def _probe(
    templates: Sequence[str],
    image_features: Floats,
    text_features: Callable[[str], Floats],
    model: ImageTextModel,
    truth: NDArray[np.intp] | None,
) -> Iterator[NegationProbe]:
    for template in templates:
        denied = negate(template)
        if denied is not None:
            yield probe_negation(
                template,
                denied,
                image_features,
                text_features(template),
                text_features(denied),
                model.logits,
                truth,
            )


def _write_run(
    study: PromptStudy,
    options: PromptsOptions,
    root: Path,
    truth: NDArray[np.intp] | None,
    command: Sequence[str],
) -> None:
    assert options.out is not None
    ids = study.labels.ids
    comparison = study.comparison
    with RunWriter(
        options.out,
        kind="prompts",
        options=options,
        root=root,
        models=[study.model],
        command=command,
    ) as run:
        for i, image in enumerate(study.images):
            answers = [_answer(result, i, ids) for result in comparison.results]
            record: dict[str, Any] = {"path": image.name, "answers": answers}
            if truth is not None and truth[i] >= 0:
                record["truth"] = ids[truth[i]]
            run.record(record)
        run.metrics = {
            "images": comparison.images,
            "scored": comparison.known,
            "labels": len(ids),
            "label_names": dict(zip(ids, study.labels.names, strict=True)),
            "best": comparison.best,
            "prompts": comparison.rows(),
            "negation": [probe.row() for probe in study.probes],
            "agreement": comparison.agreement,
            "calibration": [result.calibration for result in comparison.results],
            "class_changes": [
                [
                    {"label": c.label, "images": c.images, "change": c.change, "share": c.share}
                    for c in comparison.class_changes(index)
                ]
                for index in range(len(comparison.results))
            ],
            "skipped": [{"path": item.path, "reason": item.reason} for item in study.skipped],
        }
    tables = {"prompts.csv": comparison.rows(), "negation.csv": [p.row() for p in study.probes]}
    for name, rows in tables.items():
        if rows:
            write_csv(options.out / name, of_mappings(rows), raw=options.raw_csv)


def _answer(result: TemplateResult, image: int, ids: Sequence[str]) -> dict[str, Any]:
    return {
        "id": ids[int(result.predicted[image])],
        "probability": float(result.confidence[image]),
    }
