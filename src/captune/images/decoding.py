"""The bytes of an image file -> an RGB picture, or a short reason why not.

What a decoded photo is, whatever it was stored as: 8-bit RGB, the first frame, upright (EXIF
orientation applied), on white where it was transparent. Embedded colour profiles are ignored, as
in the reference preprocessing of CLIP. An opaque 8-bit photo that lies upright has exactly the
pixels of `PIL.Image.open(path).convert("RGB")`.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
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
from captune.files import printable
from captune.images.finding import why

# Belongs into the key of whatever is cached: goes up when the same bytes give other pixels.
DECODING_VERSION = 1
MAX_MEGAPIXELS = 100.0
_BYTES_PER_PIXEL = 8  # RGBA with 16 bits each: no photo within the pixel limit needs more on disk

# The formats captune trusts. They are opened without Image.open, whose size check depends on a
# module global of the host program, and without its registry, which the host may have changed.
_FORMATS: tuple[tuple[str, Callable[..., ImageFile.ImageFile], tuple[bytes, ...]], ...] = (
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


class UnreadablePhoto(Exception):
    """A file that cannot be used as a photo; `reason` is a short phrase like "truncated JPEG"."""

    def __init__(self, reason: str, name: str = "") -> None:
        super().__init__(reason, name)
        self.reason = reason
        self.name = name

    def __str__(self) -> str:
        return f"{printable(self.name)}: {self.reason}" if self.name else self.reason


def pixel_limit(max_megapixels: float | None = None) -> int:
    """The most pixels a photo may have: 100 million, or what CAPTUNE_MAX_MEGAPIXELS says."""
    if max_megapixels is None:
        text = os.environ.get("CAPTUNE_MAX_MEGAPIXELS", "").strip()
        try:
            max_megapixels = float(text) if text else MAX_MEGAPIXELS
        except ValueError:
            max_megapixels = 0.0
        if not 0 < max_megapixels < 1e6:
            raise UserError(
                f"CAPTUNE_MAX_MEGAPIXELS={printable(text)} is not a number of megapixels above 0."
            )
    return int(max_megapixels * 1_000_000)


def read_photo(path: str | Path) -> bytes:
    """The bytes of a file, read once: the content hash and the decoder share them.

    Raises UnreadablePhoto when it is gone, forbidden, empty, a device or pipe, or far larger
    than any photo within the pixel limit.
    """
    path = Path(path)
    limit = pixel_limit() * _BYTES_PER_PIXEL + 2**26
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device, pipe or socket"
            raise UnreadablePhoto(f"{kind}, not a file", str(path))
        if status.st_size > limit:
            size = f"{status.st_size / 2**30:.1f} GiB"
            raise UnreadablePhoto(f"{size}, too large for a photo", str(path))
        data = path.read_bytes()
    except FileNotFoundError as error:
        reason = "a link to nothing" if path.is_symlink() else why(error)
        raise UnreadablePhoto(reason, str(path)) from error
    except (OSError, ValueError) as error:
        reason = why(error) if isinstance(error, OSError) else "not a valid path"
        raise UnreadablePhoto(reason, str(path)) from error
    if not data:
        raise UnreadablePhoto("0 bytes", str(path))
    return data


def open_photo(path: str | Path, *, max_megapixels: float | None = None) -> Image.Image:
    """`read_photo`, then `decode_photo`."""
    return decode_photo(read_photo(path), str(path), max_megapixels=max_megapixels)


def decode_photo(
    data: bytes, name: str = "", *, max_megapixels: float | None = None
) -> Image.Image:
    """The bytes of an image file -> an RGB picture, upright, its first frame, on white.

    Transparency is composited on white, as a page would show it. CLIP's reference code drops it,
    which uncovers whatever colour lies under the transparent pixels: black on black for line art.
    16-bit grey keeps its full range (65535 -> 255); for 32-bit and floating grey see `_grey`.
    name: only for the text of an error.
    Raises UnreadablePhoto; changes no global of Pillow, so any number of threads may call it.
    """
    limit = pixel_limit(max_megapixels)
    kind, factory = _format(data, name)
    # Decoders answer hostile bytes with every exception there is, and all mean the same here.
    try:
        image = factory(io.BytesIO(data), "")
        width, height = image.size
        if width * height > limit:
            raise UnreadablePhoto(
                f"{width} x {height} pixels, over the limit of {limit / 1e6:g} megapixels"
                " (CAPTUNE_MAX_MEGAPIXELS)"
            )
        image.load()
        return _upright(_as_rgb(image), image)
    except UnreadablePhoto as error:
        raise UnreadablePhoto(error.reason, name) from None
    except MemoryError as error:
        raise UnreadablePhoto("not enough memory to decode it", name) from error
    except Exception as error:
        raise UnreadablePhoto(_damage(data, kind, error), name) from error


def _format(data: bytes, name: str) -> tuple[str, Callable[..., ImageFile.ImageFile]]:
    for kind, factory, magics in _FORMATS:
        if data.startswith(magics) and not (kind in ("BMP", "PPM") and _is_text(data, kind)):
            return kind, factory
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP", WebPImagePlugin.WebPImageFile
    if data[4:8] == b"ftyp":
        box = data[8 : max(16, min(int.from_bytes(data[:4]), 512))]
        brands = {box[start : start + 4] for start in range(0, len(box), 4)}
        if brands & {b"avif", b"avis"}:
            if not AvifImagePlugin.SUPPORTED:
                raise UnreadablePhoto("AVIF needs a newer Pillow: pip install -U pillow", name)
            return "AVIF", AvifImagePlugin.AvifImageFile
        if brands & _HEIF_BRANDS:
            return "HEIC", _heif_factory(name)
    raise UnreadablePhoto(_not_an_image(data), name)


def _heif_factory(name: str) -> Callable[..., ImageFile.ImageFile]:
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise UnreadablePhoto("HEIC needs an extra: pip install 'captune[heic]'", name) from None
    factory: Callable[..., ImageFile.ImageFile] = HeifImageFile
    return factory


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


def _damage(data: bytes, kind: str, error: Exception) -> str:
    message = str(error).lower()
    cut = isinstance(error, EOFError) or "truncated" in message or "end of" in message
    if kind == "JPEG":
        cut = cut or b"\xff\xd9" not in data[-4096:]
    elif kind == "WEBP":
        cut = cut or len(data) < int.from_bytes(data[4:8], "little") + 8
    return f"truncated {kind}" if cut else f"damaged {kind}"


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(_grey(image))
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return image.convert("RGB")


def _grey(image: Image.Image) -> NDArray[np.uint8]:
    """16-bit, 32-bit and floating grey [height, width] -> 8 bits.

    16-bit files and PGM: 0..65535 -> 0..255, rounded. TIFFs with 32-bit or floating values do not
    say what is white, so by what they hold: 0..1 (floating only), 0..255, 0..65535, and otherwise
    from their own smallest to their own largest value.
    """
    values = np.asarray(image, dtype=np.float32)
    finite = np.isfinite(values)
    if not finite.all():
        if not finite.any():
            raise UnreadablePhoto("no pixel is a finite number")
        values = np.where(finite, values, values[finite].min())
    low, high = float(values.min()), float(values.max())
    if image.mode.startswith("I;16") or image.format == "PPM":
        low, high = 0.0, 65535.0
    elif low >= 0 and high <= 65535:
        whites = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        low, high = 0.0, next(white for white in whites if high <= white)
    scaled = (values - low) * (255.0 / max(high - low, 1e-12))
    grey: NDArray[np.uint8] = np.rint(scaled).clip(0, 255).astype(np.uint8)
    return grey


def _upright(picture: Image.Image, source: Image.Image) -> Image.Image:
    try:
        orientation = source.getexif().get(_ORIENTATION)
    except Exception:  # broken EXIF says nothing about the pixels
        orientation = None
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    if turn is not None:
        picture = picture.transpose(turn)
    picture.info = {}  # or whoever honours EXIF after us turns the picture twice
    return picture
