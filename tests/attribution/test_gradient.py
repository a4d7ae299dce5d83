"""Gradients and occlusion agree with Captum's, over the same grid and the same score."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from captum.attr import FeatureAblation, InputXGradient, IntegratedGradients
from tests.attribution.woken import captioned, spelling_decoder, woken, word_log_probabilities
from tests.captioning.tiny import END, GRID
from torch import Tensor

from captune.attribution.captioned_image import CaptionedImage, ids_of_caption
from captune.attribution.methods import MAP_METHODS, LayerHead
from captune.attribution.methods.integrated_gradients import STEPS, without_patches
from captune.captioning.model import CaptionModel, batch

CAPTIONERS = pytest.mark.parametrize(
    ("family", "bridge"),
    [("llama", "cross-attention"), ("gpt2", "prefix"), ("opt", "cross-attention")],
)


def score_of(captioner: CaptionModel, one: CaptionedImage, word: int) -> Callable[[Tensor], Tensor]:
    """Grids -> log-probability of a word, by the captioner's own logits."""
    ids, _, _ = batch([one.ids], start=END, pad=1)

    def score(grids: Tensor) -> Tensor:
        rows = ids.repeat(len(grids), 1)
        logits = captioner.logits(grids, rows, torch.ones_like(rows)).log_softmax(-1)
        places = one.spans[word].steps
        return torch.stack([logits[:, p, one.ids[p]] for p in places]).sum(0)

    return score


def patches(attributions: Tensor) -> Tensor:
    return attributions.sum(-1)[0, 1:].view(3, 3)


@CAPTIONERS
def test_input_times_gradient(family: str, bridge: str) -> None:
    captioner = woken(family, bridge=bridge)
    one = captioned(captioner)
    maps = MAP_METHODS.get("gradient").maps(one, LayerHead(), range(6))
    for word in range(6):
        captum = InputXGradient(score_of(captioner, one, word))
        expected = patches(captum.attribute(one.grid.clone().requires_grad_()))
        torch.testing.assert_close(maps[word], expected.detach(), atol=1e-5, rtol=1e-4)


@CAPTIONERS
def test_integrated_gradients(family: str, bridge: str) -> None:
    captioner = woken(family, bridge=bridge)
    one = captioned(captioner)
    maps = MAP_METHODS.get("integrated-gradients").maps(one, LayerHead(), range(6))
    begin = without_patches(one)
    for word in range(6):
        score = score_of(captioner, one, word)
        expected = IntegratedGradients(score).attribute(
            one.grid.clone(), baselines=begin, n_steps=STEPS, method="gausslegendre"
        )
        torch.testing.assert_close(maps[word], patches(expected).float(), atol=1e-5, rtol=1e-4)
        with torch.no_grad():
            gain = score(one.grid) - score(begin)
        assert float(maps[word].sum()) == pytest.approx(float(gain), abs=0.02)


@CAPTIONERS
def test_occlusion(family: str, bridge: str) -> None:
    captioner = woken(family, bridge=bridge)
    one = captioned(captioner)
    maps = MAP_METHODS.get("occlusion").maps(one, LayerHead(), range(6))
    tokens = torch.arange(GRID.tokens)[None, :, None].expand_as(one.grid)
    for word in range(6):
        captum = FeatureAblation(score_of(captioner, one, word))
        with torch.no_grad():
            found = captum.attribute(
                one.grid, baselines=torch.zeros_like(one.grid), feature_mask=tokens
            )
        expected = found[0, 1:, 0].view(3, 3)
        torch.testing.assert_close(maps[word], expected, atol=1e-5, rtol=1e-4)


def test_where_no_patch_differs_nothing_is_lost() -> None:
    captioner = woken()
    one = captioned(captioner)
    blanks = {
        "occlusion": torch.zeros_like(one.grid),
        "integrated-gradients": without_patches(one),
    }
    for name, grid in blanks.items():
        blank = dataclasses.replace(one, grid=grid)
        maps = MAP_METHODS.get(name).maps(blank, LayerHead(), range(6))
        torch.testing.assert_close(maps, torch.zeros(6, 3, 3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["gradient", "integrated-gradients", "occlusion"])
def test_one_word_alone_and_several_together(name: str) -> None:
    captioner = woken(decoder=spelling_decoder())
    one = captioned(captioner, ids_of_caption(captioner.decoder, "a dog on a red doorstep"))
    method = MAP_METHODS.get(name)
    together = method.maps(one, LayerHead(), range(6))
    assert together.dtype == torch.float32
    assert not together.requires_grad
    for word in (0, 5):
        alone = method.maps(one, LayerHead(), [word])[0]
        torch.testing.assert_close(alone, together[word], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["gradient", "integrated-gradients", "occlusion"])
def test_against_another_word(name: str) -> None:
    """Of a difference of scores the map is the difference of the maps: all three are linear."""
    captioner = woken()
    one = captioned(captioner)
    method = MAP_METHODS.get(name)
    against = method.maps(one, LayerHead(), [1], against="w9")[0]
    (other,) = captioner.decoder.encode(["w9"])[0]
    swapped = dataclasses.replace(one, ids=[one.ids[0], other], words=one.words[:2])
    mine = method.maps(one, LayerHead(), [1])[0]
    theirs = method.maps(swapped, LayerHead(), [1])[0]
    torch.testing.assert_close(against, mine - theirs, atol=1e-4, rtol=1e-3)
    with torch.no_grad():
        score = word_log_probabilities(one, one.grid, [1], against="w9")
        both = [word_log_probabilities(s, one.grid, [1]) for s in (one, swapped)]
    torch.testing.assert_close(score, both[0] - both[1], atol=1e-5, rtol=1e-4)
