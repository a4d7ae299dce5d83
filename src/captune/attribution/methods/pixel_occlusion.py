"""Occlusion of pixels: what the word's score loses when a patch of the image is blurred.

The image is encoded once for each patch of the grid, with the pixels of that patch blurred
beyond recognition and all others untouched: the strict way, at the price of the encoder. A map is
signed: a negative patch speaks against the word.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from captune.attribution.captioned_image import CaptionedImage
from captune.attribution.masking import losses_without_each, pixel_masking
from captune.attribution.methods import LayerHead, MapMethod
from captune.attribution.word_scores import WordTarget
from captune.errors import UserError


class PixelOcclusion(MapMethod):
    """One map: it knows neither layers nor heads."""

    name = "pixel-occlusion"
    signed = True

    def maps_of(
        self, captioned: CaptionedImage, layer_head: LayerHead, targets: Sequence[WordTarget]
    ) -> Tensor:
        """As `MapMethod.maps_of`; raises UnreadableImage where the image is gone."""
        if captioned.encoder is None and captioned.reader is None:
            raise UserError(
                "pixel-occlusion: encodes the image again, and its image encoder is not known; give"
                " the captioned image its encoder, or take occlusion"
            )
        return losses_without_each(pixel_masking(captioned, targets).every, captioned.shape)


METHOD = PixelOcclusion()
