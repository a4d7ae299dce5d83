"""Tags, folders and files of open_clip: what decides the activation, and what is refused."""

import json
import logging
import shutil
import sys

import numpy as np
import open_clip
import pytest
import torch
from open_clip import pretrained as pretrained_list
from safetensors.torch import load_file, save_file

from captune.errors import MissingExtra, Offline, UserError
from captune.models import hub
from captune.models.load import fetch_model, load_model

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
PIXELS = {
    "mean": open_clip.OPENAI_DATASET_MEAN,
    "std": open_clip.OPENAI_DATASET_STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
TEXTS = ["a photo of a cat", "the red house"]


@pytest.fixture
def listed(tmp_path, monkeypatch, make_open_clip):
    """`Tiny-ViT` in open_clip's list: `openai` trained with QuickGELU, `laion` without."""
    from open_clip import factory

    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "Tiny-ViT.json").write_text(json.dumps(TINY))
    monkeypatch.setitem(factory._MODEL_CONFIGS, "Tiny-ViT", TINY)
    trained, folder = make_open_clip({**TINY, "quick_gelu": True}, PIXELS)
    file = folder / "open_clip_model.safetensors"
    tags = {
        "openai": {
            **PIXELS,
            "quick_gelu": True,
            "hf_hub": "org/tiny/",
            "url": "",
            "file": str(file),
        },
        "laion": {**PIXELS, "hf_hub": "org/tiny-laion/", "url": ""},
        "squashed": {**PIXELS, "resize_mode": "squash", "interpolation": "bilinear"},
    }
    monkeypatch.setitem(pretrained_list._PRETRAINED, "Tiny-ViT", tags)
    return trained, file


def features(model, image):
    return model.image.encode(model.image.transform(image)[None]), model.text.encode(TEXTS)


def test_the_tag_decides_the_activation_where_open_clip_only_warns(listed, images):
    trained, file = listed
    model = load_model(f"open_clip:Tiny-ViT/openai@{file}", device="cpu")
    image, text = features(model, images[0])
    tokens = open_clip.tokenize(TEXTS)
    with torch.inference_mode():
        expected = trained.encode_image(model.image.transform(images[0])[None])
        torch.testing.assert_close(image, expected)
        torch.testing.assert_close(text, trained.encode_text(tokens))

    # open_clip itself: the same tag, the same file, another activation
    with pytest.warns(UserWarning, match="QuickGELU mismatch"):
        naive = open_clip.create_model("Tiny-ViT", pretrained="openai").eval()
    with torch.inference_mode():
        wrong = naive.encode_image(model.image.transform(images[0])[None])
    assert (wrong - expected).abs().max() > 1e-3


def test_other_tags_keep_gelu_and_get_another_cache_key(listed, images):
    _, file = listed
    quick = load_model(f"open_clip:Tiny-ViT/openai@{file}", device="cpu")
    plain = load_model(f"open_clip:Tiny-ViT/laion@{file}", device="cpu")
    assert (features(quick, images[0])[0] - features(plain, images[0])[0]).abs().max() > 1e-3
    # one set of weights, two models: their features may never share a cache entry
    assert quick.weights_id == plain.weights_id
    assert quick.image.weights_id != plain.image.weights_id
    assert quick.text.text_id != plain.text.text_id
    assert quick.image.preprocessing_id == plain.image.preprocessing_id


def test_the_tag_decides_the_preprocessing(listed, images):
    _, file = listed
    model = load_model(f"open_clip:Tiny-ViT/squashed@{file}", device="cpu")
    plain = load_model(f"open_clip:Tiny-ViT/laion@{file}", device="cpu")
    assert model.image.preprocessing_id != plain.image.preprocessing_id
    wide = images[0]
    squashed = wide.resize((32, 32), 2)
    expected = np.asarray(squashed).transpose(2, 0, 1) / 255 - np.reshape(PIXELS["mean"], (3, 1, 1))
    expected /= np.reshape(PIXELS["std"], (3, 1, 1))
    np.testing.assert_allclose(model.image.transform(wide).numpy(), expected, atol=1e-6)


