"""What files say of themselves: their size, and why they are not decoded."""

import io
import random
import warnings

import pytest
from PIL import Image
from tests.hostile import image_bytes as hostile
from tests.image_factory import encoded, heic, jpeg, picture
from tests.odd_images import reason_of, unusual

from captune.images import UnreadableImage, decode, decode_image
from captune.images.formats import find_format
from captune.images.headers import read_header


@pytest.mark.parametrize("name", unusual())
def test_headers_promise_the_size_that_pillow_finds(name):
    data = unusual()[name]
    kind, opener = find_format(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        size = opener(io.BytesIO(data), "").size
    header = read_header(data, kind)
    assert (header.width, header.height) == size
    assert header.objection is None
    assert header.bytes_per_pixel >= 1


def test_size_of_a_heic():
    pytest.importorskip("pillow_heif")
    header = read_header(heic(), "HEIC")
    assert (header.width, header.height) == (64, 64)


def test_cut_and_mutated_headers_raise_nothing():
    chance = random.Random(0)
    files = list(unusual().values())
    for _ in range(5_000):
        data = bytearray(chance.choice(files)[:5_000])
        for _ in range(chance.randint(0, 9)):
            data[chance.randrange(min(len(data), 300))] = chance.randrange(256)
        del data[chance.randrange(len(data)) :]
        try:
            kind, _ = find_format(bytes(data))
        except UnreadableImage:
            continue
        read_header(bytes(data), kind)


def test_a_size_that_the_decoder_does_not_find_is_damage():
    """Pillow joins what stands before and behind a comment to one number."""
    data = b"P6 10 1#\n255 255\n" + bytes(10 * 1255 * 3)
    assert Image.open(io.BytesIO(data)).size == (10, 1255)
    assert reason_of(data) == "damaged PPM"


REFUSED = {
    "scans.jpg": (lambda: hostile.progressive_jpeg(), "more than 500 scans"),
    "comments.jpg": (
        lambda: hostile.jpeg_with_comments(10_001, 2),
        "10,001 segments, 0 MB, before its pixels",
    ),
    "previews.jpg": (lambda: hostile.jpeg_with_comments(600), "MB, before its pixels"),
    "padding.jpg": (lambda: hostile.jpeg_with_padding(2**21), "MB, before its pixels"),
    "appended.jpg": (lambda: jpeg() + bytes(40_000_000), "40 MB for 48 x 32 pixels"),
    "comment.gif": (
        lambda: hostile.gif(20, 10, hostile.gif_comment(41_000_000)),
        "more than 1 MiB of comments",
    ),
    "junk.gif": (lambda: b"GIF89a" + bytes(2**21), "more than 1 MiB of comments"),
    "text.png": (
        lambda: hostile.flat_png(9, 9, before=hostile.chunk(b"tEXt", bytes(2**26))),
        "67 MB of texts and profiles",
    ),
    "chunks.png": (
        lambda: hostile.flat_png(9, 9, empty_chunks=100_001),
        "more than 100,000 chunks",
    ),
    "comments.pgm": (lambda: hostile.text_pgm(comments=300_000), "more than 1,000 comments"),
    "text.pgm": (lambda: b"P2 4000 5000 255\n" + b"7 " * 2**24, "of numbers written out as text"),
    "strips.tif": (lambda: hostile.tiff_of_strips(200_001), "200,001 strips or tiles"),
    "tiles.tif": (lambda: hostile.tiff_of_huge_tiles(), "GB of memory to decode, over the limit"),
    "tags.tif": (
        lambda: hostile.tiff([(n, 3, 1, 1) for n in range(1, 5_000)]),
        "4,999 tags",
    ),
    "claims.tif": (
        lambda: hostile.grey_tiff(9, 9, (270, 2, 2**31, 0)),
        "its tags claim more bytes than it has",
    ),
    "canvas.gif": (lambda: hostile.gif_with_canvas(), "65535 x 65535 pixels, over the limit"),
    "tile.jp2": (
        lambda: hostile.claimed_jpeg_2000(10_000, 10_000),
        "1.9 GB of memory to decode, over the limit of 1.3 GB (CAPTUNE_MAX_DECODING_MB)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_the_header(name, monkeypatch):
    make, reason = REFUSED[name]
    monkeypatch.setenv("CAPTUNE_MAX_DECODING_MB", "1300")
    monkeypatch.setattr(decode, "decode_here", None)
    monkeypatch.setattr(decode, "_decoders", None)
    said = reason_of(make())
    assert said is not None
    assert reason in said
    assert len(said) < 120


def test_scans_in_a_film_behind_the_pixels_do_not_count():
    data = encoded(picture(), "JPEG", progressive=True)
    noise = random.Random(0).randbytes(1000) + b"\xff\xda" * 2_000
    assert decode_image(data + noise).size == (48, 32)
