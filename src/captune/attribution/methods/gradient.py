"""Input times gradient on the patch grid: what each patch adds to the word's score, to first order.

A map is the sum over channels of the token times the gradient of the word's score by it (Shrikumar
et al. 2016). It is signed: a negative patch speaks against the word.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from captune.attribution.captioned_image import CaptionedImage
from captune.attribution.methods import LayerHead, MapMethod, on_patches
from captune.attribution.word_scores import WordTarget, gradients_at


class Gradient(MapMethod):
    """One map: it knows neither layers nor heads."""

    name = "gradient"
    signed = True

    def maps_of(
        self, captioned: CaptionedImage, layer_head: LayerHead, targets: Sequence[WordTarget]
    ) -> Tensor:
        """As `MapMethod.maps_of`."""
        gradients = gradients_at(captioned, captioned.grid, targets)
        return on_patches((gradients * captioned.grid).sum(dim=-1), captioned)


METHOD = Gradient()
