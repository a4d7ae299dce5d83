"""Chefer's rules: a toy worked out by hand, and the rules written down anew over eager weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from tests.attribution.woken import IMAGE, captioned, spelling_decoder, woken
from tests.captioning.tiny import END, FAMILIES
from tests.captioning.vision_encoder_decoder import SHAPE, both_captioners

from captune.attribution.captioned_image import captioned_image, ids_of_caption
from captune.attribution.methods import MAP_METHODS, LayerHead
from captune.attribution.methods.gradient_attention import capture_attention
from captune.attribution.methods.relevance import propagated
from captune.captioning.model import CaptionModel, batch
from captune.errors import UserError

RELEVANCE = MAP_METHODS.get("relevance")
PRODUCT = MAP_METHODS.get("gradient-attention")


def test_a_toy_by_hand() -> None:
    """Two blocks with two text places and two image tokens; each looks at the image.

    Block 0: own [[1, 0], [.5, .5]]:    R_qq = I + own = [[2, 0], [.5, 1.5]]
        norm(R_qq) = I + [[1, 0], [.5, .5]] = [[2, 0], [.5, 1.5]], its transpose [[2, .5], [0, 1.5]]
        looks [[.1, .2], [.3, .4]]:     R_qi = [[.2+.15, .4+.2], [.45, .6]] = [[.35, .6], [.45, .6]]
    Block 1: own [[0, 0], [1, 0]]:      R_qi += [[0, 0], [.35, .6]] -> [[.35, .6], [.8, 1.2]]
                                        R_qq += [[0, 0], [2, 0]] -> [[2, 0], [2.5, 1.5]]
        norm: beyond I [[1, 0], [2.5, .5]] -> rows [[1, 0], [5/6, 1/6]], plus I
        looks [[0, 0], [.6, 0]]:        R_qi += [[2, 5/6], [0, 7/6]] @ it = [[.5, 0], [.7, 0]]
    """
    own = {0: [[1.0, 0.0], [0.5, 0.5]], 1: [[0.0, 0.0], [1.0, 0.0]]}
    looks = {0: [[0.1, 0.2], [0.3, 0.4]], 1: [[0.0, 0.0], [0.6, 0.0]]}
    found = propagated(
        {k: torch.tensor([v]) for k, v in own.items()},
        {k: torch.tensor([v]) for k, v in looks.items()},
        {0: 0, 1: 1},
    )
    expected = torch.tensor([[[0.85, 0.6], [1.5, 1.2]]])
    torch.testing.assert_close(found, expected)


def test_a_block_that_does_not_look_only_mixes() -> None:
    own = {k: torch.tensor([[[0.0, 0.0], [0.5, 0.0]]]) for k in range(2)}
    found = propagated(own, {0: torch.tensor([[[0.2, 0.4], [0.0, 0.0]]])}, {0: 0})
    # rule 10: norm's row 0 is the identity's; row 1 is [1, 1], and its fraction goes to row 0: none
    torch.testing.assert_close(found, torch.tensor([[[0.2, 0.4], [0.1, 0.2]]]))


def published(own: list[np.ndarray], cross: list[np.ndarray]) -> np.ndarray:
    """Rules 5 to 10 over [heads, n, m] of gradient x weights, a cross-attention layer per block."""
    n, tokens = cross[0].shape[1:]
    text, image = np.eye(n), np.zeros((n, tokens))
    for block, looked in zip(own, cross, strict=True):
        mean = np.maximum(block, 0).mean(0)
        image, text = image + mean @ image, text + mean @ text
        beyond = text - np.eye(n)
        sums = beyond.sum(1, keepdims=True)
        rows = np.divide(beyond, sums, out=np.zeros_like(beyond), where=sums != 0) + np.eye(n)
        image = image + rows.T @ np.maximum(looked, 0).mean(0)
    return image


def test_the_rules_over_transformers_eager_weights() -> None:
    theirs, captioner = both_captioners("eager")
    states = torch.randn(1, SHAPE.tokens, SHAPE.channels, generator=torch.manual_seed(5))
    one = captioned_image(captioner, IMAGE, states, [5, 6, 7, 8, END])
    ids, _, _ = batch([one.ids], start=END, pad=1)
    whole = RELEVANCE.maps(one, LayerHead(), range(5))
    product = {c: PRODUCT.maps(one, c, range(5)) for c in PRODUCT.layer_heads(captioner)}
    assert list(product) == [LayerHead(), LayerHead(0), LayerHead(1)]
    for word, span in enumerate(one.spans):
        (step,) = span.steps
        found = theirs(encoder_outputs=(states,), decoder_input_ids=ids, output_attentions=True)
        logit = found.logits[0, step, one.ids[step]]
        weights = [*found.decoder_attentions, *found.cross_attentions]
        gradients = torch.autograd.grad(logit, weights, materialize_grads=True)
        both = [(w * g)[0].detach().numpy() for w, g in zip(weights, gradients, strict=True)]
        expected = published(both[:2], both[2:])[step]
        np.testing.assert_allclose(whole[word].flatten(), expected[1:], atol=1e-5)
        layers = [np.maximum(cross, 0).mean(0)[step, 1:] for cross in both[2:]]
        for layer_head, values in zip(product, [sum(layers), *layers], strict=True):
            np.testing.assert_allclose(product[layer_head][word].flatten(), values, atol=1e-5)


def test_a_word_of_several_pieces_has_the_mean_of_their_maps() -> None:
    captioner = woken(decoder=spelling_decoder())
    ids = ids_of_caption(captioner.decoder, "a doodle")
    one = captioned(captioner, ids)
    assert len(one.spans[1].steps) > 2
    for method in (RELEVANCE, PRODUCT):
        whole = method.maps(one, LayerHead(), [1])[0]
        # each piece is a word of its own
        pieces = [subject_piece(captioner, one, place) for place in one.spans[1].steps]
        each = [method.maps(piece, LayerHead(), [0])[0] for piece in pieces]
        torch.testing.assert_close(whole, torch.stack(each).mean(0))


def subject_piece(captioner: CaptionModel, one: Any, place: int) -> Any:
    return dataclasses.replace(one, words=[dataclasses.replace(one.words[0], steps=(place,))])


@pytest.mark.parametrize("settings", [{}, {"shared_softmax": True}], ids=["beside", "shared"])
@pytest.mark.parametrize("method", ["none", "lora", "adapter", "prefix"])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_are_written_out_give_the_same_output(
    family: str, method: str, settings: dict[str, Any]
) -> None:
    if method != "prefix" and settings:
        return
    captioner = woken(family, method=method, **settings)
    one = captioned(captioner)
    ids, mask, _ = batch([one.ids, one.ids], start=END, pad=1)
    model = captioner.decoder.module
    before = model.config._attn_implementation
    expected = captioner.logits(one.grid, ids, mask)
    with capture_attention(captioner, self_attention=True) as weights:
        found = captioner.logits(one.grid, ids, mask)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    assert model.config._attn_implementation == before
    torch.testing.assert_close(captioner.logits(one.grid, ids, mask), expected, atol=0, rtol=0)
    assert weights.behind == {0: 0, 1: 1, 2: 2}
    assert sorted(weights.own) == [0, 1, 2]
    for own in weights.own.values():
        torch.testing.assert_close(own.sum(-1), torch.ones(own.shape[:-1]))
        assert weights.over_text(own).shape == (2, 4, 6, 6)
        # a text place looks at itself and at those before it
        assert not weights.over_text(own).triu(1).any()
    for cross in weights.cross.values():
        torch.testing.assert_close(cross.sum(-1), torch.ones(cross.shape[:-1]))
    for layer in captioner.bridge.cross_attention_layers:
        assert len(layer._forward_hooks) == (method == "adapter")  # the adapter's own


def test_frozen_parameters_are_enough() -> None:
    captioner = woken("gpt2")
    expected = RELEVANCE.maps(captioned(captioner), LayerHead(), range(6))
    captioner.requires_grad_(False)
    with torch.no_grad():
        found = RELEVANCE.maps(captioned(captioner), LayerHead(), range(6))
    torch.testing.assert_close(found, expected)
    assert bool(found.any())


def test_why_not_another_word() -> None:
    captioner = woken()
    one = captioned(captioner)
    alone, against = (PRODUCT.maps(one, LayerHead(), [1], other)[0] for other in (None, "w9"))
    assert not torch.allclose(alone, against)


def test_a_bridge_without_cross_attention_has_none() -> None:
    captioner = woken(bridge="prefix")
    for method in (RELEVANCE, PRODUCT):
        with pytest.raises(UserError, match="has no cross-attention"):
            method.layer_heads(captioner)
