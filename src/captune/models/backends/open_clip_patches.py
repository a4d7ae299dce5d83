"""The patch grids of open_clip's image towers, at the towers' own width, before pooling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captune.models.backends.timm import grid_of, last_features
from captune.models.encoders import GridShape, PatchGrid, as_tokens
from captune.models.preprocessing import Transform


def patches_of(visual: Any, whole: Transform, whole_id: str, weights_id: str) -> PatchGrid | None:
    """The grid of an image tower, or None where it has none.

    VisionTransformer: CLS and patches after the last block and, where the tower normalises tokens
    or the CLS token itself (CLIP), after `ln_post`; `proj` is not applied. ModifiedResNet: the map
    that its attention pool reads. A trunk of timm: its forward_features.
    """
    shape, encode = _grid_of(visual)
    if shape is None:
        return None
    cached_shape = (shape.tokens, shape.channels)
    return PatchGrid(shape, cached_shape, encode, whole, whole_id, weights_id)


def _grid_of(visual: Any) -> tuple[GridShape | None, Callable[[Tensor], Tensor]]:
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    if isinstance(visual, VisionTransformer):
        rows, columns = (int(side) for side in visual.grid_size)
        width = int(visual.conv1.out_channels)
        shape = GridShape(rows * columns + 1, width, rows, columns, leading=1)
        return shape, lambda pixels: _tokens(visual, pixels)
    if isinstance(visual, ModifiedResNet):
        return _shape_of_map(visual), lambda pixels: as_tokens(_map(visual, pixels))
    if isinstance(visual, TimmModel):
        trunk: Any = visual.trunk
        shape_of_trunk = _grid_of_trunk(trunk, visual.image_size)
        return shape_of_trunk, lambda pixels: last_features(trunk, pixels)
    return None, as_tokens


def _tokens(visual: Any, pixels: Tensor) -> Tensor:
    found = visual.forward_intermediates(
        pixels,
        indices=1,
        normalize_intermediates=_normalises_tokens(visual),
        intermediates_only=True,
        output_fmt="NLC",
        output_extra_tokens=True,
    )
    leading, patches = found["image_intermediates_prefix"][-1], found["image_intermediates"][-1]
    return torch.cat([leading, patches], dim=1)


def _normalises_tokens(visual: Any) -> bool:
    """Whether `ln_post` has seen tokens: not where it comes after pooling several into one."""
    if visual.attn_pool is not None:
        return visual.attn_pool_contrastive is not None
    return not visual.final_ln_after_pool or visual.pool_type == "tok"


def _map(visual: Any, pixels: Tensor) -> Tensor:
    found = visual.forward_intermediates(pixels, indices=1, intermediates_only=True)
    last: Tensor = found["image_intermediates"][-1]
    return last


def _shape_of_map(visual: Any) -> GridShape:
    size = visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    rows, columns = height // 32, width // 32
    return GridShape(rows * columns, int(visual.attnpool.q_proj.in_features), rows, columns)


def _grid_of_trunk(trunk: Any, size: tuple[int, int]) -> GridShape | None:
    """A ViT states its shape; anything else is run once."""
    places = getattr(getattr(trunk, "patch_embed", None), "grid_size", None)
    leading = getattr(trunk, "num_prefix_tokens", None)
    if places is not None and leading is not None:
        rows, columns = places
        tokens = int(leading + rows * columns)
        return GridShape(tokens, int(trunk.num_features), int(rows), int(columns), int(leading))
    parameter = next(trunk.parameters())
    with torch.inference_mode():
        blank = torch.zeros(1, 3, *size, device=parameter.device, dtype=parameter.dtype)
        return grid_of(trunk, trunk.forward_features(blank))
