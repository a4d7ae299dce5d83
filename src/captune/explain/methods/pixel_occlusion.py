"""Occlusion of pixels: what the word's score loses when a place of the photo is blurred.

The photo is encoded once for each place of the patch grid, with the pixels of that place blurred
beyond recognition and all others untouched: the strict way, at the price of the encoder. A map is
signed: a negative patch speaks against the word.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageFilter
from torch import Tensor

from captune.captioning.model import Captioner
from captune.errors import UserError
from captune.explain.methods import Choice, MapMethod
from captune.explain.methods.occlusion import losses
from captune.explain.subject import Subject
from captune.images import open_photo
from captune.models.encoders import GridShape

BLUR = 0.08  # deviation, as a share of the shorter side
_ENCODED_AT_ONCE = 16


class PixelOcclusion(MapMethod):
    """See the module's text. One map: it knows neither layers nor heads."""

    name = "pixel-occlusion"
    signed = True

    def maps(
        self,
        captioner: Captioner,
        subject: Subject,
        choice: Choice,
        words: Sequence[int],
        against: str | None = None,
    ) -> Tensor:
        """As `MapMethod.maps`; raises UnreadablePhoto where the photo is gone."""
        self.check(captioner, choice)
        if captioner.image_model is None:
            raise UserError(
                "pixel-occlusion: encodes the photo anew, and this captioner was given no image"
                " encoder; set its image_model, or take occlusion"
            )
        encoder = captioner.image_model.image
        photo = open_photo(subject.photo.path)
        clear, hidden = encoder.whole(photo), encoder.whole(blurred(photo))

        def without(places: Sequence[int]) -> Tensor:
            boxes = [box_of(place, subject.shape, clear) for place in places]
            pixels = clear.repeat(len(places), 1, 1, 1)
            for some, (rows, columns) in zip(pixels, boxes, strict=True):
                some[:, rows, columns] = hidden[:, rows, columns]
            grids = encoder.finish_grid(encoder.encode_grid(pixels))
            return grids.float().to(subject.grid.device)

        return losses(captioner, subject, words, against, without, _ENCODED_AT_ONCE)


def blurred(photo: Image.Image) -> Image.Image:
    """The photo of which only light and colour are left."""
    return photo.filter(ImageFilter.GaussianBlur(BLUR * min(photo.size)))


def box_of(place: int, shape: GridShape, pixels: Tensor) -> tuple[slice, slice]:
    """Rows and columns of pixels [3, height, width] that a place of the patch grid stands for."""
    height, width = pixels.shape[-2:]
    row, column = divmod(place, shape.columns)
    edges = (
        (row * height // shape.rows, (row + 1) * height // shape.rows),
        (column * width // shape.columns, (column + 1) * width // shape.columns),
    )
    return slice(*edges[0]), slice(*edges[1])


METHOD = PixelOcclusion()
