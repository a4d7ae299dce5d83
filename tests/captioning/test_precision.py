from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from tests.captioning.tester import Combination, asked, build, captioner_of, combinations, train
from tests.captioning.tiny import tiny_decoder


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize(
    ("bridge", "method"),
    [
        ("cross-attention", "lora"),
        ("cross-attention", "dora"),
        ("prefix", "adapter"),
        ("bidirectional", "prefix"),
        ("cross-attention", "ia3"),
        ("prefix", "none"),
    ],
)
def test_half_precision_decoder(bridge: str, method: str, family: str, dtype: torch.dtype) -> None:
    """The decoder in half precision, what is trained in float32: step 0, training, writing."""
    decoder = tiny_decoder(family)
    half = dataclasses.replace(decoder, module=copy.deepcopy(decoder.module).to(dtype), dtype=dtype)
    captioner = build(Combination(bridge, method, family), half)
    trained = captioner.trained()
    assert all(p.dtype == torch.float32 for p in trained.values())
    given = asked()
    said = given["mask"].bool()
    if bridge != "prefix" and method != "dora":
        alone = half.module(input_ids=given["ids"], attention_mask=given["mask"]).logits[said]
        found = captioner.logits(given["grids"], given["ids"], given["mask"], tags=given["tags"])
        captioner.detach()
        before = half.module(input_ids=given["ids"], attention_mask=given["mask"]).logits[said]
        assert torch.equal(before, alone)
        assert torch.equal(found[said], before)
        captioner = build(Combination(bridge, method, family), half)
        trained = captioner.trained()
    assert train(captioner) == set(trained)
    loss = captioner(**{**given, "grids": given["grids"].half()})
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p).all() for p in trained.values())
    written = captioner.generate(given["grids"].half(), beams=2, max_tokens=4, tags=given["tags"])
    assert len(written.ids) == 2


@pytest.mark.parametrize("combination", [c for c in combinations() if c.family == "gpt2"], ids=str)
def test_autocast_over_a_float32_decoder(combination: Combination) -> None:
    """As transformers' Trainer trains with bf16=True: close to float32, gradients everywhere."""
    given = asked()
    with captioner_of(combination) as captioner:
        plain = captioner(**given)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = captioner(**given)
        assert train(captioner, autocast=True) == set(captioner.trained())
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, plain, atol=0.1, rtol=0.02)
        assert all(p.dtype == torch.float32 for p in captioner.trained().values())
