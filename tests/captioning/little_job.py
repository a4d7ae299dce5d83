"""A tune of toy size: twelve colours of image, each with words of its own, and a tiny decoder."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tests.captioning.tiny import GRID, tiny_decoder
from tests.colour_model import colour_model

from captune.captioning.captioner import describe_decoder
from captune.captioning.checkpoint import ImageIdentity
from captune.captioning.dataset import CaptionDataset
from captune.captioning.training.frozen import FrozenParts
from captune.captioning.training.step import CrossEntropy, TrainingData
from captune.options.tuning import TuneOptions

KINDS = 4
_COLOURS = [(220, 20, 30), (10, 200, 40), (20, 10, 210), (230, 230, 230)]
IDENTITY = ImageIdentity("colours", "c0" * 32, "resize-8")


class ColourGrids:
    """[tokens, channels] that say an image's kind in one of the places, and noise elsewhere."""

    def __init__(self, kind_of: dict[str, int]) -> None:
        self.kind_of = kind_of

    def grids_of(self, keys: Sequence[str]) -> torch.Tensor:
        rows = []
        for key in keys:
            kind = self.kind_of[key]
            noise = torch.Generator().manual_seed(int(key[:8], 16))
            grid = torch.randn(GRID.tokens, GRID.channels, generator=noise) * 0.1
            grid[1 + kind] += 2 * torch.nn.functional.one_hot(torch.tensor(kind), GRID.channels)
            rows.append(grid)
        return torch.stack(rows)


def captions_of(kind: int, chance: random.Random, count: int = 3) -> list[str]:
    """Words of this kind of image only, of different lengths."""
    words = [f"w{10 * kind + n}" for n in range(6)]
    return [
        " ".join(["a", words[0], words[1], *chance.sample(words[2:], chance.randrange(1, 4))])
        for _ in range(count)
    ]


def write_job(folder: Path, train: int = 24, val: int = 8) -> tuple[Path, Path, Path]:
    """(images, train captions, val captions); images are `<kind>_<n>.png`."""
    images = folder / "images"
    images.mkdir(parents=True)
    chance = random.Random(0)
    files = {}
    for name, count, first in (("train", train, 0), ("val", val, 100)):
        captions = {}
        for n in range(count):
            kind = n % KINDS
            file = f"{kind}_{first + n}.png"
            Image.new("RGB", (40 + n, 30 + (first > 0)), _COLOURS[kind]).save(images / file)
            captions[file] = captions_of(kind, chance)
        rows = [{"file_name": file, "captions": own} for file, own in captions.items()]
        files[name] = folder / f"{name}.jsonl"
        files[name].write_text("\n".join(map(json.dumps, rows)))
    return images, files["train"], files["val"]


def kinds_of(images: Path) -> dict[str, int]:
    return {
        hashlib.sha256(path.read_bytes()).hexdigest(): int(path.name[0])
        for path in images.iterdir()
    }


def fake_frozen(family: str = "gpt2") -> Callable[..., FrozenParts]:
    """In the place of `load_frozen`: nothing is loaded, images are known by their bytes."""

    def load(options: TuneOptions, parts: Sequence[CaptionDataset], **unused: Any) -> FrozenParts:
        images = parts[0].images[0].path.parent
        clip = None if options.score_model == "none" else colour_model()
        decoder = tiny_decoder(family)
        grids = ColourGrids(kinds_of(images))
        return FrozenParts(IDENTITY, GRID, grids, decoder, clip, models=[describe_decoder(decoder)])

    return load


def toy_data(images: int = 24, seed: int = 0) -> TrainingData:
    """Training data without files: keys are made up, rows are token ids with the end token."""
    chance = random.Random(seed)
    keys = [hashlib.sha256(f"{n}".encode()).hexdigest() for n in range(images)]
    decoder = tiny_decoder("gpt2")
    rows = [
        [[*row, decoder.end_id] for row in decoder.encode(captions_of(n % KINDS, chance))]
        for n in range(images)
    ]
    grids = ColourGrids({key: n % KINDS for n, key in enumerate(keys)})
    return TrainingData(keys, rows, grids, CrossEntropy())
