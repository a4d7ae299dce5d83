"""Makes the pictures that tests need: ordinary ones, odd ones and broken ones, all generated."""

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, features

ORIENTATION = 0x0112


@dataclass(frozen=True)
class Case:
    """A file name, its bytes, and the reason why it is refused (None: it is an image)."""

    file: str
    data: bytes
    reason: str | None = None


def picture(width: int = 48, height: int = 32, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """A smooth picture without symmetry, so that every turn of it looks different."""
    rows, columns = np.mgrid[0:height, 0:width]
    red = columns * 255 / max(width - 1, 1)
    green = rows * 255 / max(height - 1, 1)
    blue = (columns + 2 * rows + 37 * seed) % 256
    pixels = np.stack([red, green, blue], axis=-1).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of an image file of this kind (Pillow's name of the format)."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(seed: int = 0, width: int = 48, height: int = 32) -> bytes:
    return encoded(picture(width, height, seed), "JPEG", quality=92)


def turned(orientation: object, kind: str = "JPEG") -> bytes:
    """An image that says in its EXIF how to turn it."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    return encoded(picture(), kind, exif=exif.tobytes(), **options)


def with_exif(data: bytes, exif: bytes) -> bytes:
    """A JPEG with any bytes in the place of its EXIF block."""
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    return data[:2] + segment + data[2:]


def png_header(width: int, height: int, bits: int = 8, colour: int = 2) -> bytes:
    """A PNG that promises any size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")


def animation(kind: str = "GIF") -> bytes:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "green", "blue")]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)


def cut_out(mode: str = "RGBA") -> Image.Image:
    """Black ink on transparent black: nothing is left of it when transparency is dropped."""
    image = Image.new("LA" if mode == "LA" else "RGBA", (20, 10), 0)
    image.paste((0, 255) if mode == "LA" else (0, 0, 0, 255), (5, 2, 10, 8))
    return image


def palette_cut_out() -> bytes:
    image = Image.new("P", (20, 10), 0)
    image.putpalette([0, 0, 0, 255, 0, 0] + [0] * 762)
    image.paste(1, (5, 2, 10, 8))
    return encoded(image, "PNG", transparency=0)


def heic() -> bytes:
    import pillow_heif

    buffer = io.BytesIO()
    pillow_heif.from_pillow(picture(64, 64)).save(buffer, quality=90)
    return buffer.getvalue()


def readable_cases() -> list[Case]:
    """Odd files that are images all the same."""
    grey16 = (np.arange(20 * 10, dtype=np.uint16).reshape(10, 20) * 300).astype(np.uint16)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    cases = [
        Case("plain.jpg", jpeg()),
        Case("UPPER.JPG", jpeg(1)),
        Case("no ending", jpeg(2)),
        Case("png named.jpg", encoded(picture(), "PNG")),
        Case("grey.jpg", encoded(picture(mode="L"), "JPEG")),
        Case("progressive.jpg", encoded(picture(), "JPEG", progressive=True)),
        Case("cmyk.jpg", encoded(picture(mode="CMYK"), "JPEG")),
        Case("cmyk.tif", encoded(picture(mode="CMYK"), "TIFF")),
        Case("lab.tif", encoded(picture(mode="LAB"), "TIFF")),
        Case("grey16.png", encoded(Image.fromarray(grey16), "PNG")),
        Case("grey16.tif", encoded(Image.fromarray(grey16), "TIFF")),
        Case("grey32.tif", encoded(Image.fromarray(grey16.astype(np.int32)), "TIFF")),
        Case("float.tif", encoded(Image.fromarray(grey16.astype(np.float32)), "TIFF")),
        Case("palette.png", encoded(picture().quantize(16), "PNG")),
        Case("palette transparent.png", palette_cut_out()),
        Case("rgba.png", encoded(cut_out(), "PNG")),
        Case("rgba.webp", encoded(cut_out(), "WEBP", lossless=True)),
        Case("la.png", encoded(cut_out("LA"), "PNG")),
        Case("one bit.png", encoded(picture(mode="1"), "PNG")),
        Case("fax.tif", encoded(picture(mode="1"), "TIFF", compression="group4")),
        Case("image.bmp", encoded(picture(), "BMP")),
        Case("image.ppm", encoded(picture(), "PPM")),
        Case("image.webp", encoded(picture(), "WEBP")),
        Case("image.gif", encoded(picture(), "GIF")),
        Case("animated.gif", animation()),
        Case("animated.webp", animation("WEBP")),
        Case("animated.png", animation("PNG")),
        Case("pages.tif", animation("TIFF")),
        Case("profile.jpg", encoded(picture(), "JPEG", icc_profile=profile)),
        Case("broken profile.jpg", encoded(picture(), "JPEG", icc_profile=b"nonsense")),
        Case("broken exif.jpg", with_exif(jpeg(), b"Exif\0\0II*\0\xff\xff\xff\xff nonsense")),
        Case("short exif.jpg", with_exif(jpeg(), b"Exif\0\0")),
        Case("turned.jpg", turned(6)),
        Case("one pixel.png", encoded(picture(1, 1), "PNG")),
        Case("trailing.jpg", jpeg() + b"appended by a camera" * 100),
        Case("line.png", encoded(picture(5000, 1), "PNG")),
    ]
    if features.check("jpg_2000"):
        cases.append(Case("image.jp2", encoded(picture(), "JPEG2000")))
    if features.check("avif"):
        cases.append(Case("image.avif", encoded(picture(), "AVIF")))
    return cases


