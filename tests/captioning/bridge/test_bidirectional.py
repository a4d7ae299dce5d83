from __future__ import annotations

import math

import pytest
import torch
from tests.captioning.tester import CAPTIONS, ROWS, Combination, asked, captioner_of, wake
from tests.captioning.tiny import END, GRID, PAD, grids, tiny_decoder

from captune.captioning.bridge import TagEmbeddings
from captune.captioning.bridge.bidirectional import (
    Bidirectional,
    BidirectionalConfig,
    Exchange,
)
from captune.captioning.bridge.cross_attention import CrossAttention, CrossAttentionConfig
from captune.captioning.decoder_parts import find_parts
from captune.captioning.model import batch, pad_tags
from captune.errors import UserError

GPT2 = Combination("bidirectional", "none", "gpt2")


def _exchange(width: int = 8, heads: int = 2) -> Exchange:
    torch.manual_seed(0)
    exchange = Exchange(width, heads)
    with torch.no_grad():
        for parameter in exchange.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return exchange


def test_exchange_by_hand() -> None:
    """One similarity a pair and head; each side's softmax runs along its own axis of it."""
    exchange = _exchange()
    tokens, texts = torch.randn(1, 3, 8), torch.randn(1, 2, 8)
    with torch.no_grad():
        to_tokens, to_texts = exchange(tokens, texts, torch.ones(1, 2, dtype=torch.bool))

    def normed(row: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return row / math.sqrt(float((row**2).mean()) + torch.finfo(row.dtype).eps) * scale

    left = [normed(row, exchange.norm.weight.data) for row in tokens[0]]
    right = [normed(row, exchange.text_norm.weight.data) for row in texts[0]]
    found, found_texts = [], []
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        queries = [(exchange.query_key.weight.data @ row)[part] for row in left]
        keys = [(exchange.text_query_key.weight.data @ row)[part] for row in right]
        values = [(exchange.value.weight.data @ row)[part] for row in left]
        text_values = [(exchange.text_value.weight.data @ row)[part] for row in right]
        similar = [[math.exp(float(q @ k) / 2) for k in keys] for q in queries]
        found.append(
            [
                sum(s * v for s, v in zip(row, text_values, strict=True)) / sum(row)
                for row in similar
            ]
        )
        columns = list(zip(*similar, strict=True))
        found_texts.append(
            [sum(s * v for s, v in zip(row, values, strict=True)) / sum(row) for row in columns]
        )
    for i in range(3):
        expected = exchange.out(torch.cat([found[0][i], found[1][i]]))
        torch.testing.assert_close(to_tokens[0, i], expected.detach(), atol=1e-5, rtol=1e-5)
    for j in range(2):
        expected = exchange.text_out(torch.cat([found_texts[0][j], found_texts[1][j]]))
        torch.testing.assert_close(to_texts[0, j], expected.detach(), atol=1e-5, rtol=1e-5)


def test_exchange_is_lucidrains_block() -> None:
    theirs_module = pytest.importorskip("bidirectional_cross_attention")
    ours = _exchange(width=16, heads=4)
    theirs = theirs_module.BidirectionalCrossAttention(
        dim=16, heads=4, dim_head=4, context_dim=16, prenorm=True
    )
    pairs = {
        "norm": ours.norm,
        "context_norm": ours.text_norm,
        "to_qk": ours.query_key,
        "context_to_qk": ours.text_query_key,
        "to_v": ours.value,
        "context_to_v": ours.text_value,
        "to_out": ours.out,
        "context_to_out": ours.text_out,
    }
    for name, module in pairs.items():
        getattr(theirs, name).load_state_dict(module.state_dict())
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in ours.parameters())
    tokens, texts = torch.randn(3, 9, 16), torch.randn(3, 4, 16)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
    with torch.no_grad():
        expected, expected_texts = theirs(tokens, texts, context_mask=mask)
        found, found_texts = ours(tokens, texts, mask)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found_texts[mask], expected_texts[mask], atol=1e-5, rtol=1e-5)


def test_without_words_it_is_the_default_bridge() -> None:
    parts = find_parts(tiny_decoder("gpt2").module)
    settings = {"width": 16, "heads": 2, "every": 2}
    ours = Bidirectional(BidirectionalConfig(**settings), GRID, parts)  # type: ignore[arg-type]
    plain = CrossAttention(CrossAttentionConfig(**settings), GRID, parts)  # type: ignore[arg-type]
    plain.load_state_dict(ours.state_dict(), strict=False)
    expected, found = plain.project(grids(2)), ours.project(grids(2))
    assert found.mask is None
    for one, other in zip(found.keys + found.values, expected.keys + expected.values, strict=True):
        assert torch.equal(one, other)


