"""A text that stands before the caption: positions, padding, cache, maps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from statistics import fmean

import pytest
import torch
from tests.captioning.caption_job import BRIDGES
from tests.captioning.tiny import FAMILIES, GRID, grids, tiny_decoder

from captune.attribution.captioned_image import CaptionedImage, captioned_image
from captune.attribution.methods.attention import attention_of
from captune.attribution.word_scores import logits_at
from captune.captioning.model import CaptionModel, batch, build_model, pad_tags
from captune.errors import UserError
from captune.images import ImageFile

PROMPTS = [[40, 41, 42], [], [50]]
ROWS = [[5, 6, 7, 0], [8, 0], [9, 10, 0]]


def captioner_of(
    family: str = "llama", bridge: str = "cross-attention", method: str = "lora"
) -> CaptionModel:
    model = build_model(
        tiny_decoder(family),
        GRID,
        bridge=bridge,
        method=method,
        bridge_settings=BRIDGES[bridge],
        reads_tags=True,
    )
    with torch.no_grad():
        for parameter in model.trained().values():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bridge", sorted(BRIDGES))
@pytest.mark.parametrize("method", ["lora", "prefix"])
@torch.no_grad()
def test_a_prompt_is_read_as_the_beginning_of_the_text(
    family: str, bridge: str, method: str
) -> None:
    model, seen = captioner_of(family, bridge, method), grids(3)
    start, pad = model.decoder.start_id, model.decoder.pad_id
    ids, mask, _ = batch(ROWS, start=start, pad=pad)
    found = model.logits(seen, ids, mask, pad_tags(PROMPTS))
    for number, (prompt, row) in enumerate(zip(PROMPTS, ROWS, strict=True)):
        whole, ones, _ = batch([[*prompt, *row]], start=start, pad=pad)
        alone = model.logits(seen[number : number + 1], whole, ones, pad_tags([[]]))
        torch.testing.assert_close(
            found[number, : len(row)], alone[0, len(prompt) :], atol=5e-4, rtol=1e-3
        )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bridge", sorted(BRIDGES))
@pytest.mark.parametrize("beams", [1, 3])
def test_captions_of_a_batch_are_those_of_its_images(family: str, bridge: str, beams: int) -> None:
    model, seen = captioner_of(family, bridge), grids(3)
    together = model.generate(seen, beams=beams, max_tokens=6, tags=pad_tags(PROMPTS))
    for number, prompt in enumerate(PROMPTS):
        one = seen[number : number + 1]
        alone = model.generate(one, beams=beams, max_tokens=6, tags=pad_tags([prompt]))
        assert alone.ids[0] == together.ids[number]
        assert alone.log_probabilities[0] == pytest.approx(
            together.log_probabilities[number], abs=1e-4
        )
    assert together != model.generate(seen, beams=beams, max_tokens=6, tags=pad_tags([[]] * 3))
    rows = model.sample(seen, samples=2, max_tokens=6, tags=pad_tags(PROMPTS))
    assert all(0 < len(row) <= 6 for row in rows)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bridge", sorted(BRIDGES))
def test_beams_have_the_probabilities_of_their_captions(family: str, bridge: str) -> None:
    model, seen, tags = captioner_of(family, bridge), grids(3), pad_tags(PROMPTS)
    read: list[tuple[int, int]] = []
    hook = model.parts.blocks[0].register_forward_pre_hook(
        lambda _, args, given: read.append((args[0] if args else given["hidden_states"]).shape[:2]),
        with_kwargs=True,
    )
    found = model.generate(
        seen, max_tokens=6, tags=tags, scored=False, candidates=3, judge=lambda each: each
    )
    # what stands before the captions is read once an image, then a token of each beam
    assert read[0][0] == 3
    assert {tuple(shape) for shape in read[1:]} == {(9, 1)}
    hook.remove()
    assert found.candidates is not None
    with torch.no_grad():
        states = model.project(seen, tags)
        for place in range(3):
            rows = [own[place] for own in found.candidates]
            each = model.log_probabilities(states, [one.ids for one in rows])
            for one, own in zip(rows, each, strict=True):
                assert one.mean_log_probability == pytest.approx(fmean(own), abs=1e-4)


def test_maps_belong_to_the_words_behind_the_prompt() -> None:
    model, seen = captioner_of(), grids(1)
    known = pad_tags([[40, 41]])
    image = ImageFile(Path("a.png"), "a.png")
    plain = captioned_image(model, image, seen, [40, 41, 5, 6, 7], known=pad_tags([[]]))
    prompted = captioned_image(model, image, seen, [5, 6, 7], known=known)

    def of(captioned: CaptionedImage, *steps: int) -> list[torch.Tensor]:
        return attention_of(captioned, [[step] for step in steps])

    # an empty prompt is a column of padding before the start
    for ours, theirs in zip(of(prompted, 0, 2), of(plain, 2, 4), strict=True):
        torch.testing.assert_close(ours, theirs)
    ours, theirs = logits_at(prompted, seen, [[2]]), logits_at(plain, seen, [[4]])
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
    assert prompted.before == 2
    with pytest.raises(UserError, match="trained with tags"):
        logits_at(dataclasses.replace(prompted, known=None), seen, [[0]])
