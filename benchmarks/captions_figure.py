"""Images in rows, each with the caption that was written for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from PIL import Image

from captune.plots.canvas import SMALL, TEXT, WIDTH, Sheet, Tone, fitted, house_style, shrunk

_MARGIN, _GAP, _LINE = 0.15, 0.15, 0.155  # inches
_LINES, _COLUMNS = 4, 4


@dataclass(frozen=True)
class CaptionPanel:
    """image: RGB, any size. below: what else is said of it, such as its score."""

    caption: str
    image: Image.Image
    below: str = ""


@house_style()
def captions_figure(panels: Sequence[CaptionPanel], title: str = "", subtitle: str = "") -> Figure:
    """Up to four images in a row; a caption has four lines, what is longer ends in an ellipsis.

    Raises ValueError without a panel.
    """
    if not panels:
        raise ValueError("expected at least one image to draw")
    columns = min(_COLUMNS, len(panels))
    across = WIDTH - 2 * _MARGIN
    width = (across - _GAP * (columns - 1)) / columns
    heads = fitted(title, across, 2, TEXT + 2, weight="bold") if title else []
    remarks = fitted(subtitle, across, 2, SMALL) if subtitle else []
    words = [fitted(panel.caption or "(empty caption)", width, _LINES, SMALL) for panel in panels]
    belows = [fitted(panel.below, width, 1, SMALL - 1)[0] for panel in panels]
    rows = [range(i, min(i + columns, len(panels))) for i in range(0, len(panels), columns)]
    pictures = [max(_height(panels[i].image, width) for i in row) for row in rows]
    heights = [
        picture + 0.06 + _LINE * max(len(words[i]) for i in row) + 0.32
        for row, picture in zip(rows, pictures, strict=True)
    ]
    head = 0.2 * len(heads) + _LINE * len(remarks) + (0.12 if heads or remarks else 0)
    figure = Sheet(_MARGIN + head + sum(heights))
    for number, line in enumerate(heads):
        figure.write(_MARGIN, _MARGIN + 0.2 * number, line, TEXT + 2, weight="bold")
    for number, line in enumerate(remarks):
        top = _MARGIN + 0.2 * len(heads) + _LINE * number
        figure.write(_MARGIN, top, line, SMALL, color=Tone.MUTED)
    top = _MARGIN + head
    for row, picture, height in zip(rows, pictures, heights, strict=True):
        for column, i in enumerate(row):
            left = _MARGIN + column * (width + _GAP)
            axes = figure.place(left, top, width, picture)
            axes.set_axis_off()
            axes.imshow(shrunk(panels[i].image, width, picture), aspect="equal")
            axes.set_anchor("S")
            below = top + picture + 0.06
            for number, line in enumerate(words[i]):
                figure.write(left, below + _LINE * number, line, SMALL)
            below += _LINE * len(words[i]) + 0.03
            figure.write(left, below, belows[i], SMALL - 1, color=Tone.MUTED)
        top += height
    return figure


def _height(image: Image.Image, width: float) -> float:
    """Of an image that is `width` inches wide; one that is higher than wide is made narrower."""
    return min(1.0, image.height / image.width) * width
