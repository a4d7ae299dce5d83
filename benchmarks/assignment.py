"""The assignment's configuration, from local folders: python benchmarks/assignment.py

timm's ViT-L/14 at 336 pixels and GPT-2 small, in the layouts that their files have (random
weights, made here; about 2 GB in a temporary folder), a train.json and val.json of the assignment's
form, and its three methods with its settings. Each takes one step forward and backward by `captune
tune`, and the trained parameters are printed by part: all under 35 M. About 2 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import timm
import torch

from caption_contenders import END, gpt2
from captune.cli import main as captune
from synthetic import write_images

NAME = "vit_large_patch14_clip_336.openai_ft_in12k_in1k"
TRAIN, VAL = 2, 2
# GPT-2's byte-level alphabet is printable; any other text would do for its other tokens
MERGES = [("Ġ", "a"), ("Ġ", "s"), ("q", "u")]


def main() -> int:
    """Make the folders, tune."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory(prefix="captune-assignment-") as name:
        folder = Path(name)
        write_encoder(folder / "encoder")
        write_decoder(folder / "decoder")
        images = write_images(folder / "images", TRAIN + VAL, (375, 500))
        write_captions(folder / "train.json", images[:TRAIN])
        write_captions(folder / "val.json", images[TRAIN:])
        return captune(
            [
                *("tune", str(folder / "images"), "--captions", str(folder / "train.json")),
                *("--val-captions", str(folder / "val.json"), "--method", "adapter,prefix,lora"),
                *("--encoder", f"timm:{folder / 'encoder'}", "--decoder", str(folder / "decoder")),
                *("--set", "bridge.width=768", "--set", "bridge.heads=12"),
                *("--set", "bridge.every=1", "--set", "bridge.bias=true"),
                *("--max-trainable", "35M"),
                *("--epochs", "1", "--batch-size", "32", "--lr", "5e-4", "--weight-decay", "1e-2"),
                *("--max-tokens", "6", "--score-model", "none", "--no-cache", "--offline"),
                *("--out", str(folder / "run")),
            ]
        )


def write_encoder(folder: Path) -> None:
    """A timm folder as the hub has it, by timm itself: config.json beside model.safetensors."""
    torch.manual_seed(0)
    model = timm.create_model(NAME, pretrained=False)
    timm.models.save_for_hf(model, folder, safe_serialization=True)


def write_decoder(folder: Path) -> None:
    """decoder_model.bin, encoder.json and vocab.bpe."""
    from tokenizers.pre_tokenizers import ByteLevel

    folder.mkdir()
    state = gpt2().module.state_dict()
    tensors = {n.removeprefix("transformer."): t for n, t in state.items() if "lm_head" not in n}
    torch.save(tensors, folder / "decoder_model.bin")
    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *("".join(pair) for pair in MERGES)]
    tokens += [f"<{number}>" for number in range(len(tokens), END)] + ["<|endoftext|>"]
    vocabulary = {token: id for id, token in enumerate(tokens)}
    (folder / "encoder.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in MERGES)]
    (folder / "vocab.bpe").write_text("\n".join([*lines, ""]), encoding="utf-8")


def write_captions(path: Path, images: list[Path]) -> None:
    """As the assignment's train.json: annotations and images, nothing else."""
    listed = [{"file_name": image.name, "id": i} for i, image in enumerate(images)]
    annotations = [
        {"caption": f"a square number {k} of image {i}", "image_id": i, "id": 5 * i + k}
        for i in range(len(images))
        for k in range(5)
    ]
    content = {"annotations": annotations, "images": listed}
    path.write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
