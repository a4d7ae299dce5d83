"""Occlusion of pixels: what the word's score loses when a patch of the image is blurred.

The image is encoded once for each patch of the grid, with the pixels of that patch blurred
beyond recognition and all others untouched: the strict way, at the price of the encoder. A map is
signed: a negative patch speaks against the word.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from captune.attribution.captioned_image import CaptionedImage
from captune.attribution.masking import blurred, compose, without_each
from captune.attribution.methods import LayerHead, MapMethod
from captune.attribution.methods.occlusion import losses
from captune.attribution.word_scores import WordTarget
from captune.captioning.model import CaptionModel
from captune.errors import UserError
from captune.images import open_image

_ENCODED_AT_ONCE = 16


class PixelOcclusion(MapMethod):
    """One map: it knows neither layers nor heads."""

    name = "pixel-occlusion"
    signed = True

    def maps_of(
        self,
        captioner: CaptionModel,
        captioned: CaptionedImage,
        layer_head: LayerHead,
        targets: Sequence[WordTarget],
    ) -> Tensor:
        """As `MapMethod.maps_of`; raises UnreadableImage where the image is gone."""
        if captioned.encoder is None:
            raise UserError(
                "pixel-occlusion: encodes the image again, and its image encoder is not known; give"
                " the captioned image its encoder, or take occlusion"
            )
        encoder = captioned.encoder.image
        image = open_image(captioned.image.path)
        clear, hidden = encoder.whole(image), encoder.whole(blurred(image))

        def without(patches: range) -> Tensor:
            shown = without_each(patches, of=captioned.shape.rows * captioned.shape.columns)
            pixels = compose(shown, clear, hidden, captioned.shape)
            grids = encoder.finish_grid(encoder.encode_grid(pixels))
            return grids.float().to(captioned.grid.device)

        return losses(captioner, captioned, targets, without, _ENCODED_AT_ONCE)


METHOD = PixelOcclusion()
