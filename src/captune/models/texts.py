"""A frozen text encoder: weights, tokenizer and a content hash as one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


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