def broken_cases() -> list[Case]:
    """Files that are no image, with the phrase that says why."""
    image = jpeg(width=200, height=150)
    png = encoded(picture(200, 150), "PNG")
    webp = encoded(picture(200, 150), "WEBP")
    gif = encoded(picture(200, 150), "GIF")
    bmp = encoded(picture(200, 150), "BMP")
    over = "pixels, over the limit of 100 megapixels (CAPTUNE_MAX_MEGAPIXELS)"
    return [
        Case("nothing.jpg", b"", "0 bytes"),
        Case("text.jpg", b"these are my holiday images\n", "not an image: text"),
        Case("accents.jpg", "où est la image ? 写真".encode() * 100, "not an image: text"),
        Case("utf16.jpg", "a photo".encode("utf-16"), "not an image: text"),
        Case("bmw.jpg", b"BMW is a maker of cars, not of pictures", "not an image: text"),
        Case("p1.txt.jpg", b"P1 is the first part of the homework", "not an image: text"),
        Case("error.jpg", b"<!DOCTYPE html><title>404</title>", "not an image: a web page"),
        Case("drawing.jpg", b'<svg xmlns="x"></svg>', "not an image: SVG or XML text"),
        Case("paper.jpg", b"%PDF-1.7 ...", "not an image: a PDF document"),
        Case("page.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image: a PostScript document"),
        Case("zip.jpg", b"PK\x03\x04" + bytes(100), "not an image: a zip archive"),
        Case(
            "lfs.jpg",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
            "not an image: a Git LFS pointer; run `git lfs pull`",
        ),
        Case("zeros.jpg", bytes(4096), "not an image: only zero bytes"),
        Case("noise.jpg", bytes(range(7, 256)) * 9, "not an image: unknown format"),
        Case("clip.jpg", b"\0\0\0\x18ftypisom" + bytes(100), "not an image: a video"),
        Case("half.jpg", image[: len(image) // 2], "truncated JPEG"),
        Case("head.jpg", image[:100], "truncated JPEG"),
        Case("start.jpg", image[:4], "truncated JPEG"),
        Case("half.png", png[: len(png) // 2], "truncated PNG"),
        Case("half.webp", webp[: len(webp) // 2], "truncated WEBP"),
        Case("half.gif", gif[: len(gif) // 2], "truncated GIF"),
        Case("half.bmp", bmp[: len(bmp) // 2], "truncated BMP"),
        Case("crc.png", png[:40] + b"\0\0\0\0" + png[44:], "damaged PNG"),
        Case("bomb.png", png_header(30_000, 30_000), f"30000 x 30000 {over}"),
        Case("long bomb.png", png_header(2**31 - 1, 1), f"2147483647 x 1 {over}"),
        Case("empty size.png", png_header(0, 10), "damaged PNG"),
    ]
