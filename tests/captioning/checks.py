"""The checks that every bridge, tuning method and decoder family must pass together."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.captioning.tester import (
    CAPTIONS,
    IMAGES,
    ROUNDING,
    TINY,
    WORDS,
    Combination,
    asked,
    build,
    captioner_of,
    decoder_of,
    logits,
    train,
    untouched,
    wake,
)
from tests.captioning.tiny import GRID, PAD, grids
from torch import Tensor, nn

from captune.captioning.model import CaptionModel, build_model, pad_tags


def check_step_0_is_the_untouched_decoder(combination: Combination) -> None:
    """To the last bit, but for ROUNDING; the same behind soft tokens, which say nothing yet."""
    given = asked()
    module = decoder_of(combination.family).module
    with captioner_of(combination) as captioner:
        found = logits(captioner)
        states = captioner.project(given["grids"], given["tags"])
    with torch.no_grad():
        if states.soft_tokens is None:
            inputs = {"input_ids": given["ids"], "attention_mask": given["mask"]}
            before = 0
        else:
            soft = states.soft_tokens
            assert torch.equal(soft[0], soft[1]), "soft tokens tell images apart at step 0"
            assert soft.any()
            before = soft.shape[1]
            soft = soft.repeat_interleave(CAPTIONS, 0)
            embedded = torch.cat([soft, module.get_input_embeddings()(given["ids"])], dim=1)
            mask = torch.cat([given["mask"].new_ones(soft.shape[:2]), given["mask"]], dim=1)
            inputs = {"inputs_embeds": embedded, "attention_mask": mask}
        alone = module(**inputs).logits[:, before:][given["mask"].bool()]
    if combination.method in ROUNDING:
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)
    else:
        assert torch.equal(found, alone)


def check_gradient_only_where_it_should_be(combination: Combination) -> None:
    """Every trained parameter gets one, the decoder none and not a bit of it changes."""
    with captioner_of(combination) as captioner:
        trained = captioner.trained()
        frozen = {id(p) for p in trained.values()}
        reached = train(captioner)
        assert set(trained) == reached
        for name, parameter in captioner.named_parameters():
            if id(parameter) not in frozen:
                assert parameter.grad is None, name
                assert not parameter.requires_grad, name
        assert all(p.requires_grad and p.dtype == torch.float32 for p in trained.values())
        _assert_frozen(combination, captioner.decoder.module)


def check_goes_where_the_decoder_is(combination: Combination) -> None:
    """Attached to a decoder on another device, it computes there: `meta` stands for a GPU."""
    decoder = decoder_of(combination.family)
    module = copy.deepcopy(decoder.module).to("meta")
    module.config.pad_token_id = None  # else GPT-2 looks for padding, and `meta` has no values
    away = replace(decoder, module=module, device=torch.device("meta"))
    captioner = build_model(
        away,
        GRID,
        bridge=combination.bridge,
        method=combination.method,
        bridge_settings=TINY["bridge"].get(combination.bridge, {}),
        method_settings=TINY["tuning"].get(combination.method, {}),
    )
    given = {name: tensor.to("meta") for name, tensor in asked().items()}
    # one token: a mask would be asked for its values, and `meta` has none
    with captioner.looking_at(captioner.project(given["grids"], given["tags"])):
        assert captioner.decoder.module(input_ids=given["ids"][:, :1]).logits.device.type == "meta"
    assert {p.device.type for p in captioner.trained().values()} == {"meta"}


def check_detach_gives_the_decoder_back(combination: Combination) -> None:
    """Bit by bit, with nothing left on it; a second captioner on it is as on a fresh one."""
    module = decoder_of(combination.family).module
    given = asked()
    plain = {"input_ids": given["ids"], "attention_mask": given["mask"]}
    with torch.no_grad():
        before = module(**plain).logits
    attributes = set(vars(module))
    implementation = module.config._attn_implementation
    with captioner_of(combination) as captioner:
        train(captioner, steps=1)
        first = captioner.generate(grids(IMAGES), max_tokens=4, tags=given["tags"])
    _assert_frozen(combination, module)
    assert set(vars(module)) == attributes
    assert module.config._attn_implementation == implementation
    for part in module.modules():
        assert not part._forward_hooks
        assert not part._forward_pre_hooks
    with torch.no_grad():
        assert torch.equal(module(**plain).logits, before)
    with captioner_of(combination) as captioner:
        train(captioner, steps=1)
        second = captioner.generate(grids(IMAGES), max_tokens=4, tags=given["tags"])
    assert first == second


def check_saving_is_exact(combination: Combination, folder: Path) -> None:
    """What is trained, through safetensors into a captioner with other weights."""
    file = folder / "trained.safetensors"
    with captioner_of(combination) as captioner:
        wake(captioner)
        train(captioner, steps=1)
        state = {n: p.detach().clone().contiguous() for n, p in captioner.trained().items()}
        save_file(state, file)
        expected = logits(captioner)
    captioner = build(combination, seed=11)
    try:
        loaded = load_file(file)
        assert loaded.keys() == captioner.trained().keys()
        with torch.no_grad():
            for name, parameter in captioner.trained().items():
                parameter.copy_(loaded[name])
        captioner.eval()
        assert torch.equal(logits(captioner), expected)
    finally:
        captioner.detach()


def check_generation_is_exact(combination: Combination) -> None:
    """Cached as uncached, greedy and by beams; a batch as its images one by one."""
    with captioner_of(combination) as captioner:
        wake(captioner)
        captioner.eval()
        settings = captioner.decoder.module.generation_config
        several, words = grids(3), pad_tags([*WORDS, []])
        for beams in (1, 3):
            cached = captioner.generate(several, beams=beams, max_tokens=6, tags=words)
            settings.use_cache = False
            try:
                uncached = captioner.generate(several, beams=beams, max_tokens=6, tags=words)
            finally:
                settings.use_cache = True
            assert cached.ids == uncached.ids
            for image in range(3) if beams > 1 else ():
                alone = slice(image, image + 1)
                one = captioner.generate(
                    several[alone], beams=beams, max_tokens=6, tags=words[alone]
                )
                assert one.ids[0] == cached.ids[image]
                assert one.log_probabilities[0] == pytest.approx(
                    cached.log_probabilities[image], abs=1e-4
                )


def check_cache_in_steps(combination: Combination) -> None:
    """Logits of a caption read a token at a time, by the cache, are those of one pass."""
    given = asked()
    with captioner_of(combination) as captioner:
        wake(captioner)
        captioner.eval()
        full = given["mask"].bool().all(dim=1)
        row = int(full.nonzero()[0])
        image = row // CAPTIONS
        grid, words = given["grids"][image : image + 1], given["tags"][image : image + 1]
        ids, mask = given["ids"][row : row + 1], given["mask"][row : row + 1]
        with torch.no_grad():
            whole = captioner.logits(grid, ids, mask, tags=words)[0]
            states = captioner.project(grid, words)
            with captioner.looking_at(states):
                inputs: dict[str, Any] = captioner.inputs(ids[:, :1], mask[:, :1], states)
                cache = None
                for place in range(ids.shape[1]):
                    said = captioner.decoder.module(**inputs, past_key_values=cache, use_cache=True)
                    cache = said.past_key_values
                    torch.testing.assert_close(
                        said.logits[0, -1], whole[place], atol=2e-5, rtol=1e-4
                    )
                    seen = torch.ones_like(inputs["attention_mask"][:, :1])
                    inputs = {
                        "input_ids": ids[:, place + 1 : place + 2],
                        "attention_mask": torch.cat([inputs["attention_mask"], seen], dim=1),
                    }


def check_left_padding(combination: Combination) -> None:
    """Captions padded on the left are as each by itself; so is going on from them."""
    given = asked()
    width = given["ids"].shape[1]
    ids, mask = torch.full_like(given["ids"], PAD), torch.zeros_like(given["mask"])
    for row, length in enumerate(given["mask"].sum(1).tolist()):
        ids[row, width - length :] = given["ids"][row, :length]
        mask[row, width - length :] = 1
    with captioner_of(combination) as captioner:
        wake(captioner)
        captioner.eval()
        with torch.no_grad():
            padded = captioner.logits(given["grids"], ids, mask, tags=given["tags"])
        going_on = _continued(captioner, given["grids"], ids, mask, given["tags"])
        for row in range(len(ids)):
            image = slice(row // CAPTIONS, row // CAPTIONS + 1)
            grid, words = given["grids"][image], given["tags"][image]
            own = ids[row : row + 1, mask[row].bool()]
            alone = torch.ones_like(own)
            with torch.no_grad():
                one = captioner.logits(grid, own, alone, tags=words)[0]
            torch.testing.assert_close(padded[row, mask[row].bool()], one, atol=2e-5, rtol=1e-4)
            assert torch.equal(_continued(captioner, grid, own, alone, words)[0], going_on[row])


def _continued(
    captioner: CaptionModel, grid: Tensor, ids: Tensor, mask: Tensor, words: Tensor
) -> Tensor:
    """Four more tokens after each row, by transformers' generate with its cache."""
    states = captioner.project(grid, words)
    with captioner.looking_at(states), torch.no_grad():
        inputs = captioner.inputs(ids, mask, states)
        written: Tensor = captioner.decoder.module.generate(
            **inputs, do_sample=False, max_new_tokens=4, min_new_tokens=4, pad_token_id=PAD
        )
    return written[:, -4:]


