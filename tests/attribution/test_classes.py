"""Maps of a class: over a classifier that sees one bright square, and inside real architectures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.colour_model import colour_model
from tests.models.conftest import clip_folder, make_open_clip, word_tokenizer  # noqa: F401
from tests.models.test_parity import CLIP_PIXELS, OPEN_CLIP_TINY
from torch import Tensor, nn
from torch.nn import functional as F

from captune.attribution.classes import explain_classes
from captune.errors import UserError
from captune.images import ImageFile
from captune.models.encoders import GridShape, ImageEncoder, ImageTextModel, PatchGrid
from captune.models.load import load_model
from captune.zeroshot.classifier import ZeroShotClassifier

SHAPE = GridShape(16, 3, 4, 4)


class PlacesThenMean(nn.Module):
    """A convolution of 16 places, then their mean: what `lite` and every convolution is."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.AvgPool2d(8)

    def forward(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.places(pixels).mean((2, 3))
        return found


def cropping_model(crop: bool = True) -> ImageTextModel:
    """Knows colours by the mean of what it sees: the middle of an image, 32 x 32, or all of it."""

    def to_pixels(image: Image.Image) -> Tensor:
        if crop:
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.crop((left, top, left + side, top + side))
        array = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR), dtype=np.float32)
        return torch.from_numpy(array / 255).permute(2, 0, 1)

    patches = PatchGrid(SHAPE, (16, 3), lambda p: p, to_pixels, "crop-32", "d0" * 32)
    cpu = torch.device("cpu")
    colours = colour_model()
    encoder = ImageEncoder(
        PlacesThenMean(), to_pixels, "crop-32", "d0" * 32, 3, cpu, torch.float32, patches=patches
    )
    return ImageTextModel("crop", "d0" * 32, None, encoder, colours.text, colours.scoring)


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("method", ["gradient", "occlusion"])
def test_a_square_is_found_where_it_is(tmp_path: Path, method: str, crop: bool) -> None:
    pixels = np.full((160, 240, 3), 128, dtype=np.uint8)
    red, blue = (slice(10, 30), slice(182, 198)), (slice(125, 155), slice(44, 58))
    pixels[red] = (250, 10, 10)
    pixels[blue] = (10, 10, 250)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    model = cropping_model(crop)
    classifier = ZeroShotClassifier(["red", "blue", "green"], model=model, cache=False)
    found = explain_classes(classifier, tmp_path / "image.png", ["red", "blue"], method=method)
    assert found.maps.shape == (2, 4, 4)
    assert found.frame.is_whole != crop
    for one, (rows, columns) in zip(found.maps, (red, blue), strict=True):
        row, column = divmod(int(one.argmax()), 4)
        seen = found.frame
        width, height = (seen.right - seen.left) / 4, (seen.bottom - seen.top) / 4
        left, top = seen.left + column * width, seen.top + row * height
        assert left - 1 <= columns.start < columns.stop <= left + width + 1
        assert top - 1 <= rows.start < rows.stop <= top + height + 1
    over = found.frame.over_image(found.maps.numpy(), (240, 160))
    assert bool(np.isnan(over).any()) == crop


def test_the_most_probable_label_is_explained(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), (30, 200, 20)).save(tmp_path / "green.png")
    classifier = ZeroShotClassifier(["red", "green"], model=cropping_model(), cache=False)
    found = explain_classes(classifier, ImageFile(tmp_path / "green.png", "green.png"))
    assert found.names == ["green"]
    assert found.probabilities[0] > 0.5
    against = explain_classes(classifier, tmp_path / "green.png", ["red"], against="green")
    forth = explain_classes(classifier, tmp_path / "green.png", ["green"], against="red")
    torch.testing.assert_close(against.maps, -forth.maps)


def test_what_is_not_known_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    classifier = ZeroShotClassifier(["red", "green"], model=cropping_model(), cache=False)
    with pytest.raises(UserError, match='"blue" is not among the labels'):
        explain_classes(classifier, tmp_path / "red.png", ["blue"])
    with pytest.raises(UserError, match="explained by gradient, occlusion, patch-similarity"):
        explain_classes(classifier, tmp_path / "red.png", method="attention")
    with pytest.raises(UserError, match="single patches of this image encoder have no"):
        explain_classes(classifier, tmp_path / "red.png", method="patch-similarity")
    without = ZeroShotClassifier(["red", "green"], model=colour_model(), cache=False)
    with pytest.raises(UserError, match="no patch grid"):
        explain_classes(without, tmp_path / "red.png")


def last_block(encoder: ImageEncoder) -> nn.Module:
    """By the names that the libraries give it."""
    names = [
        name
        for name, module in encoder.module.named_modules()
        if name.endswith((".layers.1", ".resblocks.1")) and "text" not in name
    ]
    visual = [name for name in names if "vis" in name]
    return encoder.module.get_submodule(visual[-1])


