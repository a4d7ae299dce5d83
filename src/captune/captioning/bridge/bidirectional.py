"""The image's patches and its tags read each other; then cross-attention.

Tags are a text that is known before a word of the caption is written, such as a classifier's labels
for the image, as embeddings of the decoder's own tokens. Patches and tags update each other by
bidirectional cross-attention (lucidrains/bidirectional-cross-attention): one matrix of similarities
serves both ways, with a softmax along either axis. The decoder then looks at both, by the layers of
the default bridge. The caption takes no part: what is projected is done before the decoder begins,
so no generated token can leak back.

An image without tags (or `tags=None` for all) is read by the default bridge alone.

Trained parameters, with w width, e the width of the decoder's token embeddings, n tokens of tags:
    the default bridge with its entry (see cross_attention.py)
    tags        e*w + w, positions n*w, norm 2*w
    each of `depth` exchanges: norms 2*w; shared queries-and-keys, values, outs 2*w*w each;
                biases of outs 2*w
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from captune.captioning.bridge import GridShape, ImageStates, TagEmbeddings, in_heads, merged
from captune.captioning.bridge.cross_attention import CrossAttention
from captune.captioning.decoder_parts import DecoderParts
from captune.captioning.settings import BidirectionalConfig
from captune.errors import UserError


class Bidirectional(CrossAttention):
    """Patches and tags read each other before the decoder looks at both."""

    Config = BidirectionalConfig
    config: BidirectionalConfig

    def __init__(self, config: BidirectionalConfig, grid: GridShape, parts: DecoderParts) -> None:
        super().__init__(config, grid, parts)
        self.word_entry = _TagProjection(parts.embedding_size, config.words, config.width)
        self.exchanges = nn.ModuleList(
            Exchange(config.width, config.n_heads) for _ in range(config.depth)
        )

    def project(self, grid: Tensor, tags: TagEmbeddings | None = None) -> ImageStates:
        """Grid [images, t, channels] -> keys and values of [t + w] tokens, the tags last.

        Raises UserError for more tags than it has places.
        """
        tokens: Tensor = self.entry(grid)
        if tags is None:
            return self.read(tokens)
        texts: Tensor = self.word_entry(tags.embeddings)
        for exchange in self.exchanges:
            to_tokens, to_texts = exchange(tokens, texts, tags.mask)
            tokens, texts = tokens + to_tokens, texts + to_texts
        seen = tags.mask.new_ones(tokens.shape[:2])
        both = torch.cat([tokens, texts], dim=1)  # [images, t + w, width]
        return self.read(both, torch.cat([seen, tags.mask], dim=1))

    @classmethod
    def count(cls, config: Any, grid: GridShape, parts: DecoderParts) -> int:
        """By the arithmetic of the module's text."""
        w, e = config.width, parts.embedding_size
        tags = e * w + w + config.words * w + 2 * w
        exchange = 2 * w + 6 * w * w + 2 * w
        own: int = tags + config.depth * exchange
        return super().count(config, grid, parts) + own


class Exchange(nn.Module):
    """lucidrains' block, with its norms: how patches and tags update each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.text_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.query_key = nn.Linear(width, width, bias=False)
        self.text_query_key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.text_value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)
        self.text_out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, texts: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [images, t, w], texts [images, n, w], mask [images, n] -> updates of both."""
        tokens, texts = self.norm(tokens), self.text_norm(texts)
        queries = in_heads(self.query_key(tokens), self.heads)  # [images, heads, t, head_dim]
        keys = in_heads(self.text_query_key(texts), self.heads)
        values = in_heads(self.value(tokens), self.heads)
        text_values = in_heads(self.text_value(texts), self.heads)
        scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5  # [.., heads, t, n]
        # the lowest number and not -inf: an image without any tag must give no NaN
        hidden = ~mask[:, None, None]
        over_texts = scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(dim=-1)
        over_tokens = scores.softmax(dim=-2)
        to_tokens = self.out(merged(over_texts @ text_values))
        to_texts = self.text_out(merged(over_tokens.transpose(-1, -2) @ values))
        has_text = mask.any(dim=1)[:, None, None]
        return to_tokens * has_text, to_texts


class _TagProjection(nn.Module):
    """The tags' embeddings at the bridge's width, each with its place among them."""

    def __init__(self, embedding_size: int, words: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(embedding_size, width)
        self.position = nn.Parameter(torch.randn(words, width) * 0.02)
        self.norm = nn.LayerNorm(width)

    def forward(self, embeddings: Tensor) -> Tensor:
        """[images, n, embedding_size] -> [images, n, width]."""
        length, places = embeddings.shape[1], len(self.position)
        if length > places:
            raise UserError(
                f"bidirectional: tags of {length} tokens for an image; the bridge reads {places}"
                " (words); give it fewer tags or train with more"
            )
        tokens: Tensor = self.norm(self.linear(embeddings) + self.position[:length])
        return tokens


BRIDGE = Bidirectional
