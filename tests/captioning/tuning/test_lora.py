from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.captioning.tester import Combination, asked, captioner_of, wake
from tests.captioning.tiny import FAMILIES, GRID, tiny_decoder

from captune.captioning.bridge.cross_attention import CrossAttention, CrossAttentionConfig
from captune.captioning.decoder_parts import find_parts
from captune.captioning.model import CaptionModel, build_model
from captune.captioning.tuning.dora import DoRA
from captune.captioning.tuning.lora import LoRA, LoRAConfig
from captune.errors import UserError
from captune.models.decoders import Decoder


def _captioner(decoder: Decoder, method: type[LoRA], **settings: Any) -> CaptionModel:
    parts = find_parts(decoder.module)
    bridge = CrossAttention(CrossAttentionConfig(width=16, heads=2), GRID, parts)
    return CaptionModel(decoder, bridge, method(LoRAConfig(**settings)), GRID)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [LoRA, DoRA])
def test_it_is_peft(family: str, method: type[LoRA]) -> None:
    """A plain peft model with the same weights gives the same logits.

    DoRA to the last bit; LoRA adds its update in another order (`FastLoRALinear`). The bridge
    says nothing at step 0, and what a plain peft model would say is left.
    """
    captioner = _captioner(tiny_decoder(family), method, rank=3, alpha=5)
    config = LoraConfig(
        r=3,
        lora_alpha=5,
        target_modules="all-linear",
        fan_in_fan_out=family == "gpt2",
        use_dora=method.use_dora,
        task_type="CAUSAL_LM",
    )
    plain = get_peft_model(tiny_decoder(family).module, config).eval()
    theirs = {n: p for n, p in plain.named_parameters() if p.requires_grad}
    ours = dict(captioner.tuning.named_trained())
    assert {n.removeprefix("base_model.model.") for n in theirs} == set(ours)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in theirs.items():
            noise = torch.randn_like(parameter) * 0.1
            parameter.add_(noise)
            ours[name.removeprefix("base_model.model.")].copy_(parameter)
    given = asked()
    said = given["mask"].bool()
    expected = plain(input_ids=given["ids"], attention_mask=given["mask"]).logits[said]
    captioner.eval()
    found = captioner.logits(given["grids"], given["ids"], given["mask"])[said]
    slack = 0 if method.use_dora else 1e-5
    torch.testing.assert_close(found, expected, rtol=slack, atol=slack)
    bare = tiny_decoder(family).module
    untouched = bare(input_ids=given["ids"], attention_mask=given["mask"]).logits[said]
    assert not torch.allclose(found, untouched)


def test_the_second_matrix_starts_at_zero() -> None:
    """The original report lost LoRA to a random one."""
    with captioner_of(Combination("cross-attention", "lora", "llama")) as captioner:
        for name, parameter in captioner.tuning.named_trained():
            assert bool(parameter.any()) == ("lora_A" in name), name


def test_attention_only() -> None:
    captioner = _captioner(tiny_decoder("llama"), LoRA, rank=2, targets="attention")
    names = {name for name, _ in captioner.tuning.named_trained()}
    assert len(names) == 3 * 4 * 2
    assert all(".self_attn." in name for name in names)
    counted = LoRA.count(captioner.tuning.config, captioner.parts, captioner.bridge)
    assert counted == sum(p.numel() for _, p in captioner.tuning.named_trained())


def test_the_last_blocks_only() -> None:
    """Nothing before them is tuned or looks, so the backward pass ends there."""
    decoder = tiny_decoder("llama")
    blocks = len(find_parts(decoder.module).blocks)
    captioner = build_model(
        decoder,
        GRID,
        bridge="cross-attention",
        method="lora",
        bridge_settings={"width": 8, "heads": 2, "every": 1, "last": 1},
        method_settings={"rank": 2, "last": 1},
    )
    names = {name for name, _ in captioner.tuning.named_trained()}
    assert names
    assert all(f".layers.{blocks - 1}." in name for name in names)
    assert isinstance(captioner.bridge, CrossAttention)
    assert captioner.bridge.places == [blocks - 1]
    counted = LoRA.count(captioner.tuning.config, captioner.parts, captioner.bridge)
    assert counted == sum(p.numel() for _, p in captioner.tuning.named_trained())
    seen = []
    captioner.parts.blocks[-1].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    given = asked()
    given.pop("tags")
    captioner(**given).backward()
    assert not seen[0].requires_grad
    assert {name for name, p in captioner.trained().items() if p.grad is None} == set()


def test_only_the_decoder_is_wrapped() -> None:
    """peft's `all-linear` would take the bridge's own layers too."""
    with captioner_of(Combination("bidirectional", "lora", "gpt2")) as captioner:
        assert not any("lora" in name for name, _ in captioner.bridge.named_parameters())
        assert all(p.requires_grad for p in captioner.bridge.parameters())


def test_dropout_acts_in_training_only() -> None:
    captioner = _captioner(tiny_decoder("llama"), LoRA, rank=4, dropout=0.5)
    wake(captioner)
    given = asked()
    words = given.pop("tags")
    assert words is not None
    captioner.train()
    assert captioner(**given) != captioner(**given)
    written = [captioner.generate(given["grids"], max_tokens=4) for _ in range(2)]
    assert written[0] == written[1]
    assert all(module.training for module in captioner.modules())
    captioner.eval()
    assert captioner(**given) == captioner(**given)


def test_errors() -> None:
    with pytest.raises(UserError, match="rank 0"):
        LoRAConfig(rank=0)
    with pytest.raises(UserError, match="last -1"):
        LoRAConfig(last=-1)
    with pytest.raises(UserError, match='targets "mlp"'):
        LoRAConfig(targets="mlp")  # type: ignore[arg-type]
