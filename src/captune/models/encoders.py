"""A frozen image encoder: weights, preprocessing and a content hash as one value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor, nn

from captune.errors import UserError
from captune.models.weights import digest_of


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

    @property
    def grid(self) -> GridShape | None:
        """What a bridge sees of an image; None where there is no patch grid of a fixed shape."""
        return self.patches.shape if self.patches else None

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


def mirrored(encoder: ImageEncoder) -> ImageEncoder:
    """The same encoder of images that are mirrored first; what it yields is cached apart.

    Raises UserError for one without a patch grid.
    """
    patches = encoder.require_patches()
    return replace(
        encoder,
        transform=_Mirrored(encoder.transform),
        preprocessing_id=digest_of("mirrored", encoder.preprocessing_id),
        patches=replace(
            patches,
            transform=_Mirrored(patches.transform),
            preprocessing_id=digest_of("mirrored", patches.preprocessing_id),
        ),
    )


@dataclass(frozen=True)
class _Mirrored:
    transform: Callable[[Image.Image], Tensor]

    def __call__(self, image: Image.Image) -> Tensor:
        return self.transform(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))


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
