"""Zero-shot classification: one text vector a label, one image vector an image, their cosine.

Recipe (Radford et al. 2021, and its reference notebook): each prompt is encoded and normalised; an
ensemble averages the normalised vectors of a label and normalises again; the logit is the cosine
times the checkpoint's own scale (plus its bias), and the activation is the one it was trained with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captune.errors import UserError
from captune.features.cache import FeatureCache
from captune.features.encode import encode_images, encode_texts
from captune.features.pipeline import Encoding
from captune.images import ImageFile, Images, ImageSet, Skipped, find_images
from captune.images.find import image_sources
from captune.models.encoders import Floats, ImageTextModel, SimilarityScale, normalise
from captune.models.load import kept_model, load_image_text_model
from captune.options.base import check_pass
from captune.options.recognition import ClassifyOptions
from captune.tables import NotebookDisplay
from captune.zeroshot.labels import Labels, read_labels
from captune.zeroshot.prompts import DEFAULT_TEMPLATE, expand, fill

# what a label is compared with where the model was trained to choose one text among many
NEUTRAL_NAME = "something"
_LABELS_AT_ONCE = 512


@dataclass(frozen=True)
class Prediction(NotebookDisplay):
    """What one image was found to show.

    probabilities: [prompts, labels]; one row with an ensemble or a single prompt. Rows sum to one
        for softmax models, and are independent for sigmoid models and multi-label classification.
    labels: what the columns mean.
    """

    image: ImageFile
    probabilities: Floats
    labels: Labels

    @property
    def index(self) -> int:
        """Position of the most probable label of the first prompt."""
        return int(self.probabilities[0].argmax())

    @property
    def id(self) -> str:
        """Class id of the most probable label."""
        return self.labels.ids[self.index]

    @property
    def label(self) -> str:
        """Name of the most probable label."""
        return self.labels.names[self.index]

    def top(self, count: int = 5, prompt: int = 0) -> list[tuple[str, float]]:
        """The `count` most probable (name, probability), best first."""
        row = self.probabilities[prompt]
        return [(self.labels.names[i], float(row[i])) for i in top_indices(row, count)]

    def answer(self) -> dict[str, Any]:
        """What other programs are told of the first prompt: the best label and the top five."""
        row = self.probabilities[0]
        top = [
            {"label": self.labels.names[i], "id": self.labels.ids[i], "probability": float(row[i])}
            for i in top_indices(row, 5)
        ]
        return {"image": self.image.spelled, **top[0], "top": top}


class ZeroShotClassifier:
    """Recognises labels that it was never trained on.

        classifier = ZeroShotClassifier(["cat", "dog"])
        for prediction in classifier.classify("images/"):
            print(prediction.image.name, prediction.label, prediction.top(2))

    Text is encoded once, here; images are streamed, so memory does not grow with their number.
    """

    def __init__(
        self,
        labels: Labels | str | Sequence[str],
        *,
        model: str | ImageTextModel = "lite",
        prompts: Sequence[str] = (),
        ensemble: str | None = None,
        multi_label: bool = False,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 32,
        workers: int = 0,
        cache: bool | FeatureCache = True,
    ) -> None:
        """labels: names, a path, "cat,dog", or Labels. prompts: templates or named sets.

        Raises UserError for labels, prompts or a model that cannot be used.
        """
        check_pass(batch_size, workers)
        self.labels = labels if isinstance(labels, Labels) else read_labels(labels)
        self.templates = check_prompts(self.labels, prompts)
        self.ensemble = ensemble
        self.multi_label = multi_label
        self.cache = FeatureCache() if cache is True else cache or None
        self.encoding = Encoding(self.cache, batch_size, workers)
        self.model = (
            load_image_text_model(model, device=device, dtype=dtype)
            if isinstance(model, str)
            else model
        )
        if self.cache is not None:
            self.cache.remember_model(self.model.spec, self.model.ids)
        self.text_features = self._encode_labels()
        self._neutral: Floats | None = None
        if multi_label and self.scoring.activation == "softmax":
            # [prompts, d]: the templates filled with a name that says nothing
            vectors = self._encode([fill(one, NEUTRAL_NAME) for one in self.templates])
            is_one = len(self.text_features) == 1
            self._neutral = _ensemble(vectors)[None] if is_one else vectors

    @classmethod
    def from_options(
        cls,
        options: ClassifyOptions,
        *,
        labels: Labels | None = None,
        model: ImageTextModel | None = None,
        workers: int | None = None,
        cache: bool | FeatureCache = True,
    ) -> ZeroShotClassifier:
        """As the options of a command ask for it; what is given besides is taken instead."""
        return cls(
            labels or options.labels,
            model=model or kept_model(load_image_text_model, options),
            prompts=options.prompt,
            ensemble=options.ensemble,
            multi_label=options.multi_label,
            device=options.device,
            dtype=options.dtype,
            batch_size=options.batch_size,
            workers=options.workers if workers is None else workers,
            cache=cache,
        )

    @property
    def activation(self) -> str:
        """How probabilities come of logits: softmax over the labels, or a sigmoid for each."""
        return "sigmoid" if self.multi_label else self.scoring.activation

    @property
    def prompts(self) -> list[str | None]:
        """One entry a row of the probabilities: its template, or None for an ensemble.

        Labels that bring prompts of their own are an ensemble of those.
        """
        if self.labels.prompts is not None:
            return [None]
        return list(self.templates) if len(self.templates) == len(self.text_features) else [None]

    @property
    def scoring(self) -> SimilarityScale:
        """The model's scoring."""
        assert self.model.scoring is not None
        return self.model.scoring

    def classify(
        self,
        images: Images | ImageSet | Iterable[ImageFile],
        *,
        on_skip: Callable[[Skipped], None] = lambda skipped: None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Iterator[Prediction]:
        """Yield predictions in the images' order; a bad file goes to `on_skip`, the rest on."""
        for found, features in encode_images(
            _images(images, on_skip),
            self.model.image,
            self.encoding,
            on_skip=on_skip,
            on_progress=on_progress,
        ):
            probabilities = self.probabilities(features)
            for image, row in zip(found, probabilities, strict=True):
                yield Prediction(image, row, self.labels)

    def probabilities(self, image_features: Floats) -> Floats:
        """Image features [n, d] -> probabilities [n, prompts, labels]."""
        rows = []
        for i, vectors in enumerate(self.text_features):
            logits = self.model.logits(image_features, vectors)
            if self._neutral is not None:
                logits = logits - self.model.logits(image_features, self._neutral[i : i + 1])
            rows.append(activate(logits, self.scoring, self.multi_label))
        return np.stack(rows, axis=1)

    def _encode_labels(self) -> Floats:
        """[prompts, labels, d], rows of length one; one "prompt" for an ensemble."""
        parts = []
        for start in range(0, len(self.labels.names), _LABELS_AT_ONCE):
            names = self.labels.names[start : start + _LABELS_AT_ONCE]
            if self.labels.prompts is not None:
                own = self.labels.prompts[start : start + _LABELS_AT_ONCE]
                vectors = self._encode([text for texts in own for text in texts])
                ends = np.cumsum([len(texts) for texts in own])[:-1]
                parts.append(np.stack([_ensemble(part) for part in np.split(vectors, ends)])[None])
                continue
            texts = [fill(template, name) for template in self.templates for name in names]
            vectors = self._encode(texts).reshape(len(self.templates), len(names), -1)
            parts.append(_ensemble(vectors)[None] if self.ensemble == "mean" else vectors)
        return np.concatenate(parts, axis=1)

    def _encode(self, texts: Sequence[str]) -> Floats:
        assert self.model.text is not None
        return normalise(encode_texts(texts, self.model.text, cache=self.cache))


def activate(logits: Floats, scoring: SimilarityScale, multi_label: bool = False) -> Floats:
    """Logits [..., labels] -> probabilities, by softmax over the labels or a sigmoid for each."""
    if multi_label or scoring.activation == "sigmoid":
        # the two-sided form overflows for neither sign
        half: Floats = 0.5 * (1.0 + np.tanh(0.5 * logits))
        return half
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: Floats = exponents / exponents.sum(axis=-1, keepdims=True)
    return shares


def top_indices(rows: Floats, count: int) -> NDArray[np.intp]:
    """Positions of the `count` largest of [..., n], or of all; largest first, ties in order."""
    count = min(count, rows.shape[-1])
    # a full sort of 10,000 labels an image would cost more than the comparison itself
    chosen = np.sort(np.argpartition(-rows, count - 1)[..., :count])
    order = np.argsort(-np.take_along_axis(rows, chosen, -1), kind="stable")
    return np.take_along_axis(chosen, order, -1)


def check_prompts(labels: Labels, prompts: Sequence[str]) -> list[str]:
    """Templates from templates and set names; class-specific prompts take none."""
    if labels.prompts is not None:
        if prompts:
            raise UserError(
                f"{labels.source}: brings its own prompts for each label; leave out --prompt"
            )
        return [DEFAULT_TEMPLATE]
    return expand(prompts) if prompts else [DEFAULT_TEMPLATE]


def _ensemble(vectors: Floats) -> Floats:
    """[prompts, ..., d] of length one -> their mean, of length one again."""
    return normalise(vectors.mean(axis=0))


def _images(
    images: Images | ImageSet | Iterable[ImageFile],
    on_skip: Callable[[Skipped], None],
) -> Iterable[ImageFile]:
    if not isinstance(images, ImageSet):
        sources = image_sources(images)
        if all(isinstance(one, ImageFile) for one in sources):
            files: list[ImageFile] = sources
            return files
        images = find_images(sources)
    for skipped in images.skipped:
        on_skip(skipped)
    return images.images
