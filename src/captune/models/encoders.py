"""Frozen encoders of images and texts, and how the space that they share is scored."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from captune.errors import UserError


@dataclass(frozen=True)
class GridShape:
    """What an image encoder yields for an image: [tokens, channels].

    rows, columns: of the patch grid. leading: tokens before it that stand for no place (CLS,
        registers), so tokens = leading + rows * columns.
    """

    tokens: int
    channels: int
    rows: int
    columns: int
    leading: int = 0

    @property
    def placed(self) -> Any:
        """Picks the tokens that stand for a place, of [..., tokens, channels] on its own axis."""
        return slice(self.leading, self.leading + self.rows * self.columns)

    @property
    def turned(self) -> Tensor:
        """Of each token, the one that stands for its place in the mirrored image, [tokens]."""
        order = torch.arange(self.tokens)
        order[self.placed] = self.to_cells(order).flip(-1).flatten()
        return order

    def to_cells(self, values: Tensor) -> Tensor:
        """[..., tokens] -> [..., rows, columns]; what stands for no place is dropped."""
        placed = values[..., self.placed]
        return placed.reshape(*placed.shape[:-1], self.rows, self.columns)

    def to_tokens(self, shown: Tensor) -> Tensor:
        """Masks [n, rows * columns] -> [n, tokens]; what stands for no place is always shown."""
        behind = self.tokens - self.leading - shown.shape[1]
        return F.pad(shown, (self.leading, behind), value=True)


@dataclass(frozen=True)
class PatchGrid:
    """How an encoder looks at a whole image, place by place.

    shape: of what a bridge reads.
    cached_shape: (tokens, channels) of what is kept of an image; `finish` makes one of the other.
    encode: pixels [n, 3, height, width] -> [n, *cached_shape], on the encoder's device and dtype.
    finish: [n, *cached_shape] -> [n, shape.tokens, shape.channels].
    transform: as that of the encoder, but of the whole image, squashed to the encoder's rectangle.
    preprocessing_id, weights_id: what a cached grid depends on besides the image.
    embed: finished places [..., channels] -> [..., dimension] in the space of the texts, each
        patch as if it were an image of its own; None where single patches have no meaning.
    """

    shape: GridShape
    cached_shape: tuple[int, int]
    encode: Callable[[Tensor], Tensor]
    transform: Callable[[Image.Image], Tensor]
    preprocessing_id: str
    weights_id: str
    finish: Callable[[Tensor], Tensor] = lambda cached: cached
    embed: Callable[[Tensor], Tensor] | None = None


class Side(nn.Module):
    """One side of a model that has two: `forward` is `run(model, ...)`."""

    def __init__(self, model: nn.Module, run: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model = model
        self.run = run

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """What `run` makes of the inputs."""
        return self.run(self.model, *inputs, **named)


@dataclass(frozen=True)
class ImageEncoder:
    """Turns an RGB image into one pooled vector, and where `patches` is there into a patch grid.

    module: pixels [n, 3, height, width] -> pooled [n, dimension]; frozen, in eval mode, on
        `device` with floating dtype `dtype`.
    transform: an RGB PIL image -> one float32 tensor [3, height, width]; thread-safe, no model.
    preprocessing_id: changes whenever a pixel that reaches the module may change.
    weights_id: sha256 of the weights (see `models.weights`).
    patches: None where the places of an image vary in number, or the model has none.
    """

    module: nn.Module
    transform: Callable[[Image.Image], Tensor]
    preprocessing_id: str
    weights_id: str
    dimension: int
    device: torch.device
    dtype: torch.dtype
    patches: PatchGrid | None = None

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels [n, 3, height, width] -> pooled [n, dimension], float32 on CPU, not normalised."""
        pooled: Tensor = self.module(self._moved(pixels))
        return pooled.float().cpu()

    def text_side(
        self,
        module: nn.Module,
        tokenize: Callable[[Sequence[str]], Mapping[str, Tensor]],
        text_id: str,
        context: ContextLength | None = None,
    ) -> TextEncoder:
        """The other side of the same model: vectors as long, on the same device."""
        own = self.dimension, self.device, self.dtype
        return TextEncoder(module, tokenize, text_id, *own, context)

    @property
    def whole(self) -> Callable[[Image.Image], Tensor]:
        """The transform for captioning: `encoder.whole(image)`; nothing is cropped away."""
        return self.require_patches().transform

    # no_grad, not inference_mode: training saves its inputs for the backward pass
    @torch.no_grad()
    def encode_grid(self, pixels: Tensor) -> Tensor:
        """Pixels of `whole` images -> what is cached [n, *patches.cached_shape], float16 on CPU.

        Raises UserError where a value is beyond float16, or the encoder has no patch grid.
        """
        cached = self.require_patches().encode(self._moved(pixels)).to(torch.float16)
        if not bool(cached.isfinite().all()):
            raise UserError(
                "the image encoder's patch grid holds values beyond 65,504, the largest of "
                "float16, in which grids are kept; take --dtype float32 or another encoder"
            )
        return cached.cpu()

    @torch.no_grad()
    def finish_grid(self, cached: Tensor) -> Tensor:
        """What was cached -> what a bridge reads [n, tokens, channels], on `device` in `dtype`."""
        return self.require_patches().finish(self._moved(cached))

    def require_patches(self) -> PatchGrid:
        """`patches`, or UserError where there are none."""
        if self.patches is None:
            raise UserError(
                "the image encoder has no patch grid of a fixed shape, which a captioner reads; "
                "take lite, timm:NAME, open_clip:NAME/TAG or hf:REPO with a fixed input size"
            )
        return self.patches

    def _moved(self, values: Tensor) -> Tensor:
        return values.to(device=self.device, dtype=self.dtype, non_blocking=True)


