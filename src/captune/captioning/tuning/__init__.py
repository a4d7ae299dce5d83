"""Tuning methods: which few parameters of the decoder are trained. One file a method.

Adding one is adding a file here that ends in `METHOD = MyMethod`, or an entry point of the group
`captune.tuning`. A file whose name begins with _ is what several methods share.
"""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from captune.captioning.structure import DecoderParts
from captune.errors import UserError

if TYPE_CHECKING:
    from captune.captioning.bridge import Bridge

_GROUP = "captune.tuning"


class TuningMethod(nn.Module, ABC):
    """Trained parameters inside, or beside, a frozen decoder.

    Config: a frozen dataclass of plain values; it is what a checkpoint's config holds.
    """

    Config: ClassVar[type[Any]]
    config: Any

    @abstractmethod
    def attach(self, model: nn.Module, parts: DecoderParts, bridge: Bridge) -> None:
        """Put it into the decoder (and the bridge's cross-attention, where it reaches that)."""

    @abstractmethod
    def detach(self) -> None:
        """Give the decoder back as it was."""

    def merge(self) -> None:
        """Fold it into the decoder's weights. Raises UserError where that cannot be done."""
        raise UserError(f"{type(self).__name__}: acts on activations and cannot be merged")

    def named_trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What it trains."""
        return self.named_parameters()

    @classmethod
    @abstractmethod
    def count(cls, config: Any, parts: DecoderParts, bridge: Bridge) -> int:
        """How many parameters it trains, by arithmetic."""


def method_names() -> list[str]:
    """The methods there are, without importing any."""
    own = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted({*(name for name in own if not name.startswith("_")), *_plugins()})


def method_class(name: str) -> type[TuningMethod]:
    """The method called `name`. Raises UserError for an unknown one."""
    if name in _plugins():
        loaded: type[TuningMethod] = _plugins()[name].load()
        return loaded
    if name not in method_names():
        raise UserError(f'method "{name}": is not known; choose among {", ".join(method_names())}')
    found: type[TuningMethod] = import_module(f"{__name__}.{name}").METHOD
    return found


@cache
def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=_GROUP)}
