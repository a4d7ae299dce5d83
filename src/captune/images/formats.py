"""Which format a file is in, by its first bytes, and its pixels: 8-bit RGB, upright, on white."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from captune.errors import UserError
from captune_metrics.display import printable

Opener = Callable[[io.BytesIO, str], ImageFile.ImageFile]


class UnreadableImage(Exception):
    """A file that cannot be used as an image; `reason` is a short phrase like "truncated JPEG"."""

    def __init__(self, reason: str, name: str = "") -> None:
        super().__init__(reason, name)
        self.reason = reason
        self.name = name

    def __str__(self) -> str:
        return f"{printable(self.name)}: {self.reason}" if self.name else self.reason


class _FirstFrameOfWebP(WebPImagePlugin.WebPImageFile):
    """Lets go of libwebp's two canvases once it has the first frame, before Pillow copies it."""

    def _get_next(self) -> tuple[bytes, int, int]:
        frame = super()._get_next()
        self._decoder = None
        return frame


# The formats captune trusts. They are opened without Image.open, whose size check depends on a
# module global of the host program, and without its registry, which the host may have changed.
_FORMATS: tuple[tuple[str, Opener, tuple[bytes, ...]], ...] = (
    ("JPEG", JpegImagePlugin.jpeg_factory, (b"\xff\xd8\xff",)),
    ("PNG", PngImagePlugin.PngImageFile, (b"\x89PNG\r\n\x1a\n",)),
    ("GIF", GifImagePlugin.GifImageFile, (b"GIF87a", b"GIF89a")),
    ("BMP", BmpImagePlugin.BmpImageFile, (b"BM",)),
    ("TIFF", TiffImagePlugin.TiffImageFile, (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    ("PPM", PpmImagePlugin.PpmImageFile, tuple(b"P%d" % digit for digit in range(1, 7))),
    (
        "JPEG 2000",
        Jpeg2KImagePlugin.Jpeg2KImageFile,
        (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n"),
    ),
)
_HEIF_BRANDS = frozenset(b"heic heix hevc hevx heim heis hevm hevs mif1 msf1".split())
_NOT_IMAGES = (
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"8BPS", "a Photoshop document"),
    (b"\xff\x0a", "JPEG XL, which is not supported"),
    (b"\0\0\0\x0cJXL ", "JPEG XL, which is not supported"),
    (b"version https://git-lfs", "a Git LFS pointer; run `git lfs pull`"),
)


def find_format(data: bytes) -> tuple[str, Opener]:
    """The name of the format, and what opens it. Raises UnreadableImage."""
    for kind, opener, magics in _FORMATS:
        if data.startswith(magics) and not (kind in ("BMP", "PPM") and _is_text(data, kind)):
            return kind, opener
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP", _FirstFrameOfWebP
    if data[4:8] == b"ftyp":
        box = data[8 : max(16, min(int.from_bytes(data[:4]), 512))]
        brands = {box[start : start + 4] for start in range(0, len(box), 4)}
        if brands & {b"avif", b"avis"}:
            if not AvifImagePlugin.SUPPORTED:
                raise UnreadableImage("AVIF needs a newer Pillow: pip install -U pillow")
            return "AVIF", AvifImagePlugin.AvifImageFile
        if brands & _HEIF_BRANDS:
            return "HEIC", _heif_opener()
    raise UnreadableImage(_not_an_image(data))


def _heif_opener() -> Opener:
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise UnreadableImage("HEIC needs an extra: pip install 'captune[heic]'") from None
    opener: Opener = HeifImageFile
    return opener


def _is_text(data: bytes, kind: str) -> bool:
    """Prose may start with BM or P1; a PNM header goes on with comments and a number."""
    if kind == "PPM":
        return not re.match(rb"P\d\s+(#[^\n]*\n\s*)*\d", data[:2048])
    return b"\0" not in data[:64]


def _not_an_image(data: bytes) -> str:
    """What the bytes are instead, as far as a person would see at a glance."""
    if not data:
        return "0 bytes"
    for magic, kind in _NOT_IMAGES:
        if data.startswith(magic):
            return f"not an image: {kind}"
    if not data.strip(b"\0"):
        return "not an image: only zero bytes"
    if data[4:8] == b"ftyp":
        return "not an image: a video"
    head = data[:1024]
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "not an image: a web page"
    if start.startswith((b"<svg", b"<?xml")):
        return "not an image: SVG or XML text"
    sixteen_bit = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    plain = not any(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head)
    # Up to three bytes of a character may be cut off at the end.
    decoded = len(head.decode("utf-8", "ignore").encode()) > len(head) - 4
    if sixteen_bit or (plain and decoded):
        return "not an image: text"
    return "not an image: unknown format"


def damage(data: bytes, kind: str, error: Exception) -> str:
    """What a decoder's error says of a file of this kind: it is cut off, or damaged."""
    message = str(error).lower()
    cut = isinstance(error, EOFError) or "truncated" in message or "end of" in message
    if kind == "JPEG":
        cut = cut or b"\xff\xd9" not in data[-4096:]
    elif kind == "WEBP":
        cut = cut or len(data) < int.from_bytes(data[4:8], "little") + 8
    return f"truncated {kind}" if cut else f"damaged {kind}"


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


def file_of(image: object) -> tuple[bytes, str]:
    """A PIL image as a file that decodes to the pixels of its own; or no bytes, and why not.

    Raises UserError for anything else.
    """
    if not isinstance(image, Image.Image):
        raise UserError(
            "images: expected paths, the bytes of image files or PIL images, not"
            f" {type(image).__name__}"
        )
    if 0 in image.size:
        return b"", f"no pixels ({image.width} x {image.height})"
    try:
        image.load()
        turn = _turn(image)
        picture = _as_rgb(image)
        if turn is not None:
            picture = picture.transpose(turn)
        return b"P6 %d %d 255\n" % picture.size + picture.tobytes(), ""
    except UnreadableImage as error:
        return b"", error.reason
    except Exception as error:  # of a file that Pillow had only begun to read
        return b"", f"Pillow cannot load it ({printable(error)})"


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
