"""A frozen image encoder: weights, preprocessing and a content hash as one value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn


@dataclass(frozen=True)
class ImageEncoder:
    """Turns an RGB photo into one pooled vector.

    module: pixels [n, 3, height, width] -> pooled [n, dimension]; frozen, in eval mode, on
        `device` with floating dtype `dtype`.
    transform: an RGB PIL image -> one float32 tensor [3, height, width]; thread-safe, no model.
    preprocessing_id: changes whenever a pixel that reaches the module may change.
    weights_id: sha256 of the weights (see `models.weights`).
    """

    module: nn.Module
    transform: Callable[[Image.Image], Tensor]
    preprocessing_id: str
    weights_id: str
    dimension: int
    device: torch.device
    dtype: torch.dtype

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels [n, 3, height, width] -> pooled [n, dimension], float32 on CPU, not normalised."""
        pixels = pixels.to(device=self.device, dtype=self.dtype, non_blocking=True)
        pooled: Tensor = self.module(pixels)
        return pooled.float().cpu()
