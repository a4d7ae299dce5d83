from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.captioning.tester import TINY, Combination, captioner_of, combinations, decoder_of
from tests.captioning.tiny import GRID
from transformers import AutoModelForCausalLM, GPT2Config

from captune.captioning.bridge import BRIDGES, GridShape
from captune.captioning.dataset import CaptionDataset
from captune.captioning.decoder_parts import find_parts
from captune.captioning.training import budget as budget_module
from captune.captioning.training.budget import (
    budget,
    check_budget,
    parse_count,
    planned,
)
from captune.captioning.training.validation import ValidationSet
from captune.captioning.tuning import TUNING_METHODS
from captune.errors import UserError
from captune.options.tuning import TuneOptions


@pytest.mark.parametrize("combination", [c for c in combinations() if c.family == "llama"], ids=str)
def test_planned_is_what_is_built(combination: Combination) -> None:
    bridge = BRIDGES.get(combination.bridge).Config(**TINY["bridge"][combination.bridge])
    method = TUNING_METHODS.get(combination.method).Config(
        **TINY["tuning"].get(combination.method, {})
    )
    parts = find_parts(decoder_of("llama").module)
    rows = planned(combination.bridge, bridge, combination.method, method, GRID, parts)
    with captioner_of(combination) as captioner:
        built = budget(captioner)
        everything = sum(p.numel() for p in captioner.trained().values())
    assert sum(built.values()) == everything
    assert check_budget(rows, "1M") == everything
    for side in ("bridge", "tuning"):
        own = [count for part, count in built.items() if part.split(".")[0] == side]
        assert sum(own) == rows[side]


def test_parts_are_named() -> None:
    with captioner_of(Combination("cross-attention", "adapter", "gpt2")) as captioner:
        assert list(budget(captioner)) == [
            "bridge.entry",
            "bridge.layers",
            "tuning.blocks",
            "tuning.cross",
        ]
    with captioner_of(Combination("prefix", "lora", "gpt2")) as captioner:
        assert list(budget(captioner)) == [
            "bridge.start",
            "bridge.pooling",
            "tuning",
        ]


@pytest.mark.parametrize("bridge", ["cross-attention", "prefix", "bidirectional"])
@pytest.mark.parametrize("method", ["adapter", "prefix", "lora", "dora", "ia3", "none"])
def test_defaults_on_gpt2_are_within_the_assignment_s_35_million(bridge: str, method: str) -> None:
    """By formula alone: GPT-2 small and ViT-L/14 at 336 px, neither of which is in memory."""
    with torch.device("meta"):
        parts = find_parts(AutoModelForCausalLM.from_config(GPT2Config()))
    grid = GridShape(tokens=577, channels=1024, rows=24, columns=24, leading=1)
    rows = planned(
        bridge,
        BRIDGES.get(bridge).Config(),
        method,
        TUNING_METHODS.get(method).Config(),
        grid,
        parts,
    )
    assert check_budget(rows, "35M") > 0


def test_over_budget_is_refused() -> None:
    rows = {"bridge": 30_000_000, "tuning": 6_000_000}
    with pytest.raises(UserError, match=r"36,000,000 .*bridge 30,000,000, tuning 6,000,000.* 35M"):
        check_budget(rows, "35M")
    assert check_budget(rows, "36m") == 36_000_000


def test_the_time_of_captions_is_that_of_whole_batches_of_usual_captions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    asked = []

    def generate(grids: torch.Tensor, max_tokens: int, **how: Any) -> None:
        asked.append((len(grids), max_tokens))
        now[0] += 0.25 * max_tokens + 30 * (len(asked) == 1)  # of the first, what is set up

    monkeypatch.setattr(budget_module.time, "perf_counter", lambda: now[0])
    ids = [str(n) for n in range(100)]
    images: list[Any] = [None] * 100
    data = CaptionDataset(ids, images, ids, [["a"]] * 100, Path())
    rows = [[[5] * 12] for _ in ids[1:]] + [[[5] * 40]]  # one has much to say
    grids: Any = SimpleNamespace(grids_of=lambda keys: torch.zeros(len(keys), 1, 1))
    device = torch.device("cpu")
    model: Any = SimpleNamespace(generate=generate, decoder=SimpleNamespace(device=device))
    val = ValidationSet(data, rows, grids)
    found = budget_module._write(model, val, TuneOptions(device="cpu"))
    assert found == pytest.approx(0.25 * 12 / 32)
    assert {images for images, _ in asked} == {32}
    assert sum(tokens for _, tokens in asked) < 8


@pytest.mark.parametrize(
    ("text", "count"),
    [("35M", 35_000_000), ("1.5b", 1_500_000_000), ("500K", 500_000), ("12_000", 12_000)],
)
def test_counts_are_read(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "M", "-3M", "many", "nan", "inf"])
def test_other_counts_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="35M"):
        parse_count(text)
