"""LoRA (Hu et al. 2021) on the decoder's projections, by Hugging Face peft.

Trained parameters: rank * (inputs + outputs) for each projection.
The second matrix starts at zero (peft's default), so training starts from the untouched decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import nn

from captune.captioning.bridge import Bridge
from captune.captioning.decoder_parts import DecoderParts
from captune.captioning.tuning._peft import PeftMethod, is_transposed
from captune.errors import UserError


@dataclass(frozen=True)
class LoRAConfig:
    """rank; alpha: the update counts alpha / rank; targets: which projections of each block.

    last: tune the last n blocks only; 0 for all. Where the bridge looks no earlier, nothing is
    learnt in the blocks before them, and the backward pass ends there.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: Literal["all", "attention"] = "all"
    last: int = 0

    def __post_init__(self) -> None:
        """Raises UserError for a rank below 1, a negative `last` or unknown targets."""
        if self.last < 0:
            raise UserError(f"lora: last {self.last}; it must be 0 or more")
        if not 0 <= self.dropout < 1:
            raise UserError(f"lora: dropout {self.dropout}; it must be from 0 to below 1")
        if self.rank < 1:
            raise UserError(f"lora: rank {self.rank}; it must be 1 or more")
        if self.targets not in ("all", "attention"):
            raise UserError(f'lora: targets "{self.targets}"; write all or attention')


class LoRA(PeftMethod):
    """LoRA by peft, with captune's fast layers where they give the same."""

    Config = LoRAConfig
    mark = "lora_"
    use_dora: ClassVar[bool] = False

    def wrap(self, model: nn.Module, parts: DecoderParts) -> Any:
        """peft's LoraModel around the decoder."""
        from peft import LoraConfig, LoraModel

        from captune.captioning.tuning._low_rank import use_fast_layers

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


METHOD = LoRA
