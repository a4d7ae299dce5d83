"""Folders of transformers: relatives of CLIP, tokens, and every part whose absence is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from captune.errors import Offline, UserError
from captune.models.load import load_model

TEXTS = ["a photo of a cat", "the red house", "dog " * 200]


@pytest.fixture
def copy(tmp_path):
    """(folder) -> a copy of it to spoil."""

    def made(folder, name="copy"):
        return shutil.copytree(folder, tmp_path / name)

    return made


def logits(model, images):
    pixels = torch.stack([model.image.transform(image) for image in images])
    return model.logits(model.image.encode(pixels).numpy(), model.text.encode(TEXTS).numpy())


def bert_tokenizer(folder):
    from transformers import BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += ["a", "image", "of", "the", "cat", "red", "house", "dog"]
    BertTokenizer(
        vocab={word: i for i, word in enumerate(words)}, model_max_length=80
    ).save_pretrained(folder)


SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
BERT = {**SMALL, "vocab_size": 13, "max_position_embeddings": 80}
SEEING = {**SMALL, "image_size": 32, "patch_size": 8}


def align():
    from transformers import AlignConfig, AlignModel, EfficientNetImageProcessor

    vision = {
        "image_size": 32,
        "hidden_dim": 32,
        "width_coefficient": 0.25,
        "depth_coefficient": 0.25,
        "depthwise_padding": [],
    }
    config = AlignConfig(text_config=BERT, vision_config=vision, projection_dim=80)
    return AlignModel(config), EfficientNetImageProcessor(size={"height": 32, "width": 32})


def chinese_clip():
    from transformers import ChineseCLIPConfig, ChineseCLIPImageProcessor, ChineseCLIPModel

    config = ChineseCLIPConfig(text_config=BERT, vision_config=SEEING, projection_dim=24)
    size = {"height": 32, "width": 32}
    return ChineseCLIPModel(config), ChineseCLIPImageProcessor(size=size, crop_size=size)


def dual_encoder():
    from transformers import (
        BertConfig,
        CLIPVisionConfig,
        VisionTextDualEncoderConfig,
        VisionTextDualEncoderModel,
        ViTImageProcessor,
    )

    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        CLIPVisionConfig(**SEEING), BertConfig(**BERT), projection_dim=24
    )
    return VisionTextDualEncoderModel(config), ViTImageProcessor(size={"height": 32, "width": 32})


def metaclip():
    from transformers import CLIPImageProcessor, MetaClip2Config, MetaClip2Model

    text = {**BERT, "eos_token_id": 3, "projection_dim": 24}
    config = MetaClip2Config(
        text_config=text, vision_config={**SEEING, "projection_dim": 24}, projection_dim=24
    )
    return MetaClip2Model(config), CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )


@pytest.mark.parametrize("family", [align, chinese_clip, dual_encoder, metaclip])
def test_relatives_of_clip_score_as_their_own_forward_does(family, tmp_path, images):
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    torch.manual_seed(6)
    model, processor = family()
    with torch.no_grad():  # as they start, deep ones map every picture to nearly nothing
        for name, parameter in model.named_parameters():
            if name not in ("logit_scale", "temperature"):
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    bert_tokenizer(tmp_path)
    loaded = load_model(f"hf:{tmp_path}", device="cpu")

    always_64 = family is align  # its processor class says so
    tokens = AutoTokenizer.from_pretrained(tmp_path)(
        TEXTS,
        return_tensors="pt",
        padding="max_length" if always_64 else True,
        truncation=True,
        max_length=64 if always_64 else 80,
    )
    pixels = AutoImageProcessor.from_pretrained(tmp_path)(images=images, return_tensors="pt")
    with torch.inference_mode():
        own = AutoModel.from_pretrained(tmp_path).eval()(**tokens, **pixels).logits_per_image
    np.testing.assert_allclose(logits(loaded, images), own.numpy(), atol=1e-4)
    assert loaded.scoring.activation == "softmax"


def test_a_model_that_does_not_compare_by_a_cosine_is_refused(tmp_path):
    from transformers import BlipConfig, BlipForImageTextRetrieval, BlipImageProcessor

    torch.manual_seed(6)
    config = BlipConfig(text_config={**BERT, "encoder_hidden_size": 32}, vision_config=SEEING)
    BlipForImageTextRetrieval(config).save_pretrained(tmp_path)
    BlipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    bert_tokenizer(tmp_path)
    with pytest.raises(UserError, match=r"leave \d+ parameters of BlipModel at random"):
        load_model(f"hf:{tmp_path}", device="cpu")


def test_a_model_without_image_features_is_refused(tmp_path, siglip_folder, copy):
    from transformers import BertConfig, BertModel

    folder = copy(siglip_folder)
    BertModel(BertConfig(**BERT)).save_pretrained(folder)
    with pytest.raises(UserError, match="a model of type bert has no get_image_features"):
        load_model(f"hf:{folder}", device="cpu")


def test_siglip_texts_are_padded_to_64_and_clip_texts_cut_at_77(siglip_folder, clip_folder):
    siglip = load_model(str(siglip_folder), device="cpu").text.tokenize(TEXTS)
    assert set(siglip) == {"input_ids"}
    assert siglip["input_ids"].shape == (3, 64)
    text = load_model(str(clip_folder), device="cpu").text
    clip = text.tokenize(["dog " * 200])
    assert clip["input_ids"].shape == (1, 77)
    end = text.module.model.config.text_config.eos_token_id
    assert clip["input_ids"][0, -1] == end  # cut, not beheaded: the text is read at its end token


@pytest.mark.parametrize(
    ("removed", "sentence"),
    [
        (("config.json",), "no model in this folder"),
        (("model.safetensors",), "has no weights"),
        (("preprocessor_config.json",), "has no preprocessor_config.json"),
        (("tokenizer.json",), "has no tokenizer"),
    ],
)
def test_a_missing_part_is_named(removed, sentence, siglip_folder, copy):
    folder = copy(siglip_folder)
    for name in removed:
        (folder / name).unlink()
    with pytest.raises(UserError) as refused:
        load_model(str(folder), device="cpu")
    assert sentence in str(refused.value)


@pytest.mark.parametrize("key", ["image_mean", "image_std", "size"])
def test_a_default_is_no_statement(key, siglip_folder, copy):
    folder = copy(siglip_folder)
    path = folder / "preprocessor_config.json"
    stated = json.loads(path.read_text())
    del stated[key]
    path.write_text(json.dumps(stated))
    with pytest.raises(UserError, match=f"does not say {key}, and a default would be a guess"):
        load_model(str(folder), device="cpu")


def test_a_processor_config_must_hold_the_image_part(clip_folder, copy):
    folder = copy(clip_folder)
    (folder / "processor_config.json").write_text('{"processor_class": "CLIPProcessor"}')
    with pytest.raises(UserError, match=r"has no preprocessor_config\.json"):
        load_model(str(folder), device="cpu")


def test_weights_that_leave_parameters_at_random_are_refused(siglip_folder, copy):
    folder = copy(siglip_folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["logit_bias"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        UserError, match=r"leave 1 parameters of SiglipModel at random \(logit_bias"
    ):
        load_model(str(folder), device="cpu")


def test_a_tokenizer_of_another_model_is_refused(clip_folder, siglip_folder, copy):
    folder = copy(siglip_folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(clip_folder / name, folder / name)
    model = load_model(str(folder), device="cpu")
    with pytest.raises(UserError, match="they do not belong together"):
        model.text.encode(["a cat"])


def test_pickled_weights_give_the_same_model_and_say_so(clip_folder, copy, images, caplog):
    folder = copy(clip_folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with caplog.at_level("WARNING", "captune"):
        pickled = load_model(str(folder), device="cpu")
    assert caplog.text.count("weights_only=True") == 1
    safe = load_model(str(clip_folder), device="cpu")
    assert pickled.weights_id == safe.weights_id
    assert pickled.image.weights_id == safe.image.weights_id
    np.testing.assert_array_equal(logits(pickled, images), logits(safe, images))


def test_shards(clip_folder, copy, images):
    from transformers import CLIPModel

    folder = copy(clip_folder)
    (folder / "model.safetensors").unlink()
    CLIPModel.from_pretrained(clip_folder).save_pretrained(folder, max_shard_size="30KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    sharded = load_model(str(folder), device="cpu")
    whole = load_model(str(clip_folder), device="cpu")
    assert sharded.weights_id == whole.weights_id
    np.testing.assert_array_equal(logits(sharded, images), logits(whole, images))
    next(iter(folder.glob("model-*.safetensors"))).unlink()
    with pytest.raises(UserError, match="which is missing"):
        load_model(str(folder), device="cpu")


def test_what_changes_a_pixel_changes_the_preprocessing_id(siglip_folder, copy, monkeypatch):
    whole = load_model(str(siglip_folder), device="cpu").image.preprocessing_id
    assert load_model(str(siglip_folder), device="cpu").image.preprocessing_id == whole
    path = copy(siglip_folder) / "preprocessor_config.json"
    stated = json.loads(path.read_text())
    seen = {whole}
    for key, value in (("image_mean", [0.4, 0.5, 0.5]), ("resample", 2), ("rescale_factor", 0.004)):
        path.write_text(json.dumps({**stated, key: value}))
        seen.add(load_model(str(path.parent), device="cpu").image.preprocessing_id)
    monkeypatch.setattr("PIL.__version__", "99.1.0")
    seen.add(load_model(str(siglip_folder), device="cpu").image.preprocessing_id)
    assert len(seen) == 5


def test_an_unusual_processor_is_called_itself(siglip_folder, copy, images):
    from transformers import AutoImageProcessor

    folder = copy(siglip_folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_normalize": False}))
    transform = load_model(str(folder), device="cpu").image.transform
    assert type(transform).__name__ == "_ProcessorItself"
    own = AutoImageProcessor.from_pretrained(folder)(images=images[:1], return_tensors="pt")
    assert torch.equal(transform(images[0]), own["pixel_values"][0])


def test_a_repository_that_is_not_cached_is_refused_offline():
    with pytest.raises(Offline) as refused:
        load_model("hf:openai/clip-vit-base-patch32", device="cpu")
    message = str(refused.value)
    assert "captune models fetch hf:openai/clip-vit-base-patch32" in message
    assert "--from FOLDER" in message
    assert "\n" not in message


def test_nothing_is_printed(clip_folder, siglip2_folder, capfd):
    for folder in (clip_folder, siglip2_folder):
        load_model(str(folder), device="cpu").text.encode(TEXTS)
    assert capfd.readouterr() == ("", "")