def grid_of_features(
    features: Tensor, *, leading: int, places: tuple[int, int] | None, channels_last: bool = False
) -> GridShape | None:
    """The shape of a network's last features, or None where they are no grid.

    features: [n, tokens, channels], or a map [n, channels, rows, columns] (channels_last: [n, rows,
        columns, channels]). places: rows and columns of the tokens after the `leading` ones.
    """
    if features.ndim == 4:
        sizes = list(features.shape[1:])
        rows, columns, channels = sizes if channels_last else (*sizes[1:], sizes[0])
        return GridShape(rows * columns, channels, rows, columns)
    if features.ndim != 3 or places is None:
        return None
    rows, columns = places
    tokens, channels = features.shape[1:]
    if tokens != leading + rows * columns:
        return None
    return GridShape(tokens, channels, rows, columns, leading)


def as_tokens(features: Tensor, channels_last: bool = False) -> Tensor:
    """Tokens [n, t, channels] as they are; a map row by row -> [n, rows * columns, channels]."""
    if features.ndim == 3:
        return features
    return features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class ContextLength:
    """How many tokens a text side reads at most; what `tokenize` cuts off beyond it is not read.

    tokens: start and end token included. A cut text keeps its end token.
    count: strings -> how many tokens each one has before any cut, counted in the same way.
    fits: a string -> True where that is plain without counting; False says nothing.
    """

    tokens: int
    count: Callable[[Sequence[str]], list[int]]
    fits: Callable[[str], bool] = lambda text: False

    def exceeded(self, texts: Sequence[str]) -> list[bool]:
        """Whether a text is longer than what is read of it, for each of `texts`."""
        doubtful = list(dict.fromkeys(text for text in texts if not self.fits(text)))
        counts = dict(zip(doubtful, self.count(doubtful), strict=True)) if doubtful else {}
        return [counts.get(text, 0) > self.tokens for text in texts]


@dataclass(frozen=True)
class TextEncoder:
    """Turns strings into vectors of the space that the image encoder shares.

    module: called as module(**tokenize(texts)) -> [n, dimension]; frozen, eval mode, on `device`.
    tokenize: strings -> the module's keyword tensors, padded and truncated as in training.
    text_id: weights_id and tokenizer id in one string; the key of cached prompts.
    context: how long a text may be; None where nothing is ever cut off.
    """

    module: nn.Module
    tokenize: Callable[[Sequence[str]], Mapping[str, Tensor]]
    text_id: str
    dimension: int
    device: torch.device
    dtype: torch.dtype
    context: ContextLength | None = None

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Texts, n strings -> [n, dimension], float32 on the CPU, not normalised."""
        tokens = {name: value.to(self.device) for name, value in self.tokenize(texts).items()}
        vectors: Tensor = self.module(**tokens)
        return vectors.float().cpu()


Floats = NDArray[np.float32]


@dataclass(frozen=True)
class SimilarityScale:
    """How a cosine becomes a probability, as the checkpoint says, never guessed.

    logit_scale: the factor on the cosine (already exponentiated).
    logit_bias: added to the scaled cosine; only sigmoid-trained models (SigLIP) have one.
    activation: "softmax" over the labels or an independent "sigmoid" for each, as in training.
    """

    logit_scale: float
    logit_bias: float = 0.0
    activation: Literal["softmax", "sigmoid"] = "softmax"


def similarity_scale(scale: float, bias: float | None, where: str) -> SimilarityScale:
    """The scale of a checkpoint's own numbers; only sigmoid training has a bias to learn.

    Raises UserError for numbers that no probability can be made with.
    """
    if not all(math.isfinite(number) for number in (scale, bias or 0.0)):
        raise UserError(f"{where}: its logit scale or bias is not a finite number")
    return SimilarityScale(scale) if bias is None else SimilarityScale(scale, bias, "sigmoid")


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
    scoring: SimilarityScale | None

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