@pytest.mark.parametrize("library", ["hf", "open_clip"])
def test_inside_a_vit(library: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A patch counts as much as the score changes when its token grows before the last block."""
    if library == "hf":
        spec = f"hf:{request.getfixturevalue('clip_folder')}"
    else:
        _, folder = request.getfixturevalue("make_open_clip")(OPEN_CLIP_TINY, CLIP_PIXELS)
        spec = str(folder)
    model = load_model(spec, device="cpu")
    noise = np.random.default_rng(3).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((320, 240)).save(tmp_path / "image.png")
    classifier = ZeroShotClassifier(["a", "b", "c"], model=model, cache=False)
    found = explain_classes(classifier, tmp_path / "image.png", ["b"])
    shape = model.image.require_patches().shape
    assert found.maps.shape == (1, shape.rows, shape.columns)
    assert bool(found.maps.any())
    assert not found.frame.is_whole

    pixels = model.image.transform(Image.open(tmp_path / "image.png").convert("RGB"))[None]
    texts = torch.from_numpy(classifier.text_features[0])
    scale = classifier.scoring.logit_scale
    block = last_block(model.image)

    def score(place: int, more: float) -> float:
        def grow(module: Any, args: Any, kwargs: Any) -> Any:
            hidden = (args[0] if args else kwargs["hidden_states"]).clone()
            flat = hidden.view(-1, hidden.shape[-1])  # one image: its tokens, whatever the order
            flat[shape.leading + place] *= 1 + more
            if args:
                return (hidden, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": hidden}

        handle = block.register_forward_pre_hook(grow, with_kwargs=True)
        with torch.inference_mode():
            pooled = F.normalize(model.image.module(pixels).double(), dim=-1)
        handle.remove()
        logits = pooled @ texts.double().T * scale
        return float(logits.log_softmax(-1)[0, 1])

    for place in range(0, shape.rows * shape.columns, 3):
        slope = (score(place, 1e-2) - score(place, -1e-2)) / 2e-2
        assert float(found.maps[0].flatten()[place]) == pytest.approx(slope, abs=2e-3, rel=0.02)


@pytest.mark.needs("lite")
def test_inside_lite(tmp_path: Path) -> None:
    """Its pooled vector is the mean of the last map, so the map's sum is known."""
    from captune.models.lite.backbones import load_backbones

    image = load_backbones().image
    model = load_model("lite", device="cpu")
    classifier = ZeroShotClassifier(["a dog", "a bridge"], model=model, cache=False)
    noise = np.random.default_rng(3).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((390, 270)).save(tmp_path / "image.png")
    found = explain_classes(classifier, tmp_path / "image.png", ["a dog"], method="gradient")
    pixels = model.image.transform(Image.fromarray(noise).resize((390, 270)))[None]
    places = image.finish_grid(image.patch_grid(pixels).flatten(2).mT).requires_grad_()
    assert found.maps.shape == (1, 9, 9)
    alignment = model.image.module.alignment
    pooled = F.normalize(alignment(places.mean(1)), dim=-1)
    texts = torch.from_numpy(classifier.text_features[0])
    score = (pooled @ texts.T * classifier.scoring.logit_scale).log_softmax(-1)[0, 0]
    (gradient,) = torch.autograd.grad(score, places)
    expected = (gradient * places).sum(-1).view(9, 9)
    torch.testing.assert_close(found.maps[0], expected.detach(), atol=1e-4, rtol=1e-3)


@pytest.mark.needs("lite")
def test_places_of_lite(tmp_path: Path) -> None:
    """Each place is read as the image is read whose places are all like it, then smoothed."""
    model = load_model("lite", device="cpu")
    classifier = ZeroShotClassifier(["a dog", "a bridge"], model=model, cache=False)
    noise = np.random.default_rng(3).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((390, 270))
    image.save(tmp_path / "image.png")
    found = explain_classes(classifier, tmp_path / "image.png", ["a dog", "a bridge"])
    assert found.frame.is_whole  # the classifier crops, these maps do not
    encoder = model.image
    grid = encoder.finish_grid(encoder.encode_grid(encoder.whole(image)[None]))[0]
    texts = torch.from_numpy(classifier.text_features[0])
    raw = torch.stack(
        [
            F.normalize(encoder.module.alignment(place[None]), dim=-1)[0] @ texts.T
            for place in grid.clone()
        ]
    )  # [places, classes]
    raw = (raw * classifier.scoring.logit_scale).T.reshape(2, 9, 9)
    # a Gaussian of one place's width, normalised over what lies on the image
    at = torch.arange(9.0)
    weights = torch.exp(-((at[:, None] - at) ** 2) / 2)
    weights = weights / weights.sum(dim=1, keepdim=True)
    expected = weights @ raw @ weights.T
    expected = expected - expected.mean((1, 2), keepdim=True)
    torch.testing.assert_close(found.maps, expected, atol=1e-3, rtol=1e-3)
    against = explain_classes(classifier, tmp_path / "image.png", ["a dog"], against="a bridge")
    torch.testing.assert_close(against.maps[0], expected[0] - expected[1], atol=1e-3, rtol=1e-3)
    assert found.maps.std() > 0.01
