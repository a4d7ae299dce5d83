"""What an image file says of itself, before any decoder sees it: its size, and what that will cost.

Decoders allocate when they open a file, and some take minutes over a small one. So headers are read
and counted here. A file gets an objection where it could only be an attack, and counts as unusual
where its size does not bound the time that it takes: such files are decoded in a process of their
own (`captune.images.processes`).
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

MOST_SCANS = 500
_MOST_METADATA = 2**25  # bytes of profiles, previews, texts and comments
_MOST_BEFORE_FRAME = 2**20  # the same in a GIF, where Pillow's time grows with its square
_MOST_SEGMENTS = 10_000
_MOST_CHUNKS = 100_000
_MOST_TEXT = 2**25  # bytes of a PNM written in digits
_MOST_COMMENTS = 1_000  # in such a one
_MOST_TAGS, _MOST_STRIPS, _MOST_TILES = 4_096, 200_000, 100_000
_SPARE_BYTES, _BYTES_PER_PIXEL = 2**25, 32  # a phone may put a film behind the pixels

# what a thread of this process decodes in a second or two
_USUAL_PIXELS, _USUAL_SAMPLES, _USUAL_BYTES = 50_000_000, 150_000_000, 2**26
_USUAL_SCANS, _USUAL_SCANNED_PIXELS = 32, 256_000_000
_USUAL_CHUNKS = 4_096

_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # no fill bytes, no restarts
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PNM_SPACE = rb"(?:\s|#[^\r\n]*[\r\n])+"
_PNM_SIZE = re.compile(rb"P([1-6])" + (_PNM_SPACE + rb"(\d{1,10})") * 2)
_PNM_WHITE = re.compile(_PNM_SPACE + rb"(\d{1,10})")


class Header(NamedTuple):
    """What decoding a file will take.

    width, height: in pixels as stored; 0 where the header does not say it, and the decoder will
    call the file damaged. bytes_per_pixel: of memory, at the worst moment. is_usual: a thread may
    decode it here. objection: the reason to refuse it.
    """

    width: int = 0
    height: int = 0
    bytes_per_pixel: float = 0
    is_usual: bool = False
    objection: str | None = None


def read_header(data: bytes, kind: str) -> Header:
    """The header of a file in the format `kind`, a name of `formats.find_format`."""
    try:
        return _READERS[kind](data)
    except (struct.error, IndexError, OverflowError):  # cut off, or points far outside
        return Header()


def _header(
    data: bytes,
    size: tuple[int, int],
    bytes_per_pixel: float,
    samples_per_pixel: float,
    *,
    is_usual: bool = True,
    holds_more: bool = False,
    objection: str | None = None,
) -> Header:
    """holds_more: the file may hold other images, so its length says nothing of this one."""
    width, height = size
    pixels = width * height
    too_long = not holds_more and len(data) > _SPARE_BYTES + _BYTES_PER_PIXEL * pixels
    if objection is None and pixels and too_long:
        objection = f"{len(data) / 1e6:.0f} MB for {width} x {height} pixels, which need far less"
    is_usual = is_usual and 0 < samples_per_pixel * pixels <= _USUAL_SAMPLES
    is_usual = is_usual and pixels <= _USUAL_PIXELS
    return Header(width, height, bytes_per_pixel, is_usual and len(data) <= _USUAL_BYTES, objection)


def _jpeg(data: bytes) -> Header:
    """Segments up to the first scan; where there may be several, their number as well."""
    place, junk, parts, objection = 2, 0, 0, None
    size, components, coefficients, marker, frame = (0, 0), 0, 0.0, 0, 0
    # Pillow goes through junk between segments byte by byte: it counts 32 times
    while marker != 0xDA and (found := _JPEG_MARKER.search(data, place)):
        junk += found.start() - place
        marker, place = data[found.start() + 1], found.end()
        if marker in (0x01, 0xD8, 0xD9):
            continue
        parts += 1
        if parts > _MOST_SEGMENTS or max(32 * junk, place) > _MOST_METADATA:
            return Header(
                *size, objection=f"{parts:,} segments, {place / 1e6:.0f} MB, before its pixels"
            )
        length = int.from_bytes(data[place : place + 2])
        if marker in _JPEG_FRAMES:
            frame = marker
            height, width, components = struct.unpack_from(">HHB", data, place + 3)
            size = width, height
            factors = [data[place + 9 + 3 * n] for n in range(components)]
            blocks = [(one >> 4) * (one & 15) for one in factors]
            # two bytes a coefficient; the first component usually has the most of them
            coefficients = 2 * sum(blocks) / max([1, *blocks])
        if marker != 0xDA:
            place += length
    pixel = 1 if components == 1 else 4
    # all components in one scan of a sequential file: its coefficients are never kept
    if marker != 0xDA or (frame in (0xC0, 0xC1) and data[place + 2] == components):
        return _header(data, size, pixel, components, is_usual=frame in (0xC0, 0xC1))
    scans = _scans(data, place - 2)
    if scans > MOST_SCANS:
        objection = f"more than {MOST_SCANS} scans"
    return _header(
        data,
        size,
        pixel + coefficients,
        components,
        is_usual=frame in (0xC0, 0xC1, 0xC2)
        and scans <= _USUAL_SCANS
        and scans * size[0] * size[1] <= _USUAL_SCANNED_PIXELS,
        objection=objection,
    )


def _scans(data: bytes, place: int) -> int:
    """How many scans follow, the first at `place`; whatever lies behind the image is not counted.

    A start of scan cannot occur within the pixels, but within a table, and in a film behind them.
    """
    most = data.count(b"\xff\xda", place)
    if most <= _USUAL_SCANS:
        return most
    scans = 0
    for _ in range(_MOST_SEGMENTS):
        found = _JPEG_MARKER.search(data, place)
        if found is None or scans > MOST_SCANS:
            return scans
        marker, place = data[found.start() + 1], found.end()
        if marker == 0xD9:
            return scans
        scans += marker == 0xDA
        place += int.from_bytes(data[place : place + 2])
    return MOST_SCANS + 1


def _png(data: bytes) -> Header:
    width, height, bits, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    size = (width, height) if data[12:16] == b"IHDR" else (0, 0)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 4)
    pixel = 4 if channels > 1 else 2 if bits == 16 else 1
    place, chunks, metadata, is_animated, objection = 8, 0, 0, False, None
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        place += 12 + length
        chunks += 1
        is_animated = is_animated or kind == b"acTL"
        if kind not in (b"IDAT", b"fdAT"):
            metadata += min(length, len(data))
        if chunks > _MOST_CHUNKS:
            objection = f"more than {_MOST_CHUNKS:,} chunks"
            break
    if metadata > _MOST_METADATA:
        objection = f"{metadata / 1e6:.0f} MB of texts and profiles"
    return _header(
        data,
        size,
        pixel + (4 if is_animated else 0),
        channels * max(1, bits / 8) * (2 if interlaced else 1),
        is_usual=chunks <= _USUAL_CHUNKS,
        holds_more=is_animated,
        objection=objection,
    )


def _gif(data: bytes) -> Header:
    """The screen, and what lies before the first frame, which may be larger than the screen."""
    width, height = struct.unpack_from("<HH", data, 6)
    place = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    while data[place] not in b",;":
        if data[place] == ord("!"):
            place += 2
            while (length := data[place]) and place < _MOST_BEFORE_FRAME:
                place += 1 + length
        place += 1  # Pillow skips what it does not know, too
        if place > _MOST_BEFORE_FRAME:
            return Header(width, height, objection="more than 1 MiB of comments before its pixels")
    left, top, across, down = struct.unpack_from("<HHHH", data, place + 1)
    size = max(width, left + across), max(height, top + down)
    return _header(data, size, 4, 1, holds_more=True)


def _bmp(data: bytes) -> Header:
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    if header_bytes == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<IIHHI", data, 18)
        height = 2**32 - height if data[25] == 0xFF else height  # stored from the top
    # Pillow reads run lengths in Python
    is_usual = compression not in (1, 2)
    return _header(data, (width, height), 4 if bits > 8 else 1, bits / 8, is_usual=is_usual)


def _pnm(data: bytes) -> Header:
    found = _PNM_SIZE.match(data[: 2**16])
    if not found:
        return Header()
    form, width, height = (int(number) for number in found.groups())
    white = _PNM_WHITE.match(data[: 2**16], found.end())
    top = int(white[1]) if white and form not in (1, 4) else 255
    objection = None
    if form <= 3:
        if len(data) > _MOST_TEXT:
            objection = f"{len(data) / 1e6:.0f} MB of numbers written out as text"
        elif data.count(b"#") > _MOST_COMMENTS:
            objection = f"more than {_MOST_COMMENTS:,} comments"
    # Pillow reads what is not one byte a sample, or two up to 65535, in Python, and copies it twice
    is_usual = form > 3 and (top == 255 or (form == 5 and top == 65535))
    samples = 3 if form in (3, 6) else 1
    pixel = 4 if samples > 1 or top > 255 else 1
    cost = pixel if is_usual else 3 * pixel
    return _header(data, (width, height), cost, samples, is_usual=is_usual, objection=objection)


def _webp(data: bytes) -> Header:
    """The canvas: libwebp keeps two of them in RGBA, and Pillow gets a third."""
    kind, is_animated = data[12:16], False
    if kind == b"VP8X":
        is_animated = bool(data[20] & 2)
        size = _int24(data, 24) + 1, _int24(data, 27) + 1
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        size = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = struct.unpack_from("<HH", data, 26)
        size = width & 0x3FFF, height & 0x3FFF
    return _header(data, size, 12.1, 4, is_usual=not is_animated, holds_more=is_animated)


def _int24(data: bytes, place: int) -> int:
    return int.from_bytes(data[place : place + 3], "little")


_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_TIFF_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}


def _tiff(data: bytes) -> Header:
    """The first directory. Always unusual: libtiff writes what it thinks to standard error."""
    order = "<" if data[:1] == b"I" else ">"
    is_big = 43 in data[2:4]
    (place,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, 8 if is_big else 4)
    (entries,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, place)
    if entries > _MOST_TAGS:
        return Header(objection=f"{entries:,} tags")
    place += 8 if is_big else 2
    form, room, step = ("HHQ", 8, 20) if is_big else ("HHI", 4, 12)
    values, counts, claimed = {}, {}, 0
    for entry in range(place, place + step * entries, step):
        tag, kind, count = struct.unpack_from(order + form, data, entry)
        length = count * _TIFF_BYTES.get(kind, 8)
        claimed += length if length > room else 0
        at = entry + step - room
        if length > room:
            (at,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, at)
        counts[tag] = count
        if count and kind in _TIFF_TYPES:
            with suppress(struct.error, OverflowError):  # lies outside; Pillow leaves such tags out
                (values[tag],) = struct.unpack_from(order + _TIFF_TYPES[kind], data, at)
    size = width, height = values.get(256, 0), values.get(257, 0)
    strips = max(counts.get(273, 0), counts.get(324, 0))
    if strips > _MOST_STRIPS:
        return Header(*size, objection=f"{strips:,} strips or tiles")
    if claimed > len(data) + _SPARE_BYTES:
        return Header(*size, objection="its tags claim more bytes than it has")
    bits, samples = values.get(258, 1), values.get(277, 1)
    pixel = 4 if samples > 1 or bits > 16 else 2 if bits > 8 else 1
    buffer = 0.0
    if values.get(259, 1) != 1:  # libtiff decodes a whole strip or tile, perhaps as RGBA
        block = values.get(278, height) * width if 273 in counts else 0
        block = max(min(block, width * height), values.get(322, 0) * values.get(323, 0))
        buffer = block * max(samples, 4) * max(1, bits / 8) / max(1, width * height)
    return _header(data, size, pixel + buffer, samples, is_usual=False, holds_more=True)


def _jpeg_2000(data: bytes) -> Header:
    """The codestream's sizes: OpenJPEG takes 32 bits a number for a whole tile, and a copy."""
    place = data.find(b"\xff\x4f\xff\x51", 0, _MOST_METADATA)
    if place < 0:
        return Header()
    right, lower, left, upper, across, down, x, y, components = struct.unpack_from(
        ">8IH", data, place + 8
    )
    size = width, height = right - left, lower - upper
    deep = any(one & 0x7F > 7 for one in data[place + 42 : place + 42 + 3 * components : 3])
    if across == 0 or down == 0 or width <= 0 or height <= 0:
        return Header()
    tiles = math.ceil((right - x) / across) * math.ceil((lower - y) / down)
    if tiles * components > _MOST_TILES:
        return Header(*size, objection=f"{tiles * components:,} tiles")
    tile = min(across, width) * min(down, height) * components * (6 if deep else 5)
    kept = tiles * (6_000 + 1_200 * components)
    cost = (4 if components > 1 else 2) + (tile + kept) / (width * height)
    return _header(data, size, cost, components, is_usual=False)


def _heif(data: bytes) -> Header:
    """AVIF and HEIC: the largest of the sizes in its boxes; planes, RGB of them, Pillow's copy."""
    head = data[: 2**20]
    places = [found.start() for found in re.finditer(b"ispe", head)][:_MOST_TILES]
    sizes = [struct.unpack_from(">II", head, place + 8) for place in places]
    size = max(sizes, key=math.prod, default=(0, 0))
    depths = [data[found.end() + 5] for found in re.finditer(b"pixi", head)]
    channels = 4 if b"auxiliary:alpha" in head or b"hevc:2015:auxid:1" in head else 3
    cost = channels * (2 if max(depths, default=8) > 8 else 1) + channels + 6
    return _header(data, size, cost, channels, is_usual=False, holds_more=True)


_READERS: dict[str, Callable[[bytes], Header]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "GIF": _gif,
    "BMP": _bmp,
    "TIFF": _tiff,
    "PPM": _pnm,
    "JPEG 2000": _jpeg_2000,
    "WEBP": _webp,
    "AVIF": _heif,
    "HEIC": _heif,
}
