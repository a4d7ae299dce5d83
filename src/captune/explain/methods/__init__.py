"""How a map is made. One file a method; a third party's by entry point.

Adding one is adding a file here that ends in `METHOD = MyMethod()`, or an entry point of the group
`captune.explain`.
"""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import ClassVar

from torch import Tensor

from captune.captioning.attention import CrossAttentionLayer
from captune.captioning.model import Captioner
from captune.errors import UserError
from captune.explain.subject import Subject

_GROUP = "captune.explain"


@dataclass(frozen=True)
class Choice:
    """Which of a method's maps.

    layer: number of the bridge's looking layer, from 0; None is the method's map of all of them.
    head: its number; "mean" or "max" over the heads; None where the method knows no heads.
    """

    layer: int | None = None
    head: int | str | None = None

    def __str__(self) -> str:
        """`layer 3, head 0`."""
        layer = "all layers" if self.layer is None else f"layer {self.layer}"
        if self.head is None:
            return layer
        return f"{layer}, {'head ' if isinstance(self.head, int) else ''}{self.head}"


class MapMethod(ABC):
    """Where on the photo the captioner found each word of a caption.

    name: as in `--method`. signed: a negative value speaks against the word.
    """

    name: ClassVar[str]
    signed: ClassVar[bool] = False

    def choices(self, captioner: Captioner) -> list[Choice]:
        """The maps that it makes for this captioner, the default first; one where nothing is said.

        Raises UserError where it makes none.
        """
        return [Choice()]

    @abstractmethod
    def maps(
        self,
        captioner: Captioner,
        subject: Subject,
        choice: Choice,
        words: Sequence[int],
        against: str | None = None,
    ) -> Tensor:
        """Maps [words, rows, columns] float32 over the patch grid, on the CPU; no gradient.

        words: numbers in `subject.spans`. against: why not this word, at the same step?
        Raises UserError for a choice that it does not have, and where it cannot hold one word
        against another.
        """

    def maps_of_all(
        self, captioner: Captioner, subject: Subject, words: Sequence[int]
    ) -> dict[Choice, Tensor]:
        """The maps of every choice; at the cost of one where the method can."""
        return {
            choice: self.maps(captioner, subject, choice, words)
            for choice in self.choices(captioner)
        }

    def is_share(self, choice: Choice) -> bool:
        """Whether a map is a share of one: of what was looked at, how much each patch had."""
        return False

    def check(self, captioner: Captioner, choice: Choice) -> None:
        """Raises UserError for a choice that is none of `choices`."""
        known = self.choices(captioner)
        if choice not in known:
            raise UserError(f"{self.name}: has no map of {choice}; it has {_listed(known)}")


def looking_layers(captioner: Captioner, name: str) -> list[CrossAttentionLayer]:
    """The layers that look at the photo; name: of the method, for the sentence.

    Raises UserError where there are none.
    """
    layers = captioner.bridge.attending
    if not layers:
        raise UserError(
            f"{name}: this captioner's bridge has no cross-attention, it puts the photo before the"
            " text; take --method gradient, integrated-gradients or occlusion"
        )
    return layers


def on_patches(values: Tensor, subject: Subject) -> Tensor:
    """[..., tokens] -> [..., rows, columns]: what stands for no place on the photo is dropped.

    Tokens after the grid, such as the words of a bidirectional bridge, are dropped as well.
    """
    shape = subject.shape
    patches = values[..., shape.leading : shape.leading + shape.rows * shape.columns]
    grid = patches.reshape(*patches.shape[:-1], shape.rows, shape.columns)
    return grid.detach().float().cpu()


def method_names() -> list[str]:
    """The methods there are, without importing any."""
    own = (module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))
    return sorted({*own, *_plugins()})


def map_method(name: str) -> MapMethod:
    """The method called `name`. Raises UserError for an unknown one."""
    if name in _plugins():
        loaded: MapMethod = _plugins()[name].load()
        return loaded
    if name not in method_names():
        raise UserError(f'method "{name}": is not known; choose among {", ".join(method_names())}')
    found: MapMethod = import_module(f"{__name__}.{name.replace('-', '_')}").METHOD
    return found


def _listed(choices: Sequence[Choice]) -> str:
    layers = sorted({choice.layer for choice in choices if choice.layer is not None})
    heads = sorted({str(choice.head) for choice in choices if choice.head is not None})
    parts = [f"layers {', '.join(map(str, layers))}"] if layers else []
    parts += ["all layers at once"] if any(choice.layer is None for choice in choices) else []
    return "; ".join([*parts, *([f"heads {', '.join(heads)}"] if heads else [])])


@cache
def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=_GROUP)}
