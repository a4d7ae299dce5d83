"""`captune classify`: recognise labels in images that nothing was trained on."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from captune.answer_files import check_ending, row_files, row_paths
from captune.errors import UserError
from captune.features.cache import cache_for
from captune.features.encode import none_readable
from captune.files import whole_file
from captune.images import Images, ImageSet, find_images
from captune.images.match import named_image
from captune.jobs import Result, check_answers, check_outputs, files_among, page_tables
from captune.jobs.shards import takes_shards
from captune.models.encoders import Floats, ImageTextModel, describe_model
from captune.options.codec import from_python
from captune.options.recognition import ClassifyOptions
from captune.progress import SILENT, Progress
from captune.runs import RunWriter
from captune.runs.writer import writes_run
from captune.statistics import wilson
from captune.tables import Column, Number, Table, csv_row, numbers
from captune.text import counted, percent
from captune.zeroshot.classifier import Prediction, ZeroShotClassifier, check_prompts, top_indices
from captune.zeroshot.labels import Labels, known_truth, read_labels

_SHOWN = 20  # predictions on a terminal
_KEPT = 10  # answers in a record
OnPrediction = Callable[[Prediction], None]
_Sink = Callable[[Prediction, int | None], object]


@dataclass(kw_only=True, eq=False)
class ClassifyResult(Result):
    """A classification; its items are predictions.

    prompts: one dictionary per prompt (template, accuracy, interval), None without truth.
    scored, correct: images with a truth, and those that the first prompt has right.
    """

    labels: Labels
    model: dict[str, Any]
    device: str
    prompts: list[dict[str, Any]] = field(default_factory=list)
    scored: int = 0
    correct: int = 0

    def summary(self) -> dict[str, Any]:
        """What `--json` prints."""
        more = {"model": self.model, "prompts": self.prompts}
        return super().summary() | more | self.answers_summary()

    def tables(self) -> list[Table]:
        """The first predictions, and the accuracy of each prompt where the truth is known."""
        columns = [Column("image", wide=True), Column("label", wide=True)]
        columns += [*numbers("probability"), Column("next labels", wide=True)]
        rows = []
        for prediction in self.items[:_SHOWN]:
            (best, probability), *others = prediction.top(3)
            number = Number(probability, percent(probability, 0))
            following = ", ".join(f"{name} {percent(p, 0)}" for name, p in others)
            rows.append([prediction.image.name, best, number, following])
        more = self.images - len(rows)
        note = f"... and {more:,} more" if more else ""
        found = [Table("images", "", columns, rows, note=note)]
        return [*found, *page_tables("classify", {"prompts": self.prompts})]

    def sentences(self) -> list[str]:
        """What was done."""
        labels = counted(len(self.labels), "label")
        return [f"{counted(self.images, 'image')}, {labels}, model {self.model['spec']}"]


def classify(images: Images, labels: str | Path | Sequence[str], **options: Any) -> ClassifyResult:
    """Recognise labels in images that nothing was trained on, as `captune classify`.

    images: folders, files and globs, or images in memory (`find_images`). labels: names,
    "cat,dog" or a file. options: the fields of `ClassifyOptions`, such as
    prompt=["a photo of a {}"], truth="from-name", out=RUN.
    The result is a sequence of `Prediction`, one per image that could be read. Raises UserError
    for what cannot be done.
    """
    found: list[Prediction] = []
    made = from_python(ClassifyOptions, images=images, labels=labels, **options)
    result = run(made, each=found.append)
    result.items = found
    return result


@takes_shards("classify")
@writes_run("classify")
def run(
    options: ClassifyOptions,
    progress: Progress = SILENT,
    *,
    command: Sequence[str] = (),
    each: OnPrediction | None = None,
    found: ImageSet | None = None,
    model: ImageTextModel | None = None,
) -> ClassifyResult:
    """Classify, write what was asked for, and leave the page of the run.

    command: the words that made this run, kept in it. each: is given every prediction as it comes;
    who takes them says in words of its own what a single label means. found, model: images and a
    model that are there already, instead of those that the options name. Raises UserError for what
    cannot be done; unreadable images are named in the result.
    """
    # everything that can be refused is checked before a model is loaded
    labels = _check(options)
    if len(labels) == 1 and not options.multi_label and each is None:
        progress.message("one label gets all of a softmax: --multi-label asks whether it fits")
    found = find_images(options.images, limit=options.limit) if found is None else found
    check_answers(command, len(found.images), (options.to, options.out, options.csv))
    _check_top5(options.top5, found)
    truth = known_truth(options.truth, found.images, labels, progress.message)
    with ExitStack() as stack:
        cache = stack.enter_context(cache_for(options))
        classifier = ZeroShotClassifier.from_options(
            options, labels=labels, model=model, cache=cache or False
        )
        result = ClassifyResult(
            labels=labels,
            model=describe_model(classifier.model),
            device=str(classifier.model.image.device),
            skipped=list(found.skipped),
            found=found,
        )
        writer, sinks = _sinks(options, found, result, command, stack)
        if each is not None:
            sinks.append(lambda prediction, _: each(prediction))
        _classify(classifier, found, truth, result, sinks, progress)
        if writer is not None:
            writer.metrics = _metrics(result, classifier)
            writer.extra["device"] = result.device
    result.add_written(options.to)
    if options.csv is not None:
        result.written["csv"] = options.csv
        if len(result.prompts) > 1:
            progress.message(
                f"{options.csv} holds the answers of the first of {len(result.prompts)} prompts "
                f'("{result.prompts[0]["template"]}"); --ensemble mean makes one answer of all'
            )
    if options.out is not None:
        result.finish(options.out, progress, "top-5 figures" if options.top5 else "")
    return result


def _check(options: ClassifyOptions) -> Labels:
    if options.all_probabilities and options.out is None:
        raise UserError("--all-probabilities writes into the run folder; name one with --out")
    if options.top5 and options.out is None:
        raise UserError("--top5: draws into the run folder; name one with --out")
    labels = read_labels(options.labels)
    check_prompts(labels, options.prompt)
    check_ending("--csv", options.csv, ".csv")
    read = files_among(options.labels, options.truth, *options.images)
    check_outputs(read, {"--csv": options.csv}, options.out, row_paths(options.to))
    return labels


def _check_top5(wanted: Sequence[str], found: ImageSet) -> None:
    names = {image.name for image in found.images} if wanted else set()
    for word in wanted:
        if word.isdecimal() and int(word) == 0:
            raise UserError("--top5 0: draws nothing; give 1 or more, or leave it out")
        if not word.isdecimal():
            named_image(word, names)


def _sinks(
    options: ClassifyOptions,
    found: ImageSet,
    result: ClassifyResult,
    command: Sequence[str],
    stack: ExitStack,
) -> tuple[RunWriter | None, list[_Sink]]:
    sinks: list[_Sink] = []
    writer = None
    if options.out is not None:
        writer = stack.enter_context(
            RunWriter(options.out, "classify", options, found.root, [result.model], command)
        )
        sinks.append(partial(_write_record, writer))
        if options.all_probabilities:
            path = writer.file_path("probabilities.npy")
            sinks.append(stack.enter_context(_probability_file(path)))
    if options.csv is not None:
        rows = stack.enter_context(whole_file(options.csv))
        rows.write(csv_row(["filename", "label"]))
        raw = options.raw_csv
        sinks.append(lambda one, _: rows.write(csv_row([one.image.name, one.id], raw=raw)))
    if options.to:
        add = stack.enter_context(row_files(options.to, result.model, raw=options.raw_csv))
        sinks.append(lambda prediction, _: add(prediction.answer()))
    return writer, sinks


def _classify(
    classifier: ZeroShotClassifier,
    found: ImageSet,
    truth: Mapping[str, int],
    result: ClassifyResult,
    sinks: Sequence[_Sink],
    progress: Progress,
) -> None:
    correct = np.zeros(len(classifier.text_features), dtype=np.int64)
    with progress.bar("classifying", len(found.images)) as advance:
        for prediction in classifier.classify(
            found.images, on_skip=result.skipped.append, on_progress=advance
        ):
            right = truth.get(prediction.image.name)
            if right is not None:
                result.scored += 1
                correct += prediction.probabilities.argmax(axis=1) == right
            for sink in sinks:
                sink(prediction, right)
            result.keep(prediction.answer())
            if len(result.items) < _SHOWN:
                result.items.append(prediction)
            result.images += 1
    if result.images == 0:
        raise none_readable(result.skipped)
    result.correct = int(correct[0])
    scored = result.scored
    result.prompts = [
        {
            "template": template,
            "accuracy": right_answers / scored if scored else None,
            "interval": list(wilson(right_answers, scored)) if scored else None,
        }
        for template, right_answers in zip(classifier.prompts, correct.tolist(), strict=True)
    ]


def _metrics(result: ClassifyResult, classifier: ZeroShotClassifier) -> dict[str, Any]:
    return {
        "images": result.images,
        "labels": len(result.labels.names),
        "scored": result.scored,
        "correct": result.correct,
        "prompts": result.prompts,
        "templates": classifier.templates if classifier.labels.prompts is None else [],
        "ensemble": classifier.ensemble,
        "activation": classifier.activation,
        "logit_scale": classifier.scoring.logit_scale,
        "skipped": result.skipped,
    }


def _write_record(writer: RunWriter, prediction: Prediction, right: int | None) -> None:
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
    writer.record(record)


def _top(row: Floats, labels: Labels) -> list[dict[str, Any]]:
    return [
        {"id": labels.ids[i], "name": labels.names[i], "probability": float(row[i])}
        for i in top_indices(row, _KEPT)
    ]


@contextmanager
def _probability_file(path: Path) -> Iterator[_Sink]:
    """Takes every probability, float16 [images, labels] or [images, prompts, labels].

    An .npy states its shape first, and the number of readable images is known last: rows are
    gathered beside it and copied behind the header.
    """
    count, shape = 0, ()
    path.parent.mkdir(parents=True, exist_ok=True)
    # without a name: two runs never share it, and one that is killed leaves nothing
    with tempfile.TemporaryFile(dir=path.parent) as raw:

        def add(prediction: Prediction, _right: int | None) -> None:
            nonlocal count, shape
            rows = prediction.probabilities
            rows = rows[0] if len(rows) == 1 else rows
            count, shape = count + 1, rows.shape
            raw.write(rows.astype("<f2").tobytes())

        yield add
        with whole_file(path, "wb") as file:
            header = {"descr": "<f2", "fortran_order": False, "shape": (count, *shape)}
            np.lib.format.write_array_header_1_0(file, header)
            raw.seek(0)
            shutil.copyfileobj(raw, file)
