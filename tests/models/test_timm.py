"""timm's image side: its own pooled vector and its own evaluation transform."""

import json
import shutil

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_model_data_config

from captune.errors import Offline, UserError
from captune.models.load import load_model


@pytest.mark.parametrize("name", ["test_vit.r160_in1k", "test_efficientnet.r160_in1k"])
def test_a_saved_folder_gives_timms_pixels_and_vector(name, make_timm, images):
    own, folder = make_timm(name)
    transform = create_transform(**resolve_model_data_config(own), is_training=False)
    model = load_model(str(folder), device="cpu")
    batch = torch.stack([transform(image) for image in images])
    for image, expected in zip(images, batch, strict=True):
        assert torch.equal(model.image.transform(image), expected)
    with torch.inference_mode():
        expected = own.forward_head(own.forward_features(batch), pre_logits=True)
    torch.testing.assert_close(model.image.encode(batch), expected, atol=1e-5, rtol=1e-5)
    assert model.image.dimension == expected.shape[1]
    assert model.text is None
    assert model.scoring is None


@pytest.mark.parametrize(
    "pixels",
    [
        {"crop_mode": "squash", "interpolation": "bilinear", "crop_pct": 1.0},
        {"crop_mode": "border", "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.3)},
        {"input_size": (3, 96, 64), "crop_pct": 0.8},
    ],
    ids=["squash", "border", "oblong"],
)
def test_every_way_to_crop(pixels, make_timm, images):
    own, folder = make_timm("test_efficientnet.r160_in1k", pretrained_cfg_overlay=pixels)
    transform = create_transform(**resolve_model_data_config(own), is_training=False)
    ours = load_model(str(folder), device="cpu").image.transform
    for image in images:
        assert torch.equal(ours(image), transform(image))


def test_a_name_with_a_file(make_timm, images, tmp_path):
    _, folder = make_timm("test_vit.r160_in1k")
    file = folder / "model.safetensors"
    by_folder = load_model(f"timm:{folder}", device="cpu")
    by_name = load_model(f"timm:test_vit.r160_in1k@{file}", device="cpu")
    pixels = by_folder.image.transform(images[0])[None]
    assert torch.equal(pixels, by_name.image.transform(images[0])[None])
    assert torch.equal(by_folder.image.encode(pixels), by_name.image.encode(pixels))
    assert by_folder.weights_id == by_name.weights_id

    # a classifier for other classes, or none at all, is no obstacle: it is not used
    tensors = load_file(file)
    headless = {k: v for k, v in tensors.items() if not k.startswith("head.")}
    seven = {**tensors, "head.weight": torch.zeros(7, 64), "head.bias": torch.zeros(7)}
    for name, changed in (("headless", headless), ("seven", seven)):
        save_file(changed, tmp_path / f"{name}.safetensors")
        other = load_model(f"timm:test_vit.r160_in1k@{tmp_path / name}.safetensors", device="cpu")
        assert torch.equal(other.image.encode(pixels), by_folder.image.encode(pixels))
    broken = {k: v for k, v in tensors.items() if k != "norm.weight"}
    save_file(broken, tmp_path / "broken.safetensors")
    with pytest.raises(UserError, match=r"not the weights of test_vit\.r160_in1k"):
        load_model(f"timm:test_vit.r160_in1k@{tmp_path / 'broken.safetensors'}", device="cpu")


def test_a_file_needs_the_tag_where_tags_differ(make_timm):
    _, folder = make_timm("test_vit.r160_in1k")
    with pytest.raises(UserError, match="not all prepared alike; write the tag"):
        load_model(f"timm:vit_base_patch16_224@{folder / 'model.safetensors'}", device="cpu")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("timm:resnet5", "did you mean resnet5"),
        ("timm:vit_base_patch16_clip_224.opnai", "did you mean vit_base_patch16_clip_224.openai?"),
        ("timm:timm/resnet50.a1_in1k", "write timm:hf-hub:timm/resnet50.a1_in1k"),
    ],
)
def test_mistyped_names(spec, sentence):
    with pytest.raises(UserError) as refused:
        load_model(spec, device="cpu")
    assert sentence in str(refused.value)


def test_a_name_that_is_not_cached_is_refused_offline():
    with pytest.raises(Offline, match="captune models fetch timm:test_vit"):
        load_model("timm:test_vit", device="cpu")


def test_folders_that_do_not_say_enough_are_refused(make_timm, tmp_path):
    _, whole = make_timm("test_vit.r160_in1k")
    stated = json.loads((whole / "config.json").read_text())
    for key in ("mean", "std", "input_size", "interpolation", "crop_pct"):
        place = tmp_path / key
        shutil.copytree(whole, place)
        pixels = {k: v for k, v in stated["pretrained_cfg"].items() if k != key}
        (place / "config.json").write_text(json.dumps({**stated, "pretrained_cfg": pixels}))
        with pytest.raises(UserError, match=f"does not say {key}, and a default would be a guess"):
            load_model(str(place), device="cpu")
    (tmp_path / "mean" / "config.json").write_text(json.dumps({**stated, "architecture": "vit_x"}))
    with pytest.raises(UserError, match="timm has no model 'vit_x'"):
        load_model(str(tmp_path / "mean"), device="cpu")
    (tmp_path / "std" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no weights"):
        load_model(str(tmp_path / "std"), device="cpu")


def test_a_config_of_another_size_is_refused(make_timm):
    _, folder = make_timm("vit_tiny_patch16_224", depth=1, embed_dim=24, num_heads=3)
    config = folder / "config.json"
    about = json.loads(config.read_text())
    about["pretrained_cfg"]["input_size"] = [3, 64, 96]
    about["pretrained_cfg"]["fixed_input_size"] = False
    config.write_text(json.dumps(about))
    with pytest.raises(UserError, match="does not take images of 96 x 64 pixels"):
        load_model(f"timm:{folder}", device="cpu")


def test_a_pickled_folder(make_timm, images, caplog):
    _, safe = make_timm("test_vit.r160_in1k")
    _, pickled = make_timm("test_vit.r160_in1k", safe=False)
    with caplog.at_level("WARNING", "captune"):
        model = load_model(str(pickled), device="cpu")
    assert caplog.text.count("weights_only=True") == 1
    assert model.weights_id == load_model(str(safe), device="cpu").weights_id


def test_the_test_models_are_still_there():
    assert timm.is_model("test_vit")
    assert timm.is_model("test_efficientnet")
