from __future__ import annotations

import pytest
import torch
from tests.captioning.tester import Combination, asked, captioner_of, logits, wake
from tests.captioning.tiny import FAMILIES, GRID, tiny_decoder
from torch.nn import functional as F

from captune.captioning.bridge.cross_attention import CrossAttention, CrossAttentionConfig
from captune.captioning.decoder_parts import find_parts
from captune.captioning.model import CaptionModel
from captune.captioning.tuning.adapter import Adapter, AdapterConfig
from captune.errors import UserError


def _captioner(family: str, places: str) -> CaptionModel:
    decoder = tiny_decoder(family)
    parts = find_parts(decoder.module)
    bridge = CrossAttention(CrossAttentionConfig(width=16, heads=2, every=2), GRID, parts)
    config = AdapterConfig(bottleneck=4, places=places)  # type: ignore[arg-type]
    return CaptionModel(decoder, bridge, Adapter(config), GRID)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("places", "a_block"), [("houlsby", 2), ("pfeiffer", 1)])
def test_places(family: str, places: str, a_block: int) -> None:
    captioner = _captioner(family, places)
    assert len(captioner.tuning.blocks) == 3 * a_block
    assert len(captioner.tuning.cross) == 2
    counted = Adapter.count(captioner.tuning.config, captioner.parts, captioner.bridge)
    assert counted == sum(p.numel() for p in captioner.tuning.parameters())
    assert counted == (3 * a_block + 2) * (2 * 32 * 4 + 4 + 32)


@pytest.mark.parametrize("places", ["houlsby", "pfeiffer"])
def test_a_block_by_hand(places: str) -> None:
    """GPT-2's block written out, with the bottlenecks where Houlsby and Pfeiffer put them."""
    captioner = _captioner("gpt2", places)
    wake(captioner)
    plain = tiny_decoder("gpt2").module.transformer.h[0]
    bottlenecks = list(captioner.tuning.blocks)

    def through(index: int, x: torch.Tensor) -> torch.Tensor:
        b = bottlenecks[index]
        return x + F.gelu(x @ b.down.weight.T + b.down.bias) @ b.up.weight.T + b.up.bias

    hidden = torch.randn(2, 3, 32)
    with torch.no_grad():
        found = captioner.parts.blocks[0](hidden)  # every=2: the first block does look
        found = found[0] if isinstance(found, tuple) else found
        attended = plain.attn(plain.ln_1(hidden))[0]
        if places == "houlsby":
            attended = through(0, attended)
        hidden = hidden + attended
        hidden = hidden + through(1 if places == "houlsby" else 0, plain.mlp(plain.ln_2(hidden)))
    torch.testing.assert_close(found, hidden, atol=1e-5, rtol=1e-5)


def test_it_reaches_the_bridge() -> None:
    with captioner_of(Combination("cross-attention", "adapter", "llama")) as captioner:
        assert len(captioner.tuning.cross) == len(captioner.bridge.cross_attention_layers) == 2
        wake(captioner)
        said = logits(captioner)
        for bottleneck in captioner.tuning.cross:
            with torch.no_grad():
                bottleneck.up.weight.zero_()
                bottleneck.up.bias.zero_()
        assert not torch.allclose(logits(captioner), said)
    with captioner_of(Combination("prefix", "adapter", "llama")) as captioner:
        assert not captioner.tuning.cross
        assert len(asked()["grids"]) == 2


def test_errors() -> None:
    with pytest.raises(UserError, match="bottleneck 0"):
        AdapterConfig(bottleneck=0)
    with pytest.raises(UserError, match='places "everywhere"'):
        AdapterConfig(places="everywhere")  # type: ignore[arg-type]
