"""Output projections of the bridge learn as fast as the stream is large that they add to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.captioning.caption_job import BRIDGES
from tests.captioning.little_job import toy_data
from tests.captioning.tiny import END, FAMILIES, GRID, PAD, tiny_decoder

from captune.captioning.bridge.cross_attention import CrossAttentionConfig
from captune.captioning.model import CaptionModel, batch, build_model
from captune.captioning.training.rates import learning_rate_groups, stream_sizes
from captune.captioning.training.trainer import CaptionTrainer
from captune.errors import UserError
from captune.options.tuning import TuneOptions

CAPTIONS = [[30, 31, 32], [40, 41], [50, 51, 52, 53]]


def captioner_of(family: str = "llama", bridge: str = "cross-attention") -> CaptionModel:
    return build_model(
        tiny_decoder(family),
        GRID,
        bridge=bridge,
        method="lora",
        bridge_settings=BRIDGES.get(bridge, BRIDGES["cross-attention"]),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stream_is_measured_in_every_block(family: str) -> None:
    captioner = captioner_of(family)
    sizes = stream_sizes(captioner, CAPTIONS)
    assert len(sizes) == len(captioner.parts.blocks)
    assert min(sizes) > 0
    hooks = [len(m._forward_hooks) for m in captioner.parts.self_attentions]
    assert stream_sizes(captioner, CAPTIONS) == sizes
    assert [len(m._forward_hooks) for m in captioner.parts.self_attentions] == hooks


def test_what_is_measured_is_the_stream_that_the_bridge_adds_to() -> None:
    """Of a Llama block: what enters the norm before its MLP, at the places that hold text."""
    captioner = captioner_of("llama")
    sizes = stream_sizes(captioner, CAPTIONS)
    ids, mask, _ = batch(CAPTIONS, start=END, pad=PAD)
    seen: list[torch.Tensor] = []
    last = captioner.parts.blocks[-1]
    norm = last.get_submodule("post_attention_layernorm")
    handle = norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        captioner.decoder.module(input_ids=ids, attention_mask=mask.long())
    handle.remove()
    text = seen[0][mask.bool()]
    assert sizes[-1] == pytest.approx(float(text.abs().median()), rel=1e-6)


@pytest.mark.parametrize("bridge", ["cross-attention", "bidirectional"])
def test_output_projections_have_rates_of_their_own(bridge: str) -> None:
    captioner = captioner_of(bridge=bridge)
    trained = captioner.trained()
    optimizer = torch.optim.AdamW(list(trained.values()), lr=1e-3, weight_decay=0.02)
    sizes = [2.0, 3.0, 5.0]
    learning_rate_groups(optimizer, captioner, sizes)
    rate_of = {
        id(parameter): group["lr"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert len(rate_of) == len(trained)
    for name, parameter in trained.items():
        if ".layers." in name and ".out." in name:
            place = captioner.bridge.places[int(name.split(".layers.")[1].split(".")[0])]
            assert rate_of[id(parameter)] == pytest.approx(1e-3 * 3 * sizes[place])
        else:
            assert rate_of[id(parameter)] == 1e-3
    assert all(group["weight_decay"] == 0.02 for group in optimizer.param_groups)


def test_a_bridge_that_adds_nothing_to_the_stream_is_left_alone() -> None:
    captioner = captioner_of(bridge="prefix")
    optimizer = torch.optim.AdamW(list(captioner.trained().values()), lr=1e-3)
    learning_rate_groups(optimizer, captioner, [2.0, 3.0, 5.0])
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3]


def rates_of(
    captioner: CaptionModel, folder: Path, **changes: Any
) -> tuple[set[float], set[float]]:
    """(of the output projections, of everything else), as a training sets out with."""
    asked = TuneOptions(epochs=2, batch_size=12, lr=1e-2, select="loss", device="cpu", **changes)
    trainer = CaptionTrainer(captioner, toy_data(), asked, folder, score=lambda say: {})
    optimizer = trainer.create_optimizer()
    own = {
        id(p) for parameters in captioner.bridge.output_projections().values() for p in parameters
    }
    found: tuple[set[float], set[float]] = (set(), set())
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            found[id(parameter) not in own].add(group["lr"])
    return found


def test_a_training_takes_these_rates(tmp_path: Path) -> None:
    captioner = captioner_of("gpt2")
    first = [own[0] for own in toy_data().rows]
    sizes = stream_sizes(captioner, first)
    own, others = rates_of(captioner, tmp_path)
    assert sorted(own) == pytest.approx(sorted(1e-2 * 3 * size for size in sizes))
    assert others == {1e-2}


def test_a_captioner_that_has_learnt_already_keeps_one_rate(tmp_path: Path) -> None:
    own, others = rates_of(captioner_of("gpt2"), tmp_path, start=tmp_path / "before")
    assert own == others == {1e-2}


def test_without_gain_there_is_one_rate(tmp_path: Path) -> None:
    config = {**BRIDGES["cross-attention"], "gain": 0.0}
    captioner = build_model(
        tiny_decoder("gpt2"), GRID, bridge="cross-attention", method="none", bridge_settings=config
    )
    own, others = rates_of(captioner, tmp_path)
    assert own == others == {1e-2}
    with pytest.raises(UserError, match="gain -1"):
        CrossAttentionConfig(gain=-1)
