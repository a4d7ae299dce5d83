"""Pieces of image files, for files that no encoder would write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

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


def flat_png(width: int, height: int, bits: int = 8, colour: int = 2) -> bytes:
    """A PNG of zeros that is whole: its megabytes of nothing take a few kilobytes."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = bytes(1 + (width * channels * bits + 7) // 8)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    palette = chunk(b"PLTE", bytes(3)) if colour == 3 else b""
    return png(header(width, height, bits, colour), palette, chunk(b"IDAT", body))


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


def many_scans(scans: int, side: int = 2000) -> bytes:
    """A progressive JPEG of one colour with its last scan over and over."""
    data = encoded(Image.new("RGB", (side, side), (90, 120, 200)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    end = data.rindex(b"\xff\xd9")
    return data[:end] + data[last:end] * scans + data[end:]


def webp(canvas: tuple[int, int], frames: int = 1, alpha: bool = True) -> bytes:
    """An animated WebP of any canvas whose frames have one pixel."""
    colour = (1, 2, 3, 128) if alpha else (1, 2, 3, 255)
    single = encoded(Image.new("RGBA", (1, 1), colour), "WEBP", lossless=True, exact=True)
    bits = single[single.index(b"VP8L") :]
    width, height = ((side - 1).to_bytes(3, "little") for side in canvas)
    flags = bytes((0x02 | (0x10 if alpha else 0), 0, 0, 0))
    body = riff(b"VP8X", flags + width + height) + riff(b"ANIM", bytes(6))
    frame = bytes(6) + bytes(6) + (100).to_bytes(3, "little") + b"\x02" + bits
    body += riff(b"ANMF", frame) * frames
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def riff(kind: bytes, body: bytes) -> bytes:
    """A chunk of a WebP."""
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


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


def bmp(width: int, height: int, bits: int = 24, compression: int = 0, body: bytes = b"") -> bytes:
    """A BMP whose header says anything."""
    palette = bytes(4 * 2**bits) if bits <= 8 else b""
    start = 54 + len(palette)
    info = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(body), 0, 0, 0, 0
    )
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + info + palette + body


def tiff(tags: Iterable[tuple[int, int, int, int]], body: bytes = b"", following: int = 0) -> bytes:
    """A little-endian TIFF with one folder of tags (number, type, count, value) after `body`."""
    rows = sorted(tags)
    start = 8 + len(body) + len(body) % 2
    folder = struct.pack("<H", len(rows)) + b"".join(struct.pack("<HHII", *row) for row in rows)
    head = b"II*\0" + struct.pack("<I", start) + body + bytes(len(body) % 2)
    return head + folder + struct.pack("<I", following)


def grey_tiff(width: int, height: int, **changed: tuple[int, int, int]) -> bytes:
    """A TIFF of one strip of zeros; `t<number>`: (type, count, value) of a tag."""
    tags = {
        256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1),
        273: (4, 1, 8), 277: (3, 1, 1), 278: (4, 1, height), 279: (4, 1, 64),
    }  # fmt: skip
    tags |= {int(name[1:]): value for name, value in changed.items()}
    return tiff([(number, *value) for number, value in tags.items()], bytes(64))


def box(kind: bytes, body: bytes) -> bytes:
    """A box of JPEG 2000, AVIF and HEIC."""
    return struct.pack(">I", len(body) + 8) + kind + body
