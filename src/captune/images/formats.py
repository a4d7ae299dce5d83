"""Which image format a file is in, by its first bytes, or a short phrase for what it is instead."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from captune.files import printable

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
