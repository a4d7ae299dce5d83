from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.attribution.woken import IMAGE, captioned, spelling_decoder, steps_of, woken
from tests.captioning.tiny import END, FAMILIES, GRID, grids
from tests.captioning.vision_encoder_decoder import SHAPE, both_captioners

from captune.attribution.captioned_image import captioned_image, ids_of_caption
from captune.attribution.methods import MAP_METHODS, LayerHead
from captune.attribution.methods.attention import attention_of
from captune.captioning.model import batch
from captune.errors import UserError

ATTENTION = MAP_METHODS.get("attention")


def test_maps_are_the_eager_weights_of_transformers_captioner() -> None:
    theirs, captioner = both_captioners("eager")
    states = torch.randn(1, SHAPE.tokens, SHAPE.channels, generator=torch.manual_seed(5))
    one = captioned_image(captioner, IMAGE, states, [5, 6, 7, 8, END])
    ids, _, _ = batch([one.ids], start=END, pad=1)
    with torch.no_grad():
        found = theirs(encoder_outputs=(states,), decoder_input_ids=ids, output_attentions=True)
    assert len(found.cross_attentions) == 2
    words = range(len(one.spans))
    for layer, weights in enumerate(found.cross_attentions):
        patches = weights[0, :, :, 1:].view(4, 5, 4, 4)  # [heads, steps, rows, columns]
        for head in range(4):
            maps = ATTENTION.maps(one, LayerHead(layer, head), words)
            torch.testing.assert_close(maps, patches[head], atol=1e-6, rtol=0)
        mean = ATTENTION.maps(one, LayerHead(layer, "mean"), words)
        torch.testing.assert_close(mean, patches.mean(0), atol=1e-6, rtol=0)
        largest = ATTENTION.maps(one, LayerHead(layer, "max"), words)
        torch.testing.assert_close(largest, patches.amax(0), atol=1e-6, rtol=0)
    over = torch.stack([w[0, :, :, 1:].mean(0) for w in found.cross_attentions]).mean(0)
    every = ATTENTION.maps(one, LayerHead(None, "mean"), words)
    torch.testing.assert_close(every, over.view(5, 4, 4), atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", ["none", "lora", "adapter"])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_sum_to_one(family: str, method: str) -> None:
    captioner = woken(family, method=method)
    one = captioned(captioner)
    weights = attention_of(one, steps_of(one))
    for layer in range(3):
        assert weights[layer].shape == (6, 2, GRID.tokens)
        torch.testing.assert_close(weights[layer].sum(-1), torch.ones(6, 2))
    maps = ATTENTION.maps(one, LayerHead(1, 0), range(6))
    assert maps.shape == (6, 3, 3)
    # the token that stands for no place is dropped, not spread over the image
    torch.testing.assert_close(maps.flatten(1), weights[1][:, 0, 1:])


def test_a_prefix_in_the_same_softmax_has_its_share() -> None:
    captioner = woken(method="prefix", length=4, shared_softmax=True)
    one = captioned(captioner)
    layer = captioner.bridge.cross_attention_layers[2]
    heard: list[torch.Tensor] = []

    def hear(module: Any, args: Any, output: torch.Tensor) -> None:
        heard.append(module.attend(*args)[1])

    handle = layer.register_forward_hook(hear)
    weights = attention_of(one, steps_of(one))[2]
    handle.remove()
    (whole,) = heard  # [1, heads, steps, 4 + tokens]
    torch.testing.assert_close(whole.sum(-1), torch.ones(1, 2, 6))
    torch.testing.assert_close(weights, whole[0, :, :, 4:].transpose(0, 1), atol=1e-6, rtol=0)
    fraction = 1 - whole[0, :, :, :4].sum(-1).T
    torch.testing.assert_close(weights.sum(-1), fraction)
    assert float(fraction.mean()) < 0.95


def test_a_prefix_beside_takes_nothing_from_the_image() -> None:
    captioner = woken(method="prefix", length=4)
    one = captioned(captioner)
    weights = attention_of(one, steps_of(one))[2]
    torch.testing.assert_close(weights.sum(-1), torch.ones(6, 2))


@pytest.mark.parametrize("beams", [1, 3])
def test_the_history_of_the_winning_beam_is_followed(beams: int) -> None:
    """What was heard of every beam while it was written, by the beams that the winner came from."""
    captioner = woken("gpt2")
    decoder = captioner.decoder
    heard: dict[int, list[torch.Tensor]] = {0: [], 1: [], 2: []}

    def listen(place: int) -> Any:
        def hear(layer: Any, args: Any) -> None:
            hidden, keys, _, mask = args
            heard[place].append(layer.attention_map(hidden, keys, mask)[:, :, -1])

        return hear

    handles = [
        layer.register_forward_pre_hook(listen(place))
        for place, layer in enumerate(captioner.bridge.cross_attention_layers)
    ]
    with torch.no_grad():
        captioner.context.states = captioner.project(grids(1, 7))
        start = torch.full((1, 1), decoder.start_id)
        found = decoder.module.generate(
            input_ids=start,
            attention_mask=torch.ones_like(start),
            num_beams=beams,
            do_sample=False,
            max_new_tokens=8,
            eos_token_id=decoder.end_id,
            pad_token_id=decoder.pad_id,
            return_dict_in_generate=True,
            output_scores=True,
        )
        captioner.context.states = None
    for handle in handles:
        handle.remove()
    ids = found.sequences[0, 1:].tolist()
    one = captioned_image(captioner, IMAGE, grids(1, 7), ids)
    came_from = [0] * len(ids) if beams == 1 else found.beam_indices[0].tolist()
    for place in range(3):
        weights = attention_of(one, steps_of(one))[place]
        steps = torch.stack([heard[place][t][came_from[t]] for t in range(len(ids))])
        own = torch.stack([steps[list(span.steps)].mean(0) for span in one.spans])
        torch.testing.assert_close(weights, own, atol=1e-5, rtol=0)


def test_a_word_of_several_pieces_has_the_mean_of_their_maps() -> None:
    captioner = woken(decoder=spelling_decoder())
    one = captioned(captioner, ids_of_caption(captioner.decoder, "a doodle and a dog"))
    pieces = captioned_image(captioner, IMAGE, one.grid, one.ids)
    assert len(one.spans[1].steps) > 2
    weights = attention_of(one, steps_of(one))[0]
    ids, mask, _ = batch([one.ids], start=END, pad=1)
    layer = captioner.bridge.cross_attention_layers[0]
    heard: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(
        lambda module, args: heard.append(module.attention_map(args[0], args[1]))
    )
    with torch.no_grad():
        captioner.logits(pieces.grid, ids, mask)
    handle.remove()
    steps = heard[0][0].transpose(0, 1)  # [steps, heads, tokens]
    for span, own in zip(one.spans, weights, strict=True):
        torch.testing.assert_close(own, steps[list(span.steps)].mean(0), atol=1e-6, rtol=0)


def test_every_map_costs_one_pass() -> None:
    captioner = woken()
    one = captioned(captioner)
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    handle = captioner.decoder.module.register_forward_hook(count)
    found = ATTENTION.maps_of_each(one, ATTENTION.layer_heads(captioner), [1, 3])
    handle.remove()
    assert passes == 1
    assert list(found) == ATTENTION.layer_heads(captioner)
    assert len(found) == 3 * 4 + 1  # mean, max and two heads of three layers, and all of them
    for layer_head, maps in found.items():
        alone = ATTENTION.maps(one, layer_head, [1, 3])
        torch.testing.assert_close(maps, alone, atol=1e-6, rtol=0)
    assert ATTENTION.layer_heads(captioner)[0] == LayerHead(2, "mean")


def test_nothing_is_left_in_the_model() -> None:
    captioner = woken()
    one = captioned(captioner)
    before = captioner.decoder.module.config._attn_implementation
    ATTENTION.maps(one, LayerHead(0, "mean"), [0])
    with pytest.raises(UserError, match="layers 0, 1, 2"):
        ATTENTION.maps(one, LayerHead(3, "mean"), [0])
    assert captioner.decoder.module.config._attn_implementation == before
    for layer in captioner.bridge.cross_attention_layers:
        assert not layer._forward_pre_hooks
        assert not layer._forward_hooks


def test_a_bridge_without_cross_attention_has_no_attention() -> None:
    captioner = woken(bridge="prefix")
    with pytest.raises(UserError, match="has no cross-attention"):
        ATTENTION.layer_heads(captioner)


def test_attention_cannot_hold_one_word_against_another() -> None:
    captioner = woken()
    with pytest.raises(UserError, match="cannot hold one word against another"):
        ATTENTION.maps(captioned(captioner), LayerHead(0, "mean"), [1], against="w9")
