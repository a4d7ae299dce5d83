"""How a map is made. One file per method; a third party's by entry point.

Adding one is adding a file here that ends in `METHOD = MyMethod()`, or an entry point of the group
`captune.explain`. Maps for a class, the nearest to Grad-CAM, are in attribution/classes.py.

    explain.json    beside a captioner's config.json: its default map, that `captune faithful` found
                    to be the most faithful, with the figures and the sentence it was chosen by
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import msgspec
from torch import Tensor

from captune import registry
from captune.attribution.captioned_image import CaptionedImage
from captune.attribution.vlm_image import AnyModel
from captune.attribution.word_scores import WordTarget, word_targets
from captune.captioning.bridge import CrossAttentionLayer
from captune.captioning.checkpoint import read_beside
from captune.captioning.settings import EXPLAIN
from captune.errors import UserError
from captune.models.encoders import ImageTextModel
from captune.registry import Registry

UNMEASURED = "attention"  # of a captioner whose maps nobody has measured


class LayerHead(NamedTuple):
    """Which of a method's maps.

    layer: number of the bridge's cross-attention layer, from 0; None is the method's map of all.
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
    """What of the image the captioner used for each word of a caption.

    name: as in `--method`. signed: a negative value speaks against the word. no_against: why it
    cannot hold one word against another, where it cannot.
    """

    name: ClassVar[str]
    signed: ClassVar[bool] = False
    no_against: ClassVar[str] = ""

    def layer_heads(self, captioner: AnyModel) -> list[LayerHead]:
        """The maps that it makes for this captioner, the default first; one where nothing is said.

        Raises UserError where it makes none.
        """
        return [LayerHead()]

    def check_encoder(self, encoder: ImageTextModel | None) -> None:  # noqa: B027
        """Raises UserError where the image encoder has not what the method takes; None: unknown."""

    @abstractmethod
    def maps_of(
        self, captioned: CaptionedImage, layer_head: LayerHead, targets: Sequence[WordTarget]
    ) -> Tensor:
        """Maps [targets, rows, columns] float32 over the patch grid, on the CPU; no gradient.

        layer_head: one of `layer_heads`. targets: a word, or a word against another one.
        """

    def maps(
        self,
        captioned: CaptionedImage,
        layer_head: LayerHead,
        words: Sequence[int],
        against: str | None = None,
    ) -> Tensor:
        """`maps_of` words: numbers in `captioned.spans`. against: why not this word, at that step?

        Raises UserError for a layer or head that it does not have, and where it cannot hold one
        word against another.
        """
        self.check(captioned.model, layer_head)
        if against is not None and self.no_against:
            raise UserError(f"{self.name}: {self.no_against}")
        targets = word_targets(captioned, words, against)
        return self.maps_of(captioned, layer_head, targets)

    def maps_of_each(
        self, captioned: CaptionedImage, layer_heads: Sequence[LayerHead], words: Sequence[int]
    ) -> dict[LayerHead, Tensor]:
        """The maps of some `layer_heads`; at the cost of one where the method can."""
        return {one: self.maps(captioned, one, words) for one in layer_heads}

    def is_fraction(self, layer_head: LayerHead) -> bool:
        """Whether a map holds fractions of one: of the attention, how much each patch had."""
        return False

    def check(self, captioner: AnyModel, layer_head: LayerHead) -> None:
        """Raises UserError for what is none of `layer_heads`."""
        known = self.layer_heads(captioner)
        if layer_head not in known:
            raise UserError(f"{self.name} has no map of {layer_head}; it has {_listed(known)}")


def cross_attention_layers(captioner: AnyModel, name: str) -> list[CrossAttentionLayer]:
    """The layers that look at the image; name: of the method, for the sentence.

    Raises UserError where there are none.
    """
    layers = captioner.bridge.cross_attention_layers
    if not layers:
        raise UserError(
            f"{name}: this captioner's bridge has no cross-attention, it puts the image before the"
            " text; take --method gradient, integrated-gradients or occlusion"
        )
    return layers


def on_patches(values: Tensor, captioned: CaptionedImage) -> Tensor:
    """[..., tokens] -> [..., rows, columns]: what stands for no patch on the image is dropped.

    Tokens after the grid, such as the words of a bidirectional bridge, are dropped as well.
    """
    return captioned.shape.to_cells(values).detach().float().cpu()


def _listed(layer_heads: Sequence[LayerHead]) -> str:
    layers = sorted({one.layer for one in layer_heads if one.layer is not None})
    heads = sorted({str(one.head) for one in layer_heads if one.head is not None})
    parts = [f"layers {', '.join(map(str, layers))}"] if layers else []
    parts += ["all layers at once"] if any(one.layer is None for one in layer_heads) else []
    return "; ".join([*parts, *([f"heads {', '.join(heads)}"] if heads else [])])


MAP_METHODS: Registry[MapMethod] = registry.MAP_METHODS


class DefaultMap(msgspec.Struct, frozen=True):
    """A captioner's default map: a method with layer and head.

    layer: None is the method's map of all layers. head: None where the method knows none. figures,
    sentence: what they were chosen by.
    """

    method: str
    layer: int | None
    head: int | Literal["mean", "max"] | None
    figures: dict[str, Any] = {}
    sentence: str = ""

    @property
    def layer_head(self) -> LayerHead:
        """Which of the method's maps."""
        return LayerHead(self.layer, self.head)


def read_default(folder: Path) -> DefaultMap | None:
    """The default map of the captioner in `folder`; None where none was stored.

    Raises UserError for a file that this captune cannot read.
    """
    return read_beside(folder / EXPLAIN, DefaultMap, "a default map", "captune faithful")


def choose_map(
    captioner: AnyModel,
    stored: DefaultMap | None,
    *,
    method: str = "auto",
    layer: str = "auto",
    head: str = "auto",
) -> tuple[MapMethod, LayerHead]:
    """The method and the map of it that words like those of the command line ask for.

    auto: what was stored for the captioner, where that is of the same method, else the method's
    first layer_head; for a method without a stored default, `attention` where the captioner has it.
    layer: a number, "last" or "all". head: a number, "mean" or "max".
    Raises UserError for a layer_head that the method does not have.
    """
    name = method
    if method == "auto":
        usual_name = UNMEASURED if captioner.bridge.cross_attention_layers else "gradient"
        name = stored.method if stored else usual_name
    made = MAP_METHODS.get(name)
    known = made.layer_heads(captioner)
    usual = known[0]
    if stored is not None and stored.method == name and stored.layer_head in known:
        usual = stored.layer_head
    if layer == head == "auto":
        return made, usual
    wanted = usual.layer if layer == "auto" else _layer(layer, known)
    heads = [one.head for one in known if one.layer == wanted] or [usual.head]
    if head != "auto":
        layer_head = LayerHead(wanted, _head(head))
    else:
        layer_head = LayerHead(wanted, usual.head if usual.head in heads else heads[0])
    made.check(captioner, layer_head)
    return made, layer_head


def _layer(text: str, known: list[LayerHead]) -> int | None:
    if text == "all":
        return None
    if text == "last":
        layers = [layer_head.layer for layer_head in known if layer_head.layer is not None]
        return max(layers, default=None)
    if text.removeprefix("-").isdecimal():
        return int(text)
    raise UserError(f"layer {text}: write a number from 0, last, all, or auto")


def _head(text: str) -> int | str:
    if text in ("mean", "max"):
        return text
    if text.isdecimal():
        return int(text)
    raise UserError(f"head {text}: write a number from 0, mean, max, or auto")
