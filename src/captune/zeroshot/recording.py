"""A classification from options to files: the run folder, the assignment's CSV, the summary."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from captune.embedding import Bar, none_readable
from captune.errors import UserError
from captune.features import FeatureCache
from captune.files import check_writable, whole_file
from captune.images import ImageSet, Skipped, find_images
from captune.models.image_text import Floats, describe_model
from captune.options import ClassifyOptions
from captune.runs import RunWriter
from captune.runs.place import writes_run
from captune.statistics import wilson
from captune.tables import NotebookDisplay, csv_row
from captune.zeroshot.classifier import (
    Prediction,
    ZeroShotClassifier,
    check_prompts,
    top_indices,
)
from captune.zeroshot.labels import Labels, read_labels
from captune.zeroshot.truth import known_truth

_SHOWN = 20
_KEPT = 10


@dataclass
class ClassifyResult(NotebookDisplay):
    """What one classification found; memory does not grow with the number of images.

    prompts: one dictionary a prompt (template, accuracy, interval), None without truth.
    shown: the first predictions, for a person to look at.
    written: what was written where.
    """

    labels: Labels
    model: dict[str, Any]
    device: str
    images: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    shown: list[Prediction] = field(default_factory=list)
    prompts: list[dict[str, Any]] = field(default_factory=list)
    scored: int = 0
    correct: int = 0
    written: dict[str, Path] = field(default_factory=dict)

    @property
    def spec(self) -> str:
        """The model spec."""
        return str(self.model["spec"])

    def summary(self) -> dict[str, Any]:
        """What `--json` prints."""
        run = self.written.get("run")
        return {
            "run": None if run is None else str(run),
            "images": self.images,
            "skipped": [{"path": item.path, "reason": item.reason} for item in self.skipped],
            "model": self.model,
            "prompts": self.prompts,
            "written": {what: str(path) for what, path in self.written.items()},
        }


@writes_run("classify")
def classify_images(
    options: ClassifyOptions,
    *,
    command: Sequence[str],
    bar: Bar,
    say: Callable[[str], None] = lambda sentence: None,
) -> ClassifyResult:
    """Do what `captune classify` was asked for; the result names bad files, the rest goes on.

    command: the words that made this run, kept in it. Raises UserError for what cannot be done.
    """
    if options.all_probabilities and options.out is None:
        raise UserError("--all-probabilities: writes into the run folder; name one with --out")
    if options.top5 and options.out is None:
        raise UserError("--top5: draws into the run folder; name one with --out")
    # everything that can be refused is checked before a model is loaded
    labels = read_labels(options.labels)
    check_prompts(labels, options.prompt)
    if len(labels) == 1 and not options.multi_label:
        say("one label gets all of a softmax: --multi-label asks whether it fits")
    if options.csv is not None:
        check_writable(options.csv)
    found = find_images(options.images)
    _check_top5(options.top5, found)
    truth = known_truth(options.truth, found.images, labels, say)
    with ExitStack() as stack:
        cache = stack.enter_context(nullcontext() if options.no_cache else FeatureCache())
        classifier = ZeroShotClassifier(
            labels,
            model=options.model,
            prompts=options.prompt,
            ensemble=options.ensemble,
            multi_label=options.multi_label,
            device=options.device,
            dtype=options.dtype,
            batch_size=options.batch_size,
            workers=options.workers,
            cache=cache or False,
        )
        result = ClassifyResult(
            labels, describe_model(classifier.model), str(classifier.model.image.device)
        )
        result.skipped.extend(found.skipped)
        sinks: list[Callable[[Prediction, int | None], None]] = []
        writer = None
        if options.out is not None:
            writer = stack.enter_context(_run_writer(options, found, result, command))
            sinks.append(lambda prediction, right: writer.record(_record(prediction, right)))
            if options.all_probabilities:
                path = writer.file_path("probabilities.npy")
                sinks.append(stack.enter_context(_ProbabilityFile(path)).add)
        if options.csv is not None:
            sinks.append(stack.enter_context(_AnswerFile(options.csv, raw=options.raw_csv)).add)
        _classify(classifier, found, truth, result, sinks, bar)
        if writer is not None:
            writer.metrics = _metrics(result, classifier)
            writer.extra["device"] = result.device
    if options.csv is not None:
        result.written["csv"] = options.csv
        if len(result.prompts) > 1:
            say(
                f"{options.csv}: holds the answers of the first of {len(result.prompts)} prompts "
                f'("{result.prompts[0]["template"]}"); --ensemble mean makes one answer of all'
            )
    if options.out is not None:
        result.written["run"] = options.out
    return result


def _classify(
    classifier: ZeroShotClassifier,
    found: ImageSet,
    truth: Mapping[str, int],
    result: ClassifyResult,
    sinks: Sequence[Callable[[Prediction, int | None], None]],
    bar: Bar,
) -> None:
    correct = np.zeros(len(classifier.text_features), dtype=np.int64)
    with bar("classifying", len(found.images)) as advance:
        for prediction in classifier.classify(
            found.images, on_skip=result.skipped.append, on_progress=advance
        ):
            right = truth.get(prediction.image.name)
            if right is not None:
                result.scored += 1
                correct += prediction.probabilities.argmax(axis=1) == right
            for sink in sinks:
                sink(prediction, right)
            if len(result.shown) < _SHOWN:
                result.shown.append(prediction)
            result.images += 1
    if result.images == 0:
        raise none_readable(result.skipped)
    result.correct = int(correct[0])
    for template, right_answers in zip(classifier.prompts, correct.tolist(), strict=True):
        scored = result.scored
        result.prompts.append(
            {
                "template": template,
                "accuracy": right_answers / scored if scored else None,
                "interval": list(wilson(right_answers, scored)) if scored else None,
            }
        )


def _check_top5(wanted: Sequence[str], found: ImageSet) -> None:
    """Before the work is done rather than after: names are images and numbers are not 0."""
    names = {image.name for image in found.images} if wanted else set()
    for word in wanted:
        if word.isdecimal() and int(word) == 0:
            raise UserError("--top5 0: draws nothing; give 1 or more, or leave it out")
        if not word.isdecimal():
            named_image(word, names)


def named_image(word: str, names: Collection[str]) -> str:
    """The image that `word` names: its name, or a path that ends in it as the shell completes it.

    Raises UserError where there is none.
    """
    if word in names:
        return word
    endings = [name for name in names if word.endswith(f"/{name}")]
    if not endings:
        raise UserError(f"--top5 {word}: neither a number nor one of the {len(names)} images")
    return max(endings, key=len)


def _run_writer(
    options: ClassifyOptions, found: ImageSet, result: ClassifyResult, command: Sequence[str]
) -> RunWriter:
    assert options.out is not None
    return RunWriter(
        options.out,
        kind="classify",
        options=options,
        root=found.root,
        models=[result.model],
        command=command,
    )


def _metrics(result: ClassifyResult, classifier: ZeroShotClassifier) -> dict[str, Any]:
    independent = classifier.multi_label or classifier.scoring.activation == "sigmoid"
    return {
        "images": result.images,
        "labels": len(result.labels.names),
        "scored": result.scored,
        "correct": result.correct,
        "prompts": result.prompts,
        "templates": classifier.templates if classifier.labels.prompts is None else [],
        "ensemble": classifier.ensemble,
        "activation": "sigmoid" if independent else "softmax",
        "logit_scale": classifier.scoring.logit_scale,
        "skipped": [{"path": item.path, "reason": item.reason} for item in result.skipped],
    }


def _record(prediction: Prediction, right: int | None) -> dict[str, Any]:
    labels = prediction.labels
    record: dict[str, Any] = {
        "path": prediction.image.name,
        "top": _top(prediction.probabilities[0], labels),
    }
    if right is not None:
        record["truth"] = labels.ids[right]
        record["truth_name"] = labels.names[right]
    if len(prediction.probabilities) > 1:
        record["by_prompt"] = [_top(row, labels) for row in prediction.probabilities]
    return record


def _top(row: Floats, labels: Labels) -> list[dict[str, Any]]:
    return [
        {"id": labels.ids[i], "name": labels.names[i], "probability": float(row[i])}
        for i in top_indices(row, _KEPT)
    ]


class _AnswerFile:
    """The assignment's CSV: `filename,label`, the label being the class id, one row an image."""

    def __init__(self, path: Path, *, raw: bool) -> None:
        self._file = whole_file(path)
        self._raw = raw

    def __enter__(self) -> _AnswerFile:
        self._rows = self._file.__enter__()
        self._rows.write(csv_row(["filename", "label"]))
        return self

    def add(self, prediction: Prediction, _right: int | None) -> None:
        """Write one row."""
        self._rows.write(csv_row([prediction.image.name, prediction.id], raw=self._raw))

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)