def test_an_image_without_words_among_others_is_as_alone() -> None:
    given = asked()
    with captioner_of(GPT2) as captioner, torch.no_grad():
        wake(captioner)
        ids, mask = given["ids"], given["mask"]
        words = pad_tags([[20, 21], []])
        both = captioner.logits(given["grids"], ids, mask, tags=words)
        alone = captioner.logits(given["grids"][1:], ids[CAPTIONS:], mask[CAPTIONS:])
        torch.testing.assert_close(both[CAPTIONS:], alone, atol=1e-5, rtol=1e-5)
        none = captioner.logits(given["grids"], ids, mask, tags=pad_tags([[], []]))
        plain = captioner.logits(given["grids"], ids, mask)
        torch.testing.assert_close(none, plain, atol=1e-5, rtol=1e-5)


def test_padding_of_words_is_nothing() -> None:
    with captioner_of(GPT2) as captioner, torch.no_grad():
        wake(captioner)
        ids, mask, _ = batch(ROWS, start=END, pad=PAD)
        short = captioner.logits(grids(2), ids, mask, tags=pad_tags([[20, 21], [22]]))
        wide = torch.full((2, 4), -100)
        wide[0, :2], wide[1, :1] = torch.tensor([20, 21]), 22
        padded = captioner.logits(grids(2), ids, mask, tags=wide)
    torch.testing.assert_close(short, padded, atol=1e-5, rtol=1e-5)


def test_words_are_read_with_their_order() -> None:
    with captioner_of(GPT2) as captioner, torch.no_grad():
        wake(captioner)
        ids, mask, _ = batch(ROWS, start=END, pad=PAD)
        said = [
            captioner.logits(grids(2), ids, mask, tags=pad_tags(words))
            for words in ([[20, 21], [22]], [[21, 20], [22]], [[20, 21], [23]])
        ]
    assert not torch.allclose(said[0], said[1], atol=1e-3)
    assert torch.equal(said[0][:CAPTIONS], said[2][:CAPTIONS])  # the other image's word
    assert not torch.allclose(said[0][CAPTIONS:], said[2][CAPTIONS:], atol=1e-3)


def test_no_generated_token_reaches_the_image() -> None:
    """What is projected is done before the decoder runs, and stays as it was while it writes."""
    given = asked()
    with captioner_of(GPT2) as captioner, torch.no_grad():
        wake(captioner)
        states = captioner.project(given["grids"], given["tags"])
        before = [part.clone() for part in states.keys + states.values]
        seen = []
        handle = captioner.parts.blocks[0].register_forward_hook(
            lambda *_: seen.append(captioner.context.states)
        )
        captioner.generate(given["grids"], beams=3, max_tokens=6, tags=given["tags"])
        handle.remove()
    assert len(seen) > 3
    for later in seen:
        parts = later.keys + later.values
        assert all(torch.equal(one, two) for one, two in zip(parts, before, strict=True))


def test_it_looks_at_words_and_patches_in_one_softmax() -> None:
    parts = find_parts(tiny_decoder("gpt2").module)
    settings = BidirectionalConfig(width=16, heads=2, every=2, words=4)
    bridge = Bidirectional(settings, GRID, parts)
    mask = torch.tensor([[True, True], [True, False]])
    states = bridge.project(grids(2), TagEmbeddings(torch.randn(2, 2, 32), mask))
    layer, hidden = bridge.cross_attention_layers[0], torch.randn(4, 3, 32)
    maps = layer.attention_map(hidden, states.keys[0], states.mask)
    assert maps.shape == (4, 2, 3, GRID.tokens + 2)
    torch.testing.assert_close(maps.sum(-1), torch.ones(4, 2, 3))
    assert not maps[2:, ..., -1].any()
    assert maps[:2, ..., -1].all()


def test_errors() -> None:
    with pytest.raises(UserError, match="entry False"):
        BidirectionalConfig(entry=False)
    with pytest.raises(UserError, match="depth 0"):
        BidirectionalConfig(depth=0)
    with (
        captioner_of(GPT2) as captioner,
        pytest.raises(UserError, match=r"tags of 5 tokens for an image; the bridge reads 4"),
    ):
        captioner.project(grids(1), pad_tags([[20, 21, 22, 23, 24]]))
