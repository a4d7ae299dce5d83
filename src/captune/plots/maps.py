"""An image, and beside it where each word of a caption was seen: the assignment's figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image

from captune.plots.canvas import (
    DPI,
    FAINT,
    GREEN,
    GREY,
    INK,
    MUTED,
    SMALL,
    TEXT,
    WIDTH,
    fitted,
    house_style,
    new_figure,
    place,
    write,
)

_MARGIN, _GAP, _LINE, _WORD, _MARK, _BAR = 0.15, 0.12, 0.155, 0.19, 0.2, 0.42  # inches
_MOST_COLUMNS = 5
_TALLEST = 1.5  # times the width of a panel; what is taller is shown smaller
# share of the colour over the image, which is grey below it, where a map is lowest and highest:
# black over all of an image would hide what is on it
_COOL, _HOT = 0.25, 0.65
COLOURS = ("magma", "viridis", "jet")

# what a mark means, as its sign and colour: filled where the map is better than chance
_SIGNS = {True: ("●", GREEN), False: ("○", GREY)}


@dataclass(frozen=True)
class MapPanel:
    """One word.

    over: [height, width] over the image, nan where the model did not look; drawn from its own
    smallest to its own largest value, negative ones as nothing. mark: how far to believe it, in
    words, or "" where that is not known; is_true: whether that says it is to be believed.
    """

    word: str
    over: NDArray[np.float32]
    mark: str = ""
    is_true: bool = False


@house_style()
def maps_figure(
    image: Image.Image,
    panels: Sequence[MapPanel],
    *,
    caption: str,
    subtitle: str = "",
    first: str = "image",
    colours: str = "magma",
) -> Figure:
    """First panel the image, then one a word, in rows of up to five; below what the colours mean.

    subtitle: how the maps were made. first: what stands over the image.
    Raises ValueError without a word.
    """
    if not panels:
        raise ValueError("expected a map of at least one word to draw")
    columns = _columns(len(panels) + 1)
    beside = max(columns, 3)  # one word does not need the whole page
    width = (WIDTH - 2 * _MARGIN - _GAP * (beside - 1)) / beside
    height = min(width * image.height / image.width, width * _TALLEST)
    marks = _MARK if any(panel.mark for panel in panels) else 0.06
    scratch = new_figure(1)
    room = WIDTH - 2 * _MARGIN
    heading = fitted(scratch, caption, room, 2, TEXT + 1, weight="bold")
    below = fitted(scratch, subtitle, room, 2, SMALL) if subtitle else []
    head = _MARGIN + 0.19 * len(heading) + _LINE * len(below) + 0.1
    row = _WORD + height + marks + 0.05
    rows = -(-(len(panels) + 1) // columns)
    figure = new_figure(head + rows * row + _BAR)
    top = _MARGIN
    for line in heading:
        write(figure, _MARGIN, top, line, TEXT + 1, weight="bold")
        top += 0.19
    for line in below:
        write(figure, _MARGIN, top, line, SMALL, color=MUTED)
        top += _LINE
    small = _sized(image, width, height)
    grey = np.asarray(small.convert("L").convert("RGB"), dtype=np.float32) / np.float32(255)
    table = matplotlib.colormaps[colours]
    for number in range(len(panels) + 1):
        left = _MARGIN + (number % columns) * (width + _GAP)
        top = head + (number // columns) * row
        panel = panels[number - 1] if number else None
        word = fitted(figure, panel.word if panel else first, width, 1, TEXT, weight="bold")[0]
        if panel is None:
            write(figure, left, top, word, TEXT, color=MUTED)
            picture = np.asarray(small)
        else:
            write(figure, left, top, word, TEXT, weight="bold")
            picture = _heated(grey, panel.over, table)
        axes = place(figure, left, top + _WORD, width, height)
        axes.imshow(picture, aspect="equal", interpolation="bilinear")
        axes.set_anchor("NW")
        axes.set_axis_off()
        if panel is not None and panel.mark:
            _write_mark(figure, panel, left, top + _WORD + height + 0.035, width)
    _colour_bar(figure, table, head + rows * row + 0.03)
    return figure


def _columns(panels: int) -> int:
    """Rows as full as can be: 11 panels are three rows of 4, and 13 three of 5."""
    if panels <= _MOST_COLUMNS:
        return panels
    return min((_MOST_COLUMNS, _MOST_COLUMNS - 1), key=lambda columns: -panels % columns)


def _sized(image: Image.Image, width: float, height: float) -> Image.Image:
    """The image as large as a panel shows it at our resolution and a half more."""
    scale = min(width / image.width, height / image.height) * DPI * 1.5
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _heated(grey: Any, over: NDArray[np.float32], table: Any) -> Any:
    """The grey image [h, w, 3] under the colours of a map [h', w']; uncoloured where it is nan."""
    height, width = grey.shape[:2]
    scaled = scaled_map(over)
    rows = (np.arange(height) * over.shape[0] // height)[:, None]
    columns = (np.arange(width) * over.shape[1] // width)[None, :]
    values = scaled[rows, columns]
    colours = table(np.nan_to_num(values))[..., :3]
    share = np.nan_to_num(_COOL + (_HOT - _COOL) * values)[..., None]
    return ((1 - share) * grey + share * colours).clip(0, 1)


def scaled_map(over: NDArray[np.float32]) -> NDArray[np.float32]:
    """A map from 0 to 1, by its own smallest and largest value; what is below zero is zero.

    A constant map is 0 everywhere: it says nothing.
    """
    positive = over.clip(0, None)
    low, high = float(np.nanmin(positive)), float(np.nanmax(positive))
    scaled = (positive - low) / (high - low if high > low else 1.0)
    return scaled.astype(np.float32, copy=False)


def _write_mark(figure: Figure, panel: MapPanel, left: float, top: float, width: float) -> None:
    sign, colour = _SIGNS[panel.is_true]
    write(figure, left, top - 0.01, sign, SMALL - 1, color=colour)
    words = fitted(figure, panel.mark, width - 0.13, 1, SMALL - 1)[0]
    write(figure, left + 0.13, top, words, SMALL - 1, color=INK if panel.is_true else MUTED)


def _colour_bar(figure: Figure, table: Any, top: float) -> None:
    whole_width, whole_height = figure.get_size_inches()
    line = Line2D(
        (_MARGIN / whole_width, 1 - _MARGIN / whole_width),
        (1 - top / whole_height,) * 2,
        color=FAINT,
        linewidth=0.8,
    )
    figure.add_artist(line)
    axes = place(figure, _MARGIN, top + 0.1, 1.2, 0.09)
    axes.imshow(np.linspace(0, 1, 256)[None], aspect="auto", cmap=table)
    axes.set_axis_off()
    meaning = "each panel has its own colour scale"
    write(figure, _MARGIN + 1.3, top + 0.085, meaning, SMALL - 1, color=MUTED)
