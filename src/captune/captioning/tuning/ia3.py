"""(IA)^3 (Liu et al. 2022): trained factors on keys, values and the MLP's inner activations.

By Hugging Face peft. Factors start at one, so training starts from the untouched decoder.

Trained parameters, a block: the outputs of its key and value projections, and the inputs of the
MLP's last projection. A decoder that keeps queries, keys and values in one projection (GPT-2's
c_attn) gets a factor for each of that projection's outputs, so its queries are scaled too, as peft
does it.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from captune.captioning.bridge import Bridge
from captune.captioning.decoder_parts import DecoderParts
from captune.captioning.settings import NoneConfig
from captune.captioning.tuning.lora import PeftMethod, is_transposed
from captune.errors import UserError

# k_proj, v_proj, key, value, key_proj, ...; there is nothing but the name to tell them by
_KEY_OR_VALUE = re.compile(r"(k|v|key|value)(_.*)?")


class IA3(PeftMethod):
    """(IA)^3 by peft."""

    Config = NoneConfig
    mark = "ia3_"

    def wrap(self, model: nn.Module, parts: DecoderParts) -> Any:
        """peft's IA3Model around the decoder."""
        from peft import IA3Config, IA3Model

        scaled, inner = scaled_projections(parts)
        config = IA3Config(
            target_modules=[*scaled, *inner],
            feedforward_modules=inner,
            fan_in_fan_out=is_transposed(model, scaled[0]),
        )
        return IA3Model(model, config, "default")

    @classmethod
    def count(cls, config: NoneConfig, parts: DecoderParts, bridge: Bridge) -> int:
        """By the arithmetic of the module's text."""
        scaled, inner = scaled_projections(parts)
        outputs = sum(parts.sizes[name][1] for name in scaled)
        return outputs + sum(parts.sizes[name][0] for name in inner)


def scaled_projections(parts: DecoderParts) -> tuple[list[str], list[str]]:
    """(projections whose outputs are scaled, projections whose inputs are), all blocks together.

    Raises UserError for a block in which they are not found.
    """
    scaled, inner = [], []
    for targets in parts.targets_by_block:
        attention = [name for name in targets if name in parts.attention_targets]
        mlp = [name for name in targets if name not in parts.attention_targets]
        found = [name for name in attention if _KEY_OR_VALUE.fullmatch(name.rpartition(".")[2])]
        if not found and len(attention) == 2:  # all three in one, and the way out
            found = attention[:1]
        back = [name for name in mlp if parts.sizes[name][1] == parts.hidden_size]
        if not found or not back:
            raise UserError(
                f"ia3: no {'MLP' if found else 'keys and values'} found among"
                f" {', '.join(targets)}; take lora or adapter for this decoder"
            )
        scaled += found
        inner.append(back[-1])
    return scaled, inner


METHOD = IA3
