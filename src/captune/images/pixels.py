"""What a decoder gives -> 8-bit RGB, upright, on white, with little memory beside the picture."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator

from PIL import Image

from captune.images.formats import UnreadableImage, damage, find_format

_STRIP_PIXELS = 2**20  # as many are converted at once: what they need in between is of no account
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_here(
    data: bytes, most_pixels: int, *, promised: int | None = None, at_least: int | None = None
) -> Image.Image:
    """The bytes of an image file -> an RGB picture, in this thread, whatever that takes.

    promised: how many pixels its header promised; a file that turns out to have more is damaged.
    at_least: how many pixels of the longer side suffice; a JPEG may be decoded at 1/2, 1/4 or 1/8.
    Raises UnreadableImage; changes no global of Pillow.
    """
    kind, opener = find_format(data)
    # Decoders answer hostile bytes with every exception there is, and all mean the same here.
    try:
        image = opener(io.BytesIO(data), "")
        check_size(image.size, most_pixels)
        if promised is not None and math.prod(image.size) > promised:
            raise UnreadableImage(f"damaged {kind}")
        if at_least is not None and kind == "JPEG":
            share = at_least / max(image.size)
            image.draft(None, (math.ceil(share * image.width), math.ceil(share * image.height)))
        image.load()
        turn = _turn(image)
        picture = _as_rgb(image)
        del image  # its pixels are not needed while the picture is turned
        if turn is not None:
            picture = picture.transpose(turn)
        picture.info = {}  # or whoever honours EXIF after us turns the picture twice
        return picture
    except UnreadableImage:
        raise
    except MemoryError as error:
        raise UnreadableImage("not enough memory to decode it") from error
    except Exception as error:
        raise UnreadableImage(damage(data, kind, error)) from error


def check_size(size: tuple[int, int], most_pixels: int) -> None:
    """Raises UnreadableImage where there are more pixels than CAPTUNE_MAX_MEGAPIXELS allows."""
    width, height = size
    if width * height > most_pixels:
        raise UnreadableImage(
            f"{width} x {height} pixels, over the limit of {most_pixels / 1e6:g} megapixels"
            " (CAPTUNE_MAX_MEGAPIXELS)"
        )


def strips(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Boxes (left, upper, right, lower) that cover a picture from top to bottom."""
    width, height = size
    rows = max(1, _STRIP_PIXELS // max(width, 1))
    for top in range(0, height, rows):
        yield 0, top, width, min(top + rows, height)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        image = _grey(image)
    if image.has_transparency_data:
        return _on_white(image)
    if image.mode == "RGB":
        # as convert("RGB"), which would copy the pixels
        return image._new(image.im)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    picture = Image.new("RGB", image.size)
    for box in strips(image.size):
        strip = image.crop(box).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        picture.paste(Image.alpha_composite(white, strip).convert("RGB"), box)
    return picture


def _grey(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and floating grey -> 8 bits.

    16-bit files and PGM: 0..65535 -> 0..255, rounded. TIFFs with 32-bit or floating values do not
    say what is white, so by what they hold: 0..1 (floating only), 0..255, 0..65535, and otherwise
    from their own smallest to their own largest value. Infinities and NaN become the smallest.
    """
    import numpy as np
    from numpy.typing import NDArray

    def values_in(box: tuple[int, int, int, int]) -> NDArray[np.float32]:
        return np.asarray(image.crop(box), dtype=np.float32)

    low, high, dark = 0.0, 65535.0, 0.0
    if not (image.mode.startswith("I;16") or image.format == "PPM"):
        ranges = []
        for box in strips(image.size):
            values = values_in(box)
            values = values[np.isfinite(values)]
            if values.size:
                ranges.append((float(values.min()), float(values.max())))
        if not ranges:
            raise UnreadableImage("no pixel is a finite number")
        low, high = min(one[0] for one in ranges), max(one[1] for one in ranges)
        dark = low
        if low >= 0 and high <= 65535:
            whites = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
            low, high = 0.0, next(white for white in whites if high <= white)
    grey = Image.new("L", image.size)
    for box in strips(image.size):
        values = values_in(box)
        finite = np.isfinite(values)
        if not finite.all():
            values = np.where(finite, values, np.float32(dark))
        scaled = (values - low) * (255.0 / max(high - low, 1e-12))
        grey.paste(Image.fromarray(np.rint(scaled).clip(0, 255).astype(np.uint8)), box)
    return grey


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # broken EXIF says nothing about the pixels
        return None
    return _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
