"""The quick way of a LoRA layer against peft's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, LoraModel
from peft.tuners.lora import Linear as LoRALinear
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

from captune.captioning.tuning.lora import FastLoRALinear, use_fast_layers


class _Model(nn.Module):
    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.inner = base

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(x)
        return found


def _pair(base: str, dtype: torch.dtype = torch.float32, **settings: Any) -> tuple[Any, Any]:
    """(peft's own, the quick one), with the same weights."""
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        made = {
            "linear": lambda: nn.Linear(10, 14),
            "no bias": lambda: nn.Linear(10, 14, bias=False),
            "conv1d": lambda: Conv1D(14, 10),
        }[base]()
        made.requires_grad_(False)
        nn.init.normal_(made.weight)
        config = LoraConfig(
            r=3,
            lora_alpha=5,
            target_modules=["inner"],
            fan_in_fan_out=base == "conv1d",
            **settings,
        )
        model = LoraModel(_Model(made.to(dtype)), config, "default").model
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = torch.randn_like(parameter, dtype=torch.float32) * 0.3
        models.append(model)
    use_fast_layers(models[1])
    assert type(models[0].inner) is LoRALinear
    return models[0], models[1]


def _learnt(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The output, and the gradients of input and parameters."""
    x = x.clone().requires_grad_()
    found = model(x)
    (found.float() * torch.linspace(-1, 1, found.shape[-1])).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert len(gradients) == 2
    assert x.grad is not None
    return {"found": found, "x": x.grad} | {n: g for n, g in gradients.items() if g is not None}


@pytest.mark.parametrize("base", ["linear", "no bias", "conv1d"])
@pytest.mark.parametrize("shape", [(2, 7, 10), (5, 10)])
def test_outputs_and_gradients_are_peft_s(base: str, shape: tuple[int, ...]) -> None:
    plain, quick = _pair(base)
    assert type(quick.inner) is FastLoRALinear
    x = torch.randn(shape)
    expected, found = _learnt(plain, x), _learnt(quick, x)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("base", ["linear", "conv1d"])
def test_under_autocast(dtype: torch.dtype, base: str) -> None:
    """Over a base in either precision: dtypes are peft's, values too but for rounding."""
    plain, quick = _pair(base, dtype)
    x = torch.randn(2, 7, 10)
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = _learnt(plain, x), _learnt(quick, x)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        scale = float(value.detach().abs().max())
        torch.testing.assert_close(found[name], value, rtol=0, atol=0.02 * scale, msg=name)


def test_a_base_in_half_precision_without_autocast_is_peft_s_own() -> None:
    plain, quick = _pair("linear", torch.bfloat16)
    x = torch.randn(2, 7, 10).bfloat16()
    assert torch.equal(plain(x), quick(x))


def test_the_gradient_is_that_of_differences() -> None:
    _, quick = _pair("linear")
    quick.double()
    x = torch.randn(4, 10, dtype=torch.float64, requires_grad=True)
    parameters = [p for p in quick.parameters() if p.requires_grad]
    assert torch.autograd.gradcheck(lambda x, *_: quick(x), (x, *parameters))


@pytest.mark.parametrize("wanted", ["input", "parameters"])
def test_only_wanted_gradients_are_computed(wanted: str) -> None:
    """The first block that is tuned has nothing to give back."""
    _, quick = _pair("no bias")
    parameters = [p for p in quick.parameters() if p.requires_grad]
    if wanted == "input":
        for parameter in parameters:
            parameter.requires_grad_(False)
    x = torch.randn(3, 10, requires_grad=wanted == "input")
    found = quick(x).sum()
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: _flops}) as counter:
        torch.autograd.grad(found, [x] if wanted == "input" else parameters)
    base, down, up = 3 * 10 * 14, 3 * 10 * 3, 3 * 3 * 14
    expected = up + (base + down if wanted == "input" else down + up)
    assert counter.get_total_flops() == 2 * expected


def _flops(_: Any, left: Any, right: Any, **unused: Any) -> int:
    flops: int = 2 * left[0] * left[1] * right[1]
    return flops


def test_its_output_can_be_changed_in_place_and_may_be_empty() -> None:
    """OLMo clamps what its projections give."""
    plain, quick = _pair("linear")
    x = torch.randn(2, 4, 10)
    expected, found = (model(x).clamp_(-1, 1) for model in (plain, quick))
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert quick(x[:0]).shape == (0, 4, 14)


def test_quantised_layers_are_left_to_peft() -> None:
    class Rounded(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).round()

    torch.manual_seed(0)
    base = Rounded(10, 14).requires_grad_(False)
    config = LoraConfig(r=3, target_modules=["inner"])
    model = LoraModel(_Model(base), config, "default").model
    use_fast_layers(model)
    assert type(model.inner) is LoRALinear


def test_dropout_acts_inside_frozen_modules() -> None:
    """A training puts the layer in eval mode, and not what peft trains inside."""
    _, quick = _pair("linear", lora_dropout=0.5)
    quick.inner.training = False
    x = torch.ones(2, 3, 10)
    assert not torch.equal(quick(x), quick(x))
    quick.eval()
    assert torch.equal(quick(x), quick(x))


@pytest.mark.parametrize(
    "what", ["dropout", "disabled", "merged", "hook", "backward hook", "small hook", "bias", "dora"]
)
def test_what_only_peft_does_is_left_to_it(what: str) -> None:
    settings: dict[str, Any] = {
        "dropout": {"lora_dropout": 0.5},
        "dora": {"use_dora": True},
        "bias": {"lora_bias": True},
    }.get(what, {})
    plain, quick = _pair("linear", **settings)
    heard = []
    for model in (plain, quick):
        layer = model.inner
        if what == "disabled":
            layer.enable_adapters(False)
        elif what == "merged":
            layer.merge()
        elif what == "hook":
            layer.base_layer.register_forward_hook(lambda *_: heard.append(True))
        elif what == "backward hook":
            layer.base_layer.register_full_backward_pre_hook(lambda *_: heard.append(True))
        elif what == "small hook":
            layer.lora_B["default"].register_forward_pre_hook(lambda *_: heard.append(True))
    outputs = []
    for model in (plain, quick):
        torch.manual_seed(1)
        outputs.append(model(torch.ones(2, 3, 10, requires_grad=True)))
        outputs[-1].sum().backward()
    assert torch.equal(*outputs)
    assert len(heard) == (2 if "hook" in what else 0)
