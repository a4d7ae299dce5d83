from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import IA3Config as PeftConfig
from peft import get_peft_model
from tests.captioning.tester import Combination, asked, captioner_of
from tests.captioning.tiny import tiny_decoder

from captune.captioning.decoder_parts import find_parts
from captune.captioning.tuning.ia3 import scaled_projections
from captune.errors import UserError


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_it_is_peft_with_peft_s_own_choice_of_layers(family: str) -> None:
    """peft names the layers of these families; captune finds the same ones by structure.

    For OPT it names queries and keys, against the paper (Liu et al. 2022, section 3.3).
    """
    layers = ["k_proj", "v_proj", "fc2"] if family == "opt" else None
    config = PeftConfig(
        task_type="CAUSAL_LM",
        fan_in_fan_out=family == "gpt2",
        target_modules=layers,
        feedforward_modules=layers and layers[2:],
    )
    plain = get_peft_model(tiny_decoder(family).module, config).eval()
    theirs = {n: p for n, p in plain.named_parameters() if p.requires_grad}
    given = asked()
    said = given["mask"].bool()
    with captioner_of(Combination("cross-attention", "ia3", family)) as captioner:
        ours = dict(captioner.tuning.named_trained())
        assert {n.removeprefix("base_model.model.") for n in theirs} == set(ours)
        torch.manual_seed(5)
        with torch.no_grad():
            for name, parameter in theirs.items():
                parameter.add_(torch.randn_like(parameter) * 0.3)
                ours[name.removeprefix("base_model.model.")].copy_(parameter)
        found = captioner.logits(given["grids"], given["ids"], given["mask"])[said]
        expected = plain(input_ids=given["ids"], attention_mask=given["mask"]).logits[said]
        assert torch.equal(found, expected)


def test_count_of_gpt2_small() -> None:
    """12 blocks: 3 * 768 for c_attn, which holds the queries too, and 4 * 768 inner ones."""
    from transformers import AutoModelForCausalLM, GPT2Config

    from captune.captioning.tuning.ia3 import IA3, NoneConfig

    with torch.device("meta"):
        parts = find_parts(AutoModelForCausalLM.from_config(GPT2Config()))
    bridge: Any = None
    assert IA3.count(NoneConfig(), parts, bridge) == 12 * 7 * 768


def test_targets() -> None:
    scaled, inner = scaled_projections(find_parts(tiny_decoder("qwen3").module))
    assert scaled[:2] == ["model.layers.0.self_attn.k_proj", "model.layers.0.self_attn.v_proj"]
    assert inner == [f"model.layers.{block}.mlp.down_proj" for block in range(3)]


def test_what_has_no_keys_is_refused() -> None:
    module = tiny_decoder("llama").module
    for block in module.model.layers:
        for name in ("k_proj", "v_proj"):
            block.self_attn.add_module(f"odd_{name}", block.self_attn._modules.pop(name))
    with pytest.raises(UserError, match=r"no keys and values .*odd_k_proj.* take lora"):
        scaled_projections(find_parts(module))
