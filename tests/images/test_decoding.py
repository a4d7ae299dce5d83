"""Reading and decoding: odd files become RGB, broken ones a reason."""

import io
import os
import random
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile, features
from tests.image_factory import (
    animation,
    broken_cases,
    cut_out,
    encoded,
    heic,
    jpeg,
    palette_cut_out,
    picture,
    png_header,
    readable_cases,
    turned,
    with_exif,
)

from captune.errors import UserError
from captune.images import UnreadableImage, decode_image, find_images, open_image
from captune.images.decode import opened_image


@pytest.mark.parametrize("case", readable_cases(), ids=lambda case: case.file)
def test_odd_files_become_rgb(case):
    image = decode_image(case.data, case.file)
    assert image.mode == "RGB"
    assert type(image) is Image.Image
    assert min(image.size) >= 1


@pytest.mark.parametrize("case", broken_cases(), ids=lambda case: case.file)
def test_broken_files_have_a_reason(case):
    with pytest.raises(UnreadableImage) as refusal:
        decode_image(case.data, case.file)
    assert refusal.value.reason == case.reason
    assert str(refusal.value) == f"{case.file}: {case.reason}"


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{"quality": 60}, {"progressive": True}, {"quality": 95}])
def test_jpeg_pixels_are_those_of_pillow(mode, options):
    data = encoded(picture(101, 67, mode=mode), "JPEG", **options)
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    np.testing.assert_array_equal(decode_image(data), expected)


@pytest.mark.needs("shared")
def test_real_images_have_the_pixels_of_pillow(shared):
    found = find_images([shared / "data" / "coco-mini" / "images"])
    assert len(found.images) > 100
    for image in found.images[::20]:
        with Image.open(image.path) as opened:
            np.testing.assert_array_equal(open_image(image.path), opened.convert("RGB"))


def test_adobe_cmyk_is_not_a_negative():
    white = Image.new("CMYK", (8, 8), (0, 0, 0, 0))
    assert decode_image(encoded(white, "JPEG")).getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_honoured(kind, orientation):
    upright = decode_image(turned(1, kind))
    back = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    image = decode_image(turned(orientation, kind))
    assert not image.getexif()  # or the next one to honour EXIF turns it again
    stored = image if back is None else image.transpose(back)
    np.testing.assert_array_equal(stored, upright)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_nonsense_orientation_changes_nothing(orientation):
    np.testing.assert_array_equal(decode_image(turned(orientation)), decode_image(turned(1)))


@pytest.mark.parametrize(
    "exif",
    [b"", b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0MM", os.urandom(500)],
    ids=["none", "header", "cut", "short", "noise"],
)
def test_broken_exif_does_not_kill(exif):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = decode_image(with_exif(jpeg(), exif))
    np.testing.assert_array_equal(image, decode_image(jpeg()))


@pytest.mark.parametrize(
    "data",
    [
        encoded(cut_out(), "PNG"),
        encoded(cut_out("LA"), "PNG"),
        palette_cut_out(),
        encoded(cut_out(), "WEBP", lossless=True),
        encoded(cut_out(), "TIFF"),
    ],
    ids=["RGBA", "LA", "palette", "webp", "tiff"],
)
def test_transparency_becomes_white(data):
    image = decode_image(data)
    assert image.getpixel((0, 0)) == (255, 255, 255)
    ink = image.getpixel((6, 4))
    assert max(ink) - min(ink) in (0, 255)
    assert ink != (255, 255, 255)


def test_colour_key_transparency_becomes_white():
    image = picture()
    image.paste((1, 2, 3), (0, 0, 10, 10))
    decoded = decode_image(encoded(image, "PNG", transparency=(1, 2, 3)))
    assert decoded.getpixel((4, 4)) == (255, 255, 255)
    assert decoded.getpixel((20, 20)) == image.getpixel((20, 20))


def test_half_transparent_is_mixed_and_opaque_is_exact():
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert decode_image(encoded(half, "PNG")).getpixel((0, 0)) == (127, 127, 127)
    opaque = picture().convert("RGBA")
    np.testing.assert_array_equal(decode_image(encoded(opaque, "PNG")), picture())


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame(kind):
    red, green, blue = decode_image(animation(kind)).getpixel((3, 3))
    assert red > 240
    assert max(green, blue) < 10


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_keeps_its_range(kind):
    values = np.linspace(0, 65535, 200, dtype=np.uint16).reshape(10, 20)
    decoded = np.asarray(decode_image(encoded(Image.fromarray(values), kind)))
    np.testing.assert_array_equal(decoded[..., 0], np.rint(values / 257))
    np.testing.assert_array_equal(decoded[..., 0], decoded[..., 2])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 100, 255]], np.float32), [0, 100, 255]),
        (np.array([[0, 257, 65535]], np.float32), [0, 1, 255]),
        (np.array([[-1, 0, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 6e5, 1e6]], np.float32), [0, 153, 255]),
        (np.array([[np.nan, 0, 1]], np.float32), [0, 0, 255]),
        (np.array([[np.inf, 0, 1]], np.float32), [0, 0, 255]),
        (np.array([[0, 0, 0]], np.float32), [0, 0, 0]),
        (np.array([[-7, -7, -7]], np.float32), [0, 0, 0]),
        (np.array([[0, 1, 255]], np.int32), [0, 1, 255]),
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
        (np.array([[-100, 0, 100]], np.int32), [0, 128, 255]),
    ],
)
def test_32_bit_and_float_grey(values, expected):
    decoded = np.asarray(decode_image(encoded(Image.fromarray(values), "TIFF")))
    np.testing.assert_array_equal(decoded[0, :, 0], expected)


