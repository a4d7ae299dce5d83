"""Raw cross-attention: how much each patch was looked at when the word was predicted.

The weights are computed again from the layer's own queries and keys, which a hook hears: the model
runs as it always does, and only the layers that were asked for cost anything. They are the weights
that the model used, so a layer's row sums to one over all that it can look at: the patches, the
tokens that stand for no patch (CLS), and the keys of a prefix in the same softmax. A map shows the
patches; what is missing from a sum of one went to the others.

It does not depend on which word was predicted, only on the step, so it cannot say why another word
was not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from captune.attribution.captioned_image import CaptionedImage
from captune.attribution.methods import LayerHead, MapMethod, cross_attention_layers, on_patches
from captune.attribution.word_scores import WordTarget, logits_at
from captune.captioning.attention import CrossAttentionLayer
from captune.captioning.model import CaptionModel


class Attention(MapMethod):
    """A word of several pieces has the mean of their maps.

    Over layers, and over heads with "mean", a map is the mean; with "max" each patch has the
    largest weight that any head gave it.
    """

    name = "attention"
    no_against = (
        "shows where was looked at a step, whichever word came of it, so it cannot hold one word"
        " against another; take --method gradient or occlusion"
    )

    def layer_heads(self, captioner: CaptionModel) -> list[LayerHead]:
        """The mean over heads of the last layer, the original report's; then all others."""
        layers = cross_attention_layers(captioner, self.name)
        numbers = [*range(len(layers)), None]
        found = [LayerHead(layer, head) for layer in numbers for head in _heads(layers, layer)]
        first = LayerHead(len(layers) - 1, "mean")
        return [first, *(one for one in found if one != first)]

    def maps_of(
        self,
        captioner: CaptionModel,
        captioned: CaptionedImage,
        layer_head: LayerHead,
        targets: Sequence[WordTarget],
    ) -> Tensor:
        """As `MapMethod.maps_of`."""
        layers = cross_attention_layers(captioner, METHOD.name)
        wanted = range(len(layers)) if layer_head.layer is None else [layer_head.layer]
        weights = attention_of(captioner, captioned, [target.steps for target in targets], wanted)
        return on_patches(_chosen(list(weights.values()), layer_head), captioned)

    def maps_of_all(
        self, captioner: CaptionModel, captioned: CaptionedImage, words: Sequence[int]
    ) -> dict[LayerHead, Tensor]:
        """Every layer and head from one pass."""
        layers = range(len(cross_attention_layers(captioner, METHOD.name)))
        steps = [captioned.spans[word].steps for word in words]
        weights = attention_of(captioner, captioned, steps, layers)
        return {
            layer_head: on_patches(
                _chosen([weights[i] for i in layers if layer_head.layer in (i, None)], layer_head),
                captioned,
            )
            for layer_head in self.layer_heads(captioner)
        }

    def is_fraction(self, layer_head: LayerHead) -> bool:
        """All but the largest over the heads."""
        return layer_head.head != "max"


@torch.no_grad()
def attention_of(
    captioner: CaptionModel,
    captioned: CaptionedImage,
    steps: Sequence[Sequence[int]],
    layers: Sequence[int],
) -> dict[int, Tensor]:
    """Layer -> weights [words, heads, tokens], by one pass over the caption.

    steps: of each word, those at which its pieces were predicted; it has the mean over them.
    """
    last = max(step for own in steps for step in own)
    with _capture(captioner, layers) as found:
        logits_at(captioner, captioned, captioned.grid, [[last]])
    return {
        layer: torch.stack([weights[0, :, list(own)].mean(dim=1) for own in steps])
        for layer, weights in found.items()
    }


@contextmanager
def _capture(captioner: CaptionModel, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Layer -> attention map [rows, heads, n, tokens] of the pass that is made in the block."""
    known = cross_attention_layers(captioner, METHOD.name)
    found: dict[int, Tensor] = {}

    def hook(number: int) -> Any:
        def keep(layer: CrossAttentionLayer, args: tuple[Any, ...]) -> None:
            hidden, keys, _, mask = args
            found[number] = layer.attention_map(hidden, keys, mask)

        return keep

    with ExitStack() as stack:
        for number in layers:
            stack.callback(known[number].register_forward_pre_hook(hook(number)).remove)
        yield found


def _heads(layers: Sequence[CrossAttentionLayer], layer: int | None) -> Iterator[int | str]:
    yield "mean"
    # over all layers a head's number means nothing
    if layer is not None and layers[layer].heads > 1:
        yield "max"
        yield from range(layers[layer].heads)


def _chosen(weights: Sequence[Tensor], layer_head: LayerHead) -> Tensor:
    """Weights of layers, each [words, heads, tokens] -> [words, tokens]."""
    maps = [_of_heads(layer, layer_head.head) for layer in weights]
    return torch.stack(maps).mean(dim=0)


def _of_heads(weights: Tensor, head: int | str | None) -> Tensor:
    if isinstance(head, int):
        return weights[:, head]
    return weights.amax(dim=1) if head == "max" else weights.mean(dim=1)


METHOD = Attention()
