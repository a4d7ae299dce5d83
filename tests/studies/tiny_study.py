"""The assignment's data in miniature, of generated pictures, and models of toy size for it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image

COLOURS = {"red": (220, 20, 30), "green": (10, 200, 40), "blue": (20, 10, 210)}
PICTURES = ("bike", "girl", "sheep", "ski", "umbrella")
END = "<|endoftext|>"


def write_layout(folder: Path, *, train: int = 8, val: int = 4, classes: int = 3) -> Path:
    """`p1_data`, `p2_data` and `p3_data`, as the assignment has them."""
    names = dict(list(COLOURS.items())[:classes])
    write_pictures(
        folder / "p1_data" / "val",
        {f"{i}_{n}.png": colour for i, colour in enumerate(names.values()) for n in range(2)},
    )
    labels = {str(i): name for i, name in enumerate(names)}
    (folder / "p1_data" / "id2label.json").write_text(json.dumps(labels))
    chance = random.Random(0)
    for part, count, first in (("train", train, 0), ("val", val, 100)):
        chosen = {first + n: list(COLOURS)[n % len(COLOURS)] for n in range(count)}
        write_pictures(
            folder / "p2_data" / "images" / part,
            {f"{n:012}.jpg": COLOURS[name] for n, name in chosen.items()},
        )
        content = {
            "annotations": [
                {"caption": f"a {name} {chance.choice(['wall', 'door', 'sea'])}", "image_id": n,
                 "id": 5 * n + k}
                for n, name in chosen.items() for k in range(5)
            ],
            "images": [{"file_name": f"{n:012}.jpg", "id": n} for n in chosen],
        }  # fmt: skip
        (folder / "p2_data" / f"{part}.json").write_text(json.dumps(content))
    write_pictures(
        folder / "p3_data" / "images",
        {f"{name}.jpg": (20 * i, 90, 250 - 40 * i) for i, name in enumerate(PICTURES)},
    )
    return folder


def write_pictures(folder: Path, colours: dict[str, tuple[int, int, int]]) -> None:
    """Each a colour with grain of its own, so that no two are the same."""
    folder.mkdir(parents=True)
    for i, (name, colour) in enumerate(colours.items()):
        grain = np.random.default_rng(i).integers(-20, 20, (40, 50, 3))
        pixels = (np.array(colour) + grain).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name)


def write_clip(folder: Path) -> Path:
    """A CLIP that reads letters, and long texts: what an untaught captioner writes is long."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    letters = [chr(c) for c in range(ord("!"), ord("~") + 1)]
    pieces = [*letters, *(letter + "</w>" for letter in letters)]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    ends = {"bos_token_id": len(pieces), "eos_token_id": len(pieces) + 1}
    vocabulary |= {"<|startoftext|>": len(pieces), END: len(pieces) + 1}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=900)
    side = {"intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(1)
    model = CLIPModel(
        CLIPConfig(
            text_config={
                **side, **ends, "hidden_size": 16, "vocab_size": len(vocabulary),
                "max_position_embeddings": 900,
            },
            vision_config={**side, "hidden_size": 32, "image_size": 32, "patch_size": 8},
            projection_dim=16,
        )
    )  # fmt: skip
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    size = {"height": 32, "width": 32}
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    model.save_pretrained(folder)
    CLIPProcessor(processor, tokenizer).save_pretrained(folder)
    return folder


def write_encoder(folder: Path) -> Path:
    """A timm ViT in the layout of the hub."""
    import timm

    torch.manual_seed(2)
    model = timm.create_model("test_vit.r160_in1k", pretrained=False)
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    return folder


def write_decoder(weights: Path, vocabulary: Path) -> Path:
    """`decoder_model.bin` in one folder, `encoder.json` and `vocab.bpe` in another."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["a red wall", "a green door", "a blue sea"] * 3, trainer)
    for folder in (weights, vocabulary):
        folder.mkdir(parents=True, exist_ok=True)
    bpe.model.save(str(vocabulary))
    (vocabulary / "vocab.json").rename(vocabulary / "encoder.json")
    (vocabulary / "merges.txt").rename(vocabulary / "vocab.bpe")
    torch.manual_seed(3)
    config = GPT2Config(
        n_embd=64, n_layer=2, n_head=1, n_positions=64, vocab_size=bpe.get_vocab_size(),
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    state = GPT2LMHeadModel(config).state_dict()
    tensors = {n.removeprefix("transformer."): t for n, t in state.items() if "lm_head" not in n}
    # places from the seventh on call for the end: captions that never end take long to draw
    towards = torch.nn.functional.normalize(torch.randn(64), dim=0)
    tensors["wte.weight"][bpe.token_to_id(END)] = 2 * towards
    tensors["wpe.weight"][0] -= 2 * towards
    tensors["wpe.weight"][:6] -= towards
    tensors["wpe.weight"][6:] += 4 * towards
    torch.save(tensors, weights / "decoder_model.bin")
    return weights / "decoder_model.bin"
