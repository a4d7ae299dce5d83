"""Raw cross-attention: how much each patch was looked at when the word was predicted.

The weights are computed again from the layer's own queries and keys, which a hook hears: the model
runs as it always does, and only the layers that were asked for cost anything. They are the weights
that the model used, so a layer's row sums to one over all that it can look at: the patches, the
tokens that stand for no place (CLS), and the keys of a prefix that shares the softmax. A map shows
the patches; what is missing from a sum of one went to the others.

It does not depend on which word was predicted, only on the step, so it cannot say why another word
was not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from captune.attribution.methods import Choice, MapMethod, looking_layers, on_patches
from captune.attribution.subject import Subject
from captune.attribution.word_scores import Target, logits_at
from captune.captioning.attention import CrossAttentionLayer
from captune.captioning.model import Captioner


class Attention(MapMethod):
    """See the module's text. A word of several pieces has the mean of their maps.

    Over layers, and over heads with "mean", a map is the mean; with "max" each patch has the
    largest weight that any head gave it.
    """

    name = "attention"
    no_against = (
        "shows where was looked at a step, whichever word came of it, so it cannot hold one word"
        " against another; take --method gradient or occlusion"
    )

    def choices(self, captioner: Captioner) -> list[Choice]:
        """The mean over heads of the last layer, the original report's; then all others."""
        layers = looking_layers(captioner, self.name)
        places = [*range(len(layers)), None]
        found = [Choice(place, how) for place in places for how in self._heads(layers, place)]
        first = Choice(len(layers) - 1, "mean")
        return [first, *(choice for choice in found if choice != first)]

    def maps_of(
        self, captioner: Captioner, subject: Subject, choice: Choice, targets: Sequence[Target]
    ) -> Tensor:
        """As `MapMethod.maps_of`."""
        layers = looking_layers(captioner, METHOD.name)
        wanted = range(len(layers)) if choice.layer is None else [choice.layer]
        weights = attention_of(captioner, subject, [target.places for target in targets], wanted)
        return on_patches(_chosen(list(weights.values()), choice), subject)

    def maps_of_all(
        self, captioner: Captioner, subject: Subject, words: Sequence[int]
    ) -> dict[Choice, Tensor]:
        """Every layer and head from one pass."""
        layers = range(len(looking_layers(captioner, METHOD.name)))
        steps = [subject.spans[word].places for word in words]
        weights = attention_of(captioner, subject, steps, layers)
        return {
            choice: on_patches(
                _chosen([weights[i] for i in layers if choice.layer in (i, None)], choice), subject
            )
            for choice in self.choices(captioner)
        }

    def is_share(self, choice: Choice) -> bool:
        """All but the largest over the heads."""
        return choice.head != "max"

    def _heads(
        self, layers: Sequence[CrossAttentionLayer], place: int | None
    ) -> Iterator[int | str]:
        yield "mean"
        # over all layers a head's number means nothing
        if place is not None and layers[place].heads > 1:
            yield "max"
            yield from range(layers[place].heads)


@torch.no_grad()
def attention_of(
    captioner: Captioner,
    subject: Subject,
    steps: Sequence[Sequence[int]],
    layers: Sequence[int],
) -> dict[int, Tensor]:
    """Layer -> weights [words, heads, tokens], by one pass over the caption.

    steps: of each word, those at which its pieces were predicted; it has the mean over them.
    """
    last = max(step for own in steps for step in own)
    with _heard(captioner, layers) as found:
        logits_at(captioner, subject, subject.grid, [[last]])
    return {
        layer: torch.stack([weights[0, :, list(own)].mean(dim=1) for own in steps])
        for layer, weights in found.items()
    }


@contextmanager
def _heard(captioner: Captioner, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Layer -> attention map [rows, heads, n, tokens] of the pass that is made in the block."""
    known = looking_layers(captioner, METHOD.name)
    found: dict[int, Tensor] = {}

    def listen(place: int) -> Any:
        def hear(layer: CrossAttentionLayer, args: tuple[Any, ...]) -> None:
            hidden, keys, _, mask = args
            found[place] = layer.attention_map(hidden, keys, mask)

        return hear

    with ExitStack() as stack:
        for place in layers:
            stack.callback(known[place].register_forward_pre_hook(listen(place)).remove)
        yield found


def _chosen(weights: Sequence[Tensor], choice: Choice) -> Tensor:
    """Weights of layers, each [words, heads, tokens] -> [words, tokens]."""
    maps = [_of_heads(layer, choice.head) for layer in weights]
    return torch.stack(maps).mean(dim=0)


def _of_heads(weights: Tensor, head: int | str | None) -> Tensor:
    if isinstance(head, int):
        return weights[:, head]
    return weights.amax(dim=1) if head == "max" else weights.mean(dim=1)


METHOD = Attention()