def test_grey_without_any_number_is_refused():
    nothing = np.full((4, 4), np.nan, np.float32)
    with pytest.raises(UnreadableImage, match="finite"):
        decode_image(encoded(Image.fromarray(nothing), "TIFF"))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif():
    data = encoded(picture(64, 64), "AVIF", quality=95)
    difference = np.asarray(decode_image(data), int) - np.asarray(picture(64, 64), int)
    assert np.abs(difference).mean() < 8


def test_avif_without_support_says_what_to_install(monkeypatch):
    monkeypatch.setattr("PIL.AvifImagePlugin.SUPPORTED", False)
    with pytest.raises(UnreadableImage, match="pip install -U pillow"):
        decode_image(b"\0\0\0\x18ftypavif\0\0\0\0avif" + bytes(100))


def test_heic():
    pytest.importorskip("pillow_heif")
    before = dict(Image.OPEN)
    difference = np.asarray(decode_image(heic()), int) - np.asarray(picture(64, 64), int)
    assert np.abs(difference).mean() < 8
    assert Image.OPEN.keys() == before.keys()  # nothing was registered for the whole program


def test_heic_without_its_extra_says_what_to_install(monkeypatch):
    pytest.importorskip("pillow_heif")
    data = heic()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UnreadableImage) as refusal:
        decode_image(data)
    assert refusal.value.reason == "HEIC needs an extra: pip install 'captune[heic]'"


def test_cut_heic_is_refused():
    pytest.importorskip("pillow_heif")
    data = heic()
    with pytest.raises(UnreadableImage, match="HEIC"):
        decode_image(data[: len(data) // 2])


def test_bomb_costs_nothing():
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in (png_header(30_000, 30_000), png_header(30_000, 30_000, bits=1, colour=0)):
        with pytest.raises(UnreadableImage, match="30000 x 30000"):
            decode_image(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_pixel_limit_is_a_choice(monkeypatch):
    data = encoded(picture(100, 100), "PNG")
    decode_image(data, max_megapixels=0.01)
    with pytest.raises(UnreadableImage, match=r"over the limit of 0\.0099 megapixels"):
        decode_image(data, max_megapixels=0.0099)
    monkeypatch.setenv("CAPTUNE_MAX_MEGAPIXELS", "0.001")
    with pytest.raises(UnreadableImage, match=r"0\.001 megapixels"):
        decode_image(data)
    for nonsense in ("many", "-1", "0", "nan", "inf"):
        monkeypatch.setenv("CAPTUNE_MAX_MEGAPIXELS", nonsense)
        with pytest.raises(UserError, match=f"CAPTUNE_MAX_MEGAPIXELS={nonsense} is not"):
            decode_image(data)


def test_limit_does_not_depend_on_the_host_program(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(jpeg()).size == (48, 32)
    assert Image.MAX_IMAGE_PIXELS == 10
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def reason_to_refuse(data: bytes) -> str | None:
    try:
        assert decode_image(data, max_megapixels=1).mode == "RGB"
    except UnreadableImage as refusal:
        return refusal.reason
    return None


def test_noise_and_bit_flips_never_escape():
    """Whatever the bytes, the answer is a picture or UnreadableImage with one short phrase."""
    chance = random.Random(0)
    files = [case.data for case in readable_cases() if len(case.data) < 20_000]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(600):
            data = bytearray(chance.choice(files))
            for _ in range(chance.randint(1, 12)):
                data[chance.randrange(min(len(data), 400))] = chance.randrange(256)
            if chance.random() < 0.3:
                del data[chance.randrange(len(data)) :]
            reason = reason_to_refuse(bytes(data))
            assert reason is None or 0 < len(reason) < 90
            assert "\n" not in (reason or "")


def test_a_jpeg_may_be_decoded_smaller(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(picture(1600, 1000), "JPEG", quality=95))
    for at_least, size in ((None, (1600, 1000)), (700, (800, 500)), (100, (200, 125))):
        with opened_image(tmp_path / "a.jpg", at_least=at_least) as image:
            assert image.size == size
        small = np.asarray(image.resize((40, 25)), int)
    assert np.abs(small - np.asarray(picture(1600, 1000).resize((40, 25)), int)).mean() < 3
    (tmp_path / "b.png").write_bytes(encoded(picture(1600, 1000), "PNG"))
    with opened_image(tmp_path / "b.png", at_least=100) as image:
        assert image.size == (1600, 1000)


def test_threads_agree():
    files = [jpeg(seed, 120, 90) for seed in range(8)] + [turned(6), encoded(cut_out(), "PNG")]
    alone = [np.asarray(decode_image(data)) for data in files]
    barrier = threading.Barrier(4)

    def work(_):
        barrier.wait()
        return [np.asarray(decode_image(data)) for data in files * 5]

    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(work, range(4)):
            for got, expected in zip(result, alone * 5, strict=True):
                np.testing.assert_array_equal(got, expected)
