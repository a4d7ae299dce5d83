"""Maps of models of transformers: finite, and on the place that made the difference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import FeatureAblation, ImageMaskInput
from PIL import Image
from tests.captioning.twins import FAMILIES, write_twin

import captune
from captune.attribution import masking
from captune.attribution.captioned_image import CaptionedImage, captioned_images
from captune.attribution.masking import (
    losses_without_each,
    pixel_masking,
    token_masking,
)
from captune.attribution.methods import MAP_METHODS, LayerHead
from captune.attribution.vlm_image import reader_of
from captune.attribution.word_scores import WordTarget
from captune.captioning.any_captioner import prepare_captioner
from captune.captioning.generate import GenerationSettings
from captune.errors import UserError
from captune.images import find_images
from captune.models.vlm import padded
from captune.options.captioning import CaptionOptions

GUIDE = Path(__file__).parents[2] / "docs" / "any-captioner.md"
# (left, top, right, bottom) of a bright square on grey, and how far a blur of it reaches
SIZE, SQUARE, REACH = (96, 64), (56, 32, 76, 48), 21
GREY = (120, 130, 140)  # of hidden pixels


def picture(*, bright: bool) -> Image.Image:
    pixels = np.full((SIZE[1], SIZE[0], 3), 90, np.uint8)
    if bright:
        left, top, right, bottom = SQUARE
        pixels[top:bottom, left:right] = (250, 240, 40)
    return Image.fromarray(pixels)


def captioned(
    folder: Path, place: Path, caption: str | None = None, shown: Image.Image | None = None
) -> CaptionedImage:
    (shown or picture(bright=True)).save(place / "square.png")
    options = CaptionOptions(images=[str(place)], model=str(folder), device="cpu")
    found = captioned_images(
        prepare_captioner(options).load(),
        find_images([place]).images,
        None if caption is None else [caption],
        GenerationSettings(beam=1, max_tokens=6),
        on_skip=pytest.fail,
    )
    return next(iter(found))


def centres(one: CaptionedImage) -> torch.Tensor:
    """[rows, columns, 2]: how far the middle of each cell is from the square's, in pixels."""
    shape, (left, top, right, bottom) = one.shape, SQUARE
    down = (torch.arange(shape.rows) + 0.5) / shape.rows * SIZE[1] - (top + bottom) / 2
    across = (torch.arange(shape.columns) + 0.5) / shape.columns * SIZE[0] - (left + right) / 2
    return torch.stack(torch.meshgrid(down, across, indexing="ij"), dim=-1).abs()


@pytest.mark.parametrize("family", FAMILIES)
def test_maps_lie_on_what_made_the_difference(family: str, twins: Any, tmp_path: Path) -> None:
    one = captioned(twins(family), tmp_path)
    shape, words = one.shape, range(len(one.words))
    cell = torch.tensor([SIZE[1] / shape.rows, SIZE[0] / shape.columns])
    away = centres(one)
    # the blur of grey is grey: hidden pixels change nothing, but where the square and its blur are
    maps = MAP_METHODS.get("pixel-occlusion").maps(one, LayerHead(), words).abs().sum(0)
    far = (away > torch.tensor([8.0, 10.0]) + REACH + cell / 2).any(dim=-1)
    near = (away < torch.tensor([8.0, 10.0]) + cell).all(dim=-1)
    assert maps[far].max() < 1e-3 * maps.max() if far.any() else True
    assert near.flatten()[maps.argmax()]
    # the tokens of these places are what the square changed
    reader = one.reader
    assert reader is not None
    options = CaptionOptions(images=[str(tmp_path)], model=str(twins(family)), device="cpu")
    plain = reader_of(prepare_captioner(options).load()).of(picture(bright=False))[1]
    changed = shape.to_cells((one.grid - plain).norm(dim=-1))[0]
    assert near.flatten()[changed.argmax()]
    for name in ("occlusion", "gradient", "integrated-gradients"):
        maps = MAP_METHODS.get(name).maps(one, LayerHead(), words)
        assert maps.shape == (len(words), shape.rows, shape.columns)
        assert maps.isfinite().all()
        assert maps.abs().max() > 0
    # all cells hidden is the other image
    hidden = torch.zeros(1, shape.rows * shape.columns, dtype=torch.bool)
    everything = torch.cat([~hidden, hidden])
    grids = reader.without_pixels(picture(bright=False))(everything)
    assert torch.allclose(grids[0], one.grid[0], atol=1e-4)
    assert torch.allclose(grids[1], plain[0], atol=1e-4)


