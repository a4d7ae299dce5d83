"""The patch grids of transformers' image towers: the tokens before pooling and projection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from captune.models.encoders import PatchGrid, grid_of_features
from captune.models.processor_pixels import whole_transform


def patches_of(model: Any, processor: Any, image: Image.Image, weights_id: str) -> PatchGrid | None:
    """The grid of `model.vision_model`, or None where it has none of a fixed shape.

    Tokens are last_hidden_state, and always after the tower's last norm: SigLIP applies
    `post_layernorm` to all tokens itself, CLIP only to the CLS token on its way to the projection,
    and then it is applied to the others here. So the same CLIP weights give the same grid by
    transformers, open_clip and timm. Which of the two a model does is seen while it encodes
    `image`, not told from its name.
    """
    tower = getattr(model, "vision_model", None)
    found = whole_transform(processor, _size_of(processor, image))
    if tower is None or found is None:
        return None
    whole, whole_id = found
    norm = getattr(tower, "post_layernorm", None)
    seen: list[int] = []
    handle = norm.register_forward_hook(lambda _m, _i, out: seen.append(out.ndim)) if norm else None
    try:
        with torch.inference_mode():
            features = getattr(tower(pixel_values=whole(image)[None]), "last_hidden_state", None)
    finally:
        if handle is not None:
            handle.remove()
    if not isinstance(features, Tensor):
        return None
    places = _places(tower, whole(image))
    leading = features.shape[1] - places[0] * places[1] if places and features.ndim == 3 else 0
    if leading not in (0, 1):
        return None
    shape = grid_of_features(features, leading=leading, places=places)
    if shape is None:
        return None
    last = norm if norm is not None and seen and 3 not in seen else None
    cached_shape = (shape.tokens, shape.channels)
    return PatchGrid(shape, cached_shape, _encode(tower, last), whole, whole_id, weights_id)


def _encode(tower: Any, norm: Any) -> Callable[[Tensor], Tensor]:
    def encode(pixels: Tensor) -> Tensor:
        tokens: Tensor = tower(pixel_values=pixels).last_hidden_state
        return tokens if norm is None else norm(tokens)

    return encode


def _size_of(processor: Any, image: Image.Image) -> tuple[int, int] | None:
    """(height, width) of what the processor makes of an image; None where it is no picture."""
    pixels = torch.as_tensor(processor(images=image, return_tensors="pt")["pixel_values"])
    return (int(pixels.shape[2]), int(pixels.shape[3])) if pixels.ndim == 4 else None


def _places(tower: Any, pixels: Tensor) -> tuple[int, int] | None:
    """Rows and columns of patches, by the tower's own patch size."""
    patch = getattr(tower.config, "patch_size", None)
    if not isinstance(patch, int):
        return None
    return int(pixels.shape[1]) // patch, int(pixels.shape[2]) // patch
