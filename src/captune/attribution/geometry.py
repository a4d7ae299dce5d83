"""Where the patches of a grid lie on the image.

An encoder squashes an image to its rectangle, or scales it and cuts off what is too long. Which it
does, and to the pixel where, is not guessed from its settings: it is shown ramps of grey of the
image's size, and what comes out tells which part of the image each pixel of its rectangle is.

Images are upright here, as `images.open_image` gives them. `as_stored` turns a map to the pixels as
the file has them, for programs that do not read EXIF.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captune_metrics.resampling import Doubles

if TYPE_CHECKING:  # figures are drawn without loading torch
    from torch import Tensor

Array = NDArray[np.float32]

_SMALLEST = 8  # a narrower image makes no ramp
# how EXIF's orientations turn what is stored, undone: steps of (flip left and right, quarter turns)
_UNDONE = {
    2: (True, 0),
    3: (False, 2),
    4: (True, 2),
    5: (True, 3),
    6: (False, 1),
    7: (True, 1),
    8: (False, 3),
}


@dataclass(frozen=True)
class Frame:
    """The rectangle that an encoder saw, on an upright image.

    width, height: of the image, pixels. left, top, right, bottom: of what was seen, in pixels of
    the image from its upper left corner; beyond the image where the encoder put a margin around it.
    """

    width: int
    height: int
    left: float
    top: float
    right: float
    bottom: float

    @property
    def edges(self) -> tuple[float, float, float, float]:
        """(left, top, right, bottom)."""
        return self.left, self.top, self.right, self.bottom

    @property
    def is_whole(self) -> bool:
        """Whether all of the image was seen and nothing else."""
        edges = (self.left, self.top, self.right - self.width, self.bottom - self.height)
        return not any(edges)

    def over_image(self, maps: Array, size: tuple[int, int]) -> Array:
        """Maps [..., rows, columns] -> [..., height, width] over the whole image; nan: not seen.

        size: (width, height), in which the image is shown. The maps are upsampled smoothly between
        the centres of patches; beyond the outermost centres the values stay.
        """
        width, height = size
        rows, columns = maps.shape[-2:]
        down, is_seen = _blend(height, self.height, self.top, self.bottom, rows)
        across, is_seen_across = _blend(width, self.width, self.left, self.right, columns)
        over: Array = (down @ maps.astype(np.float64) @ across.T).astype(np.float32)
        over[..., ~is_seen, :] = np.nan
        over[..., :, ~is_seen_across] = np.nan
        return over


def whole_frame(width: int, height: int) -> Frame:
    """Of an encoder that squashes the whole image to its rectangle, as captioners do."""
    return Frame(width, height, 0.0, 0.0, float(width), float(height))


def frame_of(transform: Callable[[Image.Image], Tensor], width: int, height: int) -> Frame:
    """What of an image of this size comes out of an encoder's transform."""
    plain = (Image.new("RGB", (width, height), colour) for colour in ("black", "white"))
    pictures = (*plain, *ramps(width, height))
    dark, bright, *greys = (transform(picture).mean(dim=0).numpy() for picture in pictures)
    is_image = bright != dark  # what is the same for every image is a margin
    ends = []
    for axis, (length, grey) in enumerate(zip((width, height), greys, strict=True)):
        shown = np.zeros_like(dark)
        np.divide(grey - dark, bright - dark, out=shown, where=is_image)
        fraction = shown.sum(axis=axis) / is_image.sum(axis=axis).clip(1)
        ends.append(_ends(fraction, length))
    (left, right), (top, bottom) = ends
    return Frame(width, height, left, top, right, bottom)


def as_stored(maps: Array, orientation: int) -> Array:
    """Maps [..., height, width] of the upright image -> over the pixels as the file has them.

    orientation: EXIF's, 1 to 8; 1 changes nothing.
    """
    flipped, turns = _UNDONE.get(orientation, (False, 0))
    turned = np.rot90(maps, turns, axes=(-2, -1))
    return np.ascontiguousarray(turned[..., ::-1] if flipped else turned)


def ramps(width: int, height: int) -> list[Image.Image]:
    """Pictures that go from black to white: from left to right, and from top to bottom."""
    greys = (np.round((np.arange(n) + 0.5) * 255 / n).astype(np.uint8) for n in (width, height))
    return [Image.fromarray(grid).convert("RGB") for grid in np.meshgrid(*greys)]


def _ends(shown: NDArray[np.floating], length: int) -> tuple[float, float]:
    """Where the first and the last pixel of a rectangle begin and end on a ramp of this length.

    shown: [n], the fraction of the ramp that each pixel shows, from 0 to 1.
    """
    # what lies near the image's edges is bent by the filter; black and white may be a margin
    telling = (shown > 0.1) & (shown < 0.9)
    if length < _SMALLEST or telling.sum() < 2:
        return 0.0, float(length)
    middles = np.arange(len(shown)) + 0.5
    slope, start = np.polyfit(middles[telling], shown[telling] * length, 1)
    return _snapped(start, length), _snapped(start + slope * len(shown), length)


def _snapped(edge: float, length: int) -> float:
    """An edge, or the image's own where a ramp of 256 greys does not tell the two apart."""
    near = max(0.5, length / 1000)
    return next((float(own) for own in (0, length) if abs(edge - own) < near), float(edge))


def _blend(
    shown: int, length: int, first: float, last: float, patches: int
) -> tuple[Doubles, NDArray[np.bool_]]:
    """Weights [shown, patches] of each patch for each pixel, and whether the pixel was seen."""
    middles = (np.arange(shown) + 0.5) * length / shown
    at = (middles - first) / (last - first) * patches - 0.5  # in patches, from the first middle
    near = at.clip(0, patches - 1)
    linear = (1 - np.abs(near[:, None] - np.arange(patches)[None, :])).clip(0, 1)
    # a slope of none at each middle: straight ones make a star of each peak
    weights = linear**2 * (3 - 2 * linear)
    is_seen = (middles > first) & (middles < last)
    return weights, is_seen
