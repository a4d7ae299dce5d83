"""No tuning: only the bridge is trained. 0 parameters."""

from __future__ import annotations

from torch import nn

from captune.captioning.bridge import Bridge
from captune.captioning.decoder_parts import DecoderParts
from captune.captioning.settings import NoneConfig
from captune.captioning.tuning import TuningMethod


class NoTuning(TuningMethod):
    """The decoder stays as it is."""

    Config = NoneConfig

    def __init__(self, config: NoneConfig) -> None:
        super().__init__()
        self.config = config

    def attach(self, model: nn.Module, parts: DecoderParts, bridge: Bridge) -> None:
        """Nothing to attach."""

    def detach(self) -> None:
        """Nothing to detach."""

    @classmethod
    def count(cls, config: NoneConfig, parts: DecoderParts, bridge: Bridge) -> int:
        """None."""
        return 0


METHOD = NoTuning
