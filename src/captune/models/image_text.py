"""An image encoder and a text encoder that share a space, and how that space is scored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from captune.errors import UserError
from captune.models.encoders import ImageEncoder
from captune.models.texts import TextEncoder

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Scoring:
    """How a cosine becomes a probability, as the checkpoint says, never guessed.

    logit_scale: the factor on the cosine (already exponentiated).
    logit_bias: added to the scaled cosine; only sigmoid-trained models (SigLIP) have one.
    activation: "softmax" over the labels or an independent "sigmoid" for each, as in training.
    """

    logit_scale: float
    logit_bias: float = 0.0
    activation: Literal["softmax", "sigmoid"] = "softmax"


def scoring_of(scale: float, bias: float | None, where: str) -> Scoring:
    """Scoring by a checkpoint's own numbers; only sigmoid training has a bias to learn.

    Raises UserError for numbers that no probability can be made with.
    """
    if not all(math.isfinite(number) for number in (scale, bias or 0.0)):
        raise UserError(f"{where}: its logit scale or bias is not a finite number")
    return Scoring(scale) if bias is None else Scoring(scale, bias, "sigmoid")


@dataclass(frozen=True)
class ImageTextModel:
    """What a model spec resolves to: weights, preprocessing, tokenizer, scoring, content hash.

    text and scoring are None for image-only models (`timm:NAME`), which can embed but not classify.
    weights_id: sha256 over everything trained in both towers.
    licence: as the checkpoint states it, or None where it states nothing.
    """

    spec: str
    weights_id: str
    licence: str | None
    image: ImageEncoder
    text: TextEncoder | None
    scoring: Scoring | None

    @property
    def ids(self) -> list[str]:
        """What the cached features of each side are filed under."""
        grid = [self.image.patches.weights_id] if self.image.patches else []
        return [self.image.weights_id, *grid, *([self.text.text_id] if self.text else [])]

    def logits(self, image_features: Floats, text_features: Floats) -> Floats:
        """Scaled cosines (plus bias) of images [n, d] against texts [m, d] -> [n, m]."""
        if self.scoring is None:
            raise TypeError(f"{self.spec} has no text side to compare with")
        cosines = normalise(image_features) @ normalise(text_features).T
        return cosines * np.float32(self.scoring.logit_scale) + np.float32(self.scoring.logit_bias)


def describe_model(model: ImageTextModel) -> dict[str, str | None]:
    """The model as a run folder and `--json` name it."""
    return {
        "spec": model.spec,
        "weights_id": model.weights_id,
        "preprocessing_id": model.image.preprocessing_id,
        "licence": model.licence,
    }


def normalise(vectors: Floats) -> Floats:
    """Rows of [n, d] scaled to length one; a zero row stays zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Floats = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32, copy=False)
    return scaled
