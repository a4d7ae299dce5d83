"""A bright square at a known place of an image is found there again, however it was turned."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.attribution.planted import SAID, SHAPE, planted_captioner
from tests.image_factory import ORIENTATION
from torch import nn
from torchvision.transforms import v2

from captune.attribution.captioned_image import captioned_images
from captune.attribution.geometry import Frame, as_stored, frame_of, whole_frame
from captune.attribution.methods import MAP_METHODS
from captune.captioning.captioner import Captioner
from captune.images import ImageFile, open_image
from captune.models.encoders import ImageEncoder, ImageTextModel, PatchGrid
from captune.models.lite.backbones import transform as lite_crop
from captune.models.lite.backbones import whole as lite_whole

SIZES = [(640, 480), (480, 640), (333, 500), (97, 100)]


def bright_image(
    path: Path, size: tuple[int, int], box: tuple[int, int, int, int], turn: int
) -> Path:
    """A dark image with a white box (left, top, right, bottom), stored so, to be turned by EXIF."""
    pixels = np.full((size[1], size[0], 3), 10, dtype=np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    Image.fromarray(pixels).save(path, exif=exif.tobytes())
    return path


def brightness_encoder() -> ImageTextModel:
    """Whole images at 60 x 60; a place of its 6 x 6 grid is as bright as its pixels are."""

    def to_pixels(image: Image.Image) -> torch.Tensor:
        array = np.asarray(image.resize((60, 60), Image.Resampling.BILINEAR), dtype=np.float32)
        return torch.from_numpy(array / 255).permute(2, 0, 1)

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        places = nn.functional.adaptive_avg_pool2d(pixels.mean(1, keepdim=True), 6).flatten(2).mT
        return torch.cat([places, torch.zeros(*places.shape[:2], SHAPE.channels - 1)], dim=2)

    shape = (SHAPE.tokens, SHAPE.channels)
    patches = PatchGrid(SHAPE, shape, encode, to_pixels, "whole-60", "b0" * 32)
    cpu = torch.device("cpu")
    encoder = ImageEncoder(
        nn.Identity(), to_pixels, "whole-60", "b0" * 32, 3, cpu, torch.float32, patches=patches
    )
    return ImageTextModel("brightness", "b0" * 32, None, encoder, None, None)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("name", ["attention", "occlusion", "pixel-occlusion"])
def test_a_bright_square_is_found_where_it_is(tmp_path: Path, turn: int, name: str) -> None:
    size, box = (180, 120), (150, 20, 180, 40)  # one place of 6 x 6, near the upper right corner
    path = bright_image(tmp_path / "image.png", size, box, turn)
    no_tags: Any = SimpleNamespace(tags=None)
    captioner = Captioner(planted_captioner(), brightness_encoder(), no_tags)
    image = ImageFile(path, "image.png")
    (one,) = captioned_images(captioner, [image], [SAID], on_skip=lambda skipped: None)
    method = MAP_METHODS.get(name)
    layer_head = method.layer_heads(captioner.model)[0]
    maps = method.maps(one, layer_head, [0]).numpy()
    upright = open_image(path)
    over = whole_frame(*upright.size).over_image(maps, upright.size)[0]
    assert over.shape == (upright.height, upright.width)
    bright = np.asarray(upright.convert("L")) > 128
    assert bright[np.unravel_index(over.argmax(), over.shape)]
    # in the frame of the file, it lies where it was drawn
    stored = as_stored(over, turn)
    assert stored.shape == size[::-1]
    row, column = np.unravel_index(stored.argmax(), stored.shape)
    assert box[0] <= column < box[2]
    assert box[1] <= row < box[3]


@pytest.mark.parametrize("size", SIZES)
def test_what_an_encoder_squashes_is_the_whole_image(size: tuple[int, int]) -> None:
    found = frame_of(lite_whole, *size)
    assert found.is_whole
    assert found == whole_frame(*size)


@pytest.mark.parametrize("size", SIZES)
def test_what_lite_crops(size: tuple[int, int]) -> None:
    found = frame_of(lite_crop, *size)
    width, height = size
    side = min(size)
    expected = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    assert found.edges == pytest.approx(expected, abs=1)
    assert found.is_whole == (abs(width - height) <= 1 and found.edges == (0, 0, width, height))


def compose(*steps: Any) -> Any:
    scale = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    return v2.Compose([*steps, *scale, v2.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))])


def test_what_other_transforms_show() -> None:
    crop = compose(v2.Resize(256), v2.CenterCrop(224))
    # resized to 341 x 256; of that, torchvision cuts off 58 and 59 pixels, and 16 and 16
    expected = (58 * 640 / 341, 480 / 16, 282 * 640 / 341, 480 - 480 / 16)
    assert frame_of(crop, 640, 480).edges == pytest.approx(expected, abs=1)
    # a margin around the image: what is seen reaches beyond it
    padded = compose(v2.Pad((0, 80)), v2.Resize((224, 224)))
    assert frame_of(padded, 640, 480).edges == pytest.approx((0, -80, 640, 560), abs=1.5)
    both = compose(v2.Pad((0, 80)), v2.CenterCrop((640, 480)), v2.Resize((224, 224)))
    assert frame_of(both, 640, 480).edges == pytest.approx((80, -80, 560, 560), abs=1.5)
    # nothing can be told of a photo of a few pixels
    assert frame_of(crop, 3, 2) == whole_frame(3, 2)


def test_a_cropped_map_lies_on_its_part_of_the_image() -> None:
    frame = Frame(640, 480, 80, 0, 560, 480)
    maps = np.zeros((1, 4, 4), dtype=np.float32)
    maps[0, 1, 3] = 1.0
    over = frame.over_image(maps, (320, 240))[0]
    assert over.shape == (240, 320)
    unseen = np.isnan(over)
    assert unseen[:, :40].all()
    assert unseen[:, 280:].all()
    assert not unseen[:, 40:280].any()
    row, column = np.unravel_index(np.nanargmax(over), over.shape)
    # half the size of the image, in which the patch is 440 to 560 and 120 to 240
    assert 220 <= column < 280
    assert 60 <= row < 120


def test_values_stay_between_their_neighbours() -> None:
    maps = np.random.default_rng(0).random((3, 5, 7)).astype(np.float32)
    over = whole_frame(77, 55).over_image(maps, (77, 55))
    # in the middle of each place stands its own value
    np.testing.assert_allclose(over[:, 5::11, 5::11], maps, atol=1e-6)
    assert over.min() >= maps.min() - 1e-6
    assert over.max() <= maps.max() + 1e-6
    constant = whole_frame(9, 9).over_image(np.full((1, 3, 3), 0.25, dtype=np.float32), (9, 9))
    np.testing.assert_allclose(constant, 0.25)
