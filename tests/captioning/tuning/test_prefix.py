from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model
from tests.captioning.tester import asked, logits, wake
from tests.captioning.tiny import FAMILIES, GRID, tiny_decoder
from torch.nn import functional as F

from captune.captioning.bridge.cross_attention import CrossAttention, CrossAttentionConfig
from captune.captioning.decoder_parts import find_parts
from captune.captioning.model import CaptionModel
from captune.captioning.tuning.prefix import Prefix, PrefixConfig
from captune.errors import UserError
from captune.models.decoders import Decoder


def _captioner(decoder: Decoder, **settings: Any) -> CaptionModel:
    parts = find_parts(decoder.module)
    bridge = CrossAttention(CrossAttentionConfig(width=16, heads=2), GRID, parts)
    return CaptionModel(decoder, bridge, Prefix(PrefixConfig(**settings)), GRID)


@pytest.mark.parametrize("family", FAMILIES)
def test_with_one_softmax_it_is_peft_s_prefix_tuning(family: str) -> None:
    """peft's keys and values, handed to the plain model as its cache, text counted from 0."""
    captioner = _captioner(tiny_decoder(family), length=5, shared_softmax=True)
    module = tiny_decoder(family).module
    config = PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=5,
        num_layers=3,
        token_dim=captioner.parts.key_value_heads * captioner.parts.head_dim,
        num_attention_heads=captioner.parts.key_value_heads,
    )
    plain = get_peft_model(module, config).eval()
    with torch.no_grad():
        for parameter in plain.prompt_encoder.parameters():
            parameter.normal_(std=0.5)
    given = asked()
    rows, width = given["ids"].shape
    cache = plain.get_prompt(batch_size=rows)
    with torch.no_grad():
        for own, layer in zip(captioner.tuning.blocks, cache.layers, strict=True):
            own.keys.copy_(layer.keys[0])
            own.values.copy_(layer.values[0])
        expected = module(
            input_ids=given["ids"],
            attention_mask=torch.cat([torch.ones(rows, 5).long(), given["mask"]], dim=1),
            position_ids=torch.arange(width).expand(rows, -1),
            past_key_values=cache,
        ).logits
    captioner.eval()
    found = captioner.logits(given["grids"], given["ids"], given["mask"])
    said = given["mask"].bool()
    torch.testing.assert_close(found[said], expected[said], atol=1e-5, rtol=1e-5)


def test_its_own_softmax_by_hand() -> None:
    """What is added to the first block's attention, from the queries it has."""
    captioner = _captioner(tiny_decoder("gpt2"), length=4)
    with torch.no_grad():
        for prefix in captioner.tuning.blocks:
            prefix.values.normal_()
            prefix.keys.normal_()
    attention = captioner.parts.self_attentions[0]
    hidden = torch.randn(2, 3, 32)
    with torch.no_grad():
        found = attention(hidden)[0]
        plain = tiny_decoder("gpt2").module.transformer.h[0].attn
        text = plain(hidden)[0]
        queries = plain.c_attn(hidden)[..., :32].view(2, 3, 4, 8)
        prefix = captioner.tuning.blocks[0]
        added = torch.zeros(2, 3, 4, 8)
        for head in range(4):
            weights = F.softmax(queries[:, :, head] @ prefix.keys[head].T / 8**0.5, dim=-1)
            added[:, :, head] = weights @ prefix.values[head]
        expected = text + added.reshape(2, 3, 32) @ plain.c_proj.weight
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_step_0_where_scores_of_the_text_are_far_below_zero(dtype: torch.dtype) -> None:
    """As in trained models, whose softmax does not feel it; a prefix in the same softmax would."""
    decoder = tiny_decoder("gpt2")
    with torch.no_grad():
        for block in decoder.module.transformer.h:
            # queries and keys with opposite large biases: every score falls by the same
            block.attn.c_attn.bias[:32] = 8
            block.attn.c_attn.bias[32:64] = -8
    decoder.module.to(dtype)
    given = asked()
    said = given["mask"].bool()
    alone = decoder.module(input_ids=given["ids"], attention_mask=given["mask"]).logits[said]
    captioner = _captioner(decoder, length=8)
    found = captioner.logits(given["grids"], given["ids"], given["mask"])[said]
    assert torch.equal(found, alone)
    captioner.detach()
    captioner = _captioner(decoder, length=8, shared_softmax=True)
    found = captioner.logits(given["grids"], given["ids"], given["mask"])[said]
    assert not torch.allclose(found, alone, atol=0.5)


@pytest.mark.parametrize("family", FAMILIES)
def test_eager_attention_is_as_sdpa(family: str) -> None:
    decoder = tiny_decoder(family)
    said = []
    for implementation in ("sdpa", "eager"):
        decoder.module.set_attn_implementation(implementation)
        torch.manual_seed(2)
        captioner = _captioner(decoder, length=4)
        wake(captioner)
        captioner.eval()
        said.append(logits(captioner))
        captioner.detach()
        assert decoder.module.config._attn_implementation == implementation
    torch.testing.assert_close(*said, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="runs eager"):
        _captioner(decoder, length=4, shared_softmax=True)


def test_in_the_bridge_by_hand() -> None:
    """What is added to what a layer gives of the image, from the queries it has."""
    captioner = _captioner(tiny_decoder("llama"), length=4)
    wake(captioner)
    layer, hidden = captioner.bridge.cross_attention_layers[0], torch.randn(2, 3, 32)
    states = captioner.project(asked()["grids"][:2])
    keys, values, extra = states.keys[0], states.values[0], layer.extra
    assert extra is not None
    with torch.no_grad():
        found, (out, weights) = layer(hidden, keys, values), layer.attend(hidden, keys, values)
        layer.extra = None
        of_the_image = layer(hidden, keys, values)
        queries = layer.query(layer.norm(hidden)).view(2, 3, 2, 8)
        added = torch.zeros(2, 3, 2, 8)
        for head in range(2):
            shares = F.softmax(queries[:, :, head] @ extra.keys[head].T / 8**0.5, dim=-1)
            added[:, :, head] = shares @ extra.values[head]
        expected = of_the_image + layer.out(added.reshape(2, 3, 16))
        layer.extra = extra
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out, found, atol=1e-5, rtol=1e-5)
    assert weights.shape[-1] == GRID.tokens
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 3))


@pytest.mark.parametrize("shared", [False, True])
def test_it_reaches_the_bridge(shared: bool) -> None:
    captioner = _captioner(tiny_decoder("llama"), length=4, shared_softmax=shared).eval()
    try:
        assert len(captioner.tuning.cross) == len(captioner.bridge.cross_attention_layers) == 1
        wake(captioner)
        said = logits(captioner)
        for extra in captioner.tuning.cross:
            with torch.no_grad():
                extra.values.add_(1.0)
        assert not torch.allclose(logits(captioner), said)
        # and the map of the image is all of it, or what the prefix leaves of it
        layer = captioner.bridge.cross_attention_layers[0]
        keys = captioner.project(asked()["grids"]).keys[0]
        maps = layer.attention_map(torch.randn(4, 3, 32), keys)
        assert maps.shape == (4, 2, 3, GRID.tokens)
        if shared:
            assert (maps.sum(-1) < 1).all()
        else:
            torch.testing.assert_close(maps.sum(-1), torch.ones(4, 2, 3))
    finally:
        captioner.detach()
    assert captioner.bridge.cross_attention_layers[0].extra is None


def test_errors() -> None:
    with pytest.raises(UserError, match="length 0"):
        PrefixConfig(length=0)
