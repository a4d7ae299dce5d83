"""Occlusion of pixels: what the word's score loses when a place of the photo is blurred.

The photo is encoded once for each place of the patch grid, with the pixels of that place blurred
beyond recognition and all others untouched: the strict way, at the price of the encoder. A map is
signed: a negative patch speaks against the word.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from captune.captioning.model import Captioner
from captune.errors import UserError
from captune.explain.masking import blurred, pieced, without_each
from captune.explain.methods import Choice, MapMethod
from captune.explain.methods.occlusion import losses
from captune.explain.subject import Subject
from captune.explain.word_scores import Target
from captune.images import open_photo

_ENCODED_AT_ONCE = 16


class PixelOcclusion(MapMethod):
    """See the module's text. One map: it knows neither layers nor heads."""

    name = "pixel-occlusion"
    signed = True

    def maps_of(
        self, captioner: Captioner, subject: Subject, choice: Choice, targets: Sequence[Target]
    ) -> Tensor:
        """As `MapMethod.maps_of`; raises UnreadablePhoto where the photo is gone."""
        if captioner.image_model is None:
            raise UserError(
                "pixel-occlusion: encodes the photo anew, and this captioner was given no image"
                " encoder; set its image_model, or take occlusion"
            )
        encoder = captioner.image_model.image
        photo = open_photo(subject.photo.path)
        clear, hidden = encoder.whole(photo), encoder.whole(blurred(photo))

        def without(places: range) -> Tensor:
            shown = without_each(places, of=subject.shape.rows * subject.shape.columns)
            pixels = pieced(shown, clear, hidden, subject.shape)
            return encoder.finish_grid(encoder.encode_grid(pixels)).float().to(subject.grid.device)

        return losses(captioner, subject, targets, without, _ENCODED_AT_ONCE)


METHOD = PixelOcclusion()
