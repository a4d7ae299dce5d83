"""One tiny captioner that works, what it is made of, and the commands that read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CAPTIONER, DECODER, ENCODER = "captioner", "decoder", "encoder"
CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"

Change = Callable[[Path], None]


@dataclass(frozen=True)
class Hostile:
    """One folder. root: what `write_models` wrote, to be changed by `change`.

    refused: what the sentence must hold; "" where the command must answer all the same.
    """

    name: str
    change: Change
    refused: str
    command: str = "caption"

    def __str__(self) -> str:
        return self.name


def words_of(command: str, root: Path) -> list[str]:
    """What is typed."""
    image, captioner = str(root / "image.png"), str(root / "captioner")
    words = {
        "caption": ["caption", image, "--model", captioner, "--max-tokens", "8"],
        "explain": ["explain", image, "--model", captioner, "--faithfulness", "none"],
        "classify": ["classify", image, "--model", f"hf:{root / 'encoder'}", "--labels", "a,b"],
        "open_clip": ["classify", image, "--model", str(root / "open_clip"), "--labels", "a,b"],
        "timm": [
            "embed",
            image,
            "--model",
            f"timm:{root / 'timm'}",
            "--features",
            str(root / "f.npz"),
        ],
        "assignment": ["caption", image, "--model", captioner, "--decoder", str(root / "gpt2")],
    }
    return [*words[command], "--json", "--no-cache", "--device", "cpu"]


def write_models(root: Path) -> Path:
    """image.png, captioner/, decoder/ and encoder/ that work; open_clip/, timm/ and gpt2/ too."""
    import numpy as np
    import torch
    from PIL import Image

    from captune.captioning.building import build_captioner
    from captune.captioning.checkpoint import recipe_of, save_pretrained
    from captune.captioning.recipe import ImageIdentity
    from captune.models.decoders import load_decoder
    from captune.models.load import load_model
    from tests.captioning.tiny import END, tiny_decoder

    root.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "image.png")
    _write_encoder(root / "encoder")
    made = tiny_decoder("llama")
    with torch.no_grad():  # captions come to their end
        made.module.get_output_embeddings().weight[END] *= -1.5
    made.module.save_pretrained(root / "decoder")
    made.tokenizer.save_pretrained(root / "decoder")
    seen = load_model(f"hf:{root / 'encoder'}", device="cpu").image.require_patches()
    captioner = build_captioner(
        load_decoder(str(root / "decoder"), device="cpu"),
        seen.shape,
        bridge="cross-attention",
        method="lora",
        bridge_settings={"width": 16, "heads": 2, "every": 1},
        method_settings={"rank": 2},
    )
    with torch.no_grad():
        chance = torch.Generator().manual_seed(0)
        for parameter in captioner.trained().values():
            parameter.add_(torch.randn(parameter.shape, generator=chance) * 0.3)
    identity = ImageIdentity(f"hf:{root / 'encoder'}", seen.weights_id, seen.preprocessing_id)
    recipe = recipe_of(captioner, identity, bridge="cross-attention", method="lora")
    save_pretrained(captioner, root / "captioner", recipe)
    _write_open_clip(root / "open_clip")
    _write_timm(root / "timm")
    return root


def _write_encoder(folder: Path) -> None:
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    pieces = [*letters, *(letter + "</w>" for letter in letters)]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    vocabulary |= {"<|startoftext|>": len(pieces), "<|endoftext|>": len(pieces) + 1}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
    side = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    side |= {"num_attention_heads": 2}
    ends = {"bos_token_id": len(pieces), "eos_token_id": len(pieces) + 1}
    torch.manual_seed(1)
    model = CLIPModel(
        CLIPConfig(
            text_config={**side, **ends, "vocab_size": len(vocabulary)},
            vision_config={**side, "image_size": 32, "patch_size": 8},
            projection_dim=24,
        )
    )
    processor = CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    model.save_pretrained(folder)
    CLIPProcessor(processor, tokenizer).save_pretrained(folder)


def _write_open_clip(folder: Path) -> None:
    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    side = {"layers": 2, "width": 64}
    config: dict[str, Any] = {
        "embed_dim": 24,
        "vision_cfg": {**side, "image_size": 32, "head_width": 32, "patch_size": 8},
        "text_cfg": {**side, "context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2},
    }
    torch.manual_seed(2)
    model = CLIP(**config)
    folder.mkdir()
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    pixels = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    pixels |= {"resize_mode": "shortest"}
    about = {"model_cfg": config, "preprocess_cfg": pixels}
    (folder / "open_clip_config.json").write_text(json.dumps(about))


def _write_timm(folder: Path) -> None:
    import timm
    import torch
    from timm.models._hub import save_for_hf

    torch.manual_seed(3)
    model = timm.create_model("test_vit", pretrained=False, num_classes=3).eval()
    save_for_hf(model, folder, safe_serialization=True)
