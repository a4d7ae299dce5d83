"""Which map of a captioner is the default: what `captune faithful` found to be the most faithful.

    explain.json    beside the captioner's config.json: schema, method, layer, head, and the
                    figures and the sentence that they were chosen by

A layer of null is the method's map of all layers, a head of null where the method knows none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from captune.attribution.methods import MAP_METHODS, LayerHead, MapMethod
from captune.captioning.checkpoint import read_beside, text_beside
from captune.captioning.model import CaptionModel
from captune.errors import UserError
from captune.files import whole_file

NAME = "explain.json"
SCHEMA = 1
METHOD = "attention"  # of a captioner whose maps nobody has measured


class DefaultMap(msgspec.Struct, frozen=True):
    """A method with layer and head. figures, sentence: what they were chosen by."""

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
    return read_beside(folder / NAME, SCHEMA, DefaultMap, "a default map", "captune faithful")


def write_default(folder: Path, default: DefaultMap) -> None:
    """Store the default map beside a captioner's config.json, as a whole file."""
    with whole_file(folder / NAME) as file:
        file.write(text_beside(SCHEMA, default))


def choose_map(
    captioner: CaptionModel,
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
        usual_name = METHOD if captioner.bridge.cross_attention_layers else "gradient"
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
