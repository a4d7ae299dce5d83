"""Raw cross-attention: how much each patch was looked at when the word was predicted.

The weights are those that the pass used, so a layer's row sums to one over all that it can look at:
the patches, the tokens that stand for no patch (CLS), and the keys of a prefix in the same softmax.
A map shows the patches; what is missing from a sum of one went to the others.

It does not depend on which word was predicted, only on the step, so it cannot say why another word
was not. Times its gradient it can (gradient_attention.py), and so can rollout (relevance.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from captune.attribution.captioned_image import CaptionedImage
from captune.attribution.methods import LayerHead, MapMethod, cross_attention_layers, on_patches
from captune.attribution.methods.gradient_attention import capture_attention
from captune.attribution.vlm_image import AnyModel, ImageReader, VLMReader
from captune.attribution.word_scores import WordTarget, logits_at


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

    def layer_heads(self, captioner: AnyModel) -> list[LayerHead]:
        """The mean over heads of the last layer, the original report's; then all others."""
        heads = _heads_of_layers(captioner, self.name)
        found = [LayerHead(n, head) for n, count in enumerate(heads) for head in _heads(count)]
        found.append(LayerHead(None, "mean"))  # over all layers a head's number means nothing
        first = LayerHead(len(heads) - 1, "mean")
        return [first, *(one for one in found if one != first)]

    def maps_of(
        self, captioned: CaptionedImage, layer_head: LayerHead, targets: Sequence[WordTarget]
    ) -> Tensor:
        """As `MapMethod.maps_of`."""
        weights = attention_of(captioned, [target.steps for target in targets])
        return _map(captioned, weights, layer_head)

    def maps_of_each(
        self, captioned: CaptionedImage, layer_heads: Sequence[LayerHead], words: Sequence[int]
    ) -> dict[LayerHead, Tensor]:
        """Every layer and head from one pass."""
        weights = attention_of(captioned, [captioned.spans[word].steps for word in words])
        return {one: _map(captioned, weights, one) for one in layer_heads}

    def is_fraction(self, layer_head: LayerHead) -> bool:
        """All but the largest over the heads."""
        return layer_head.head != "max"


@torch.no_grad()
def attention_of(captioned: CaptionedImage, steps: Sequence[Sequence[int]]) -> list[Tensor]:
    """Of each layer the weights [words, heads, tokens], by one pass over the caption.

    steps: of each word, those at which its pieces were predicted; it has the mean over them.
    """
    last = max(step for own in steps for step in own)
    model = captioned.model
    if isinstance(model, ImageReader):
        layers = model.attention(captioned.ids)
        return [torch.stack([layer[:, list(own)].mean(dim=1) for own in steps]) for layer in layers]
    with capture_attention(model) as found:
        logits_at(captioned, captioned.grid, [[last]])
    layers = [found.over_image(weights)[0] for weights in found.cross.values()]
    places = [[captioned.before + step for step in own] for own in steps]
    return [torch.stack([layer[:, own].mean(dim=1) for own in places]) for layer in layers]


def _heads_of_layers(captioner: AnyModel, name: str) -> list[int]:
    """How many heads each layer has that looks at the image."""
    if not isinstance(captioner, VLMReader):
        return [layer.heads for layer in cross_attention_layers(captioner, name)]
    if not isinstance(captioner, ImageReader):
        captioner.probed().attention([captioner.decoder.end_id])
    config = captioner.vlm.model.config.get_text_config()
    return [config.num_attention_heads] * int(config.num_hidden_layers)


def _heads(count: int) -> list[int | str]:
    return ["mean", "max", *range(count)] if count > 1 else ["mean"]


def _map(captioned: CaptionedImage, weights: Sequence[Tensor], layer_head: LayerHead) -> Tensor:
    """Weights of all layers, each [words, heads, tokens] -> [words, rows, columns]."""
    layers = weights if layer_head.layer is None else [weights[layer_head.layer]]
    maps = [_of_heads(layer, layer_head.head) for layer in layers]
    return on_patches(torch.stack(maps).mean(dim=0), captioned)


def _of_heads(weights: Tensor, head: int | str | None) -> Tensor:
    if isinstance(head, int):
        return weights[:, head]
    return weights.amax(dim=1) if head == "max" else weights.mean(dim=1)


METHOD = Attention()
