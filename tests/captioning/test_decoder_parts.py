from __future__ import annotations

import dataclasses
import types
from typing import Any

import pytest
import torch
from tests.captioning.tester import Combination, asked, build, train, wake
from tests.captioning.tiny import END, FAMILIES, PAD, WORDS, grids, tiny_decoder
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, BertModel, BloomConfig

from captune.captioning.decoder_parts import find_parts, is_projection
from captune.errors import UserError
from captune.models.decoders import Decoder

_SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": len(WORDS),
    "max_position_embeddings": 64,
    "bos_token_id": END,
    "eos_token_id": END,
    "pad_token_id": PAD,
}
# families that nothing in captune names, with what sets them apart
OTHERS: dict[str, dict[str, Any]] = {
    "gemma2": {"num_key_value_heads": 2, "head_dim": 8, "final_logit_softcapping": 2.0},
    "granite": {"logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
    "cohere": {"logit_scale": 0.25, "num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 2, "head_dim": 8},
    "qwen2": {"num_key_value_heads": 2},
    "olmo2": {},
    "stablelm": {"num_key_value_heads": 4},
    "phi": {},
    "phi3": {},
    "gpt_neox": {},
    "smollm3": {"num_key_value_heads": 2},
    "starcoder2": {"num_key_value_heads": 2},
    # embeddings narrower than the blocks, norms behind the sub-layers: OPT-350m
    "opt": {"word_embed_proj_dim": 16, "ffn_dim": 48, "do_layer_norm_before": False},
}


def _decoder(family: str) -> Decoder:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**_SMALL, **OTHERS[family]})
    module = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.2)
    module.eval().requires_grad_(False)
    return dataclasses.replace(tiny_decoder("gpt2"), module=module, spec=f"tiny-{family}")


@pytest.mark.parametrize("family", OTHERS)
@pytest.mark.parametrize(
    ("bridge", "method"),
    [
        ("cross-attention", "lora"),
        ("prefix", "adapter"),
        ("prefix", "ia3"),
        ("bidirectional", "prefix"),
    ],
)
def test_other_families_work_unnamed(family: str, bridge: str, method: str) -> None:
    """Step 0, the decoder's own logits behind the head (capped, scaled), and writing."""
    decoder = _decoder(family)
    given = asked()
    said = given["mask"].bool()
    plain = {"input_ids": given["ids"], "attention_mask": given["mask"]}
    alone = decoder.module(**plain).logits
    captioner = build(Combination(bridge, method, family), decoder)
    if bridge == "prefix":  # nothing before the text: only what the method does is left
        states = captioner.project(given["grids"])
        states.soft_tokens = None
        found = captioner._logits_at(said, given["ids"], given["mask"], states)
        torch.testing.assert_close(found, alone[said])
    else:
        found = captioner.logits(given["grids"], given["ids"], given["mask"])
        assert torch.equal(found[said], alone[said])
    wake(captioner)
    captioner.eval()
    with torch.no_grad():
        few, wanted = captioner.logits_at_targets(
            given["grids"], given["ids"], given["mask"], given["targets"]
        )
        full = captioner.logits(given["grids"], given["ids"], given["mask"])
    assert len(few) == len(wanted) == int(said.sum())
    torch.testing.assert_close(few, full[said], atol=1e-5, rtol=1e-5)
    cached = captioner.generate(grids(2), beams=2, max_tokens=4)
    decoder.module.generation_config.use_cache = False
    assert captioner.generate(grids(2), beams=2, max_tokens=4).ids == cached.ids
    captioner.detach()
    assert torch.equal(decoder.module(**plain).logits, alone)


def test_logits_are_capped_where_the_family_caps_them() -> None:
    """What the check above would miss if the tiny model's logits were small."""
    given = asked()
    decoder = _decoder("gemma2")
    captioner = build(Combination("cross-attention", "none", "gemma2"), decoder)
    logits = captioner.logits(given["grids"], given["ids"], given["mask"])
    assert 1.5 < logits.abs().max() <= 2.0
    head = decoder.module.get_output_embeddings()
    hidden = decoder.module.base_model(
        input_ids=given["ids"], attention_mask=given["mask"]
    ).last_hidden_state
    assert head(hidden).abs().max() > 2.5


def test_attention_that_no_prefix_reaches_is_refused() -> None:
    """Bloom's takes no other attention: the prefix would be trained, and never looked at."""
    torch.manual_seed(0)
    ends = {"bos_token_id": END, "eos_token_id": END, "pad_token_id": PAD}
    config = BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=len(WORDS), **ends)
    module = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    decoder = dataclasses.replace(tiny_decoder("gpt2"), module=module)
    before = module.config._attn_implementation
    with pytest.raises(UserError, match="BloomForCausalLM has its own attention code"):
        build(Combination("cross-attention", "prefix", "bloom"), decoder)
    assert module.config._attn_implementation == before
    captioner = build(Combination("cross-attention", "adapter", "bloom"), decoder)
    assert train(captioner) == set(captioner.trained())  # it takes no position_ids either


def test_experts_are_an_mlp() -> None:
    """Their matrices are slices of one tensor: an adapter stands behind, lora keeps off them."""
    config = AutoConfig.for_model("mixtral", **_SMALL, num_key_value_heads=2, num_local_experts=2)
    decoder = dataclasses.replace(
        tiny_decoder("gpt2"), module=AutoModelForCausalLM.from_config(config).requires_grad_(False)
    )
    parts = find_parts(decoder.module)
    assert set(parts.sizes) == set(parts.attention_targets)
    captioner = build(Combination("cross-attention", "adapter", "mixtral"), decoder)
    assert train(captioner) == set(captioner.trained())
    captioner.detach()
    with pytest.raises(UserError, match="no MLP found"):
        build(Combination("cross-attention", "ia3", "mixtral"), decoder)


@pytest.mark.parametrize("family", FAMILIES)
def test_parts(family: str) -> None:
    module = tiny_decoder(family).module
    parts = find_parts(module)
    assert len(parts.blocks) == len(parts.self_attentions) == len(parts.mlp_outputs) == 3
    assert parts.hidden_size == 32
    assert parts.heads == 4
    assert parts.key_value_heads == (2 if family in ("llama", "qwen3") else 4)
    assert parts.head_dim == (16 if family == "qwen3" else 8)
    inside = {
        name
        for name, part in module.named_modules()
        if is_projection(part) and part is not module.get_output_embeddings()
    }
    assert set(parts.sizes) == inside
    assert all("attn" in name for name in parts.attention_targets)
    seen = []
    hooks = [m.register_forward_hook(lambda *_: seen.append(1)) for m in parts.mlp_outputs]
    module(input_ids=torch.tensor([[2, 3]]))
    for hook in hooks:
        hook.remove()
    assert len(seen) == 3


def test_what_is_no_decoder_is_refused() -> None:
    with pytest.raises(UserError, match="Linear: no decoder blocks"):
        find_parts(nn.Linear(2, 2))
    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    assert find_parts(BertModel(config)).heads == 2  # blocks it has; the loader asks for a head
    broken = tiny_decoder("gpt2").module
    for block in broken.transformer.h:
        del block.attn
    with pytest.raises(UserError, match="no self-attention"):
        find_parts(broken)
    module = tiny_decoder("llama").module
    module.config = types.SimpleNamespace()
    with pytest.raises(UserError, match="num_attention_heads"):
        find_parts(module)
