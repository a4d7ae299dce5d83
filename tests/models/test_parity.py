"""The same weights give the same logits here and in the library that wrote them."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2

from captune.models.load import load_model

TEXTS = ["a photo of a cat", "the red house", "dog", "a photo of the blue sea " * 30]
OPEN_CLIP_TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
SIGLIP_STYLE = {
    "custom_text": True,
    "embed_dim": 24,
    "init_logit_bias": -10,
    "vision_cfg": OPEN_CLIP_TINY["vision_cfg"],
    "text_cfg": {
        "context_length": 64,
        "vocab_size": 13,
        "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 32,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    },
}
CLIP_PIXELS = {
    "mean": open_clip.OPENAI_DATASET_MEAN,
    "std": open_clip.OPENAI_DATASET_STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
SIGLIP_PIXELS = {
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "interpolation": "bicubic",
    "resize_mode": "squash",
}


def ours(model, images):
    pixels = torch.stack([model.image.transform(image) for image in images])
    return model.logits(model.image.encode(pixels).numpy(), model.text.encode(TEXTS).numpy())


@pytest.mark.parametrize("layout", ["clip", "siglip", "siglip2"])
def test_logits_equal_transformers(layout, request, images):
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    folder = request.getfixturevalue(f"{layout}_folder")
    own = AutoModel.from_pretrained(folder).eval()
    padding = True if layout == "clip" else "max_length"
    length = 77 if layout == "clip" else 64
    tokens = AutoTokenizer.from_pretrained(folder)(
        TEXTS, return_tensors="pt", padding=padding, truncation=True, max_length=length
    )
    pixels = AutoImageProcessor.from_pretrained(folder)(images=images, return_tensors="pt")
    with torch.inference_mode():
        expected = own(**tokens, **pixels).logits_per_image.numpy()

    model = load_model(f"hf:{folder}", device="cpu")

    np.testing.assert_allclose(ours(model, images), expected, atol=1e-4)
    assert model.scoring.activation == ("softmax" if layout == "clip" else "sigmoid")
    assert model.scoring.logit_scale == pytest.approx(np.exp(3.21), rel=1e-6)
    assert model.scoring.logit_bias == pytest.approx(0.0 if layout == "clip" else -5.4)
    assert model.image.dimension == model.text.dimension == (24 if layout == "clip" else 48)


@pytest.mark.parametrize("layout", ["clip", "siglip"])
def test_pixels_equal_transformers_to_the_bit(layout, request, images):
    from transformers import AutoImageProcessor

    folder = request.getfixturevalue(f"{layout}_folder")
    processor = AutoImageProcessor.from_pretrained(folder)
    transform = load_model(str(folder), device="cpu").image.transform
    assert type(transform).__name__ == "_Steps"  # not the processor itself: that one is slow
    for image in images:
        own = processor(images=image, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(transform(image), own)


@pytest.mark.parametrize(
    ("config", "pixels"),
    [
        (OPEN_CLIP_TINY, CLIP_PIXELS),
        ({**OPEN_CLIP_TINY, "quick_gelu": True}, CLIP_PIXELS),
        (SIGLIP_STYLE, SIGLIP_PIXELS),
    ],
    ids=["clip", "quickgelu", "siglip"],
)
def test_logits_and_pixels_equal_open_clip(config, pixels, make_open_clip, word_tokenizer, images):
    is_siglip = config is SIGLIP_STYLE
    own, folder = make_open_clip(config, pixels, word_tokenizer if is_siglip else None)
    # open_clip's own way to load that folder, its preprocessing and its tokenizer
    again, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    batch = torch.stack([preprocess(image) for image in images])
    with torch.inference_mode():
        expected = own.get_logits(batch, tokens)[0].numpy()
        np.testing.assert_allclose(again.eval().get_logits(batch, tokens)[0].numpy(), expected)

    model = load_model(str(folder), device="cpu")

    np.testing.assert_allclose(ours(model, images), expected, atol=1e-4)
    for image, own_pixels in zip(images, batch, strict=True):
        assert torch.equal(model.image.transform(image), own_pixels)
    assert model.scoring.activation == ("sigmoid" if is_siglip else "softmax")
    assert model.scoring.logit_bias == pytest.approx(-5.4 if is_siglip else 0.0)


def test_transformers_and_open_clip_prepare_a_clip_image_almost_alike(clip_folder, images):
    """One resizes tensors, one pictures, and they round an odd crop apart (docs/models.md)."""
    transform = load_model(str(clip_folder), device="cpu").image.transform
    other = image_transform_v2(PreprocessCfg(size=32, **CLIP_PIXELS), is_train=False)
    one_level = 1 / 255 / min(CLIP_PIXELS["std"])
    for image in images[1:3]:  # the remainder beside the crop is even
        difference = (transform(image) - other(image)).abs().max().item()
        assert difference <= one_level * 1.01
    wide = images[0]  # 51 x 32 before the crop: 9 columns left of it here, 10 there
    shifted = (transform(wide)[:, :, 1:] - other(wide)[:, :, :-1]).abs().max().item()
    assert shifted <= one_level * 1.01


@pytest.fixture
def folders(clip_folder, siglip2_folder, make_open_clip, word_tokenizer):
    """One folder of each loader that has a text side."""
    _, softmax = make_open_clip(OPEN_CLIP_TINY, CLIP_PIXELS)
    _, sigmoid = make_open_clip(SIGLIP_STYLE, SIGLIP_PIXELS, word_tokenizer)
    return clip_folder, siglip2_folder, softmax, sigmoid


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 0.1), ("bfloat16", 1.0)])
def test_half_precision_stays_close(dtype, tolerance, folders, images):
    for folder in folders:
        exact = load_model(str(folder), device="cpu")
        half = load_model(str(folder), device="cpu", dtype=dtype)
        assert np.abs(ours(half, images) - ours(exact, images)).max() < tolerance
        assert half.scoring == exact.scoring  # read before the weights were rounded


@pytest.mark.needs("gpu")
def test_a_gpu_is_taken_in_half_precision(folders, images):
    for folder in folders:
        exact, gpu = load_model(str(folder), device="cpu"), load_model(str(folder))
        assert (gpu.image.device.type, gpu.image.dtype) == ("cuda", torch.float16)
        assert np.abs(ours(gpu, images) - ours(exact, images)).max() < 0.1


def test_transforms_are_safe_in_threads(folders, images):
    for folder in folders:
        transform = load_model(str(folder), device="cpu").image.transform
        alone = [transform(image) for image in images]
        with ThreadPoolExecutor(8) as pool:
            for _ in range(5):
                assert all(map(torch.equal, pool.map(transform, images), alone))


def test_a_batch_of_one_equals_a_batch_of_many(siglip2_folder, clip_folder, images):
    for folder in (siglip2_folder, clip_folder):
        model = load_model(str(folder), device="cpu")
        together = ours(model, images)
        apart = np.concatenate([ours(model, [image]) for image in images])
        np.testing.assert_allclose(apart, together, atol=1e-4)
        alone = np.stack([model.text.encode([text]).numpy()[0] for text in TEXTS])
        np.testing.assert_allclose(alone, model.text.encode(TEXTS).numpy(), atol=1e-5)