def check_no_token_leaks_back(combination: Combination) -> None:
    """Other tokens later change nothing before; the image's states know no caption."""
    given = asked()
    with captioner_of(combination) as captioner:
        wake(captioner)
        captioner.eval()
        ids = given["ids"].clone()
        ids[:, 2:] = 30
        full = torch.ones_like(given["mask"])
        with torch.no_grad():
            one = captioner.logits(given["grids"], given["ids"], full, tags=given["tags"])
            other = captioner.logits(given["grids"], ids, full, tags=given["tags"])
        torch.testing.assert_close(one[:, :2], other[:, :2], atol=1e-6, rtol=0)
        assert not torch.allclose(one[:, 2:], other[:, 2:])
        # the other image's captions change nothing either
        ids = given["ids"].clone()
        ids[CAPTIONS:] = 31
        with torch.no_grad():
            other = captioner.logits(given["grids"], ids, full, tags=given["tags"])
        torch.testing.assert_close(one[:CAPTIONS], other[:CAPTIONS], atol=1e-6, rtol=0)
        assert not torch.allclose(logits(captioner, seed=1), logits(captioner, seed=2))


def check_count_is_the_formula(combination: Combination) -> None:
    """Of the bridge and of the method, each by its own arithmetic."""
    with captioner_of(combination) as captioner:
        bridge, tuning = captioner.bridge, captioner.tuning
        expected = type(bridge).count(bridge.config, GRID, captioner.parts)
        assert expected == _size(captioner, "bridge.")
        expected = type(tuning).count(tuning.config, captioner.parts, bridge)
        assert expected == _size(captioner, "tuning.")


CHECKS_BY_NAME = {
    name.removeprefix("check_"): check
    for name, check in list(globals().items())
    if name.startswith("check_")
}


def _assert_frozen(combination: Combination, module: nn.Module) -> None:
    known = untouched(combination.family)
    trained_or_not = {k.replace(".base_layer", ""): v for k, v in module.state_dict().items()}
    for name, value in known.items():
        assert torch.equal(trained_or_not[name], value), name


def _size(captioner: CaptionModel, part: str) -> int:
    return sum(p.numel() for n, p in captioner.trained().items() if n.startswith(part))
