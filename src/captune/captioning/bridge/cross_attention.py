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
from torch.utils.hooks import RemovableHandle

from captune.captioning.bridge import (
    Bridge,
    Context,
    CrossAttentionLayer,
    GridShape,
    ImageStates,
    TagEmbeddings,
)
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
