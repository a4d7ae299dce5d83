"""What the golden runs are made of: models of toy size in folders, images, captions, boxes.

The commands get at all of it through their options alone, so nothing of captune is replaced, and a
change of its inside needs no change here. The models' weights are laid down by hand: the CLIP sees
mean colours and reads colour words, and answers are far enough apart to be the same everywhere.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

COLOURS = {
    "red": (230, 30, 30),
    "green": (30, 210, 50),
    "blue": (30, 40, 220),
    "white": (240, 240, 240),
    "black": (15, 15, 15),
}
CLASSES = {"7": "red", "8": "green", "9": "blue"}
THINGS = {"square": "white", "spot": "black"}
WALLS = ("red", "green", "blue")
WORDS = (
    *("<end>", "<pad>", "<unk>", *COLOURS, *THINGS, "wall", "door", "sea", "not", "no", "nothing"),
    *("a", "an", "the", "of", "on", "in", "with", "photo", "picture", "image", "there", "is"),
    *("that", "this", "or", "and"),
)
END, PAD, UNKNOWN = 0, 1, 2
SIDE, GRID = 24, 3  # pixels of an image's side, places of it
NOT_UTF8 = b"9_\xff.png"


def write_material(folder: Path) -> None:
    """Fill `folder` with models/, images/, train/, val/ and the files beside them."""
    _write_clip(folder / "models" / "colours")
    _write_decoder(folder / "models" / "decoder")
    _write_classes(folder)
    annotations = {part: _write_captioned(folder, part, n) for part, n in _PARTS.items()}
    _write_candidates(folder, annotations["val"])


_PARTS = {"train": 36, "val": 12}


def _tokenizer() -> tuple[Any, Any]:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("removed")]
    )
    kinds = {"pad_token": "<pad>", "eos_token": "<end>", "unk_token": "<unk>"}
    plain = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **kinds)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <end>", special_tokens=[("<end>", END)]
    )
    ended = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **kinds, model_max_length=32)
    return plain, ended


def _write_clip(folder: Path) -> None:
    """Cosines of mean colours and of colour words; a grid of nine places and the whole."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    side = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 1}  # fmt: skip
    model = CLIPModel(
        CLIPConfig(
            text_config={
                **side, "vocab_size": len(WORDS), "max_position_embeddings": 32,
                "bos_token_id": END, "eos_token_id": END, "pad_token_id": PAD,
            },
            vision_config={**side, "image_size": SIDE, "patch_size": SIDE // GRID},
            projection_dim=3,
        )
    )  # fmt: skip
    chance = torch.Generator().manual_seed(0)
    colours = torch.randn(len(WORDS), 3, generator=chance) * 0.05
    for name, colour in COLOURS.items():
        colours[WORDS.index(name)] = torch.tensor(colour) / 255
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.fill_(1)
            elif name.endswith(("v_proj", "out_proj")):
                module.weight.copy_(torch.eye(8))  # each token takes in the mean of all
        text, vision = model.text_model.embeddings, model.vision_model.embeddings
        # a colour, the same with the other sign, and two that keep a dark one from being a bright
        text.token_embedding.weight[:, :6] = torch.cat([colours, -colours], dim=1)
        for c in range(3):
            vision.patch_embedding.weight[c, c] = (GRID / SIDE) ** 2
            vision.patch_embedding.weight[c + 3, c] = -((GRID / SIDE) ** 2)
        for embedding in (text.position_embedding, vision.position_embedding):
            embedding.weight[:, 6:] = torch.tensor([0.5, -0.5])
        for projection in (model.text_projection, model.visual_projection):
            projection.weight[:, :3] = torch.eye(3)
        model.logit_scale.fill_(np.log(8))
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size=size, image_mean=[0.0] * 3, image_std=[1.0] * 3
    ).save_pretrained(folder)
    _tokenizer()[1].save_pretrained(folder)


