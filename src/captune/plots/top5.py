"""An image beside the five labels that the model finds most probable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from captune.plots.canvas import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    INK,
    ORANGE,
    SMALL,
    TEXT,
    WIDTH,
    clean,
    fitted,
    house_style,
    legend,
    new_figure,
    place,
    shrunk,
    write,
)
from captune.text import percent

BARS = 5
_MARGIN, _GAP, _PERCENT, _AXIS, _TITLE, _LEGEND = 0.15, 0.2, 0.64, 0.28, 0.26, 0.25
_BAR, _LINE = 0.13, 0.155  # inches


@dataclass(frozen=True)
class Top5:
    """One panel.

    image: RGB, any size. labels and probabilities [k]: prompt texts or class names, in any order;
        the five most probable are shown. truth: index into labels; or the text of the right label
        where it is not among them; None where it is unknown. title: the name of the image.
    """

    image: Image.Image
    labels: Sequence[str]
    probabilities: Sequence[float]
    truth: int | str | None = None
    title: str = ""


@dataclass(frozen=True)
class _Row:
    lines: list[str]
    probability: float
    colour: str
    right: bool


def top5_figure(
    image: Image.Image,
    labels: Sequence[str],
    probabilities: Sequence[float],
    truth: int | str | None = None,
    title: str = "",
) -> Figure:
    """Image on the left, the five most probable labels as bars (0 to 100 %) on the right.

    Green is the right label, orange the first answer where it is wrong, blue all others (and all of
    them where the truth is unknown). Arguments as in `Top5`.
    """
    return top5_grid_figure([Top5(image, labels, probabilities, truth, title)])


@house_style()
def top5_grid_figure(panels: Sequence[Top5]) -> Figure:
    """Several images, two beside each other and as many rows as needed; one fills the width.

    Raises ValueError without a panel, or where labels and probabilities differ in length.
    """
    if not panels:
        raise ValueError("expected at least one image to draw")
    columns = 1 if len(panels) == 1 else 2
    width = (WIDTH - _MARGIN * (columns + 1)) / columns
    image, lowest = (2.9, 1.9) if columns == 1 else (1.15, 1.1)
    bars = width - image - _GAP - _PERCENT
    size = TEXT if columns == 1 else SMALL
    scratch = new_figure(1)
    rows = [_rows(scratch, panel, bars + _PERCENT, size) for panel in panels]
    heights = [_height(panel, row, lowest) for panel, row in zip(panels, rows, strict=True)]
    grouped = [max(heights[i : i + columns]) for i in range(0, len(panels), columns)]
    tops = _MARGIN + np.concatenate([[0], np.cumsum(grouped)])
    figure = new_figure(float(tops[-1]) + _LEGEND)
    for index, (panel, row) in enumerate(zip(panels, rows, strict=True)):
        left = _MARGIN + (index % columns) * (width + _MARGIN)
        top = float(tops[index // columns])
        _draw(figure, panel, row, left, top, width, (image, lowest), size)
    colours = {row.colour for rows_ in rows for row in rows_}
    meanings = ((GREEN, "truth"), (ORANGE, "first answer, wrong"), (BLUE, "other answers"))
    if colours != {BLUE}:
        shown = [("■", colour, text) for colour, text in meanings if colour in colours]
        legend(figure, _MARGIN, float(tops[-1]) + 0.02, shown)
    return figure


def _rows(figure: Figure, panel: Top5, width: float, size: float) -> list[_Row]:
    if len(panel.labels) != len(panel.probabilities) or not len(panel.labels):
        raise ValueError(
            f"{len(panel.labels)} labels and {len(panel.probabilities)} probabilities: "
            "expected one probability a label, and at least one"
        )
    order = np.argsort(-np.asarray(panel.probabilities, dtype=float), kind="stable")[:BARS]
    rows = []
    for place_, index in enumerate(order):
        right = panel.truth is not None and (
            panel.labels[index] == panel.truth
            if isinstance(panel.truth, str)
            else index == panel.truth
        )
        wrong_first = place_ == 0 and panel.truth is not None
        colour = GREEN if right else ORANGE if wrong_first else BLUE
        weight = "bold" if right else "normal"
        lines = fitted(figure, panel.labels[index], width - 0.05, 2, size, weight=weight)
        rows.append(_Row(lines, float(panel.probabilities[index]), colour, right))
    return rows


def _row_heights(rows: Sequence[_Row]) -> list[float]:
    return [_BAR + _LINE * len(row.lines) + 0.12 for row in rows]


def _height(panel: Top5, rows: Sequence[_Row], lowest: float) -> float:
    bars = sum(_row_heights(rows)) + _AXIS + (2 * _LINE if _missed(panel, rows) else 0)
    return _TITLE + max(bars, lowest) + 0.15


def _missed(panel: Top5, rows: Sequence[_Row]) -> bool:
    return panel.truth is not None and not any(row.right for row in rows)


def _draw(
    figure: Figure,
    panel: Top5,
    rows: Sequence[_Row],
    left: float,
    top: float,
    width: float,
    image: tuple[float, float],
    size: float,
) -> None:
    # fitted backwards, because the end of a path tells more than its beginning
    heading = fitted(figure, clean(panel.title)[::-1], width, 1, size, weight="bold")[0][::-1]
    write(figure, left, top, heading, size, weight="bold")
    image_width, lowest = image
    top += _TITLE
    heights = _row_heights(rows)
    height = sum(heights)
    room = max(height, lowest)
    picture = place(figure, left, top, image_width, room)
    picture.imshow(shrunk(panel.image, image_width, room), aspect="equal")
    picture.set_anchor("C" if image_width > 2 and height >= lowest else "N")
    picture.set_axis_off()
    bars_left = left + image_width + _GAP
    bars_width = width - image_width - _GAP - _PERCENT
    axes = place(figure, bars_left, top, bars_width, height)
    axes.set_xlim(0, 100)
    axes.set_ylim(height, 0)  # inches downwards
    axes.set_yticks([])
    axes.set_xticks([0, 25, 50, 75, 100] if bars_width < 2 else range(0, 101, 20))
    axes.grid(axis="x")
    axes.tick_params(length=0, labelsize=SMALL)
    axes.spines[["bottom", "left"]].set_visible(False)
    axes.axvline(0, color=GREY, linewidth=1, clip_on=False)
    edge = 0.0
    for row, row_height in zip(rows, heights, strict=True):
        weight = "bold" if row.right else "normal"
        for number, line in enumerate(row.lines):
            # on the paper's colour, so that no grid line runs through the words
            ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
            y = edge + _LINE * (number + 0.5)
            axes.text(0.8, y, line, fontsize=size, va="center", bbox=ground, weight=weight)
        bar = edge + _LINE * len(row.lines) + _BAR / 2 + 0.03
        axes.barh(bar, 100, height=_BAR, color=FAINT, alpha=0.5)
        axes.barh(bar, 100 * row.probability, height=_BAR, color=row.colour)
        axes.annotate(
            percent(row.probability),
            (1, bar),
            xycoords=("axes fraction", "data"),
            xytext=(_PERCENT * 72, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=size,
            weight=weight,
            color=INK,
        )
        edge += row_height
    if _missed(panel, rows):
        name = panel.truth if isinstance(panel.truth, str) else panel.labels[panel.truth or 0]
        told = fitted(
            figure,
            f"truth, not among these: {name}",
            bars_width + _PERCENT,
            2,
            SMALL,
            weight="bold",
        )
        below = top + height + _AXIS
        write(figure, bars_left, below, "\n".join(told), SMALL, color=GREEN, weight="bold")
