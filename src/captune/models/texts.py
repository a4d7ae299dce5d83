"""A frozen text encoder: weights, tokenizer and a content hash as one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class TextEncoder:
    """Turns strings into vectors of the space that the image encoder shares.

    module: called as module(**tokenize(texts)) -> [n, dimension]; frozen, eval mode, on `device`.
    tokenize: strings -> the module's keyword tensors, padded and truncated as in training.
    text_id: weights_id and tokenizer id in one string; the key of cached prompts.
    """

    module: nn.Module
    tokenize: Callable[[Sequence[str]], Mapping[str, Tensor]]
    text_id: str
    dimension: int
    device: torch.device
    dtype: torch.dtype

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Texts, n strings -> [n, dimension], float32 on the CPU, not normalised."""
        tokens = {name: value.to(self.device) for name, value in self.tokenize(texts).items()}
        vectors: Tensor = self.module(**tokens)
        return vectors.float().cpu()
