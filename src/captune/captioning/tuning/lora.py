"""LoRA (Hu et al. 2021) on the decoder's projections, by Hugging Face peft.

Trained parameters: rank * (inputs + outputs) for each projection.
The second matrix starts at zero (peft's default), so training starts from the untouched decoder.

peft runs the base layer, two small matrices, a factor and a sum one after the other, and brings
what it reads to the precision of the small matrices. On a CPU, and over short captions, these
passes cost as much as the products. In `FastLoRALinear` the product that makes the update also adds
it, forward and backward, and under autocast all is computed in autocast's precision. Parameters,
their names and saving stay peft's.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from captune.captioning.bridge import Bridge
from captune.captioning.decoder_parts import DecoderParts
from captune.captioning.settings import LoRAConfig
from captune.captioning.tuning import TuningMethod
from captune.models.quantised import importing_bitsandbytes

with importing_bitsandbytes():  # peft does, where it is there
    from peft import LoraConfig, LoraModel
    from peft.tuners.lora import Linear as LoRALinear


class PeftMethod(TuningMethod):
    """A tuner of peft in the bare decoder. mark: what the names of its parameters begin with.

    `get_peft_model` would freeze the bridge and wrap its layers too, so the tuner is put into the
    decoder alone, with targets found by structure, before the bridge hooks in.
    """

    mark: ClassVar[str]

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self._tuner: list[Any] = []  # in a list: as a submodule it would make the decoder ours

    @abstractmethod
    def wrap(self, model: nn.Module, parts: DecoderParts) -> Any:
        """peft's tuner around the decoder."""

    def attach(self, model: nn.Module, parts: DecoderParts, bridge: Bridge) -> None:
        """Wrap the projections; the decoder's own weights stay frozen."""
        self._tuner = [self.wrap(model, parts)]
        for _, parameter in self.named_trained():
            # peft takes the decoder's precision, in which small steps would round to nothing
            parameter.data = parameter.data.float()

    def detach(self) -> None:
        """Unwrap the projections, dropping what was trained."""
        if self._tuner:
            model = self._tuner.pop().unload()
            # which peft leaves there, and takes the next tuner for a second one on top
            vars(model).pop("peft_config", None)

    def named_trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """peft's parameters, by their place in the decoder."""
        for tuner in self._tuner:
            for name, parameter in tuner.model.named_parameters():
                if f".{self.mark}" in name:
                    yield name, parameter


def is_transposed(model: nn.Module, name: str) -> bool:
    """Whether a projection keeps its weight as [inputs, outputs], as GPT-2's Conv1D does."""
    return not isinstance(model.get_submodule(name), nn.Linear)


class LoRA(PeftMethod):
    """LoRA by peft, with captune's fast layers where they give the same."""

    Config = LoRAConfig
    mark = "lora_"
    use_dora: ClassVar[bool] = False

    def wrap(self, model: nn.Module, parts: DecoderParts) -> Any:
        """peft's LoraModel around the decoder."""
        targets = targets_of(self.config, parts)
        config = LoraConfig(
            r=self.config.rank,
            lora_alpha=self.config.alpha,
            lora_dropout=self.config.dropout,
            target_modules=targets,
            fan_in_fan_out=is_transposed(model, targets[0]),
            use_dora=self.use_dora,
        )
        wrapped = LoraModel(model, config, "default")
        use_fast_layers(wrapped)
        return wrapped

    @classmethod
    def count(cls, config: LoRAConfig, parts: DecoderParts, bridge: Bridge) -> int:
        """By the arithmetic of the module's text; DoRA adds one magnitude an output."""
        sizes = (parts.sizes[name] for name in targets_of(config, parts))
        return sum(
            config.rank * (inputs + outputs) + (outputs if cls.use_dora else 0)
            for inputs, outputs in sizes
        )


