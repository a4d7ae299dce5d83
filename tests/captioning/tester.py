"""What every bridge, tuning method and decoder family are put together with, to be checked.

A new bridge or method gets the checks (checks.py) by being registered: `combinations()` asks the
registries. Its config's defaults are used unless TINY names smaller ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from typing import Any

import torch
from tests.captioning.tiny import END, GRID, PAD, grids, tiny_decoder
from torch import Tensor

from captune.captioning.bridge import BRIDGES
from captune.captioning.decoder_parts import find_parts
from captune.captioning.model import CaptionModel, batch, pad_tags
from captune.captioning.tuning import TUNING_METHODS
from captune.models.decoders import Decoder

TINY: dict[str, dict[str, dict[str, Any]]] = {
    "bridge": {
        "cross-attention": {"width": 16, "heads": 2, "every": 2},
        "bidirectional": {"width": 16, "heads": 2, "every": 2, "words": 4},
        "prefix": {"length": 3, "width": 16, "heads": 2},
    },
    "tuning": {
        "adapter": {"bottleneck": 4},
        "lora": {"rank": 2, "alpha": 4},
        "dora": {"rank": 2, "alpha": 4},
        "prefix": {"length": 3},
    },
}
ROUNDING = {"dora"}  # the same weights at step 0, but through a norm and back
EVERYTHING = ("gpt2", "llama")  # families that meet every bridge with every method
PAIRWISE = ("qwen3", "opt")  # families that meet every method, with the bridges in turn

IMAGES, CAPTIONS = 2, 2
ROWS = [[5, 6, 7, END], [8, 9, END], [10, 11, 12, 13, END], [14, END]]  # two an image
WORDS = [[20, 21, 22], [23]]  # known of each image before its captions


@dataclass(frozen=True)
class Combination:
    """What is put together in one test."""

    bridge: str
    method: str
    family: str

    def __str__(self) -> str:
        return f"{self.bridge}+{self.method}+{self.family}"


def combinations() -> list[Combination]:
    """All for EVERYTHING; for PAIRWISE, each method with the bridges in turn, and the other way."""
    bridges, methods = BRIDGES.names(), TUNING_METHODS.names()
    found = [
        Combination(bridge, method, family)
        for family in EVERYTHING
        for bridge in bridges
        for method in methods
    ]
    for start, family in enumerate(PAIRWISE):
        turns = cycle(bridges[start:] + bridges[:start])
        found += [Combination(next(turns), method, family) for method in methods]
    return found


@cache
def decoder_of(family: str) -> Decoder:
    """One for all tests: each gives it back as it was, or the next one notices."""
    return tiny_decoder(family)


@cache
def untouched(family: str) -> dict[str, Tensor]:
    """The decoder's weights before anything was put into it."""
    return {k: v.clone() for k, v in decoder_of(family).module.state_dict().items()}


def build(combination: Combination, decoder: Decoder | None = None, seed: int = 3) -> CaptionModel:
    """A captioner as it is before training."""
    decoder = decoder or decoder_of(combination.family)
    parts = find_parts(decoder.module)
    bridge, method = BRIDGES.get(combination.bridge), TUNING_METHODS.get(combination.method)
    torch.manual_seed(seed)
    bridge_config = bridge.Config(**TINY["bridge"].get(combination.bridge, {}))
    tuning_config = method.Config(**TINY["tuning"].get(combination.method, {}))
    built = bridge(bridge_config, GRID, parts)
    return CaptionModel(decoder, built, method(tuning_config), GRID)


@contextmanager
def captioner_of(combination: Combination) -> Iterator[CaptionModel]:
    """On the family's shared decoder, which is given back whatever happens."""
    untouched(combination.family)
    captioner = build(combination)
    try:
        yield captioner
    finally:
        captioner.detach()
        captioner.eval()


def wake(captioner: CaptionModel, scale: float = 0.2) -> None:
    """As if trained a little: out of the state where nothing is said about the image yet."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in captioner.trained().values():
            parameter.add_(torch.randn_like(parameter) * scale)


def asked() -> dict[str, Tensor]:
    """Images, captions and words of a small batch."""
    ids, mask, targets = batch(ROWS, start=END, pad=PAD)
    return {
        "grids": grids(IMAGES),
        "ids": ids,
        "mask": mask,
        "targets": targets,
        "tags": pad_tags(WORDS),
    }


def logits(captioner: CaptionModel, seed: int = 1) -> Tensor:
    """At the places where there is text: [places, vocabulary]."""
    given = asked()
    with torch.no_grad():
        found = captioner.logits(
            grids(IMAGES, seed), given["ids"], given["mask"], tags=given["tags"]
        )
    return found[given["mask"].bool()]


def train(captioner: CaptionModel, steps: int = 3, *, autocast: bool = False) -> set[str]:
    """Optimizer steps on one batch; the names that had a gradient other than zero in any."""
    trained = captioner.trained()
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    reached: set[str] = set()
    captioner.train()
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = captioner(**asked())
        loss.backward()
        reached |= {n for n, p in trained.items() if p.grad is not None and bool(p.grad.any())}
        optimizer.step()
    captioner.eval()
    return reached
