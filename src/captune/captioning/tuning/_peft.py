"""What the tuning methods by Hugging Face peft share: its layers in the bare decoder.

`get_peft_model` would freeze the bridge and wrap its layers too, so peft's tuners are put into the
decoder alone, with targets found by structure, before the bridge hooks in.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from torch import nn

from captune.captioning.bridge import Bridge
from captune.captioning.decoder_parts import DecoderParts
from captune.captioning.tuning import TuningMethod


class PeftMethod(TuningMethod):
    """A tuner of peft. mark: what the names of its parameters begin with."""

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
            _clean(self._tuner.pop().unload())

    def merge(self) -> None:
        """Fold it into the decoder's weights and unwrap; there is no way back."""
        if self._tuner:
            _clean(self._tuner.pop().merge_and_unload())

    def named_trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """peft's parameters, by their place in the decoder."""
        for tuner in self._tuner:
            for name, parameter in tuner.model.named_parameters():
                if f".{self.mark}" in name:
                    yield name, parameter


def is_transposed(model: nn.Module, name: str) -> bool:
    """Whether a projection keeps its weight as [inputs, outputs], as GPT-2's Conv1D does."""
    return not isinstance(model.get_submodule(name), nn.Linear)


def _clean(model: Any) -> None:
    """peft leaves its config on the decoder, and takes the next tuner for a second one on top."""
    if hasattr(model, "peft_config"):
        del model.peft_config
