"""Image files by kind: odd ones that are images, damaged ones, and ones that lie about themselves.

Sizes are chosen so that all of them can be made and read in minutes on two cores.
"""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, features
from tests.hostile import image_bytes
from tests.hostile.image_bytes import (
    after_soi,
    animated_webp,
    bmp,
    box,
    chunk,
    flat_png,
    gif,
    gif_comment,
    grey_tiff,
    header,
    jpeg_of_size,
    png,
    progressive_jpeg,
    segment,
)
from tests.image_factory import broken_cases, encoded, picture, readable_cases, turned, with_exif


@dataclass(frozen=True)
class File:
    """kind: of several alike. data: bytes, or what makes them. is_image: it must be answered."""

    kind: str
    name: str
    data: bytes | Callable[[], bytes]
    is_image: bool = False

    def content(self) -> bytes:
        """Its bytes."""
        return self.data if isinstance(self.data, bytes) else self.data()


def whole_files() -> dict[str, bytes]:
    """An ordinary file of every form that can be read, by its ending."""
    big = picture(200, 150)
    found = {
        "jpg": encoded(big, "JPEG", quality=92),
        "progressive.jpg": encoded(big, "JPEG", progressive=True),
        "png": encoded(big, "PNG"),
        "gif": encoded(big, "GIF"),
        "bmp": encoded(big, "BMP"),
        "tif": encoded(big, "TIFF"),
        "lzw.tif": encoded(big, "TIFF", compression="tiff_lzw"),
        "ppm": encoded(big, "PPM"),
        "webp": encoded(big, "WEBP"),
        "lossless.webp": encoded(big, "WEBP", lossless=True),
    }
    if features.check("jpg_2000"):
        found["jp2"] = encoded(big, "JPEG2000")
    if features.check("avif"):
        found["avif"] = encoded(big, "AVIF")
    try:
        from tests.image_factory import heic

        found["heic"] = heic()
    except ImportError:
        pass
    return found


def truncated(cuts: int = 6) -> Iterator[File]:
    """Every form, cut at places drawn by chance."""
    for ending, data in whole_files().items():
        chance = random.Random(ending)
        for n in range(cuts):
            at = chance.randrange(1, len(data)) if n else chance.randrange(1, 40)
            yield File("truncated", f"cut {n} of.{ending}", data[:at])


def flipped(files: int = 8, bits: int = 20) -> Iterator[File]:
    """Every form, with bits turned over; half of the files near their beginning."""
    for ending, data in whole_files().items():
        for n in range(files):
            chance = random.Random(f"{ending}{n}")
            changed = bytearray(data)
            reach = min(len(data), 200) if n % 2 else len(data)
            for _ in range(bits if n % 2 == 0 else 3):
                changed[chance.randrange(reach)] ^= 1 << chance.randrange(8)
            yield File("bits turned over", f"bits {n} of.{ending}", bytes(changed))


