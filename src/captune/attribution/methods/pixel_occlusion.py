"""Occlusion of pixels: what the word's score loses when a place of the image is blurred.

The image is encoded once for each place of the patch grid, with the pixels of that place blurred
beyond recognition and all others untouched: the strict way, at the price of the encoder. A map is
signed: a negative patch speaks against the word.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from captune.attribution.masking import blurred, pieced, without_each
from captune.attribution.methods import Choice, MapMethod
from captune.attribution.methods.occlusion import losses
from captune.attribution.subject import Subject
from captune.attribution.word_scores import Target
from captune.captioning.model import Captioner
from captune.errors import UserError
from captune.images import open_image

_ENCODED_AT_ONCE = 16


class PixelOcclusion(MapMethod):
    """See the module's text. One map: it knows neither layers nor heads."""

    name = "pixel-occlusion"
    signed = True

    def maps_of(
        self, captioner: Captioner, subject: Subject, choice: Choice, targets: Sequence[Target]
    ) -> Tensor:
        """As `MapMethod.maps_of`; raises UnreadableImage where the image is gone."""
        if captioner.image_model is None:
            raise UserError(
                "pixel-occlusion: encodes the image anew, and this captioner was given no image"
                " encoder; set its image_model, or take occlusion"
            )
        encoder = captioner.image_model.image
        image = open_image(subject.image.path)
        clear, hidden = encoder.whole(image), encoder.whole(blurred(image))

        def without(places: range) -> Tensor:
            shown = without_each(places, of=subject.shape.rows * subject.shape.columns)
            pixels = pieced(shown, clear, hidden, subject.shape)
            return encoder.finish_grid(encoder.encode_grid(pixels)).float().to(subject.grid.device)

        return losses(captioner, subject, targets, without, _ENCODED_AT_ONCE)


METHOD = PixelOcclusion()
