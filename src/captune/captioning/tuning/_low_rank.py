"""peft's LoRA layer in fewer passes over memory.

peft runs the base layer, two small matrices, a factor and a sum one after the other, and brings
what it reads to the precision of the small matrices. On a CPU, and over short captions, these
passes cost as much as the products. Here the product that makes the update also adds it, forward
and backward, and all is computed in the precision of the base layer. Parameters, their names,
merging and saving stay peft's.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear as LoRALinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from captune.captioning.structure import is_projection


def quicken(model: nn.Module) -> None:
    """Let peft's LoRA layers inside `model` take the quick way wherever it gives the same."""
    for module in model.modules():
        layer: Any = module
        if type(layer) is LoRALinear and is_projection(layer.base_layer):
            layer.__class__ = QuickLoRALinear


class QuickLoRALinear(LoRALinear):  # type: ignore[misc]
    """peft's own layer where it has a dropout, a variant, more than one update or hooks inside."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        dtype = _autocast_dtype(x.device.type) or x.dtype
        if args or kwargs or not self._is_plain(dtype):
            left: Tensor = super().forward(x, *args, **kwargs)
            return left
        base, (name,) = self.base_layer, self.active_adapters
        weight = base.weight.T if isinstance(base, nn.Linear) else base.weight
        found: Tensor = _LowRank.apply(
            x.to(dtype),
            weight.to(dtype),
            base.bias,
            self.lora_A[name].weight,
            self.lora_B[name].weight,
            self.scaling[name],
        )
        return found

    def _is_plain(self, dtype: torch.dtype) -> bool:
        """Whether nothing is asked for but a product in `dtype` and an update."""
        base, active = self.base_layer, self.active_adapters
        if self.merged or self.disable_adapters or len(active) != 1 or active[0] not in self.lora_A:
            return False
        if active[0] in self.lora_variant or not base.weight.is_floating_point():
            return False
        if base._forward_hooks or base._forward_pre_hooks or base._backward_hooks:
            return False
        if self.training and not isinstance(self.lora_dropout[active[0]], nn.Identity):
            return False
        # without autocast peft computes the update in its own precision, above that of the base
        small = self.lora_A[active[0]].weight.dtype
        return dtype == small or _autocast_dtype(base.weight.device.type) is not None


def _autocast_dtype(kind: str) -> torch.dtype | None:
    """What autocast computes in on this kind of device; None where it is off."""
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


class _LowRank(torch.autograd.Function):
    """x @ weight + bias + scaling * (x @ down.T @ up.T); weight and bias are frozen.

    x: [..., inputs]; weight: [inputs, outputs]; down: [rank, inputs]; up: [outputs, rank].
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scaling: float,
    ) -> Tensor:
        ctx.dtypes = down.dtype, up.dtype
        ctx.scaling = scaling
        down, up = down.to(x.dtype), up.to(x.dtype)
        rows = x.reshape(-1, x.shape[-1])
        narrow = rows @ down.T
        if bias is None:
            found = rows @ weight
        else:
            found = torch.addmm(bias.to(x.dtype), rows, weight)
        found.addmm_(narrow, up.T, alpha=scaling)
        ctx.save_for_backward(rows, weight, narrow, down, up)
        return found.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        rows, weight, narrow, down, up = ctx.saved_tensors
        of_found = gradients[0].reshape(-1, gradients[0].shape[-1])
        of_narrow = (of_found @ up).mul_(ctx.scaling)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = of_found @ weight.T
            of_x.addmm_(of_narrow, down)
            of_x = of_x.view(*gradients[0].shape[:-1], -1)
        of_down = of_narrow.T @ rows
        of_up = (of_found.T @ narrow).mul_(ctx.scaling)
        return of_x, None, None, of_down.to(ctx.dtypes[0]), of_up.to(ctx.dtypes[1]), None
