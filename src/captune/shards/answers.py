"""Images -> rows of a shard, by the model of a command, which is loaded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from captune.answer_files import flat, parquet
from captune.features.encode import encode_images
from captune.features.pipeline import Encoding
from captune.images import ImageFile, Skipped
from captune.models.encoders import describe_model, normalise
from captune.models.load import load_model
from captune.options.captioning import CaptionOptions
from captune.options.recognition import ClassifyOptions, EmbedOptions
from captune.zeroshot.classifier import ZeroShotClassifier

_TOP = 5  # labels of a row


@dataclass(frozen=True)
class Answered:
    """row: the columns of an image. record: its line in a run folder, with the path left open.

    text: what a WebDataset has beside the image, where the answer is one. vector: the same.
    """

    row: dict[str, Any]
    record: dict[str, Any] | None = None
    text: str | None = None
    vector: Any = None


class Answerer(Protocol):
    """models: as run.json names them, the first one with its "preprocessing_id".

    columns: name -> type of pyarrow. figures: of metrics.json, what does not come from the images.
    """

    models: list[dict[str, Any]]
    columns: dict[str, Any]
    figures: dict[str, Any]

    def answer(self, images: Sequence[ImageFile]) -> Iterator[Answered | Skipped]:
        """What comes of each image, in their order."""
        ...


def load_answerer(command: str, options: Any, workers: int) -> Answerer:
    """The model of `captune COMMAND` with these options. workers: threads that decode."""
    made: dict[str, Any] = {"classify": _Classifier, "caption": _Captioner, "embed": _Embedder}
    answerer: Answerer = made[command](options, workers)
    return answerer


class _Classifier:
    def __init__(self, options: ClassifyOptions, workers: int) -> None:
        classifier = ZeroShotClassifier.from_options(options, workers=workers, cache=False)
        self._classifier = classifier
        self.models: list[dict[str, Any]] = [dict(describe_model(classifier.model))]
        arrow = parquet()
        types = {"label": arrow.string(), "id": arrow.string(), "probability": arrow.float64()}
        top = range(1, 1 + min(_TOP, len(classifier.labels)))
        numbered = {f"{name}_{n}": type for n in top for name, type in types.items()}
        self.columns = types | numbered
        self.figures = {
            "labels": len(classifier.labels),
            "scored": 0,
            "correct": 0,
            "prompts": [
                {"template": template, "accuracy": None, "interval": None}
                for template in classifier.prompts
            ],
            "activation": classifier.activation,
        }

    def answer(self, images: Sequence[ImageFile]) -> Iterator[Answered | Skipped]:
        skipped: list[Skipped] = []
        found = self._classifier.classify(list(images), on_skip=skipped.append)
        answered = (
            (one.image, Answered(row, {"top": _top(answer)}, one.label))
            for one in found
            for answer in [one.answer()]
            for row in [{name: cell for name, cell in flat(answer).items() if name != "image"}]
        )
        yield from _in_order(images, answered, skipped)


def _top(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"id": one["id"], "name": one["label"], "probability": one["probability"]}
        for one in answer["top"]
    ]


class _Captioner:
    def __init__(self, options: CaptionOptions, workers: int) -> None:
        from captune.captioning.any_captioner import prepare_captioner
        from captune.captioning.captioner import Captioner

        self._options, self._workers = options, workers
        prepared = prepare_captioner(options)
        self._captioner = captioner = prepared.load()
        others = captioner.described()
        seen = (one["preprocessing_id"] for one in others if "preprocessing_id" in one)
        about = {"preprocessing_id": prepared.about.get("processor_id") or next(seen)}
        self.models = [prepared.about | about, *others]
        arrow = parquet()
        self.columns = {
            "caption": arrow.string(),
            "log_probability": arrow.float64(),
            "mean_log_probability": arrow.float64(),
            "ended": arrow.bool_(),
        }
        if isinstance(captioner, Captioner) and captioner.model.reads_tags:
            self.columns["read"] = arrow.string()
        self.figures: dict[str, Any] = {}
        if prepared.agreement is not None:
            self.columns["agreement"] = arrow.float64()
            self.figures["agreement"] = prepared.agreement
        if options.flag_below is not None:
            self.columns["flagged"] = arrow.bool_()
            self.figures["flag_below"] = options.flag_below
        if captioner.reranker is not None:
            self.figures["reranking"] = captioner.reranker.settings

    def answer(self, images: Sequence[ImageFile]) -> Iterator[Answered | Skipped]:
        from captune.captioning.caption import without_preamble
        from captune.captioning.generate import GenerationSettings

        options = self._options
        encoding = Encoding(None, options.batch_size, self._workers)
        how = GenerationSettings(options.beam, options.max_tokens, encoding)
        for batch in self._captioner.stream(images, how):
            for one in batch:
                if isinstance(one, Skipped):
                    yield one
                    continue
                record = (without_preamble(one) if options.cut_preamble else one).record()
                if options.flag_below is not None:
                    record["flagged"] = record["agreement"] < options.flag_below
                row = {name: record.get(name) for name in self.columns}
                yield Answered(row, record, row["caption"])


class _Embedder:
    def __init__(self, options: EmbedOptions, workers: int) -> None:
        self._options, self._workers = options, workers
        self._model = load_model(options.model, device=options.device, dtype=options.dtype)
        self.models = [dict(describe_model(self._model)) | {"normalised": options.normalise}]
        arrow = parquet()
        self.columns = {"features": arrow.list_(arrow.float32(), self._model.image.dimension)}
        self.figures: dict[str, Any] = {}

    def answer(self, images: Sequence[ImageFile]) -> Iterator[Answered | Skipped]:
        skipped: list[Skipped] = []
        batches = encode_images(
            images,
            self._model.image,
            Encoding(None, self._options.batch_size, self._workers),
            on_skip=skipped.append,
        )
        answered = (
            (image, Answered({"features": vector}, vector=vector))
            for some, features in batches
            for image, vector in zip(
                some,
                np.asarray(normalise(features) if self._options.normalise else features, "f4"),
                strict=True,
            )
        )
        yield from _in_order(images, answered, skipped)


def _in_order(
    images: Sequence[ImageFile],
    answered: Iterator[tuple[ImageFile, Answered]],
    skipped: list[Skipped],
) -> Iterator[Answered | Skipped]:
    """Answers and, in their places, what was skipped until then. skipped: filled meanwhile."""
    waiting = iter(images)
    reasons: dict[str, Skipped] = {}

    def reason(image: ImageFile) -> Skipped:
        reasons.update((one.path, one) for one in skipped)
        skipped.clear()
        return reasons.pop(image.name)

    for image, answer in answered:
        for other in waiting:
            if other is image or other == image:
                break
            yield reason(other)
        yield answer
    yield from map(reason, waiting)


def answered_before(row: dict[str, Any], record: dict[str, Any] | None) -> Answered:
    """The answer that a row of an earlier run holds. record: its line there, if it was sampled."""
    vector = np.asarray(row["features"], "f4") if "features" in row else None
    return Answered(row, record, row.get("caption", row.get("label")), vector)


def sums_of(row: dict[str, Any]) -> dict[str, float]:
    """What metrics.json needs of a row, to be added up."""
    if row.get("caption") is None:
        return {}
    sums = {"ended": float(row["ended"]), "words": float(len(row["caption"].split()))}
    return sums | {name: float(row[name]) for name in ("agreement", "flagged") if name in row}
