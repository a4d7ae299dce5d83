"""A tune of toy size whose images are told apart by the classifier's words alone, or by places."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from tests.captioning.caption_job import Seen, image_model
from tests.captioning.little_job import KINDS, write_job
from tests.captioning.tiny import GRID, tiny_decoder
from tests.colour_model import COLOURS, colour_model

from captune.models.encoders import ImageTextModel

# words that no caption has, one a kind of image, by the colour that the classifier knows it by
LABELS = {f"w{60 + kind}": [colour] for kind, colour in zip(range(KINDS), COLOURS, strict=True)}


def telling_model(
    *, blind: bool = False, faint: bool = False, seen: Seen | None = None
) -> ImageTextModel:
    """It sees nine places, tells colours, and reads; blind: its patch grid says nothing.

    faint: it says a little, in its mean over the places.
    """
    places = image_model(seen=seen)
    patches = places.image.require_patches()
    if blind:
        patches = dataclasses.replace(
            patches, encode=lambda pixels: torch.ones(len(pixels), GRID.tokens, GRID.channels)
        )
    if faint:

        def encode(pixels: torch.Tensor) -> torch.Tensor:
            mean = pixels.mean((2, 3))[:, None].repeat(1, GRID.tokens, GRID.channels // 3)
            return 0.02 * mean

        patches = dataclasses.replace(patches, encode=encode)
    colours = colour_model()
    image = dataclasses.replace(colours.image, patches=patches)
    return dataclasses.replace(colours, spec="places", image=image)


def write_words_job(folder: Path) -> tuple[tuple[Path, Path, Path], Path, Path]:
    """((images, train captions, val captions), labels, folder of the decoder)."""
    files = write_job(folder / "job")
    labels = folder / "labels.json"
    labels.write_text(json.dumps(LABELS))
    decoder = tiny_decoder("gpt2")
    decoder.module.save_pretrained(folder / "decoder")
    decoder.tokenizer.save_pretrained(folder / "decoder")
    return files, labels, folder / "decoder"
