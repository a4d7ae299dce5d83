"""Patch grids equal the libraries' own last features, of whole images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from tests.models.test_parity import CLIP_PIXELS, OPEN_CLIP_TINY, SIGLIP_PIXELS, SIGLIP_STYLE

from captune.errors import UserError
from captune.models.encoders import GridShape
from captune.models.lite import backbones
from captune.models.lite.backbones import EfficientNetLite2
from captune.models.load import load_model

ASSIGNMENT = "vit_large_patch14_clip_336.openai_ft_in12k_in1k"


def check(encoder: Any, images: list[Image.Image], expected: Any, size: tuple[int, int]) -> None:
    """The grid of whole images equals `expected(pixels)` [n, tokens, channels]."""
    pixels = torch.stack([encoder.whole(image) for image in images])
    assert pixels.shape[2:] == size
    assert pixels.dtype == torch.float32
    cached = encoder.encode_grid(pixels)
    assert cached.dtype == torch.float16
    assert cached.device.type == "cpu"
    assert cached.shape[1:] == encoder.patches.cached_shape
    grid = encoder.finish_grid(cached)
    shape = encoder.patches.shape
    assert grid.dtype == encoder.dtype
    assert grid.shape == (len(images), shape.tokens, shape.channels)
    assert shape.tokens == shape.leading + shape.rows * shape.columns
    with torch.inference_mode():
        own = expected(pixels)
    assert (grid - own).norm() < 1e-3 * own.norm()  # float16 in between
    with torch.inference_mode():
        exact = encoder.patches.finish(encoder.patches.encode(pixels))
    torch.testing.assert_close(exact, own, atol=1e-4, rtol=1e-4)


def squashed(image: Image.Image, size: tuple[int, int], mean: Any, std: Any) -> torch.Tensor:
    """All of an image, bicubic by Pillow: the definition, written out once more."""
    resized = image.resize(size[::-1], Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(resized).transpose(2, 0, 1).copy()).float() / 255
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


# -- timm ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("test_vit.r160_in1k", {}, GridShape(101, 64, 10, 10, 1)),
        ("test_efficientnet.r160_in1k", {}, GridShape(25, 256, 5, 5)),
        (
            "vit_tiny_patch16_224",
            {"depth": 2, "embed_dim": 48, "reg_tokens": 4, "img_size": 64},
            GridShape(21, 48, 4, 4, 5),
        ),
        (
            "swin_tiny_patch4_window7_224",
            {"depths": (1, 1), "num_heads": (2, 2), "embed_dim": 16, "img_size": 112},
            GridShape(196, 32, 14, 14),
        ),
    ],
    ids=["vit", "efficientnet", "registers", "channels last"],
)
def test_timm(
    name: str, options: dict[str, Any], shape: GridShape, make_timm: Any, images: Any
) -> None:
    own, folder = make_timm(name, **options)
    encoder = load_model(f"timm:{folder}", device="cpu").image
    assert encoder.patches.shape == shape

    def expected(pixels: torch.Tensor) -> torch.Tensor:
        features = own.forward_features(pixels)
        if features.ndim == 3:
            return features
        as_map = features if own.__class__.__name__ != "SwinTransformer" else None
        return features.flatten(1, 2) if as_map is None else as_map.flatten(2).mT

    size = tuple(own.pretrained_cfg["input_size"][1:])
    if "img_size" in options:
        size = (options["img_size"],) * 2
    settings = own.pretrained_cfg
    check(encoder, images, expected, size)
    for image in images[:2]:
        if settings["interpolation"] == "bicubic":
            wanted = squashed(image, size, settings["mean"], settings["std"])
            torch.testing.assert_close(encoder.whole(image), wanted)
    assert encoder.patches.preprocessing_id != encoder.preprocessing_id


def test_the_assignments_encoder_has_its_shape() -> None:
    """By timm's own list, without its 1.2 GB: the layout of the named entry."""
    from captune.models.backends.timm import grid_shape_of

    with torch.device("meta"):
        model = timm.create_model(ASSIGNMENT.partition(".")[0], num_classes=0)
        features = model.forward_features(torch.zeros(1, 3, 336, 336))
    assert grid_shape_of(model, features) == GridShape(577, 1024, 24, 24, 1)
    assert timm.get_pretrained_cfg(ASSIGNMENT).input_size == (3, 336, 336)


