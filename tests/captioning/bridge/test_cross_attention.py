from __future__ import annotations

import pytest
import torch
from tests.captioning.tiny import END, FAMILIES, GRID, PAD, grids, tiny_decoder
from tests.captioning.vision_encoder_decoder import both_captioners
from torch import nn

from captune.captioning.bridge.cross_attention import (
    CrossAttention,
    CrossAttentionConfig,
    CrossAttentionLayer,
    cross_attention_blocks,
)
from captune.captioning.decoder_parts import find_parts
from captune.captioning.model import CaptionModel, batch
from captune.captioning.tuning.none import NoneConfig, NoTuning
from captune.errors import UserError

ROWS = [[5, 6, 7, END], [8, 9, END], [10, 11, 12, 13, END], [14, END]]


def _captioner(family: str, **config: object) -> CaptionModel:
    decoder = tiny_decoder(family)
    parts = find_parts(decoder.module)
    settings = CrossAttentionConfig(**{"width": 16, "heads": 2, "every": 2, **config})
    torch.manual_seed(3)
    bridge = CrossAttention(settings, GRID, parts)
    return CaptionModel(decoder, bridge, NoTuning(NoneConfig()), GRID)


def _wake(captioner: CaptionModel) -> None:
    """Out of the state where the bridge says nothing yet."""
    with torch.no_grad():
        for parameter in captioner.bridge.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)


@pytest.mark.parametrize("family", FAMILIES)
def test_at_first_the_decoder_is_untouched(family: str) -> None:
    captioner = _captioner(family)
    ids, mask, _ = batch(ROWS, start=END, pad=PAD)
    alone = tiny_decoder(family).module(input_ids=ids, attention_mask=mask).logits
    said = mask.bool()  # OPT numbers the places of padding in its own way
    assert torch.equal(captioner.logits(grids(2), ids, mask)[said], alone[said])
    captioner.detach()
    _wake(captioner)
    after = captioner.decoder.module(input_ids=ids, attention_mask=mask).logits
    assert torch.equal(after, alone)


@pytest.mark.parametrize("family", FAMILIES)
def test_captions_of_an_image_share_it(family: str) -> None:
    """Two captions an image at once are as one by one, each with its own image's grid."""
    captioner = _captioner(family)
    _wake(captioner)
    ids, mask, _ = batch(ROWS, start=END, pad=PAD)
    seen = captioner.logits(grids(2), ids, mask)
    for row, image in enumerate([0, 0, 1, 1]):
        own, own_mask, _ = batch([ROWS[row]], start=END, pad=PAD)
        single = captioner.logits(grids(2)[image : image + 1], own, own_mask)
        torch.testing.assert_close(seen[row, : own.shape[1]], single[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("beams", [1, 3])
def test_cached_decoding_equals_uncached(family: str, beams: int) -> None:
    captioner = _captioner(family)
    _wake(captioner)
    written = captioner.generate(grids(3), beams=beams, max_tokens=8)
    captioner.decoder.module.generation_config.use_cache = False
    again = captioner.generate(grids(3), beams=beams, max_tokens=8)
    assert written.ids == again.ids
    for image in range(3):
        one = captioner.generate(grids(3)[image : image + 1], beams=beams, max_tokens=8)
        assert one.ids[0] == written.ids[image]
        assert one.log_probabilities[0] == pytest.approx(written.log_probabilities[image], abs=1e-4)


def test_the_image_decides() -> None:
    captioner = _captioner("gpt2")
    _wake(captioner)
    ids, mask, _ = batch(ROWS[:2], start=END, pad=PAD)
    assert not torch.allclose(
        captioner.logits(grids(2), ids, mask), captioner.logits(grids(2, seed=9), ids, mask)
    )


@pytest.mark.parametrize("entry", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_count_is_the_formula(entry: bool, bias: bool) -> None:
    captioner = _captioner("llama", entry=entry, bias=bias)
    counted = CrossAttention.count(captioner.bridge.config, GRID, captioner.parts)
    assert counted == sum(p.numel() for p in captioner.bridge.parameters())
    assert sum(p.numel() for p in captioner.trained().values()) == counted


def test_layer_is_torch_s_multihead_attention() -> None:
    layer = CrossAttentionLayer(read=12, hidden_size=32, width=32, heads=4, bias=True)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    oracle = nn.MultiheadAttention(32, 4, kdim=12, vdim=12, batch_first=True)
    with torch.no_grad():
        oracle.q_proj_weight.copy_(layer.query.weight)
        oracle.k_proj_weight.copy_(layer.key.weight)
        oracle.v_proj_weight.copy_(layer.value.weight)
        oracle.in_proj_bias.copy_(torch.cat([layer.query.bias, layer.key.bias, layer.value.bias]))
        oracle.out_proj.weight.copy_(layer.out.weight)
        oracle.out_proj.bias.copy_(layer.out.bias)
    hidden, grid = torch.randn(4, 5, 32), grids(4)
    keys, values = layer.keys_and_values(grid)
    expected, weights = oracle(layer.norm(hidden), grid, grid, average_attn_weights=False)
    torch.testing.assert_close(layer(hidden, keys, values), expected, atol=1e-6, rtol=1e-5)
    maps = layer.attention_map(hidden, keys)
    torch.testing.assert_close(maps, weights, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(maps.sum(-1), torch.ones(4, 4, 5))


def test_full_width_in_gpt2_is_transformers_vision_encoder_decoder() -> None:
    """The same weights give the same logits as transformers' own captioner."""
    theirs, captioner = both_captioners()
    pixels = torch.randn(2, 3, 32, 32)
    ids, mask, _ = batch([[5, 6, 7, 8], [9, 10, 11, 12]], start=0, pad=1)
    with torch.no_grad():
        states = theirs.encoder(pixels).last_hidden_state
        expected = theirs(pixel_values=pixels, decoder_input_ids=ids).logits
        found = captioner.logits(states, ids, mask)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_last_block_looks() -> None:
    assert cross_attention_blocks(30, 3) == [2, 5, 8, 11, 14, 17, 20, 23, 26, 29]
    assert cross_attention_blocks(2, 3) == [1]
    assert cross_attention_blocks(30, 2, last=12) == [19, 21, 23, 25, 27, 29]
    assert cross_attention_blocks(30, 3, last=40) == cross_attention_blocks(30, 3)
    with pytest.raises(UserError, match="multiple of the heads"):
        CrossAttentionConfig(width=10, heads=3)
