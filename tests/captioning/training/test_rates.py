"""Output projections of the bridge learn as fast as the stream is large that they add to."""

from __future__ import annotations

import pytest
import torch
from tests.captioning.caption_job import BRIDGES
from tests.captioning.tiny import END, FAMILIES, GRID, PAD, tiny_decoder

from captune.captioning.building import build_captioner
from captune.captioning.model import Captioner, batch
from captune.captioning.training.rates import GAIN, quicken, stream_sizes

CAPTIONS = [[30, 31, 32], [40, 41], [50, 51, 52, 53]]


def captioner_of(family: str = "llama", bridge: str = "cross-attention") -> Captioner:
    return build_captioner(
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
    quicken(optimizer, captioner, sizes)
    rate_of = {
        id(parameter): group["lr"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert len(rate_of) == len(trained)
    for name, parameter in trained.items():
        if ".layers." in name and ".out." in name:
            place = captioner.bridge.places[int(name.split(".layers.")[1].split(".")[0])]
            assert rate_of[id(parameter)] == pytest.approx(1e-3 * GAIN * sizes[place])
        else:
            assert rate_of[id(parameter)] == 1e-3
    assert all(group["weight_decay"] == 0.02 for group in optimizer.param_groups)


def test_a_bridge_that_adds_nothing_to_the_stream_is_left_alone() -> None:
    captioner = captioner_of(bridge="prefix")
    optimizer = torch.optim.AdamW(list(captioner.trained().values()), lr=1e-3)
    quicken(optimizer, captioner, [2.0, 3.0, 5.0])
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3]
