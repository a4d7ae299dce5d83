from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.attribution.woken import word_log_probabilities
from tests.captioning.tiny import END, FAMILIES, GRID, grids, tiny_decoder
from torch import Tensor

from captune.attribution.captioned_image import CaptionedImage, captioned_image
from captune.attribution.word_scores import first_cross_attention_block
from captune.captioning.model import CaptionModel, build_model
from captune.images import ImageFile

IDS = [5, 9, 30, 7, END]


def captioner_of(family: str, bridge: str = "cross-attention", **settings: int) -> CaptionModel:
    captioner = build_model(
        tiny_decoder(family), GRID, bridge=bridge, method="lora", bridge_settings=settings
    )
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in captioner.trained().values():
            parameter.add_(torch.randn(parameter.shape, generator=chance) * 0.3)
    return captioner


def captioned(captioner: CaptionModel) -> CaptionedImage:
    return captioned_image(captioner, ImageFile(Path("a.png"), "a.png"), grids(1), IDS)


def one_by_one(captioner: CaptionModel, many: Tensor) -> Tensor:
    return torch.cat([word_log_probabilities(captioned(captioner), grid[None]) for grid in many])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("every", [1, 2, 3])
def test_rows_together_are_as_one_by_one(family: str, every: int) -> None:
    captioner = captioner_of(family, width=16, heads=2, every=every)
    assert first_cross_attention_block(captioner) == {1: 0, 2: 0, 3: 2}[every]
    many = grids(5, seed=4)
    with torch.no_grad():
        together = word_log_probabilities(captioned(captioner), many)
        torch.testing.assert_close(together, one_by_one(captioner, many), atol=1e-5, rtol=1e-4)
    assert together.std(dim=0).min() > 1e-3  # the grids do matter
    # with gradients the blocks are not skipped, and the figures are the same
    slow = word_log_probabilities(captioned(captioner), many)
    torch.testing.assert_close(slow.detach(), together, atol=1e-5, rtol=1e-4)


def test_blocks_are_skipped_and_come_back() -> None:
    captioner = captioner_of("llama", width=16, heads=2, every=3)
    assert first_cross_attention_block(captioner) == 2
    rows: list[int] = []
    first = captioner.parts.self_attentions[0]
    handle = first.register_forward_hook(lambda _, __, output: rows.append(len(output[0])))
    with torch.no_grad():
        word_log_probabilities(captioned(captioner), grids(5))
    handle.remove()
    assert rows == [1]
    assert all("forward" not in vars(block) for block in captioner.parts.blocks)


def test_blocks_come_back_after_an_error() -> None:
    captioner = captioner_of("llama", width=16, heads=2, every=3)
    with torch.no_grad(), pytest.raises(RuntimeError):
        word_log_probabilities(captioned(captioner), torch.zeros(5, 3, 3))
    assert all("forward" not in vars(block) for block in captioner.parts.blocks)
    captioner.generate(grids(1), max_tokens=3)


def test_a_bridge_of_soft_tokens_looks_from_the_first_block_on() -> None:
    captioner = captioner_of("llama", "prefix")
    assert first_cross_attention_block(captioner) == 0
    many = grids(3)
    with torch.no_grad():
        together = word_log_probabilities(captioned(captioner), many)
        torch.testing.assert_close(together, one_by_one(captioner, many), atol=1e-5, rtol=1e-4)