def readable() -> Iterator[File]:
    """Odd files that are images all the same."""
    for case in readable_cases():
        if "." in case.file:
            yield File("odd but an image", case.file, case.data, True)
    for orientation in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 255, 65535):
        yield File("EXIF", f"orientation {orientation}.jpg", turned(orientation), True)
    for kind in ("PNG", "WEBP", "TIFF"):
        yield File("EXIF", f"turned.{kind.lower()}", turned(6, kind), True)
    for name, exif in (
        ("a loop", b"Exif\0\0II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0"),
        (
            "far away",
            b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\xff\xff\xff\x7f\xff\xff\xff\xff",
        ),
        (
            "many rows",
            b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0" * 900,
        ),
        ("text", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04abc\0\0\0\0\0"),
        ("all", b"Exif\0\0" + bytes(range(256)) * 200),
        ("nothing", b""),
    ):
        yield File(
            "EXIF", f"EXIF with {name}.jpg", with_exif(encoded(picture(), "JPEG"), exif), True
        )
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    for name, data in (
        ("cmyk adobe.jpg", encoded(picture(mode="CMYK"), "JPEG", quality=30)),
        ("rgb16.png", _rgb16(deep)),
        ("interlaced.png", _interlaced()),
        ("one bit.bmp", encoded(picture(mode="1"), "BMP")),
        ("palette.bmp", encoded(picture().quantize(7), "BMP")),
        ("palette.tif", encoded(picture().quantize(200), "TIFF")),
        ("palette.gif", encoded(picture().quantize(2), "GIF")),
        ("la.webp", encoded(picture(mode="LA"), "WEBP")),
        ("packbits.tif", encoded(picture(), "TIFF", compression="packbits")),
        ("deflate.tif", encoded(picture(), "TIFF", compression="tiff_adobe_deflate")),
        ("jpeg.tif", encoded(picture(), "TIFF", compression="jpeg")),
        ("pgm.pgm", encoded(picture(mode="L"), "PPM")),
        ("pbm.pbm", encoded(picture(mode="1"), "PPM")),
        ("text.pgm", b"P2\n# a comment\n3 2\n9\n0 1 2 3 4 9\n"),
        ("text.pbm", b"P1 3 2 0 1 0 1 0 1"),
        ("text.ppm", b"P3 2 1 255 255 0 0 0 0 255\n"),
        ("16 bit.pgm", b"P5 4 2 65535\n" + bytes(16)),
        ("subsampled.jpg", encoded(picture(), "JPEG", subsampling=2)),
        ("optimised.jpg", encoded(picture(), "JPEG", optimize=True)),
        ("restarts.jpg", encoded(picture(), "JPEG", restart_marker_blocks=1)),
        ("broken ICC.png", png(*_ihdr_iccp_idat())),
        ("100 frames.gif", _frames("GIF", 100)),
        ("40 frames.webp", _frames("WEBP", 40)),
        ("60 pages.tif", _frames("TIFF", 60)),
        ("two ends.jpg", encoded(picture(), "JPEG") + encoded(picture(seed=1), "JPEG")),
        ("one pixel.jpg", encoded(picture(1, 1), "JPEG")),
        ("one pixel.webp", encoded(picture(1, 1), "WEBP")),
        ("one pixel.gif", gif(1, 1)),
        ("a line.jpg", encoded(picture(1, 9000), "JPEG")),
    ):
        yield File("odd but an image", name, data, True)


def _frames(kind: str, count: int) -> bytes:
    frames = [picture(30, 20, seed) for seed in range(count)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def _rgb16(deep: np.ndarray) -> bytes:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    high, wide = deep.shape[:2]
    return png(header(wide, high, 16, 2), chunk(b"IDAT", zlib.compress(rows)))


def _interlaced() -> bytes:
    """Adam7, one pixel a pass at the most: 3 x 3 of RGB."""
    passes = ((1, 1), (0, 0), (1, 1), (2, 1), (2, 1), (1, 2), (3, 1))
    rows = b"".join((b"\0" + bytes(3 * wide)) * high for wide, high in passes if wide)
    return png(header(3, 3, 8, 2, 1), chunk(b"IDAT", zlib.compress(rows)))


def _ihdr_iccp_idat() -> tuple[bytes, ...]:
    body = zlib.compress(b"\0" + bytes(3))
    return header(1, 1), chunk(b"iCCP", b"x\0\0" + zlib.compress(b"none")), chunk(b"IDAT", body)


def not_images() -> Iterator[File]:
    """Files of other kinds, and files of two kinds at once."""
    for case in broken_cases():
        yield File("no image", case.file, case.data)
    image = encoded(picture(), "JPEG")
    page = b"<!doctype html><script>alert(1)</script>"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("evil.py", "print(1)")
    script = b"=1;alert(1)//"
    for name, data in (
        ("zip.jpg", image + archive.getvalue()),
        ("page.jpg", after_soi(image, segment(0xFE, page))),
        ("php.jpg", after_soi(image, segment(0xFE, b"<?php system('id'); ?>"))),
        ("page.png", png(header(1, 1), chunk(b"tEXt", b"x\0" + page), _pixel())),
        ("pdf.jpg", after_soi(image, segment(0xFE, b"%PDF-1.7\n1 0 obj"))),
    ):
        yield File("two kinds at once", f"polyglot {name}", data, True)
    for name, data in (
        ("script.gif", b"GIF89a/*" + bytes(20) + b"*/" + script),
        ("jpeg in pdf.jpg", b"%PDF-1.7\n" + image),
        ("jpeg in html.jpg", page + image),
        ("tiff in jpeg.jpg", image[:2] + encoded(picture(), "TIFF")),
        ("png in bmp.bmp", b"BM" + encoded(picture(), "PNG")),
        ("jpeg of png.jpg", image[:20] + encoded(picture(), "PNG")),
        ("elf.jpg", b"\x7fELF" + bytes(200)),
        ("python.jpg", b"#!/usr/bin/env python\nimport os\n"),
        ("pickle.jpg", b"\x80\x04\x95cos\nsystem\n(S'id'\ntR."),
        ("ico.ico.jpg", b"\0\0\1\0\1\0" + bytes(60)),
        ("psd.jpg", b"8BPS\0\1" + bytes(60)),
        ("exr.jpg", b"\x76\x2f\x31\x01" + bytes(60)),
        ("dds.jpg", b"DDS \x7c\0\0\0" + bytes(200)),
        ("fits.jpg", b"SIMPLE  =                    T" + b" " * 50),
        ("eps.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999999 9\nshowpage\n"),
        ("mvg.jpg", b"push graphic-context\nfill 'url(https://x/|id)'\n"),
        ("wmf.jpg", b"\xd7\xcd\xc6\x9a" + bytes(60)),
    ):
        yield File("two kinds at once", f"other {name}", data)


def _pixel() -> bytes:
    return chunk(b"IDAT", zlib.compress(b"\0" + bytes(3)))


def lies() -> Iterator[File]:
    """Headers that promise what is not there: no size, absurd sizes, absurd tables."""
    sizes = {"none": (0, 0), "no width": (0, 7), "no height": (7, 0)}
    huge = {"long": (65535, 1), "wide": (65535, 65535), "over": (20000, 6000)}
    for name, (width, height) in (sizes | huge).items():
        kind = "no size" if name in sizes else "huge"
        yield File(kind, f"{name}.jpg", jpeg_of_size(width, height))
        yield File(kind, f"{name}.png", png(header(width, height), _pixel()))
        yield File(kind, f"{name}.bmp", bmp(width, height, body=bytes(90)))
        yield File(kind, f"{name}.gif", gif(width, height))
        yield File(kind, f"{name}.tif", grey_tiff(width, height, stored=64))
        yield File(kind, f"{name}.ppm", b"P6 %d %d 255\n" % (width, height) + bytes(90))
        if features.check("jpg_2000"):
            yield File(kind, f"{name}.jp2", _jp2_of_size(width, height))
        if features.check("avif"):
            yield File(kind, f"{name}.avif", _ispe(whole_files()["avif"], width, height))
    yield File("huge", "4 giga.png", png(header(2**31 - 1, 2**31 - 1), _pixel()))
    yield File("huge", "minus.bmp", bmp(-5, 7, body=bytes(90)))
    yield File("huge", "smallest.bmp", bmp(7, -(2**31), body=bytes(90)))
    yield File("huge", "digits.ppm", b"P6 " + b"9" * 5000 + b" 1 255\n")
    yield File("huge", "minus.ppm", b"P6 -3 -3 255\n" + bytes(9))
    yield File("huge", "no white.pgm", b"P5 3 3 0\n" + bytes(9))
    yield File("huge", "too white.pgm", b"P5 3 3 99999999\n" + bytes(90))
    for bits in (1, 2, 4, 8, 16, 24, 32, 0, 7, 64, 65535):
        for compression in (0, 1, 2, 3):
            body = bytes(range(256)) * 2
            name = f"{bits} bits, packed {compression}.bmp"
            # a palette of 2^bits colours is written for eight bits and fewer
            yield File("odd BMP", name, bmp(20, 10, bits, compression, body))
    for number, name in ((258, "bits"), (259, "packing"), (262, "colours"), (277, "samples")):
        for value in (0, 3, 33, 65535):
            data = grey_tiff(8, 8, (number, 3, 1, value))
            yield File("odd TIFF", f"{name} {value}.tif", data)
    for name, *changed in (
        ("strips beyond the end", (273, 4, 1, 2**31)),
        ("2^28 strips", (273, 4, 2**28, 8), (279, 4, 2**28, 8)),
        ("a row of no height", (278, 4, 1, 0)),
        ("tiles", (322, 4, 1, 65535), (323, 4, 1, 65535), (324, 4, 1, 8)),
        ("a text of 4 GB", (270, 2, 2**32 - 1, 8)),
        ("a profile of 2 GB", (34675, 7, 2**31, 8)),
        ("tags of no type", (305, 99, 5, 5)),
        ("an EXIF loop", (34665, 4, 1, 74)),
    ):
        yield File("odd TIFF", f"{name}.tif", grey_tiff(8, 8, *changed))
    for light, name in ((np.nan, "NaN"), (np.inf, "infinite"), (1e38, "large")):
        picture_of = Image.fromarray(np.full((6, 6), light, dtype=np.float32))
        yield File("odd TIFF", f"{name}.tif", encoded(picture_of, "TIFF"))
    loop = bytearray(grey_tiff(8, 8))
    loop[-4:] = struct.pack("<I", 72)
    yield File("odd TIFF", "pages in a circle.tif", bytes(loop))


def _jp2_of_size(width: int, height: int) -> bytes:
    data = bytearray(whole_files()["jp2"])
    at = data.index(b"\xff\x51")
    data[at + 6 : at + 14] = struct.pack(">II", width, height)
    head = data.index(b"ihdr")
    data[head + 4 : head + 12] = struct.pack(">II", height, width)
    return bytes(data)


def _ispe(data: bytes, width: int, height: int) -> bytes:
    at = data.index(b"ispe")
    return data[: at + 8] + struct.pack(">II", width, height) + data[at + 16 :]


def bombs() -> Iterator[File]:
    """Small files that took gigabytes or minutes, or would."""
    for canvas in ((10_000, 10_000), (10_001, 10_001), (16_383, 6_103), (2**24, 1)):
        name = f"{canvas[0]} x {canvas[1]}"
        yield File("animated WebP", f"{name}.webp", animated_webp(*canvas))
        yield File("animated WebP", f"{name} opaque.webp", animated_webp(*canvas, alpha=False))
    yield File("animated WebP", "many frames.webp", lambda: animated_webp(3000, 3000, 2000))
    for scans in (100, 499, 600, 2000, 8000):
        yield File("scans", f"{scans} scans.jpg", lambda scans=scans: progressive_jpeg(scans, 2000))
    yield File("scans", "2000 scans, large.jpg", lambda: progressive_jpeg(2000, 5000))
    text = b"P2 1000 1000 255\n" + b"255 " * 1_000_000
    yield File("text form", "1 megapixel.pgm", lambda: text)
    yield File("text form", "a comment.pgm", lambda: b"P2\n#" + b"c" * 3_000_000 + b"\n1 1 9 1")
    yield File("text form", "comments.pgm", lambda: b"P2\n" + b"#c\n" * 1_000_000 + b"1 1 9 1")
    yield File("text form", "blanks.pgm", lambda: b"P2\n1 1 9" + b" " * 5_000_000 + b"1")
    yield File("text form", "4 megapixels.pbm", lambda: b"P1 2000 2000\n" + b"1 " * 4_000_000)
    yield File("text form", "digits.ppm", lambda: b"P3 1 1 255 " + b"1" * 4_000_000)
    for length in (1_000_000, 10_000_000, 41_000_000):
        yield File("comments", f"{length}.gif", lambda n=length: gif(1, 1, gif_comment(n)))
    yield File("comments", "many.gif", lambda: gif(1, 1, gif_comment(10) * 500_000))
    image = encoded(picture(), "JPEG")
    whole = segment(0xFE, b"c" * 65_533)
    for marker, name in ((0xFE, "comments"), (0xE1, "EXIF"), (0xE2, "profiles"), (0xED, "APP13")):
        begins = {0xE1: b"Exif\0\0", 0xE2: b"ICC_PROFILE\0\1\1", 0xED: b"Photoshop 3.0\0"}
        piece = segment(marker, begins.get(marker, b"") + b"c" * 60_000)
        yield File("comments", f"500 {name}.jpg", lambda p=piece: after_soi(image, *[p] * 500))
    yield File(
        "comments", "empty segments.jpg", lambda: after_soi(image, segment(0xFE, b"") * 500_000)
    )
    yield File("comments", "fill bytes.jpg", lambda: after_soi(image, b"\xff" * 10_000_000 + whole))
    yield File(
        "comments",
        "tables.jpg",
        lambda: after_soi(image, segment(0xDB, b"\0" + bytes(64)) * 99_999),
    )
    zeros = zlib.compress(bytes(200_000_000), 9)
    for kind, body in (
        (b"zTXt", b"x\0\0"), (b"iTXt", b"x\0\1\0\0\0"), (b"iCCP", b"x\0\0"),
    ):  # fmt: skip
        name = f"200 MB of {kind.decode()}.png"
        content = png(header(1, 1), chunk(kind, body + zeros), _pixel())
        yield File("chunks", name, content)
    yield File("chunks", "200 MB of pixels.png", png(header(4, 4), chunk(b"IDAT", zeros)))
    tiny = chunk(b"tEXt", b"x\0y")
    yield File("chunks", "many texts.png", lambda: png(header(1, 1), tiny * 300_000, _pixel()))
    yield File("chunks", "many empty.png", lambda: png(header(1, 1), chunk(b"IDAT", b"") * 300_000))
    yield File(
        "chunks",
        "a large one.png",
        lambda: png(header(1, 1), chunk(b"abCd", bytes(80_000_000)), _pixel()),
    )
    endless = struct.pack(">I", 2**31 - 1) + b"IDAT"
    yield File("chunks", "2 GB promised.png", png(header(1, 1))[:-12] + endless)
    for side, bits, colour in ((9_990, 8, 2), (9_990, 16, 6), (9_990, 1, 0), (9_990, 8, 3)):
        name = f"{side} squared, {bits} bits of {colour}.png"
        yield File("100 megapixels", name, lambda s=side, b=bits, c=colour: flat_png(s, s, b, c))
    yield File("100 megapixels", "flat.jpg", lambda: _flat("JPEG"))
    yield File("100 megapixels", "flat.gif", lambda: _flat("GIF"))
    yield File("100 megapixels", "flat.tif", lambda: _flat("TIFF", compression="tiff_lzw"))
    yield File("100 megapixels", "progressive.jpg", lambda: _flat("JPEG", progressive=True))
    yield File("100 megapixels", "run lengths.bmp", bmp(9_990, 9_990, 8, 1, b"\0\1"))
    if features.check("jpg_2000"):
        yield File("odd JPEG 2000", "16384 components.jp2", _components(16384))
        yield File("odd JPEG 2000", "small tiles.jp2", _tiles())
    for depth in (100, 100_000):
        body = b""
        for _ in range(min(depth, 2000)):
            body = box(b"meta", body)
        data = box(b"ftyp", b"avif\0\0\0\0avif") + body
        yield File("odd AVIF", f"{depth} boxes deep.avif", data)
    yield File("odd AVIF", "a box of 4 GB.avif", box(b"ftyp", b"avif\0\0\0\0avif") + b"\xff" * 60)
    yield File("odd AVIF", "a box of 4 GB.heic", box(b"ftyp", b"heic\0\0\0\0heic") + b"\xff" * 60)


def costly() -> Iterator[File]:
    """More of them: what took gigabytes or minutes in one decoder."""
    makers: dict[str, Callable[[], bytes]] = {
        **{f"slow {name}": make for name, make in image_bytes.SLOW.items()},
        "still.webp": image_bytes.still_webp,
        "canvas.gif": image_bytes.gif_with_canvas,
        "transparent.gif": image_bytes.large_gif,
        "padding.jpg": lambda: image_bytes.jpeg_with_padding(5_000_000),
        "comments.jpg": lambda: image_bytes.jpeg_with_comments(2_000),
        "interlaced.png": lambda: image_bytes.flat_png(9_990, 9_990, interlaced=True),
        "small chunks.png": lambda: image_bytes.flat_png(5_000, 5_000, idat_bytes=1),
        "empty chunks.png": lambda: image_bytes.flat_png(9, 9, empty_chunks=200_000),
        "texts.png": lambda: image_bytes.flat_png(
            9, 9, before=image_bytes.png_texts(200, 1_000_000)
        ),
        "texts behind.png": lambda: image_bytes.flat_png(
            9, 9, after=image_bytes.png_texts(200, 1_000_000)
        ),
        "animated.png": image_bytes.animated_png,
        "strips.tif": lambda: image_bytes.tiff_of_strips(100_000),
        "tiles.tif": image_bytes.tiff_of_huge_tiles,
        "plain.tif": lambda: image_bytes.grey_tiff(9_990, 9_990),
        "one tile.jp2": lambda: image_bytes.claimed_jpeg_2000(9_990, 9_990),
        "components.jp2": lambda: image_bytes.claimed_jpeg_2000(4_000, 4_000, 255),
        "flat.jp2": lambda: image_bytes.jpeg_2000(6_000, 6_000),
        "small tiles.jp2": lambda: image_bytes.jpeg_2000(2_000, 2_000, tile=32),
        "flat.avif": lambda: image_bytes.avif(8_000, 8_000),
    }
    for name, make in makers.items():
        is_there = not name.endswith((".jp2", ".avif")) or features.check(
            "avif" if name.endswith("avif") else "jpg_2000"
        )
        if is_there:
            yield File("costly", name, make)
    for name, data in image_bytes.damaged_tiffs().items():
        yield File("costly", f"damaged {name}", data)


def _flat(kind: str, **options: object) -> bytes:
    return encoded(Image.new("L" if kind == "GIF" else "RGB", (9_990, 9_990)), kind, **options)


def _components(count: int) -> bytes:
    data = bytearray(whole_files()["jp2"])
    at = data.index(b"\xff\x51")
    data[at + 38 : at + 40] = struct.pack(">H", count)
    return bytes(data)


def _tiles() -> bytes:
    """A tile for every pixel."""
    data = bytearray(whole_files()["jp2"])
    at = data.index(b"\xff\x51")
    data[at + 22 : at + 30] = struct.pack(">II", 1, 1)
    return bytes(data)
