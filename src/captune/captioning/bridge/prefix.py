"""Image as soft tokens before the text (ClipCap, Mokady et al. 2021; LLaVA, Liu et al. 2023).

Two ways from the grid to m tokens as wide as the decoder:
    attention   m learned queries look over the grid once, in heads (the resampler of Flamingo)
    mlp         the mean over the grid, one hidden layer, tanh, all m tokens at once (ClipCap)

Soft tokens stand in the text, so the first step cannot be the untouched decoder, as it is with the
other bridges. It is the nearest thing to it: the projection of the image starts at zero, so at
first every image gives the same m learned tokens, as in prompt tuning, and nothing about itself.

Trained parameters, with c channels, t tokens, width h, m soft tokens, d the width
of the decoder's token embeddings:
    both        soft tokens to start from m*d
    attention   entry c*h + h, positions t*h, norm 2*h; queries m*h, keys and values 2*h*h;
                norm 2*h, out h*d
    mlp         in c*h + h, out h*m*d
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from captune.captioning.bridge import (
    Bridge,
    Context,
    GridShape,
    ImageStates,
    TagEmbeddings,
    in_heads,
    merged,
)
from captune.captioning.bridge.cross_attention import InputProjection
from captune.captioning.decoder_parts import DecoderParts
from captune.captioning.settings import SoftPrefixConfig


class SoftPrefix(Bridge):
    """Soft tokens before the text."""

    Config = SoftPrefixConfig

    def __init__(self, config: SoftPrefixConfig, grid: GridShape, parts: DecoderParts) -> None:
        super().__init__()
        self.config = config
        # the scale that language models' own token embeddings start from
        self.start = nn.Parameter(torch.randn(config.length, parts.embedding_size) * 0.02)
        pooling = _ByAttention if config.pooling == "attention" else _ByMLP
        self.pooling = pooling(config, grid, parts.embedding_size)

    def project(self, grid: Tensor, tags: TagEmbeddings | None = None) -> ImageStates:
        """Grid [images, tokens, channels] -> soft tokens [images, m, embedding_size]."""
        return ImageStates(len(grid), soft_tokens=self.start + self.pooling(grid))

    def attach(self, parts: DecoderParts, context: Context) -> list[RemovableHandle]:
        """Nothing: `CaptionModel.inputs` puts soft tokens before the text."""
        return []

    @classmethod
    def count(cls, config: SoftPrefixConfig, grid: GridShape, parts: DecoderParts) -> int:
        """By the arithmetic of the module's text."""
        c, t, h, d, m = (
            grid.channels,
            grid.tokens,
            config.width,
            parts.embedding_size,
            config.length,
        )
        if config.pooling == "attention":
            entry = c * h + h + t * h + 2 * h
            return m * d + entry + m * h + 2 * h * h + 2 * h + h * d
        return m * d + c * h + h + h * m * d


class _ByAttention(nn.Module):
    def __init__(self, config: SoftPrefixConfig, grid: GridShape, embedding_size: int) -> None:
        super().__init__()
        self.heads = config.n_heads
        width = config.width
        self.entry = InputProjection(grid, width)
        self.queries = nn.Parameter(torch.randn(config.length, width))
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, embedding_size, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, grid: Tensor) -> Tensor:
        """[images, tokens, channels] -> [images, m, embedding_size]."""
        tokens = self.entry(grid)
        queries = self.queries[None].repeat(len(grid), 1, 1)
        found = F.scaled_dot_product_attention(
            in_heads(queries, self.heads),
            in_heads(self.key(tokens), self.heads),
            in_heads(self.value(tokens), self.heads),
        )
        out: Tensor = self.out(self.norm(merged(found)))
        return out


class _ByMLP(nn.Module):
    def __init__(self, config: SoftPrefixConfig, grid: GridShape, embedding_size: int) -> None:
        super().__init__()
        self.length = config.length
        self.inner = nn.Linear(grid.channels, config.width)
        self.out = nn.Linear(config.width, config.length * embedding_size, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, grid: Tensor) -> Tensor:
        """[images, tokens, channels] -> [images, m, embedding_size]."""
        pooled = grid.mean(dim=1)
        out: Tensor = self.out(torch.tanh(self.inner(pooled)))
        return out.view(len(grid), self.length, -1)


BRIDGE = SoftPrefix
