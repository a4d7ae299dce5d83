"""Image files that no encoder would write: their pieces, and small ones that cost gigabytes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image
from tests.image_factory import encoded, picture

PNG = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, body: bytes, checksum: int | None = None) -> bytes:
    """A chunk of a PNG; checksum: another one than the right one."""
    found = zlib.crc32(kind + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", found)


def header(width: int, height: int, bits: int = 8, colour: int = 2, interlaced: int = 0) -> bytes:
    """IHDR of a PNG. colour: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced))


def png(*chunks: bytes) -> bytes:
    """A PNG of these chunks, with its end."""
    return PNG + b"".join(chunks) + chunk(b"IEND", b"")


def flat_png(
    width: int,
    height: int,
    bits: int = 8,
    colour: int = 6,
    *,
    before: bytes = b"",
    after: bytes = b"",
    interlaced: bool = False,
    idat_bytes: int = 2**16,
    empty_chunks: int = 0,
) -> bytes:
    """A PNG of zeros that is whole; before, after: chunks around its pixels."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = 1 + -(-width * channels * bits // 8)
    packer = zlib.compressobj(9)
    # the seven passes of an interlaced file take a little more than the rows of a plain one
    rows = height + (height * 7 // 4 + 16 if interlaced else 0)
    packed = b"".join(packer.compress(bytes(row)) for _ in range(rows)) + packer.flush()
    parts = [packed[at : at + idat_bytes] for at in range(0, len(packed), idat_bytes)]
    body = chunk(b"IDAT", b"") * empty_chunks
    body += b"".join(chunk(b"IDAT", part) for part in parts)
    palette = chunk(b"PLTE", bytes(3)) if colour == 3 else b""
    first = header(width, height, bits, colour, int(interlaced))
    return png(first, before, palette, body, after)


def png_texts(count: int, size: int) -> bytes:
    """Compressed texts, each of which becomes `size` bytes."""
    return chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(size), 9)) * count


def animated_png(width: int = 10_000, height: int = 10_000) -> bytes:
    control = chunk(b"acTL", struct.pack(">II", 2, 0))
    frame = struct.pack(">IIIIIHHBB", 0, width, height, 0, 0, 1, 10, 2, 1)
    return flat_png(width, height, before=control + chunk(b"fcTL", frame))


def segment(marker: int, body: bytes) -> bytes:
    """A segment of a JPEG, by the second byte of its marker."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def after_soi(data: bytes, *segments: bytes) -> bytes:
    """A JPEG with more segments at its beginning."""
    return data[:2] + b"".join(segments) + data[2:]


def jpeg_of_size(width: int, height: int, data: bytes | None = None) -> bytes:
    """A JPEG whose frame says another size than it has."""
    data = data or encoded(picture(), "JPEG")
    start = next(
        at
        for at in range(len(data) - 9)
        if data[at] == 0xFF and data[at + 1] in (0xC0, 0xC1, 0xC2) and data[at + 4] == 8
    )
    return data[: start + 5] + struct.pack(">HH", height, width) + data[start + 9 :]


def progressive_jpeg(scans: int = 2_000, side: int = 3_600, scan_bytes: int = 240) -> bytes:
    """A JPEG whose last scan is there again and again; every one goes over all of the pixels."""
    data = encoded(Image.new("L", (side, side), 77), "JPEG", progressive=True, quality=50)
    start = data.rindex(b"\xff\xda")
    header = data[start : start + 2 + int.from_bytes(data[start + 2 : start + 4])]
    scan = header + b"\0" * max(0, scan_bytes - len(header))
    return data[:-2] + scan * scans + b"\xff\xd9"


def jpeg_with_comments(count: int, size: int = 65_533, side: int = 32) -> bytes:
    data = encoded(picture(side, side), "JPEG")
    comment = b"\xff\xfe" + struct.pack(">H", size + 2) + b"x" * size
    return data[:2] + comment * count + data[2:]


def jpeg_with_padding(size: int) -> bytes:
    """Fill bytes before a marker, of which there may be any number."""
    data = encoded(picture(), "JPEG")
    return data[:2] + b"\xff" * size + data[2:]


