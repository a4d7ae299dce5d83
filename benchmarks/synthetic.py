"""Images and models for benchmarks, made on the spot: nothing is fetched."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

NAME = "ViT-B-32-quickgelu"  # the architecture of OpenAI's ViT-B/32


def write_images(folder: Path, count: int, sides: tuple[int, int] = (224, 256)) -> list[Path]:
    """`count` different JPEGs, each side within `sides`: colour gradients, blurred shapes, grain.

    At 224 to 256 pixels they take about 25 kB, like images of that size.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        random = np.random.default_rng(number)
        width, height = random.integers(sides[0], sides[1] + 1, 2)
        layers = np.zeros((height, width, 3), dtype=np.float32)
        for cells, weight in ((3, 0.6), (14, 0.4)):
            blobs = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
            scaled = blobs.resize((int(width), int(height)), Image.Resampling.BICUBIC)
            layers += weight * np.asarray(scaled, dtype=np.float32)
        layers += 9 * random.standard_normal((height, width, 1), dtype=np.float32)
        path = folder / f"{number:06d}.jpg"
        Image.fromarray(layers.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        paths.append(path)
    return paths


def write_clip(folder: Path) -> tuple[Path, Path]:
    """One random CLIP ViT-B/32 in both libraries' formats.

    Returns (safetensors file for open_clip, folder for transformers); the weights are the same.
    """
    import open_clip
    from safetensors.torch import save_file
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    torch.manual_seed(0)
    model = open_clip.create_model(NAME, pretrained=None)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "open_clip_model.safetensors"
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, file)

    peer = CLIPModel(
        CLIPConfig(
            text_config={"eos_token_id": 49407, "bos_token_id": 49406},
            vision_config={"patch_size": 32},
            projection_dim=512,
        )
    )
    missing, unexpected = peer.load_state_dict(_transformers_names(state), strict=False)
    left_out = [name for name in missing if not name.endswith("position_ids")]
    if left_out or unexpected:
        raise RuntimeError(f"CLIP weights do not fit: {left_out[:3]} {unexpected[:3]}")
    peer_folder = folder / "transformers"
    peer.save_pretrained(peer_folder)
    CLIPImageProcessor().save_pretrained(peer_folder)
    words = open_clip.tokenizer.SimpleTokenizer()
    merges = sorted(words.bpe_ranks, key=words.bpe_ranks.__getitem__)
    # the library spells the two special tokens differently
    special = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {special.get(piece, piece): index for piece, index in words.encoder.items()}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)
    tokenizer.save_pretrained(peer_folder)
    return file, peer_folder


def _transformers_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's names of CLIP's tensors -> transformers' names."""
    fixed = {
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "logit_scale": "logit_scale",
    }
    norms = {
        "visual.ln_pre.": "vision_model.pre_layrnorm.",
        "visual.ln_post.": "vision_model.post_layernorm.",
        "ln_final.": "text_model.final_layer_norm.",
    }
    inside = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "attn.out_proj": "self_attn.out_proj",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    named: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in fixed:
            named[fixed[name]] = tensor
        elif name in ("visual.proj", "text_projection"):
            side = "visual" if name == "visual.proj" else "text"
            named[f"{side}_projection.weight"] = tensor.T.contiguous()
        elif (start := name.rsplit(".", 1)[0] + ".") in norms:
            named[norms[start] + name.rsplit(".", 1)[1]] = tensor
        elif ".resblocks." in name:
            tower = "vision_model" if name.startswith("visual.") else "text_model"
            layer, rest = name.split(".resblocks.")[1].split(".", 1)
            to = f"{tower}.encoder.layers.{layer}."
            if rest.startswith("attn.in_proj_"):
                kind = rest.removeprefix("attn.in_proj_")
                for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                    named[f"{to}self_attn.{part}_proj.{kind}"] = piece.contiguous()
            else:
                module, kind = rest.rsplit(".", 1)
                named[f"{to}{inside[module]}.{kind}"] = tensor
    return named


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import platform

    import open_clip
    import transformers

    return {
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "processor": _processor(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "open_clip": open_clip.__version__,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    import platform

    return platform.processor() or platform.machine()