def _write_decoder(folder: Path) -> None:
    """A Llama of random weights, large enough to differ between tokens."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    ends = {"bos_token_id": END, "eos_token_id": END, "pad_token_id": PAD}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=48, vocab_size=len(WORDS), tie_word_embeddings=True, **ends,
        )
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    _tokenizer()[0].save_pretrained(folder)


def _write_classes(folder: Path) -> None:
    """images/: four of each class, one of them of another's colour; two odd names, two bad files"""
    images = folder / "images"
    images.mkdir()
    for number, (class_id, name) in enumerate(CLASSES.items()):
        for n in range(4):
            # the second and third have much of the next colour, one has more of it than of its own
            other = np.array(COLOURS[list(CLASSES.values())[(number + 1) % 3]])
            share = (0.0, 0.3, 0.45, 0.8 if class_id == "8" else 0.1)[n]
            colour = (1 - share) * np.array(COLOURS[name]) + share * other
            file = os.fsdecode(NOT_UTF8) if (class_id, n) == ("9", 3) else f"{class_id}_{n}.png"
            _save(images / file, colour, seed=10 * number + n)
    _save(images / "7_<b>&amp;.png", np.array(COLOURS["red"]), seed=99)
    (images / "7_text.png").write_text("these are my notes\n")
    (images / "8_cut.jpg").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF")
    (folder / "labels.json").write_text(json.dumps(CLASSES))


def _save(path: Path, colour: np.ndarray, *, seed: int, place: tuple[int, int] | None = None,
          thing: str = "") -> None:  # fmt: skip
    """A wall with grain; with `place`, a thing two places high, from this row and column on."""
    grain = np.random.default_rng(seed).integers(-10, 11, (SIDE, SIDE, 3))
    pixels = np.broadcast_to(colour, (SIDE, SIDE, 3)) + grain
    if place is not None:
        step = SIDE // GRID
        row, column = (step * at for at in place)
        pixels[row : row + 2 * step, column : column + step] = COLOURS[THINGS[thing]]
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


def _write_captioned(folder: Path, part: str, count: int) -> list[tuple[str, str, str]]:
    """Images of a thing on a wall, captions of them and boxes around the thing."""
    place = folder / part
    place.mkdir()
    images: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    told: list[tuple[str, str, str]] = []
    for n in range(count):
        wall, thing = WALLS[n % 3], list(THINGS)[n // 3 % 2]
        row, column = divmod((5 * n + 4 * (part == "val")) % 6, GRID)
        file = f"{part}_{n:02}.png"
        _save(place / file, np.array(COLOURS[wall]), seed=n + 1000 * (part == "val"),
              place=(row, column), thing=thing)  # fmt: skip
        images.append({"id": n, "file_name": file, "width": SIDE, "height": SIDE})
        # two of three say the same: a captioner that learns them has one best caption, by far
        same = f"a {THINGS[thing]} {thing} on a {wall} wall"
        for text in (same, same, f"the {thing} is {THINGS[thing]} and the wall is {wall}"):
            captions.append({"id": len(captions), "image_id": n, "caption": text})
        step = SIDE // GRID
        boxes.append({"id": n, "image_id": n, "category_id": list(THINGS).index(thing),
                      "bbox": [step * column, step * row, step, 2 * step]})  # fmt: skip
        told.append((file.removesuffix(".png"), thing, wall))
    (folder / f"{part}.json").write_text(json.dumps({"images": images, "annotations": captions}))
    categories = [{"id": i, "name": name} for i, name in enumerate(THINGS)]
    content = {"images": images, "annotations": boxes, "categories": categories}
    (folder / f"{part}_boxes.json").write_text(json.dumps(content))
    return told


def _write_candidates(folder: Path, told: list[tuple[str, str, str]]) -> None:
    """good.json: captions with few mistakes; poor.json: with more of them, and other words."""
    for name, wrong in (("good", 4), ("poor", 2)):
        captions = {
            stem: f"a {wall} door"
            if n % wrong == 1
            else f"a {THINGS[thing]} {thing} on a {wall} wall"
            for n, (stem, thing, wall) in enumerate(told)
        }
        (folder / f"{name}.json").write_text(json.dumps(captions))
