"""Images of Python: the bytes of files and PIL images, read as if they lay in files."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from tests.image_factory import encoded, jpeg, palette_cut_out, picture, readable_cases, turned

from captune import UserError, find_images, open_image
from captune.images import UnreadableImage
from captune.images.decode import hash_image


def pixels(image: Any) -> Any:
    (file,) = find_images(image).images
    return np.asarray(open_image(file.path))


def test_an_open_file_is_refused_and_not_read_line_by_line() -> None:
    for one in (io.BytesIO(jpeg()), [io.BytesIO(jpeg())], {"a": io.BytesIO(jpeg())}):
        with pytest.raises(UserError, match="bytes of image files or PIL images, not BytesIO"):
            find_images(one)  # type: ignore[arg-type]


def test_names_are_made_or_given_and_the_order_stays() -> None:
    found = find_images([jpeg(), picture(), bytearray(jpeg())])
    assert [image.spelled for image in found.images] == ["image 1", "image 2", "image 3"]
    names = ["b.jpg", "./a//x.png", "a/x.png", "", "10"]
    found = find_images(dict.fromkeys(names, jpeg()))
    assert [image.name for image in found.images] == names
    assert len({image.path for image in found.images}) == len(names)
    assert find_images(jpeg()).images[0].name == "image 1"


@pytest.mark.parametrize("case", readable_cases(), ids=lambda case: case.file)
def test_bytes_and_what_pillow_opens_have_the_pixels_of_the_file(case: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(case.data)
    expected = pixels(str(tmp_path / "file"))
    np.testing.assert_array_equal(pixels(case.data), expected)
    try:
        opened = Image.open(io.BytesIO(case.data))
    except OSError:
        return  # Pillow alone does not read it
    np.testing.assert_array_equal(pixels(opened), expected)


def test_a_pil_image_is_upright_on_white_and_eight_bits() -> None:
    data = turned(6)
    opened = Image.open(io.BytesIO(data))
    assert pixels(data).shape == (48, 32, 3)
    np.testing.assert_array_equal(pixels(opened), pixels(data))
    np.testing.assert_array_equal(pixels(ImageOps.exif_transpose(opened)), pixels(data))
    palette = Image.open(io.BytesIO(palette_cut_out()))
    assert palette.mode == "P"
    np.testing.assert_array_equal(pixels(palette), pixels(palette_cut_out()))
    assert pixels(palette).max() == 255
    grey = Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16))
    assert grey.mode == "I;16"
    assert pixels(grey)[0, :, 0].tolist() == [0, 128, 255]
    assert grey.getpixel((2, 0)) == 65535


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "0 bytes"),
        (b"<html>", "not an image: a web page"),
        (jpeg()[:200], "truncated JPEG"),
        (Image.new("RGB", (12_000, 9_000)), "over the limit of 100 megapixels"),
        (Image.open(io.BytesIO(jpeg()[:-60])), "Pillow cannot load it .image file is truncated"),
        (Image.new("RGB", (0, 5)), r"no pixels \(0 x 5\)"),
        (Image.fromarray(np.full((2, 2), np.nan, np.float32)), "no pixel is a finite number"),
    ],
)
def test_hostile_images_are_unreadable(image: Any, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason) as told:
        pixels({"upload": image})
    assert str(told.value).startswith("upload: ")


@pytest.mark.parametrize("what", [3, None, [jpeg(), 2.5], {"a": "b.jpg"}])
def test_what_is_no_image_is_refused(what: Any) -> None:
    with pytest.raises(UserError, match="the bytes of image files or PIL images, not "):
        find_images(what)


def test_files_and_images_in_memory_are_not_mixed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="each in a call of its own"):
        find_images([jpeg(), tmp_path])


def test_they_are_known_by_their_bytes_and_travel(tmp_path: Path) -> None:
    (tmp_path / "file.jpg").write_bytes(jpeg())
    (here,), (again,) = find_images(jpeg()).images, find_images(jpeg()).images
    assert here != again
    assert hash_image(here.path) == hash_image(tmp_path / "file.jpg")
    there = pickle.loads(pickle.dumps(here))
    assert (there.name, hash_image(there.path)) == ("image 1", hash_image(here.path))
    twice = [find_images(picture(mode="L")).images[0] for _ in range(2)]
    assert hash_image(twice[0].path) == hash_image(twice[1].path)


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pixels(encoded(picture(), "PNG"))
    pixels(picture())
    assert not list(tmp_path.iterdir())
