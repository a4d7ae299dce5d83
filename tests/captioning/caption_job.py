"""A captioner of toy size on the disk, an image encoder of toy size, and images that differ."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.captioning.tiny import END, GRID, tiny_decoder
from tests.colour_model import colour_model
from torch import Tensor, nn

from captune.attribution.faithful import leaderboard
from captune.attribution.methods import MAP_METHODS
from captune.captioning import captioner
from captune.captioning.checkpoint import ImageIdentity, recipe_of, save_pretrained, write_beside
from captune.captioning.model import build_model
from captune.captioning.settings import AGREEMENT
from captune.captioning.training.trainer import CaptionTrainer
from captune.models.decoders import load_decoder
from captune.models.encoders import ImageEncoder, ImageTextModel, PatchGrid
from captune.runs.metrics import AgreementWeights, PeopleAgreement, Reliability, ReliabilityBin
from captune.runs.records import Interval

BRIDGES = {
    "cross-attention": {"width": 16, "heads": 2, "every": 1},
    "prefix": {},
}


class Seen:
    """Images that were encoded."""

    def __init__(self) -> None:
        self.images = 0


def image_model(weights_id: str = "c0" * 32, seen: Seen | None = None) -> ImageTextModel:
    """Mean colours of nine places and of the whole; `seen` counts."""

    def encode(pixels: Tensor) -> Tensor:
        if seen is not None:
            seen.images += len(pixels)
        places = nn.functional.adaptive_avg_pool2d(pixels, 3).flatten(2).transpose(1, 2)
        whole = pixels.mean((2, 3))[:, None]
        return (torch.cat([whole, places], dim=1) - 0.5).repeat(1, 1, 4) * 6

    def to_pixels(image: Image.Image) -> Tensor:
        array = np.asarray(image.resize((9, 9), Image.Resampling.NEAREST), dtype=np.float32) / 255
        return torch.from_numpy(array).permute(2, 0, 1)

    patches = PatchGrid(
        GRID, (GRID.tokens, GRID.channels), encode, to_pixels, "whole-9", weights_id
    )
    cpu, dtype = torch.device("cpu"), torch.float32
    encoder = ImageEncoder(
        nn.Identity(), to_pixels, "whole-9", weights_id, 3, cpu, dtype, patches=patches
    )
    text = colour_model().text
    return ImageTextModel("places", weights_id, "Apache-2.0", encoder, text, None)


def use_encoder(monkeypatch: pytest.MonkeyPatch, model: ImageTextModel | None = None) -> None:
    """Captioners are loaded with this image encoder, whatever is asked for."""
    found = model or image_model()
    monkeypatch.setattr(captioner, "load_model", lambda spec, **where: found)


def write_images(folder: Path, count: int = 6) -> Path:
    """`image_<n>.png`, noise in nine places."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        chance = np.random.default_rng(n)
        places = chance.integers(0, 256, (3, 3, 3), dtype=np.uint8)
        Image.fromarray(places).resize((18, 18), Image.Resampling.NEAREST).save(
            folder / f"image_{n:03}.png"
        )
    return folder


def write_captioner(
    folder: Path,
    family: str = "llama",
    *,
    bridge: str = "cross-attention",
    method: str = "lora",
    seed: int = 0,
) -> Path:
    """A checkpoint whose decoder lies beside it; random weights, large enough to tell images."""
    place = folder.parent / f"decoder-{family}"
    if not place.exists():
        made = tiny_decoder(family)
        with torch.no_grad():  # a few captions of a dozen tokens come to their end
            made.module.get_output_embeddings().weight[END] *= -1.5
        made.module.save_pretrained(place)
        made.tokenizer.save_pretrained(place)
    model = build_model(
        load_decoder(str(place), device="cpu"),
        GRID,
        bridge=bridge,
        method=method,
        bridge_settings=BRIDGES[bridge],
    )
    with torch.no_grad():
        chance = torch.Generator().manual_seed(seed)
        for parameter in model.trained().values():
            parameter.add_(torch.randn(parameter.shape, generator=chance) * 0.3)
    identity = ImageIdentity("places", "c0" * 32, "whole-9")
    recipe = recipe_of(model, identity, bridge=bridge, method=method)
    folder.mkdir(parents=True, exist_ok=True)
    save_pretrained(model, folder, recipe)
    model.detach()
    return folder


def agreement_at(centre: float) -> PeopleAgreement:
    """A chance of a half at this mean log-probability."""
    bins = (ReliabilityBin(0.4, 0.6, 100, 0.5, 0.45, 45),)
    measured = Reliability(100, 0.05, 0.05, 0.06, None, 0.5, 0.45, bins)
    weights = AgreementWeights(-10.0 * centre, 10.0, 0.0, 0.0)
    return PeopleAgreement(2, weights, 0.2, 0.24, Interval(0.02, 0.1), measured)


def with_agreement(model: Path, folder: Path, centre: float = -2.0) -> Path:
    """The same captioner, with such a chance."""
    shutil.copytree(model, folder)
    write_beside(folder / AGREEMENT, agreement_at(centre))
    return folder


def use_map_methods(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """`captune faithful` measures these alone: all would take their time."""
    few = SimpleNamespace(names=lambda: [*names], get=MAP_METHODS.get)
    monkeypatch.setattr(leaderboard, "MAP_METHODS", few)


@contextmanager
def interrupted_after(steps: int) -> Iterator[None]:
    """Ctrl-C while the training step after these is computed."""
    left, kept = [steps], CaptionTrainer.compute_loss

    def stopped(self: Any, *args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return kept(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CaptionTrainer, "compute_loss", stopped)
        yield
