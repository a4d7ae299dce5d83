"""Relevance by Chefer's rules (Chefer, Gur, Wolf 2021, eq. 5-10), through bridge and decoder.

It is attention rollout, with each head weighted by its gradient.

R_qq tells how much of each text position every other one has taken in, R_qi how much of each image
token. They begin as the identity and as nothing; each block, in its order, adds
    self-attention      R_qi += A R_qi,  R_qq += A R_qq                          (eq. 6, 7)
    cross-attention     R_qi += norm(R_qq)' A norm(R_ii)                         (eq. 10)
with A the mean over heads of the positive part of gradient x weights (eq. 5) for the logit of the
word's token, and norm(R) its part beyond the identity with rows that sum to one, plus the identity
(eq. 8, 9). The image's grid is cached, so its encoder has no rules: R_ii is the identity. A map is
the row of R_qi at the step that predicted the word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from captune.attribution.captioned_image import CaptionedImage
from captune.attribution.methods import LayerHead, MapMethod, cross_attention_layers, on_patches
from captune.attribution.methods.gradient_attention import attention_gradients
from captune.attribution.vlm_image import AnyModel
from captune.attribution.word_scores import WordTarget


class Relevance(MapMethod):
    """One map; a word of several pieces has the mean of theirs."""

    name = "relevance"

    def layer_heads(self, captioner: AnyModel) -> list[LayerHead]:
        """One."""
        cross_attention_layers(captioner, self.name)
        return [LayerHead()]

    def maps_of(
        self, captioned: CaptionedImage, layer_head: LayerHead, targets: Sequence[WordTarget]
    ) -> Tensor:
        """As `MapMethod.maps_of`."""
        found = attention_gradients(captioned, targets, self_attention=True)
        relevance = propagated(found.own, found.cross, found.behind)
        rows = torch.arange(len(relevance), device=relevance.device)
        return on_patches(found.of_words(relevance[rows, found.steps]), captioned)


def propagated(
    own: Mapping[int, Tensor], cross: Mapping[int, Tensor], behind: Mapping[int, int]
) -> Tensor:
    """R_qi [r, n, tokens] behind the last block, by the rules of the module's text.

    own: of each block [r, n, n]. cross: of each cross-attention layer [r, n, tokens]. behind: of
    each of these, the block behind whose self-attention it stands.
    """
    first = own[0]
    identity = torch.eye(first.shape[-1], device=first.device, dtype=first.dtype)
    text = identity.expand_as(first)
    image = torch.zeros_like(cross[0])
    for block in range(len(own)):
        image, text = image + own[block] @ image, text + own[block] @ text
        for looked in (cross[layer] for layer, own_block in behind.items() if own_block == block):
            image = image + _normalised(text, identity).transpose(-1, -2) @ looked
    return image


def _normalised(relevance: Tensor, identity: Tensor) -> Tensor:
    beyond = relevance - identity
    sums = beyond.sum(dim=-1, keepdim=True)
    # a row in which nothing was added yet is the identity's
    return torch.where(sums > 0, beyond / sums.clamp_min(1e-30), beyond) + identity


METHOD = Relevance()