def test_features_that_are_no_grid_are_refused(make_timm: Any, images: Any) -> None:
    _, folder = make_timm("pit_ti_224", depth=(1, 1, 1), base_dims=(8, 8, 8), heads=(1, 1, 1))
    encoder = load_model(f"timm:{folder}", device="cpu").image
    assert encoder.patches is None
    for use in (lambda: encoder.whole(images[0]), lambda: encoder.encode_grid(torch.zeros(1))):
        with pytest.raises(UserError, match="no patch grid of a fixed shape"):
            use()


# -- open_clip -------------------------------------------------------------------------------------


def _tokens(visual: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The tower step by step: CLS and patches after the last block and the last norm."""
    tokens = visual.ln_post(visual.transformer(visual._embeds(pixels)))
    pooled = tokens[:, 0] @ visual.proj
    torch.testing.assert_close(pooled, visual(pixels), atol=1e-5, rtol=1e-4)
    return tokens


@pytest.mark.parametrize(
    ("config", "pixels"),
    [(OPEN_CLIP_TINY, CLIP_PIXELS), (SIGLIP_STYLE, SIGLIP_PIXELS)],
    ids=["clip", "custom text"],
)
def test_open_clip(
    config: Any, pixels: Any, make_open_clip: Any, word_tokenizer: Any, images: Any
) -> None:
    own, folder = make_open_clip(config, pixels, word_tokenizer if config is SIGLIP_STYLE else None)
    encoder = load_model(f"open_clip:{folder}", device="cpu").image
    assert encoder.patches.shape == GridShape(17, 64, 4, 4, 1)
    check(encoder, images, lambda batch: _tokens(own.visual, batch), (32, 32))
    for image in images:
        wanted = squashed(image, (32, 32), pixels["mean"], pixels["std"])
        torch.testing.assert_close(encoder.whole(image), wanted)


def test_open_clips_other_towers(make_open_clip: Any, images: Any) -> None:
    text = OPEN_CLIP_TINY["text_cfg"]
    resnet = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}
    own, folder = make_open_clip(
        {"embed_dim": 24, "vision_cfg": resnet, "text_cfg": text}, CLIP_PIXELS
    )
    encoder = load_model(f"open_clip:{folder}", device="cpu").image
    seen: list[torch.Tensor] = []
    own.visual.attnpool.register_forward_pre_hook(lambda _m, given: seen.append(given[0]))

    def expected(pixels: torch.Tensor) -> torch.Tensor:
        own.encode_image(pixels)
        return seen[-1].flatten(2).mT

    check(encoder, images, expected, (64, 64))
    assert encoder.patches.shape == GridShape(4, 256, 2, 2)

    averaged = {**OPEN_CLIP_TINY["vision_cfg"], "pool_type": "avg", "final_ln_after_pool": True}
    own, folder = make_open_clip({**OPEN_CLIP_TINY, "vision_cfg": averaged}, CLIP_PIXELS)
    encoder = load_model(f"open_clip:{folder}", device="cpu").image
    tower = own.visual
    # ln_post never saw a token, so tokens do not see it
    check(encoder, images, lambda batch: tower.transformer(tower._embeds(batch)), (32, 32))

    trunk = {
        "timm_model_name": "test_vit",
        "timm_pool": "map",
        "timm_proj": "none",
        "image_size": 160,
    }
    for name, shape in (
        ("test_vit", GridShape(101, 64, 10, 10, 1)),
        ("test_efficientnet", GridShape(25, 256, 5, 5)),
    ):
        trunk = {"timm_model_name": name, "timm_pool": "avg", "timm_proj": "linear"}
        own, folder = make_open_clip(
            {"embed_dim": 24, "vision_cfg": {**trunk, "image_size": 160}, "text_cfg": text},
            CLIP_PIXELS,
        )
        encoder = load_model(f"open_clip:{folder}", device="cpu").image
        assert encoder.patches.shape == shape

        def features(pixels: torch.Tensor, trunk: Any = own.visual.trunk) -> torch.Tensor:
            found = trunk.forward_features(pixels)
            return found if found.ndim == 3 else found.flatten(2).mT

        check(encoder, images[:2], features, (160, 160))


# -- transformers ----------------------------------------------------------------------------------


def test_hugging_face_clip_applies_the_last_norm_to_all_tokens(
    clip_folder: Path, images: Any
) -> None:
    from transformers import CLIPModel

    own = CLIPModel.from_pretrained(clip_folder).eval()
    encoder = load_model(f"hf:{clip_folder}", device="cpu").image
    assert encoder.patches.shape == GridShape(17, 48, 4, 4, 1)

    def expected(pixels: torch.Tensor) -> torch.Tensor:
        out = own.vision_model(pixel_values=pixels)
        tokens = own.vision_model.post_layernorm(out.last_hidden_state)
        torch.testing.assert_close(tokens[:, 0], out.pooler_output)
        return tokens

    check(encoder, images, expected, (32, 32))


def test_the_same_clip_weights_give_the_same_grid_by_open_clip(
    clip_folder: Path, images: Any
) -> None:
    from open_clip.transformer import QuickGELU, VisionTransformer
    from transformers import CLIPModel

    from captune.models.backends.open_clip import patches_of

    own = CLIPModel.from_pretrained(clip_folder).vision_model.state_dict()
    tower = VisionTransformer(
        image_size=32,
        patch_size=8,
        width=48,
        layers=2,
        heads=2,
        mlp_ratio=64 / 48,
        output_dim=24,
        act_layer=QuickGELU,
    ).eval()
    names = {
        "class_embedding": "embeddings.class_embedding",
        "positional_embedding": "embeddings.position_embedding.weight",
        "conv1.weight": "embeddings.patch_embedding.weight",
    }
    pairs = {"ln_pre": "pre_layrnorm", "ln_post": "post_layernorm"}
    state = {"proj": torch.zeros(48, 24)}
    for block in range(2):
        theirs, ours = f"transformer.resblocks.{block}", f"encoder.layers.{block}"
        pairs |= {
            f"{theirs}.ln_1": f"{ours}.layer_norm1",
            f"{theirs}.ln_2": f"{ours}.layer_norm2",
            f"{theirs}.attn.out_proj": f"{ours}.self_attn.out_proj",
            f"{theirs}.mlp.c_fc": f"{ours}.mlp.fc1",
            f"{theirs}.mlp.c_proj": f"{ours}.mlp.fc2",
        }
        for kind in ("weight", "bias"):
            parts = [own[f"{ours}.self_attn.{name}_proj.{kind}"] for name in "qkv"]
            state[f"{theirs}.attn.in_proj_{kind}"] = torch.cat(parts)
    names |= {f"{a}.{kind}": f"{b}.{kind}" for a, b in pairs.items() for kind in ("weight", "bias")}
    tower.load_state_dict(state | {theirs: own[ours] for theirs, ours in names.items()})
    encoder = load_model(f"hf:{clip_folder}", device="cpu").image
    assert encoder.patches is not None
    other = patches_of(tower, encoder.whole, "", "")
    assert other is not None
    assert other.shape == encoder.patches.shape
    pixels = torch.stack([encoder.whole(image) for image in images])
    with torch.inference_mode():
        torch.testing.assert_close(
            other.encode(pixels), encoder.patches.encode(pixels), atol=1e-5, rtol=1e-4
        )


def test_hugging_face_siglip_has_applied_it_already(siglip_folder: Path, images: Any) -> None:
    from transformers import SiglipModel

    own = SiglipModel.from_pretrained(siglip_folder).eval()
    encoder = load_model(f"hf:{siglip_folder}", device="cpu").image
    assert encoder.patches.shape == GridShape(16, 48, 4, 4)
    check(
        encoder,
        images,
        lambda pixels: own.vision_model(pixel_values=pixels).last_hidden_state,
        (32, 32),
    )


def test_a_whole_image_is_the_processors_but_for_the_crop(clip_folder: Path, images: Any) -> None:
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(clip_folder)
    encoder = load_model(f"hf:{clip_folder}", device="cpu").image
    for image in images:
        own = processor(
            images=image,
            size={"height": 32, "width": 32},
            do_center_crop=False,
            return_tensors="pt",
        )["pixel_values"][0]
        assert torch.equal(encoder.whole(image), own)
    square = images[2]
    assert square.width == square.height
    assert torch.equal(encoder.whole(square), encoder.transform(square))


def test_a_tower_with_as_many_patches_as_the_image_asks_for_has_no_grid(
    siglip2_folder: Path,
) -> None:
    assert load_model(f"hf:{siglip2_folder}", device="cpu").image.patches is None


# -- lite ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> EfficientNetLite2:
    torch.manual_seed(0)
    made = EfficientNetLite2().eval().requires_grad_(False)
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(0, 0.1)
    return made


def test_lite_keeps_352_channels_and_shows_1280(network: EfficientNetLite2, images: Any) -> None:
    patches = backbones.grid_of(network, torch.nn.Identity())
    assert patches.shape == GridShape(81, 1280, 9, 9)
    assert patches.cached_shape == (81, 352)
    pixels = torch.stack([patches.transform(image) for image in images[:2]])
    with torch.inference_mode():
        cached = patches.encode(pixels)
        grid = patches.finish(cached)
        by_place = network.patch_grid(pixels)
        torch.testing.assert_close(cached[:, 9 * 2 + 5], by_place[:, :, 2, 5])
        convolved = torch.nn.functional.relu6(network.head(by_place))
        torch.testing.assert_close(grid[:, 9 * 2 + 5], convolved[:, :, 2, 5])
        torch.testing.assert_close(grid.mean(1), network(pixels), atol=1e-5, rtol=1e-4)
    assert grid.std() > 0
    for image in images:
        wanted = squashed(image, (260, 260), (0.5,) * 3, (0.5,) * 3)
        assert torch.allclose(patches.transform(image), wanted, atol=1e-6)
    assert backbones.WHOLE_PREPROCESSING_ID != backbones.PREPROCESSING_ID


@pytest.mark.needs("lite")
def test_lites_grid_outlives_another_alignment(images: Any) -> None:
    encoder = load_model("lite", device="cpu").image
    assert encoder.patches.shape == GridShape(81, 1280, 9, 9)
    assert encoder.patches is not None
    assert encoder.patches.weights_id != encoder.weights_id
    pixels = torch.stack([encoder.whole(image) for image in images[:2]])
    grid = encoder.finish_grid(encoder.encode_grid(pixels))
    with torch.inference_mode():
        pooled = encoder.module.backbone(pixels)
    assert (grid.mean(1) - pooled).norm() < 2e-3 * pooled.norm()


def test_half_precision_stays_close(clip_folder: Path, images: Any) -> None:
    exact = load_model(f"hf:{clip_folder}", device="cpu").image
    half = load_model(f"hf:{clip_folder}", device="cpu", dtype="bfloat16").image
    pixels = torch.stack([exact.whole(image) for image in images])
    ours, other = half.encode_grid(pixels).float(), exact.encode_grid(pixels).float()
    assert (ours - other).norm() < 0.05 * other.norm()
    assert half.finish_grid(half.encode_grid(pixels)).dtype == torch.bfloat16


def test_mirrored_is_the_mean_of_both_with_places_kept(make_timm: Any, images: Any) -> None:
    """CLS and registers stand for no place, so they are not turned."""
    _, folder = make_timm("vit_tiny_patch16_224", depth=2, embed_dim=48, reg_tokens=4, img_size=64)
    plain = load_model(f"timm:{folder}", device="cpu")
    both = load_model(f"timm:{folder}+mirrored", device="cpu")
    assert both.spec == f"timm:{folder}+mirrored"
    assert both.weights_id == plain.weights_id
    assert both.image.preprocessing_id != plain.image.preprocessing_id
    assert both.image.patches.preprocessing_id != plain.image.patches.preprocessing_id
    pixels = torch.stack([plain.image.whole(image) for image in images])
    seen, turned = (plain.image.encode_grid(one).float() for one in (pixels, pixels.flip(-1)))
    cells = turned[:, 5:].view(-1, 4, 4, 48).flip(2).flatten(1, 2)
    expected = (seen + torch.cat([turned[:, :5], cells], dim=1)) / 2
    grid = both.image.finish_grid(both.image.encode_grid(pixels))
    torch.testing.assert_close(grid, expected)
    # a mirrored image gives the mirrored grid
    again = both.image.finish_grid(both.image.encode_grid(pixels.flip(-1)))
    torch.testing.assert_close(again[:, both.image.patches.shape.turned], grid)
    square = pixels.expand(len(pixels), 3, 64, 64)
    pooled = (plain.image.encode(square) + plain.image.encode(square.flip(-1))) / 2
    torch.testing.assert_close(both.image.encode(square), pooled)
