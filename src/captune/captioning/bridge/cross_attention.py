"""The default bridge: low-width cross-attention in chosen blocks (SmallCap, Ramos et al. 2023).

Image tokens never pass through the language model. Keys and values are projected once an image;
the captions (or beams) of an image are folded into the query axis, so nothing is copied for them.

Trained parameters, with c channels, w width, d the decoder's width, L blocks, t tokens:
    entry       c*w + w, positions t*w, norm 2*w
    each block  norm 2*d, queries d*w, keys and values 2*w*w, out w*d; biases 3*w + d if on
Without the entry, keys and values read the grid itself: 2*c*w.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from captune.captioning.bridge import Bridge, Context, GridShape, ImageStates, TagEmbeddings
from captune.captioning.decoder_parts import DecoderParts
from captune.captioning.settings import CrossAttentionConfig


class CrossAttention(Bridge):
    """Cross-attention. Output projections start at zero: step 0 is the untouched decoder."""

    Config = CrossAttentionConfig

    def __init__(self, config: CrossAttentionConfig, grid: GridShape, parts: DecoderParts) -> None:
        super().__init__()
        self.config = config
        self.places = cross_attention_blocks(len(parts.blocks), config.every, config.last)
        self.entry = InputProjection(grid, config.width) if config.entry else nn.Identity()
        read = config.width if config.entry else grid.channels
        self.layers = nn.ModuleList(
            CrossAttentionLayer(
                read=read,
                hidden_size=parts.hidden_size,
                width=config.width,
                heads=config.n_heads,
                bias=config.bias,
                dropout=config.dropout,
            )
            for _ in self.places
        )

    def project(self, grid: Tensor, tags: TagEmbeddings | None = None) -> ImageStates:
        """Grid [images, tokens, channels] -> keys and values of every cross-attention block."""
        return self.read(self.entry(grid))

    def read(self, tokens: Tensor, mask: Tensor | None = None) -> ImageStates:
        """Tokens [images, t, read] -> keys and values; mask: [images, t], true for a token."""
        states = ImageStates(len(tokens), mask=mask)
        for layer in self.cross_attention_layers:
            keys, values = layer.keys_and_values(tokens)
            states.keys.append(keys)
            states.values.append(values)
        return states

    def attach(self, parts: DecoderParts, context: Context) -> list[RemovableHandle]:
        """Each layer sits between self-attention and MLP, as in the original transformer."""
        handles = []
        for index, (place, layer) in enumerate(
            zip(self.places, self.cross_attention_layers, strict=True)
        ):
            hook = _CrossAttentionHook(index, layer, context)
            block, attention = parts.blocks[place], parts.self_attentions[place]
            handles.append(block.register_forward_pre_hook(hook.remember, with_kwargs=True))
            handles.append(attention.register_forward_hook(hook.add))
        return handles

    @classmethod
    def count(cls, config: CrossAttentionConfig, grid: GridShape, parts: DecoderParts) -> int:
        """By the arithmetic of the module's text."""
        c, w, d = grid.channels, config.width, parts.hidden_size
        entry = c * w + w + grid.tokens * w + 2 * w if config.entry else 0
        read = w if config.entry else c
        block = 2 * d + d * w + 2 * read * w + w * d + (3 * w + d if config.bias else 0)
        return (
            entry
            + len(cross_attention_blocks(len(parts.blocks), config.every, config.last)) * block
        )

    @property
    def cross_attention_layers(self) -> list[CrossAttentionLayer]:
        """One layer per cross-attention block."""
        return [layer for layer in self.layers if isinstance(layer, CrossAttentionLayer)]

    @property
    def gain(self) -> float:
        """As its config says."""
        gain: float = self.config.gain
        return gain

    def output_projections(self) -> dict[int, list[nn.Parameter]]:
        """The output projection of each layer."""
        pairs = zip(self.places, self.cross_attention_layers, strict=True)
        return {place: list(layer.out.parameters()) for place, layer in pairs}


class InputProjection(nn.Module):
    """The grid at the bridge's width, each token with its place."""

    def __init__(self, grid: GridShape, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(grid.channels, width)
        self.position = nn.Parameter(torch.randn(grid.tokens, width) * 0.02)
        self.norm = nn.LayerNorm(width)

    def forward(self, grid: Tensor) -> Tensor:
        """[images, tokens, channels] -> [images, tokens, width]."""
        tokens: Tensor = self.norm(self.linear(grid) + self.position)
        return tokens


class _CrossAttentionHook:
    """Adds a layer's output to what self-attention gave, as the decoder's own residual would."""

    def __init__(self, index: int, layer: CrossAttentionLayer, context: Context) -> None:
        self._index = index
        self._layer = layer
        self._context = context
        self._residual: Tensor | None = None

    def remember(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._residual = args[0] if args else kwargs["hidden_states"]

    def add(self, attention: nn.Module, args: Any, output: Any) -> Any:
        states = self._context.states
        attended = output[0] if isinstance(output, tuple) else output
        residual, self._residual = self._residual, None
        if states is None or residual is None:
            return output
        hidden = attended + residual
        keys, values = states.keys[self._index], states.values[self._index]
        seen = self._layer(hidden, keys, values, states.mask)
        added = attended + seen
        return (added, *output[1:]) if isinstance(output, tuple) else added


def cross_attention_blocks(blocks: int, every: int, last: int = 0) -> list[int]:
    """The last block, and every n-th before it, among the `last` ones."""
    first = max(0, blocks - last) if last else 0
    return list(range(blocks - 1, first - 1, -every))[::-1]


BRIDGE = CrossAttention


class ExtraKeys(nn.Module):
    """Trained keys and values beside those of every image; what a tuning method puts into a layer.

    keys, values: [heads, m, head_dim]. shared: one softmax over them and the image's. Otherwise
    they have a softmax of their own, and what they give is added to what the image gives.
    """

    def __init__(self, keys: Tensor, values: Tensor, *, shared: bool) -> None:
        super().__init__()
        self.keys = nn.Parameter(keys)
        self.values = nn.Parameter(values)
        self.shared = shared

    def before(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """[images, heads, t, head_dim] twice -> the same with m + t tokens."""
        own_keys, own_values = self._for_each(len(keys))
        return torch.cat([own_keys, keys], dim=2), torch.cat([own_values, values], dim=2)

    def beside(self, queries: Tensor) -> Tensor:
        """Queries [images, heads, n, head_dim] -> what is added for them, as they are."""
        return F.scaled_dot_product_attention(queries, *self._for_each(len(queries)))

    def _for_each(self, images: int) -> tuple[Tensor, Tensor]:
        """Keys and values [images, heads, m, head_dim]; nothing is copied."""
        shape = (images, -1, -1, -1)
        return self.keys.expand(shape), self.values.expand(shape)


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
