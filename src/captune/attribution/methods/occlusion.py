"""Occlusion of patch tokens: what the word's score loses without a patch (Zeiler, Fergus 2014).

A patch token becomes zeros; the image's own mean token would not do (see `masking`).
Nothing is encoded again: the captioner reads the cached grid with one token changed, many such
grids at once. A map is signed: a negative patch speaks against the word. A token has seen its
neighbours, so the others still know something of a patch that is gone; `pixel-occlusion` is the
strict, slow way.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from captune.attribution.captioned_image import CaptionedImage
from captune.attribution.masking import losses_without_each, token_masking
from captune.attribution.methods import LayerHead, MapMethod
from captune.attribution.word_scores import WordTarget


class Occlusion(MapMethod):
    """One map: it knows neither layers nor heads."""

    name = "occlusion"
    signed = True

    def maps_of(
        self, captioned: CaptionedImage, layer_head: LayerHead, targets: Sequence[WordTarget]
    ) -> Tensor:
        """As `MapMethod.maps_of`."""
        return losses_without_each(token_masking(captioned, targets).every, captioned.shape)


METHOD = Occlusion()