def animated_webp(
    width: int = 10_000, height: int = 10_000, frames: int = 1, alpha: bool = True
) -> bytes:
    """102 bytes or so: an animation whose frames have one pixel, on a canvas of any size."""
    colour = (1, 2, 3, 128) if alpha else (1, 2, 3, 255)
    single = encoded(Image.new("RGBA", (1, 1), colour), "WEBP", lossless=True, exact=True)
    bits = single[single.index(b"VP8L") :]
    wide, high = ((side - 1).to_bytes(3, "little") for side in (width, height))
    flags = bytes((0x02 | (0x10 if alpha else 0), 0, 0, 0))
    body = riff(b"VP8X", flags + wide + high) + riff(b"ANIM", bytes(6))
    frame = bytes(6) + bytes(6) + (100).to_bytes(3, "little") + b"\x02" + bits
    body += riff(b"ANMF", frame) * frames
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def riff(kind: bytes, body: bytes) -> bytes:
    """A chunk of a WebP."""
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def still_webp(width: int = 10_000, height: int = 10_000) -> bytes:
    """A lossless WebP of one colour, half transparent, as large as it says."""
    return encoded(Image.new("RGBA", (width, height), (9, 8, 7, 99)), "WEBP", lossless=True)


def gif(width: int, height: int, *blocks: bytes, frame: tuple[int, int] | None = None) -> bytes:
    """A GIF of a canvas and blocks before its only frame."""
    inner = frame or (1, 1)
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    picture_ = b"," + struct.pack("<HHHHB", 0, 0, *inner, 0) + b"\x02\x02\x44\x01\x00"
    return head + b"".join(blocks) + picture_ + b";"


def gif_comment(length: int) -> bytes:
    """A comment of a GIF, in pieces of 255 bytes."""
    pieces, rest = divmod(length, 255)
    last = bytes((rest,)) + b"c" * rest if rest else b""
    return b"!\xfe" + (b"\xff" + b"c" * 255) * pieces + last + b"\0"


def gif_with_canvas(width: int = 65_535, height: int = 65_535) -> bytes:
    """A GIF whose screen is 20 x 10 pixels and whose frame is not."""
    data = bytearray(encoded(Image.new("P", (20, 10)), "GIF"))
    place = data.index(b",")
    data[place + 5 : place + 9] = struct.pack("<HH", width, height)
    return bytes(data)


def large_gif(width: int = 10_000, height: int = 10_000) -> bytes:
    image = Image.new("P", (width, height))
    image.putpalette([1, 2, 3, 4, 5, 6] + [0] * 762)
    return encoded(image, "GIF", transparency=0)


def bmp(width: int, height: int, bits: int = 24, compression: int = 0, body: bytes = b"") -> bytes:
    """A BMP whose header says anything."""
    palette = bytes(4 * 2**bits) if bits <= 8 else b""
    start = 54 + len(palette)
    info = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(body), 0, 0, 0, 0
    )
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + info + palette + body


def run_length_bmp(width: int = 4_000, height: int = 4_000) -> bytes:
    """A BMP in runs of one pixel each, which Pillow reads in Python."""
    body = b"\x01\x05" * (width * height)
    palette = bytes(range(256)) * 4
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 2835, 2835, 256, 256)
    start = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + head + palette + body


def text_pgm(width: int = 1_000, height: int = 600, *, comments: int = 0) -> bytes:
    """Numbers written out; with 600,000 of them, and comments between, 2.4 MB."""
    numbers = np.full(width * height, 7)
    body = " ".join(map(str, numbers)).encode()
    return b"P2\n%d %d\n255\n" % (width, height) + b"#\n" * comments + body


def scaled_ppm(width: int = 6_000, height: int = 4_000) -> bytes:
    """A PPM whose white is 254: Pillow goes through it number by number, in Python."""
    return b"P6\n%d %d\n254\n" % (width, height) + bytes(width * height * 3)


Tag = tuple[int, int, int, int | bytes]  # tag, type, count, value (bytes lie after the directory)


def tiff(tags: list[Tag], body: bytes = b"") -> bytes:
    """A little-endian TIFF of one directory; `body` begins at byte 8."""
    directory = 8 + len(body)
    extra = directory + 2 + 12 * len(tags) + 4
    entries, outside = b"", b""
    for tag, kind, count, value in sorted(tags, key=lambda one: one[0]):
        if isinstance(value, bytes):
            number = extra + len(outside)
            outside += value
        else:
            number = value
        entries += struct.pack("<HHII", tag, kind, count, number)
    head = b"II*\0" + struct.pack("<I", directory)
    return head + body + struct.pack("<H", len(tags)) + entries + bytes(4) + outside