@pytest.mark.parametrize("family", ["vit-gpt2", "blip-2", "git", "qwen2-vl", "gemma3"])
def test_scores_are_the_log_probabilities_of_the_words(
    family: str, twins: Any, tmp_path: Path
) -> None:
    one = captioned(twins(family), tmp_path)
    written = captune.caption(tmp_path, model=str(twins(family)), beam=1, max_tokens=6)[0]
    assert one.caption == written.caption
    shown = torch.ones(3, one.shape.rows * one.shape.columns, dtype=torch.bool)
    found = pixel_masking(one).every(shown)
    for row in found:
        assert row.tolist() == pytest.approx(
            [word.log_probability for word in written.words], abs=1e-4
        )


IN_ORDER = {"llava", "llava-next", "qwen2-vl", "qwen2.5-vl", "qwen3-vl"}
IN_ORDER |= {"idefics3", "smolvlm", "internvl"}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_read_once_for_all_masks_changes_nothing(
    family: str, twins: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = captioned(twins(family), tmp_path)
    reader = one.reader
    assert reader is not None
    cells = one.shape.rows * one.shape.columns
    shown = torch.rand(cells + 8, cells, generator=torch.Generator().manual_seed(0)) < 0.8
    shown[:cells] = ~torch.eye(cells, dtype=torch.bool)
    scorer = token_masking(one)
    # one image at once is read from its beginning
    alone = torch.cat([scorer.every(mask[None]) for mask in shown])
    monkeypatch.setattr("captune.attribution.vlm_image._TOKENS_AT_ONCE", 256)
    assert torch.allclose(scorer.every(shown), alone, atol=1e-4)
    assert (alone.std(dim=0) > 1e-3).all()
    assert bool(vars(reader).get("_read")) == (family in IN_ORDER)


@pytest.mark.parametrize("family", ["blip", "llava", "qwen2-vl"])
def test_pixel_occlusion_is_that_of_captum(
    family: str, twins: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an image that is as large as the model sees it; Captum hides pixels before a processor."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    shown = Image.fromarray(noise)
    one = captioned(twins(family), tmp_path, shown=shown)
    reader, shape = one.reader, one.shape
    assert reader is not None
    vlm = reader.vlm
    cells = torch.arange(shape.rows * shape.columns).view(shape.rows, shape.columns)
    high, wide = 32 // shape.rows, 32 // shape.columns
    masked = ImageMaskInput(
        shown,
        cells.repeat_interleave(high, 0).repeat_interleave(wide, 1),
        baseline=GREY,
        processor_fn=lambda image: vlm.collate([vlm.inputs(image, None)]),
    )
    ids, kept = padded([one.ids], vlm.pad_id, vlm.device)

    def scores(present: torch.Tensor) -> torch.Tensor:
        inputs = masked.to_model_input(present)
        said = vlm.logits(inputs, None, reader.prompts, ids, kept).log_softmax(-1)
        chosen = said.gather(1, ids.T)[:, 0]
        return torch.stack([chosen[list(word.steps)].sum() for word in one.words])[None]

    monkeypatch.setattr(masking, "blurred", lambda image: Image.new("RGB", image.size, GREY))
    ours = losses_without_each(pixel_masking(one).every, shape)
    for word in range(len(one.words)):
        with torch.no_grad():
            theirs = FeatureAblation(scores).attribute(masked.to_tensor(), target=word)
        assert torch.allclose(ours[word].flatten(), theirs[0], atol=1e-4)


OFFERED = ("pixel-occlusion", "occlusion", "gradient", "attention", "token-activation")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_guide_says_which_maps_a_family_has(family: str, twins: Any, tmp_path: Path) -> None:
    _, _, table = GUIDE.read_text().partition("<!-- families -->\n")
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    said = dict(zip(rows[0], next(row for row in rows if row[0] == family), strict=True))
    one = captioned(twins(family), tmp_path)
    options = CaptionOptions(images=[str(tmp_path)], model=str(twins(family)), device="cpu")
    model: Any = reader_of(prepare_captioner(options).load())
    for name in OFFERED:
        method, offered = MAP_METHODS.get(name), True
        try:
            layer_heads = method.layer_heads(model)
        except UserError:
            offered = False
        else:
            for layer_head in layer_heads:
                maps = method.maps(one, layer_head, range(len(one.words)))
                assert maps.shape == (len(one.words), one.shape.rows, one.shape.columns)
                assert maps.isfinite().all()
        assert offered == (said[name] == "yes"), name


def test_attention_is_that_of_transformers(twins: Any, tmp_path: Path) -> None:
    for family in ("llava", "vit-gpt2"):
        one = captioned(twins(family), tmp_path)
        reader = one.reader
        assert reader is not None
        model, ids = reader.vlm.model, torch.tensor([one.ids])
        whole = torch.cat([reader.prompts, ids], dim=1)
        model.set_attn_implementation("eager")
        given = {"pixel_values": reader.inputs["pixel_values"], "output_attentions": True}
        with torch.no_grad():
            if family == "llava":
                weights = model(input_ids=whole, **given).attentions
                columns = (whole[0] == model.config.image_token_id).nonzero()[:, 0]
            else:
                weights = model(decoder_input_ids=whole, **given).cross_attentions
                columns = torch.arange(one.shape.tokens)
        found = reader.attention(one.ids)
        assert len(found) == len(weights) == 2
        for own, theirs in zip(found, weights, strict=True):
            steps = theirs[0, :, -len(one.ids) - 1 : -1, columns]
            assert torch.allclose(own, steps, atol=1e-5)


def test_token_activation_is_its_definition(twins: Any, tmp_path: Path) -> None:
    one = captioned(twins("llava"), tmp_path)
    reader = one.reader
    assert reader is not None
    model, prompt = reader.vlm.model, reader.prompts[0].tolist()
    text = [*prompt, *one.ids]
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor([text]),
            pixel_values=reader.inputs["pixel_values"],
            output_hidden_states=True,
        )
        logits = model.lm_head(out.hidden_states[-1])[0].double().numpy()
    mark = model.config.image_token_id
    image = [place for place, id in enumerate(text) if id == mark]
    for step, id in enumerate(one.ids):
        place = len(prompt) + step
        own = np.maximum(logits[image, id], 0)
        before = [p for p in range(place) if text[p] not in (mark, id)]
        weights = np.maximum(logits[before, id], 0)
        maps = [np.maximum(logits[image, text[p]], 0) for p in before]
        shared = sum(w * m for w, m in zip(weights / weights.sum(), maps, strict=True))
        left = np.maximum(own - max(0, own @ shared / (shared @ shared)) * shared, 0)
        cells = one.shape.to_cells(torch.tensor(left)[None])[0].double().numpy()
        wide, wanted = np.pad(cells, 1, mode="reflect"), np.zeros_like(cells)
        for i, j in np.ndindex(cells.shape):
            near = np.sort(wide[i : i + 3, j : j + 3].ravel())
            if near.mean() > 0:
                sigma = max(near.std() / near.mean(), 1e-6)
                kernel = np.exp(-((np.arange(9) - 4) ** 2) / (2 * sigma**2))
                wanted[i, j] = near @ kernel / kernel.sum()
        target = WordTarget((step,), (id,))
        (found,) = MAP_METHODS.get("token-activation").maps_of(one, LayerHead(), [target])
        assert np.allclose(found.numpy(), wanted, atol=1e-4 * max(1.0, wanted.max()))


def test_faithful_measures_the_maps_of_a_model_of_transformers(twins: Any, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    random = np.random.default_rng(1)
    for number in range(8):
        colours = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        colours.resize((64, 48), Image.Resampling.BICUBIC).save(images / f"{number}.png")
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps({str(n): "a red dog runs on the sea" for n in range(8)}))
    found = captune.faithful(
        str(write_twin("llava", tmp_path / "llava")),
        images,
        captions,
        tmp_path / "run",
        minutes=0.01,
        beam=1,
        max_tokens=6,
        device="cpu",
    )
    assert found.captioner["family"] == "llava"
    assert (tmp_path / "llava" / "explain.json").is_file()
    assert any("the last blocks learnt" in sentence for sentence in found.sentences())
    methods = {row.name.method for row in found.leaderboard.screened}
    assert {"attention", "token-activation", "occlusion", "gradient"} <= methods


def test_explains_a_persons_words_and_one_against_another(twins: Any, tmp_path: Path) -> None:
    picture(bright=True).save(tmp_path / "square.png")
    asked = {"model": str(twins("blip")), "caption": "a red dog", "words": "dog", "device": "cpu"}
    found = captune.explain(tmp_path, method="occlusion", out=tmp_path / "run", **asked)
    assert [word.word for word in found[0].words] == ["dog"]
    assert (tmp_path / "run" / "report.html").is_file()
    against = captune.explain(tmp_path, method="occlusion", against="cat", **asked)
    assert not torch.equal(found[0].maps, against[0].maps)
    with pytest.raises(UserError, match="take --method gradient"):
        captune.explain(tmp_path, method="relevance", **asked)