def test_every_listed_tag_states_its_preprocessing_and_a_repository():
    for name, tag in open_clip.list_pretrained():
        entry = open_clip.get_pretrained_cfg(name, tag)
        assert {"mean", "std", "interpolation", "resize_mode"} <= entry.keys()
        assert entry["hf_hub"], (name, tag)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("open_clip:ViT-B-32/opnai", "did you mean openai?"),
        ("open_clip:ViT-B32/openai", "did you mean ViT-B-32/openai?"),
        ("open_clip:vit-b-32/openai", "did you mean ViT-B-32/openai?"),
        ("open_clip:ViT-B-32", "weights not named; write one of its tags (open_clip:ViT-B-32/TAG"),
        ("open_clip:ViT-Z", "open_clip has no model 'ViT-Z'"),
        ("open_clip:mini", "a model of yours is a folder that holds open_clip_config.json"),
    ],
)
def test_mistyped_names(spec, sentence):
    with pytest.raises(UserError) as refused:
        load_model(spec, device="cpu")
    assert sentence in str(refused.value)


def test_a_tag_that_is_not_cached_is_refused_offline():
    with pytest.raises(Offline) as refused:
        load_model("open_clip:ViT-B-32/openai", device="cpu")
    message = str(refused.value)
    assert "captune models fetch open_clip:ViT-B-32/openai" in message
    assert "--from FOLDER" in message


def test_a_tags_tokenizer_is_a_repository_of_its_own(
    make_open_clip, word_tokenizer, monkeypatch, images
):
    from open_clip import factory

    text = {**TINY["text_cfg"], "vocab_size": 13, "context_length": 64}
    config = {**TINY, "text_cfg": {**text, "hf_tokenizer_name": "org/tokenizer"}}
    monkeypatch.setitem(factory._MODEL_CONFIGS, "Tiny-SigLIP", config)
    monkeypatch.setitem(
        pretrained_list._PRETRAINED, "Tiny-SigLIP", {"webli": {**PIXELS, "hf_hub": "org/tiny/"}}
    )
    _, folder = make_open_clip(config, PIXELS, word_tokenizer)
    file = folder / "open_clip_model.safetensors"
    with pytest.raises(Offline, match="org/tokenizer is not in a cache here"):
        load_model(f"open_clip:Tiny-SigLIP/webli@{file}", device="cpu")
    places = fetch_model("open_clip:Tiny-SigLIP/webli", folder)
    assert [place.name for place in places] == ["org--tiny", "org--tokenizer"]
    model = load_model("open_clip:Tiny-SigLIP/webli", device="cpu")
    assert model.text.tokenize(["a cat"])["text"].shape == (1, 64)
    assert torch.equal(
        features(model, images[0])[1], features(load_model(str(folder), device="cpu"), images[0])[1]
    )


def test_a_text_side_of_transformers(make_open_clip, word_tokenizer, tmp_path, images):
    from transformers import RobertaConfig

    tower = tmp_path / "roberta"
    RobertaConfig(
        vocab_size=13,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=80,
        pad_token_id=0,
    ).save_pretrained(tower)
    text = {
        "hf_tokenizer_name": "org/tower",
        "hf_proj_type": "mlp",
        "hf_pooler_type": "mean_pooler",
    }
    text |= {"hf_model_name": str(tower), "hf_model_pretrained": False, "context_length": 40}
    config = {"custom_text": True, **TINY, "text_cfg": text}
    saved = {**config, "text_cfg": {**text, "hf_model_name": "org/tower"}}
    own, folder = make_open_clip(config, PIXELS, word_tokenizer, saved_config=saved)
    with pytest.raises(Offline, match="org/tower is not in a cache here"):
        load_model(str(folder), device="cpu")
    hub.adopt("org/tower", tower, list)
    model = load_model(str(folder), device="cpu")
    tokens = model.text.tokenize(TEXTS)["text"]
    assert tokens.shape == (2, 40)
    with torch.inference_mode():
        torch.testing.assert_close(model.text.encode(TEXTS), own.encode_text(tokens))


def test_weights_of_another_model_are_refused(listed, tmp_path):
    _, file = listed
    tensors = load_file(file)
    cases = {
        "missing": {k: v for k, v in tensors.items() if k != "visual.proj"},
        "extra": {**tensors, "visual.more": torch.zeros(1)},
        "shape": {**tensors, "ln_final.weight": torch.zeros(7)},
    }
    for name, changed in cases.items():
        save_file(changed, tmp_path / f"{name}.safetensors")
        with pytest.raises(UserError, match="not the weights of Tiny-ViT"):
            load_model(f"open_clip:Tiny-ViT/openai@{tmp_path / name}.safetensors", device="cpu")
    positions = tensors["visual.positional_embedding"]
    other = {**tensors, "visual.positional_embedding": positions.repeat(2, 1)[:26]}
    save_file(other, tmp_path / "resized.safetensors")
    with pytest.raises(UserError, match="another resolution"):
        load_model(f"open_clip:Tiny-ViT/openai@{tmp_path / 'resized.safetensors'}", device="cpu")