def grey_tiff(width: int, height: int, *changed: Tag, stored: int | None = None) -> bytes:
    """An uncompressed TIFF in one strip of zeros; changed: other tags. stored: bytes of pixels."""
    count = width * height if stored is None else stored
    tags: dict[int, Tag] = {
        256: (256, 4, 1, width), 257: (257, 4, 1, height), 258: (258, 3, 1, 8),
        259: (259, 3, 1, 1), 262: (262, 3, 1, 1), 273: (273, 4, 1, 8), 277: (277, 3, 1, 1),
        278: (278, 4, 1, height), 279: (279, 4, 1, count),
    }  # fmt: skip
    tags.update({tag[0]: tag for tag in changed})
    return tiff(list(tags.values()), bytes(min(count, 2**20)))


def tiff_of_strips(strips: int) -> bytes:
    """A TIFF whose every row is a strip, each of which is the same byte."""
    places = struct.pack("<I", 8) * strips
    sizes = struct.pack("<I", 1) * strips
    rows = (278, 4, 1, 1)
    return grey_tiff(1, strips, (273, 4, strips, places), rows, (279, 4, strips, sizes))


def tiff_of_huge_tiles(side: int = 60_000) -> bytes:
    """Deflated, 64 x 64 pixels, in one tile of gigabytes."""
    body = zlib.compress(bytes(1000))
    return tiff(
        [
            *((256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1)),
            *((277, 3, 1, 1), (322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 8)),
            (325, 4, 1, len(body)),
        ],
        body,
    )


def damaged_tiffs() -> dict[str, bytes]:
    """Compressed TIFFs about which libtiff has something to say."""
    files = {}
    for name in ("tiff_lzw", "tiff_deflate", "packbits", "group4", "jpeg"):
        mode = "1" if name == "group4" else "RGB"
        data = bytearray(encoded(picture(300, 200, mode=mode), "TIFF", compression=name))
        middle = len(data) // 3
        data[middle : middle + 64] = bytes(range(64))
        files[f"{name}.tif"] = bytes(data)
        files[f"{name} cut.tif"] = bytes(data[:8] + data[8:][: len(data) // 2])
    whole = encoded(picture(300, 200), "TIFF", compression="tiff_lzw")
    files["odd tag.tif"] = whole.replace(struct.pack("<HH", 284, 3), struct.pack("<HH", 284, 77))
    return files


def jpeg_2000(width: int, height: int, mode: str = "RGB", tile: int | None = None) -> bytes:
    tiles = {} if tile is None else {"tile_size": (tile, tile)}
    return encoded(Image.new(mode, (width, height)), "JPEG2000", **tiles)


def claimed_jpeg_2000(width: int, height: int, components: int = 3) -> bytes:
    """A codestream whose header promises any size, in one tile, and ends there."""
    sizes = struct.pack(">HIIIIIIIIH", 0, width, height, 0, 0, width, height, 0, 0, components)
    siz = sizes + b"\x07\x01\x01" * components
    data = bytearray(encoded(Image.new("RGB", (64, 64)), "JPEG2000", no_jp2=True))
    length = int.from_bytes(data[4:6])
    return bytes(data[:4]) + struct.pack(">H", len(siz) + 2) + siz + bytes(data[4 + length :])


def avif(width: int, height: int) -> bytes:
    return encoded(Image.new("RGB", (width, height)), "AVIF", speed=10, quality=1)


def box(kind: bytes, body: bytes) -> bytes:
    """A box of JPEG 2000, AVIF and HEIC."""
    return struct.pack(">I", len(body) + 8) + kind + body


# took 10 s to minutes each before captune looked at what it decodes
SLOW: dict[str, Callable[[], bytes]] = {
    "scans.jpg": progressive_jpeg,
    "comments.pgm": lambda: text_pgm(comments=300_000),
    "numbers.pgm": lambda: text_pgm(4_000, 4_000),
    "scaled.ppm": scaled_ppm,
    "runs.bmp": run_length_bmp,
    "comment.gif": lambda: gif(20, 10, gif_comment(41_000_000)),
}
