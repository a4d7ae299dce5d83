"""How a map is made. One file a method; a third party's by entry point.

Adding one is adding a file here that ends in `METHOD = MyMethod()`, or an entry point of the group
`captune.explain`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from captune.attribution.subject import Subject
from captune.attribution.word_scores import Target, targets_of
from captune.captioning.attention import CrossAttentionLayer
from captune.captioning.model import Captioner
from captune.errors import UserError
from captune.registry import MAP_METHODS, Registry


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
    """Where on the image the captioner found each word of a caption.

    name: as in `--method`. signed: a negative value speaks against the word. no_against: why it
    cannot hold one word against another, where it cannot.
    """

    name: ClassVar[str]
    signed: ClassVar[bool] = False
    no_against: ClassVar[str] = ""

    def choices(self, captioner: Captioner) -> list[Choice]:
        """The maps that it makes for this captioner, the default first; one where nothing is said.

        Raises UserError where it makes none.
        """
        return [Choice()]

    @abstractmethod
    def maps_of(
        self, captioner: Captioner, subject: Subject, choice: Choice, targets: Sequence[Target]
    ) -> Tensor:
        """Maps [targets, rows, columns] float32 over the patch grid, on the CPU; no gradient.

        choice: one of `choices`. targets: a word, or a word against another one.
        """

    def maps(
        self,
        captioner: Captioner,
        subject: Subject,
        choice: Choice,
        words: Sequence[int],
        against: str | None = None,
    ) -> Tensor:
        """`maps_of` words: numbers in `subject.spans`. against: why not this word, at that step?

        Raises UserError for a choice that it does not have, and where it cannot hold one word
        against another.
        """
        self.check(captioner, choice)
        if against is not None and self.no_against:
            raise UserError(f"{self.name}: {self.no_against}")
        targets = targets_of(captioner, subject, words, against)
        return self.maps_of(captioner, subject, choice, targets)

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
    """The layers that look at the image; name: of the method, for the sentence.

    Raises UserError where there are none.
    """
    layers = captioner.bridge.attending
    if not layers:
        raise UserError(
            f"{name}: this captioner's bridge has no cross-attention, it puts the image before the"
            " text; take --method gradient, integrated-gradients or occlusion"
        )
    return layers


def on_patches(values: Tensor, subject: Subject) -> Tensor:
    """[..., tokens] -> [..., rows, columns]: what stands for no place on the image is dropped.

    Tokens after the grid, such as the words of a bidirectional bridge, are dropped as well.
    """
    shape = subject.shape
    patches = values[..., shape.leading : shape.leading + shape.rows * shape.columns]
    grid = patches.reshape(*patches.shape[:-1], shape.rows, shape.columns)
    return grid.detach().float().cpu()


_METHODS: Registry[MapMethod] = MAP_METHODS


def method_names() -> list[str]:
    """The methods there are, without importing any."""
    return _METHODS.names()


def map_method(name: str) -> MapMethod:
    """The method called `name`. Raises UserError for an unknown one."""
    return _METHODS.get(name)


def _listed(choices: Sequence[Choice]) -> str:
    layers = sorted({choice.layer for choice in choices if choice.layer is not None})
    heads = sorted({str(choice.head) for choice in choices if choice.head is not None})
    parts = [f"layers {', '.join(map(str, layers))}"] if layers else []
    parts += ["all layers at once"] if any(choice.layer is None for choice in choices) else []
    return "; ".join([*parts, *([f"heads {', '.join(heads)}"] if heads else [])])