def targets_of(config: LoRAConfig, parts: DecoderParts) -> list[str]:
    """Full names of the projections that are tuned."""
    names = [name for targets in parts.targets_by_block[-config.last :] for name in targets]
    if config.targets == "all":
        return names
    return [name for name in names if name in parts.attention_targets]


def use_fast_layers(model: nn.Module) -> None:
    """Let peft's LoRA layers inside `model` take the fast way wherever it gives the same.

    Other kinds of Linear (of quantised models) do more than a product, so they are left alone.
    """
    for module in model.modules():
        layer: Any = module
        if type(layer) is LoRALinear and type(layer.base_layer) in (nn.Linear, Conv1D):
            layer.__class__ = FastLoRALinear


class FastLoRALinear(LoRALinear):  # type: ignore[misc]
    """A product and its update by `_LowRank`; by peft where anything else is asked for."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        autocast = _autocast_dtype(x.device.type)
        if args or kwargs or not self._is_plain(None if autocast else x.dtype):
            left: Tensor = super().forward(x, *args, **kwargs)
            return left
        base, (name,) = self.base_layer, self.active_adapters
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        dtype = autocast or x.dtype
        weight = base.weight.T if type(base) is nn.Linear else base.weight
        rows = x.reshape(-1, x.shape[-1])
        found: Tensor = _LowRank.apply(
            rows.to(dtype), weight.to(dtype), base.bias, down, up, self.scaling[name]
        )
        return found.view(*x.shape[:-1], weight.shape[1])

    def _is_plain(self, read: torch.dtype | None) -> bool:
        """Whether there is one update and nothing between it and the frozen product.

        read: the precision of what is read where there is no autocast; peft computes the update in
        its own, which is above that of a base in half precision.
        """
        active = self.active_adapters
        if self.merged or self.disable_adapters or len(active) != 1 or active[0] not in self.lora_A:
            return False
        name = active[0]
        dropout = self.lora_dropout[name]
        # by its own flag: a training puts the frozen modules around it in eval mode
        if dropout.training and not isinstance(dropout, nn.Identity):
            return False
        if name in self.lora_variant or self.lora_bias[name]:
            return False
        if read is not None and read != self.lora_A[name].weight.dtype:
            return False
        inside = (self.base_layer, self.lora_A[name], self.lora_B[name])
        return not (self.base_layer.weight.requires_grad or any(map(_is_hooked, inside)))


def _is_hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _autocast_dtype(kind: str) -> torch.dtype | None:
    """What autocast computes in on this kind of device; None where it is off."""
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


class _LowRank(torch.autograd.Function):
    """rows @ weight + bias + scaling * (rows @ down.T @ up.T); weight and bias are frozen.

    rows: [n, inputs]; weight: [inputs, outputs]; down: [rank, inputs]; up: [outputs, rank].
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scaling: float,
    ) -> Tensor:
        ctx.dtypes = down.dtype, up.dtype
        ctx.scaling = scaling
        down, up = down.to(rows.dtype), up.to(rows.dtype)
        narrow = rows @ down.T
        if bias is None:
            found = rows @ weight
        else:
            found = torch.addmm(bias.to(rows.dtype), rows, weight)
        found.addmm_(narrow, up.T, alpha=scaling)
        ctx.save_for_backward(rows, weight, narrow, down, up)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (of_found,) = gradients
        rows, weight, narrow, down, up = ctx.saved_tensors
        of_narrow = (of_found @ up).mul_(ctx.scaling)
        of_rows = of_down = of_up = None
        if ctx.needs_input_grad[0]:
            of_rows = of_found @ weight.T
            of_rows.addmm_(of_narrow, down)
        if ctx.needs_input_grad[3]:
            of_down = (of_narrow.T @ rows).to(ctx.dtypes[0])
        if ctx.needs_input_grad[4]:
            of_up = (of_found.T @ narrow).mul_(ctx.scaling).to(ctx.dtypes[1])
        return of_rows, None, None, of_down, of_up, None


METHOD = LoRA