class _ProbabilityFile:
    """Every probability, float16 [images, labels] or [images, prompts, labels].

    An .npy states its shape first, and the number of readable images is known last: rows are
    gathered beside it and copied behind the header.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = ExitStack()
        self._rows = 0
        self._shape: tuple[int, ...] = ()

    def __enter__(self) -> _ProbabilityFile:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # without a name: two runs never share it, and one that is killed leaves nothing
        self._raw: IO[bytes] = self._stack.enter_context(
            tempfile.TemporaryFile(dir=self._path.parent)
        )
        return self

    def add(self, prediction: Prediction, _right: int | None) -> None:
        """Append one image's probabilities."""
        rows = prediction.probabilities
        rows = rows[0] if len(rows) == 1 else rows
        self._shape = rows.shape
        self._rows += 1
        self._raw.write(rows.astype("<f2").tobytes())

    def __exit__(self, *error: Any) -> None:
        try:
            if error[0] is None:
                with whole_file(self._path, "wb") as file:
                    header = {
                        "descr": "<f2",
                        "fortran_order": False,
                        "shape": (self._rows, *self._shape),
                    }
                    np.lib.format.write_array_header_1_0(file, header)
                    self._raw.seek(0)
                    shutil.copyfileobj(self._raw, file)
        finally:
            self._stack.close()
