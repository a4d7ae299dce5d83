"""Bridges: how the decoder sees the image, and the layers that look at it.

One file per bridge; a third party's by entry point.

A bridge (others say connector or projector) is always trained. Adding one is adding a file here
that ends in `BRIDGE = MyBridge`, or an entry point of the group `captune.bridges`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from captune import registry
from captune.captioning.decoder_parts import DecoderParts
from captune.models.encoders import GridShape as GridShape
from captune.registry import Registry


@dataclass(frozen=True)
class TagEmbeddings:
    """The tags of each image, a text that is known before its caption.

    embeddings: [images, w, embedding_size], the decoder's own. mask: [images, w], true for a token.
    """

    embeddings: Tensor
    mask: Tensor


@dataclass
class ImageStates:
    """What the decoder reads of a batch of images; made once an image by `Bridge.project`.

    images: how many there are; the decoder may run k rows (captions, beams) for each, in order.
    keys, values: by cross-attention block, [images, heads, tokens, head_dim].
    mask: [images, tokens], true where there is a token; None where all are.
    soft_tokens: [images, m, embedding_size] to stand before the text, or None.
    prompt: [images, w], token ids of a text before the caption, as `CaptionModel.project` has them.
    """

    images: int
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    mask: Tensor | None = None
    soft_tokens: Tensor | None = None
    prompt: Tensor | None = None


@dataclass
class Context:
    """The images that the decoder looks at while it runs; hooks read it."""

    states: ImageStates | None = None


class ExtraKeys(nn.Module):
    """Trained keys and values beside a layer's own; what a tuning method puts into attention.

    keys, values: [heads, m, head_dim]. shared: one softmax over them and the layer's. Otherwise
    they have a softmax of their own, and what they give is added to what the layer gives.
    """

    def __init__(self, keys: Tensor, values: Tensor, *, shared: bool) -> None:
        super().__init__()
        self.keys = nn.Parameter(keys)
        self.values = nn.Parameter(values)
        self.shared = shared

    def before(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """[images, heads, t, head_dim] twice -> the same with m + t tokens."""
        own_keys, own_values = self(len(keys), len(self.keys), self.keys.dtype)
        return torch.cat([own_keys, keys], dim=2), torch.cat([own_values, values], dim=2)

    def beside(self, queries: Tensor) -> Tensor:
        """Queries [images, heads, n, head_dim] -> what is added for them, as they are."""
        own = self(len(queries), len(self.keys), self.keys.dtype)
        return F.scaled_dot_product_attention(queries, *own)

    def forward(self, rows: int, heads: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values for each query head of each row: [rows, heads, m, head_dim]."""
        groups = heads // len(self.keys)
        keys, values = (
            part.to(dtype).repeat_interleave(groups, dim=0).expand(rows, -1, -1, -1)
            for part in (self.keys, self.values)
        )
        return keys, values


