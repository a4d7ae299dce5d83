"""Tiny models with random weights, saved by each library in its own layout; no network at all."""

import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

WORDS = ["a", "photo", "of", "the", "cat", "dog", "house", "red", "blue", "sea"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """An empty hub cache, and a socket that refuses: whatever reaches out fails here.

    The hub libraries are left online: it is captune that has to keep them from asking.
    """

    reached = []

    def refuse(*arguments, **_):
        reached.append(arguments)
        raise OSError("the network was reached")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield
    assert not reached  # also where a library swallowed the refusal


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """Wide, tall, square, smaller than the model's input, exactly its size."""
    random = np.random.default_rng(7)
    made = []
    for width, height in ((96, 60), (61, 130), (80, 80), (20, 25), (32, 32), (333, 257)):
        smooth = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        noise = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        picture = Image.fromarray(smooth).resize((width, height), Image.Resampling.BICUBIC)
        made.append(Image.blend(picture, Image.fromarray(noise), 0.3))
    return made


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory) -> Path:
    """A transformers CLIP with its fast tokenizer and processor."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    pieces = [*letters, *(letter + "</w>" for letter in letters)]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    vocabulary |= {"<|startoftext|>": len(pieces), "<|endoftext|>": len(pieces) + 1}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
    torch.manual_seed(1)
    model = CLIPModel(
        CLIPConfig(
            text_config={
                "vocab_size": len(vocabulary),
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "max_position_embeddings": 77,
                "bos_token_id": len(pieces),
                "eos_token_id": len(pieces) + 1,
            },
            vision_config={
                "hidden_size": 48,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 32,
                "patch_size": 8,
            },
            projection_dim=24,
        )
    )
    _perturb(model)
    processor = CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    folder = tmp_path_factory.mktemp("hf-clip")
    model.save_pretrained(folder)
    CLIPProcessor(processor, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def word_tokenizer():
    """A tokenizer as SigLIP's: no start, an end, padding to 64, no attention mask."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=64,
        model_input_names=["input_ids"],
    )


@pytest.fixture(scope="session")
def siglip_folder(tmp_path_factory, word_tokenizer) -> Path:
    """A transformers SigLIP."""
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    torch.manual_seed(2)
    model = SiglipModel(
        SiglipConfig(
            text_config=_siglip_side(vocab_size=len(word_tokenizer), max_position_embeddings=64),
            vision_config=_siglip_side(image_size=32, patch_size=8),
        )
    )
    _perturb(model)
    folder = tmp_path_factory.mktemp("hf-siglip")
    model.save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    word_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def siglip2_folder(tmp_path_factory, word_tokenizer) -> Path:
    """A transformers SigLIP 2 of the NaFlex kind: any aspect ratio, at most 24 patches."""
    from transformers import Siglip2Config, Siglip2ImageProcessor, Siglip2Model

    torch.manual_seed(3)
    model = Siglip2Model(
        Siglip2Config(
            text_config=_siglip_side(vocab_size=16, max_position_embeddings=64),
            vision_config=_siglip_side(patch_size=8, num_patches=16),
        )
    )
    _perturb(model)
    folder = tmp_path_factory.mktemp("hf-siglip2")
    model.save_pretrained(folder)
    Siglip2ImageProcessor(patch_size=8, max_num_patches=24).save_pretrained(folder)
    word_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_open_clip(tmp_path_factory):
    """(config, preprocess, tokenizer=None) -> (model, folder), saved as open_clip pushes."""
    from open_clip.model import CLIP, CustomTextCLIP
    from open_clip.push_to_hf_hub import save_for_hf
    from open_clip.tokenizer import HFTokenizer

    def make(config, preprocess, tokenizer=None, seed=4, saved_config=None):
        torch.manual_seed(seed)
        kind = CustomTextCLIP if config.get("custom_text") else CLIP
        model = kind(**{k: v for k, v in config.items() if k != "custom_text"}).eval()
        _perturb(model)
        model.visual.image_mean, model.visual.image_std = preprocess["mean"], preprocess["std"]
        model.visual.preprocess_cfg = preprocess
        folder = tmp_path_factory.mktemp("open-clip")
        own = tmp_path_factory.mktemp("tokenizer")
        if tokenizer is None:
            saver = type("Nothing", (), {"save_pretrained": staticmethod(lambda _: None)})()
        else:
            tokenizer.save_pretrained(own)
            saver = HFTokenizer(str(own))
        save_for_hf(model, saver, saved_config or config, folder, safe_serialization="both")
        return model, folder

    return make


@pytest.fixture(scope="session")
def make_timm(tmp_path_factory):
    """(name, **kwargs) -> (model, folder), saved as timm pushes to the hub."""
    import timm
    from timm.models._hub import save_for_hf

    def make(name, safe=True, **options):
        torch.manual_seed(5)
        model = timm.create_model(name, pretrained=False, **options).eval()
        _perturb(model)
        folder = tmp_path_factory.mktemp("timm")
        save_for_hf(model, folder, safe_serialization=safe)
        return model, folder

    return make


def _siglip_side(**more):
    return {
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        **more,
    }


@torch.no_grad()
def _perturb(model) -> None:
    """Random values in every parameter, so that no zero bias or unit scale hides a mistake."""
    for name, parameter in model.named_parameters():
        if name == "logit_scale":
            parameter.fill_(3.21)
        elif name == "logit_bias":
            parameter.fill_(-5.4)
        else:
            parameter.add_(torch.randn_like(parameter) * 0.05)