def test_a_pickle_gives_the_same_model_and_says_so(make_open_clip, images, caplog):
    _, folder = make_open_clip(TINY, PIXELS)
    safe = load_model(str(folder), device="cpu")
    (folder / "open_clip_model.safetensors").unlink()
    with caplog.at_level(logging.WARNING, "captune"):
        pickled = load_model(str(folder), device="cpu")
    assert "weights_only=True" in caplog.text
    assert len(caplog.records) == 1
    assert pickled.weights_id == safe.weights_id
    assert torch.equal(features(pickled, images[0])[0], features(safe, images[0])[0])


def test_folders_that_do_not_say_enough_are_refused(make_open_clip, tmp_path):
    _, whole = make_open_clip(TINY, PIXELS)
    stated = json.loads((whole / "open_clip_config.json").read_text())

    def folder(name, config, *without):
        place = tmp_path / name
        shutil.copytree(whole, place)
        (place / "open_clip_config.json").write_text(json.dumps(config))
        for file in without:
            (place / file).unlink()
        return f"open_clip:{place}"

    no_pixels = folder("no-pixels", {"model_cfg": stated["model_cfg"]})
    with pytest.raises(UserError, match="preprocess_cfg with mean and std"):
        load_model(no_pixels, device="cpu")
    no_weights = folder(
        "no-weights", stated, "open_clip_model.safetensors", "open_clip_pytorch_model.bin"
    )
    with pytest.raises(UserError, match="has no weights"):
        load_model(no_weights, device="cpu")
    no_config = folder("no-config", stated, "open_clip_config.json")
    with pytest.raises(UserError, match=r"has no open_clip_config\.json"):
        load_model(no_config, device="cpu")
    text = {**stated["model_cfg"]["text_cfg"], "hf_tokenizer_name": "org/tokenizer"}
    no_tokenizer = folder(
        "no-tokenizer", {**stated, "model_cfg": {**stated["model_cfg"], "text_cfg": text}}
    )
    with pytest.raises(UserError, match="has no tokenizer"):
        load_model(no_tokenizer, device="cpu")
    text = {**stated["model_cfg"]["text_cfg"], "hf_model_name": "roberta-base"}
    other_tower = folder(
        "other-tower", {**stated, "model_cfg": {**stated["model_cfg"], "text_cfg": text}}
    )
    with pytest.raises(Offline, match="roberta-base is not in a cache here"):
        load_model(other_tower, device="cpu")


def test_a_sigmoid_model_without_its_bias_is_refused(make_open_clip):
    config = {**TINY, "init_logit_bias": -10.0}
    _, folder = make_open_clip(config, PIXELS)
    file = folder / "open_clip_model.safetensors"
    tensors = load_file(file)
    assert load_model(str(folder), device="cpu").scoring.activation == "sigmoid"
    del tensors["logit_bias"]
    save_file(tensors, file)
    with pytest.raises(UserError, match="has no logit_bias"):
        load_model(str(folder), device="cpu")


def test_the_licence_is_what_the_model_card_states(make_open_clip):
    _, folder = make_open_clip(TINY, PIXELS)
    assert load_model(str(folder), device="cpu").licence is None
    (folder / "README.md").write_text("---\ntags:\n- clip\nlicense: mit\n---\n# Card\n")
    assert load_model(str(folder), device="cpu").licence == "mit"


def test_without_open_clip_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingExtra, match=r"pip install 'captune\[openclip\]'"):
        load_model("open_clip:ViT-B-32/openai", device="cpu")


def test_nothing_is_printed_and_logging_is_left_as_it_was(make_open_clip, capfd):
    _, folder = make_open_clip(TINY, PIXELS)
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    capfd.readouterr()
    load_model(str(folder), device="cpu")
    assert capfd.readouterr() == ("", "")
    assert (root.level, root.handlers) == before
