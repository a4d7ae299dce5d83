from __future__ import annotations

from collections.abc import Sequence

import torch
from benchmarks.tune_contenders import PER_IMAGE, Training, made_up_rows, with_peft_s_layers
from peft.tuners.lora import Linear as LoRALinear
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from captune.captioning.bridge import GridShape
from captune.captioning.model import build_model
from captune.captioning.tuning.lora import FastLoRALinear
from tests.captioning.tiny import END, grids, tiny_decoder

IMAGES = 6


def _training(precision: str = "float32") -> Training:
    shape = GridShape(tokens=10, channels=12, rows=3, columns=3, leading=1)
    both = []
    for _ in range(2):
        torch.manual_seed(0)
        captioner = build_model(
            tiny_decoder("llama"), shape, bridge="cross-attention", method="lora"
        )
        with torch.no_grad():
            for parameter in captioner.trained().values():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        both.append(captioner)
    held = grids(IMAGES)

    def cached(images: Sequence[int]) -> Tensor:
        return held[list(images)]

    return Training(*both, made_up_rows(90, END, IMAGES), cached, size=10, precision=precision)


def test_the_plain_loop_has_captune_s_loss() -> None:
    training = _training()
    assert training.largest_loss_difference() < 1e-5


def test_both_losses_in_half_precision() -> None:
    """The plain loop's by torch's autocast alone; what is read is encoded outside of it."""
    training = _training("bfloat16")
    assert 0 < training.largest_loss_difference() < 3e-2
    seen = []

    def features(images: Sequence[int]) -> Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return training.features(images)

    training.encoding_again(1, 2, features)
    assert seen == [False, False]


def test_all_ways_learn_the_same_captions() -> None:
    training = _training()
    tokens = sum(len(row) for own in training.rows for row in own)
    ways = [
        training.captune(1, 99),
        training.plain(1, 99),
        training.encoding_again(1, 99, training.features),
    ]
    assert {learnt.captions for learnt in ways} == {IMAGES * PER_IMAGE}
    assert {learnt.tokens for learnt in ways} == {tokens}
    assert ways[-1].loss < ways[0].loss


def test_encoding_again_changes_nothing() -> None:
    one, other = _training(), _training()
    assert one.captune(1, 2) == other.encoding_again(1, 2, other.features)


def test_the_plain_loop_runs_peft_s_layers() -> None:
    training = _training()
    ours, theirs = (
        {type(module) for module in one.modules()} for one in (training.captioner, training.twin)
    )
    assert FastLoRALinear in ours
    assert FastLoRALinear not in theirs
    assert LoRALinear in theirs


def test_all_products_are_counted() -> None:
    """Those of LoRA too, some of which captune adds in place: as many as peft's layers have."""
    training = _training()
    with FlopCounterMode(display=False) as plain:
        with_peft_s_layers(training.captioner)
        learnt = training.captune(0, 1)
    assert _training().flops_a_token(1) == plain.get_total_flops() / learnt.tokens
