"""Tuning methods: which few parameters of the decoder are trained. One file a method.

Adding one is adding a file here that ends in `METHOD = MyMethod`, or an entry point of the group
`captune.tuning`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from captune import registry
from captune.captioning.decoder_parts import DecoderParts
from captune.registry import Registry

if TYPE_CHECKING:
    from captune.captioning.bridge import Bridge


class TuningMethod(nn.Module, ABC):
    """Trained parameters inside, or beside, a frozen decoder.

    Config: a frozen dataclass of plain values; it is what a checkpoint's config holds.
    rate: the learning rate where the user gives none, of the bridge beside it, too.
    """

    Config: ClassVar[type[Any]]
    rate: ClassVar[float] = 1e-3
    config: Any

    @abstractmethod
    def attach(self, model: nn.Module, parts: DecoderParts, bridge: Bridge) -> None:
        """Put it into the decoder (and the bridge's cross-attention, where it reaches that)."""

    @abstractmethod
    def detach(self) -> None:
        """Give the decoder back as it was."""

    def named_trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What it trains."""
        return self.named_parameters()

    @classmethod
    @abstractmethod
    def count(cls, config: Any, parts: DecoderParts, bridge: Bridge) -> int:
        """How many parameters it trains, by arithmetic."""


TUNING_METHODS: Registry[type[TuningMethod]] = registry.TUNING_METHODS
