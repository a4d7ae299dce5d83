"""Bottleneck adapters (Houlsby et al. 2019; Pfeiffer et al. 2020): down, a bend, up, added.

One after the MLP of each block (pfeiffer), and one after its self-attention too (houlsby); also
one after each layer of the bridge's cross-attention, which adapters made for text models miss.

Trained parameters: each 2*d*b + b + d, for a decoder of width d and a bottleneck of b.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from captune.captioning.bridge import Bridge
from captune.captioning.decoder_parts import DecoderParts
from captune.captioning.settings import AdapterConfig
from captune.captioning.tuning import TuningMethod


class Adapter(TuningMethod):
    """Bottlenecks. The way up starts at zero: step 0 is the untouched decoder."""

    Config = AdapterConfig

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList()
        self.cross = nn.ModuleList()
        self._handles: list[RemovableHandle] = []

    def attach(self, model: nn.Module, parts: DecoderParts, bridge: Bridge) -> None:
        """Hook a bottleneck behind each place."""
        places = list(parts.mlp_outputs)
        if self.config.places == "houlsby":
            pairs = zip(parts.self_attentions, parts.mlp_outputs, strict=True)
            places = list(chain.from_iterable(pairs))
        for kept, modules in ((self.blocks, places), (self.cross, bridge.cross_attention_layers)):
            for module in modules:
                bottleneck = Bottleneck(parts.hidden_size, self.config.bottleneck)
                kept.append(bottleneck)
                self._handles.append(module.register_forward_hook(bottleneck.behind))

    def detach(self) -> None:
        """Take the hooks out."""
        while self._handles:
            self._handles.pop().remove()

    @classmethod
    def count(cls, config: AdapterConfig, parts: DecoderParts, bridge: Bridge) -> int:
        """By the arithmetic of the module's text."""
        d, b = parts.hidden_size, config.bottleneck
        per_block = 2 if config.places == "houlsby" else 1
        places = per_block * len(parts.blocks) + len(bridge.cross_attention_layers)
        return places * (2 * d * b + b + d)


class Bottleneck(nn.Module):
    """x -> x + up(gelu(down(x)))."""

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., width] -> the same shape and precision."""
        bent: Tensor = self.up(F.gelu(self.down(hidden.to(self.down.weight.dtype))))
        return hidden + bent.to(hidden.dtype)

    def behind(self, module: nn.Module, args: Any, output: Any) -> Any:
        """As a forward hook: what the module yields, through the bottleneck."""
        return (self(output[0]), *output[1:]) if isinstance(output, tuple) else self(output)


METHOD = Adapter