class CrossAttentionLayer(nn.Module):
    """Attention of text positions over image tokens; the residual is its caller's.

    read: channels of an image token; hidden_size: of the decoder; width: over all heads.
    The output projection starts at zero: at first nothing is added to the decoder.
    It computes in its own precision (float32), whatever that of the decoder is.
    extra: set by a tuning method.
    """

    def __init__(
        self,
        *,
        read: int,
        hidden_size: int,
        width: int,
        heads: int,
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.width = width
        self.heads = heads
        self.norm = nn.LayerNorm(hidden_size)
        self.query = nn.Linear(hidden_size, width, bias=bias)
        self.key = nn.Linear(read, width, bias=bias)
        self.value = nn.Linear(read, width, bias=bias)
        self.out = nn.Linear(width, hidden_size, bias=bias)
        self.dropout = dropout
        self.extra: ExtraKeys | None = None
        nn.init.zeros_(self.out.weight)
        if bias:
            nn.init.zeros_(self.out.bias)

    def keys_and_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Image tokens [images, t, read] -> two of [images, heads, t, head_dim]."""
        return in_heads(self.key(tokens), self.heads), in_heads(self.value(tokens), self.heads)

    def forward(
        self, hidden: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Hidden [images * k, n, d] over keys and values [images, heads, t, head_dim] -> as hidden.

        The k rows of an image stand together. mask: [images, t], true where there is a token.
        """
        queries = self._queries(hidden, len(keys))
        keys, values = self._with_extra(keys, values)
        dropout = self.dropout if self.training else 0.0
        allowed = None if mask is None else _widened(mask, keys.shape[2])
        found = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=allowed, dropout_p=dropout
        )
        out: Tensor = self.out(self._whole(found, queries, len(hidden)))
        return out.to(hidden.dtype)

    def attention_map(self, hidden: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        """The weights of `forward` on the image: [images * k, heads, n, t].

        Rows sum to one; to less where `extra` takes its share of their softmax.
        """
        read, _ = self._with_extra(keys, keys)
        weights = self._weights(self._queries(hidden, len(keys)), read, mask)
        return in_rows(weights, len(hidden), keys.shape[2])

    def attend(
        self, hidden: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What `forward` gives, by weights that are written out: (as hidden, weights).

        Weights [images, heads, k * n, t] are what the output was computed from, so that gradients
        by them exist; what `extra` puts before the image's tokens comes first. `in_rows` takes
        them apart.
        """
        queries = self._queries(hidden, len(keys))
        keys, values = self._with_extra(keys, values)
        weights = self._weights(queries, keys, mask)
        found = weights @ values
        out: Tensor = self.out(self._whole(found, queries, len(hidden)))
        return out.to(hidden.dtype), weights

    def _whole(self, found: Tensor, queries: Tensor, rows: int) -> Tensor:
        """What the image gives, and `extra` beside it, of all heads: [rows, n, width]."""
        if self.extra is not None and not self.extra.shared:
            found = found + self.extra.beside(queries)
        return merged(found).view(rows, -1, self.width)

    def _with_extra(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if self.extra is None or not self.extra.shared:
            return keys, values
        return self.extra.before(keys, values)

    def _weights(self, queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        scores = queries @ keys.transpose(-1, -2) / keys.shape[-1] ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~_widened(mask, keys.shape[2]), float("-inf"))
        weights: Tensor = scores.softmax(dim=-1)
        return weights

    def _queries(self, hidden: Tensor, images: int) -> Tensor:
        """[images * k, n, d] -> [images, heads, k * n, head_dim]: the rows of an image in one."""
        normed: Tensor = self.norm(hidden.to(self.norm.weight.dtype))
        return in_heads(self.query(normed.view(images, -1, normed.shape[-1])), self.heads)


def in_heads(projected: Tensor, heads: int) -> Tensor:
    """[images, n, w] -> [images, heads, n, w / heads]."""
    images, length, width = projected.shape
    split = projected.view(images, length, heads, width // heads)
    return torch.transpose(split, 1, 2)


def in_rows(weights: Tensor, rows: int, tokens: int) -> Tensor:
    """Weights [images, heads, k * n, extra + tokens] -> [images * k, heads, n, tokens]."""
    images, heads, queries, _ = weights.shape
    each = rows // images
    split = weights[..., -tokens:].reshape(images, heads, each, queries // each, tokens)
    return torch.transpose(split, 1, 2).reshape(rows, heads, queries // each, tokens)


def merged(heads: Tensor) -> Tensor:
    """[images, heads, n, head_dim] -> [images, n, w]."""
    return torch.transpose(heads, 1, 2).flatten(2)


def _widened(mask: Tensor, tokens: int) -> Tensor:
    """[images, t] -> [images, 1, 1, tokens]; what stands before the image's tokens is seen."""
    return F.pad(mask, (tokens - mask.shape[1], 0), value=True)[:, None, None]


class Bridge(nn.Module, ABC):
    """From the patch grid of an image to what the decoder reads.

    Config: a frozen dataclass of plain values; it is what a checkpoint's config holds.
    """

    Config: ClassVar[type[Any]]
    config: Any

    @abstractmethod
    def project(self, grid: Tensor, tags: TagEmbeddings | None = None) -> ImageStates:
        """Grid [images, tokens, channels] -> states; `tags` where the bridge reads them too.

        It is called before the decoder, so no generated token can come into the states.
        """

    @abstractmethod
    def attach(self, parts: DecoderParts, context: Context) -> list[RemovableHandle]:
        """Hook into the decoder; the handles take it out again."""

    @classmethod
    @abstractmethod
    def count(cls, config: Any, grid: GridShape, parts: DecoderParts) -> int:
        """How many parameters it trains, by arithmetic."""

    @property
    def cross_attention_layers(self) -> list[CrossAttentionLayer]:
        """Its cross-attention layers, one per block; what tuning methods reach."""
        return []

    def output_projections(self) -> dict[int, list[nn.Parameter]]:
        """By block: the parameters, zero at first, of what is added to the decoder's stream."""
        return {}

    @property
    def gain(self) -> float:
        """Learning rate of `output_projections`, in stream sizes; 0: that of everything else."""
        return float(getattr(self.config, "gain", 0))


BRIDGES: Registry[type[Bridge]] = registry.BRIDGES
