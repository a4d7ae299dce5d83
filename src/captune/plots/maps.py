"""What the model used for each word (the assignment's figure), and how faithful maps are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from PIL import Image

from captune.plots.canvas import (
    DPI,
    MARGIN,
    SMALL,
    TEXT,
    WIDTH,
    Sheet,
    Tone,
    fitted,
    full_rows,
    house_style,
)

if TYPE_CHECKING:  # figures are drawn without loading torch
    from captune.attribution.faithful.results import EvalReport, MapResult

_GAP, _LINE, _WORD, _MARK, _BAR = 0.12, 0.155, 0.19, 0.14, 0.56  # inches
_MOST_COLUMNS = 5
MEANING = "The colour shows what the model used for the word, not where the thing is."
_TALLEST = 1.5  # times the width of a panel; what is taller is shown smaller
# share of the colour over the image, which is grey below it, where a map is lowest and highest:
# black over all of an image would hide what is on it
_COOL, _HOT = 0.25, 0.65

# what a mark means, as its sign and colour: filled where the map is better than chance
_SIGNS = {True: ("●", Tone.GREEN), False: ("○", Tone.GREY)}
_PANELS = (("insertion", "insertion (more is better)"), ("deletion", "deletion (less is better)"))
_PEOPLE = ("pointing", "pointing (more is better)")
_LEFT, _ROW, _TOP, _BETWEEN = 2.15, 0.21, 0.95, 0.26  # inches
_CONTROLS = ("random", "centre")


@dataclass(frozen=True)
class MapPanel:
    """One word.

    over: [height, width] over the image, nan where the model saw nothing; drawn from its own
    smallest to its own largest value, negative ones as nothing. Where it is without colour it says
    why (`why_flat`). mark: how far to believe it, in words, or "" where that is not known; is_true:
    whether that says it is to be believed.
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
    colours: str = "magma",
) -> Figure:
    """First panel the image, then one a word, in rows of up to five; below what the colours mean.

    subtitle: how the maps were made.
    Raises ValueError without a word.
    """
    if not panels:
        raise ValueError("expected a map of at least one word to draw")
    columns = full_rows(len(panels) + 1, _MOST_COLUMNS, _MOST_COLUMNS - 1)
    beside = max(columns, 3)  # one word does not need the whole page
    width = (WIDTH - 2 * MARGIN - _GAP * (beside - 1)) / beside
    height = min(width * image.height / image.width, width * _TALLEST)
    told = [fitted(one.mark, width - 0.13, 2, SMALL - 1) if one.mark else [] for one in panels]
    marks = 0.06 + _MARK * max(map(len, told))
    room = WIDTH - 2 * MARGIN
    heading = fitted(caption, room, 2, TEXT + 1, weight="bold")
    below = fitted(subtitle, room, 2, SMALL) if subtitle else []
    above = MARGIN + 0.19 * len(heading) + _LINE * len(below) + 0.1
    row = _WORD + height + marks + 0.05
    rows = -(-(len(panels) + 1) // columns)
    figure = Sheet(above + rows * row + _BAR)
    top = figure.write_lines(MARGIN, MARGIN, heading, 0.19, TEXT + 1, weight="bold")
    figure.write_lines(MARGIN, top, below, _LINE, SMALL, color=Tone.MUTED)
    small = _sized(image, width, height)
    grey = np.asarray(small.convert("L").convert("RGB"), dtype=np.float32) / np.float32(255)
    table = matplotlib.colormaps[colours]

    def show(number: int, word: str, picture: Any, **look: Any) -> tuple[float, float]:
        left = MARGIN + (number % columns) * (width + _GAP)
        top = above + (number // columns) * row
        figure.write(left, top, fitted(word, width, 1, TEXT, weight="bold")[0], TEXT, **look)
        axes = figure.place(left, top + _WORD, width, height)
        axes.imshow(picture, aspect="equal", interpolation="bilinear")
        axes.set_anchor("NW")
        axes.set_axis_off()
        return left, top + _WORD

    show(0, "image", np.asarray(small), color=Tone.MUTED)
    for number, (panel, lines) in enumerate(zip(panels, told, strict=True), 1):
        reason = why_flat(panel.over)
        picture = grey if reason else _heated(grey, panel.over, table)
        left, top = show(number, panel.word, picture, weight="bold")
        if reason:
            _write_reason(figure, reason, left, top, width)
        if panel.mark:
            _write_mark(figure, panel, lines, left, top + height + 0.035)
    _colour_bar(figure, table, above + rows * row + 0.03)
    return figure


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


def why_flat(over: NDArray[np.float32]) -> str:
    """Why a map shows no place of an image; "" where it does."""
    if float(np.nanmax(over)) <= 0:
        return "no map: no part of the image makes this word more probable"
    return "" if scaled_map(over).any() else "no map: all parts of the image count alike"


def scaled_map(over: NDArray[np.float32]) -> NDArray[np.float32]:
    """A map from 0 to 1, by its own smallest and largest value; what is below zero is zero.

    A constant map is 0 everywhere: it says nothing.
    """
    positive = over.clip(0, None)
    low, high = float(np.nanmin(positive)), float(np.nanmax(positive))
    scaled = (positive - low) / (high - low if high > low else 1.0)
    return scaled.astype(np.float32, copy=False)


def _write_mark(
    figure: Sheet, panel: MapPanel, lines: Sequence[str], left: float, top: float
) -> None:
    sign, colour = _SIGNS[panel.is_true]
    figure.write(left, top - 0.01, sign, SMALL - 1, color=colour)
    ink = Tone.INK if panel.is_true else Tone.MUTED
    figure.write_lines(left + 0.13, top, lines, _MARK, SMALL - 1, color=ink)


def _write_reason(figure: Sheet, reason: str, left: float, top: float, width: float) -> None:
    ground = {"facecolor": Tone.PAPER, "edgecolor": "none", "pad": 1.5}
    lines = fitted(reason, width - 0.15, 4, SMALL - 1)
    figure.write(left + 0.06, top + 0.06, "\n".join(lines), SMALL - 1, bbox=ground)


def _colour_bar(figure: Sheet, table: Any, top: float) -> None:
    (left, height), (right, _) = figure.share(MARGIN, top), figure.share(WIDTH - MARGIN, top)
    figure.add_artist(Line2D((left, right), (height, height), color=Tone.FAINT, linewidth=0.8))
    axes = figure.place(MARGIN, top + 0.1, 1.2, 0.09)
    axes.imshow(np.linspace(0, 1, 256)[None], aspect="auto", cmap=table)
    axes.set_axis_off()
    meaning = "each panel has its own colour scale, from its lowest value to its highest"
    figure.write(MARGIN + 1.3, top + 0.085, meaning, SMALL - 1, color=Tone.MUTED)
    figure.write(MARGIN, top + 0.24, MEANING, SMALL - 1, color=Tone.INK)


@house_style()
def leaderboard_figure(reports: Sequence[EvalReport], default: str) -> Figure:
    """One block per report: a row per map, a panel per measure, dots with 95 % intervals.

    Lines: what random maps and the centre of the image get. The default map is green.
    """
    heights = [len(_maps(report)) * _ROW + 0.85 for report in reports]
    figure = Sheet(_TOP + sum(heights) - 0.2)
    figure.head("Are the maps faithful?")
    entries = [("●", Tone.GREEN, "the default map"), ("●", Tone.BLUE, "other maps")]
    entries += [("|", Tone.ORANGE, "random maps"), ("|", Tone.GREY, "the centre of the image")]
    figure.key(0.15, 0.45, entries)
    has_people = any("pointing" in row.estimates for one in reports for row in one.rows)
    panels = [*_PANELS, *([_PEOPLE] if has_people else [])]
    limits = {measure: _limits(reports, measure) for measure, _ in panels}
    top = _TOP - 0.2
    for report, height in zip(reports, heights, strict=True):
        _block(figure, report, default, panels, limits, top)
        top += height
    return figure


def _limits(reports: Sequence[EvalReport], measure: str) -> tuple[float, float]:
    """One scale for all blocks, so that they can be compared."""
    found = [
        row.estimates[measure] for one in reports for row in one.rows if measure in row.estimates
    ]
    low = min((figure.interval.low for figure in found), default=0.0)
    high = max((figure.interval.high for figure in found), default=1.0)
    room = 0.04 * (high - low) or 0.1
    return low - room, high + room


def _block(
    figure: Sheet,
    report: EvalReport,
    default: str,
    panels: Sequence[tuple[str, str]],
    limits: Mapping[str, tuple[float, float]],
    top: float,
) -> None:
    rows = _maps(report)
    heading = fitted(f"{report.title} ({report.images})", WIDTH - 0.3, 1, TEXT)[0]
    figure.write(0.15, top, heading, TEXT, weight="bold")
    height = len(rows) * _ROW
    width = (WIDTH - _LEFT - 0.15 - _BETWEEN * (len(panels) - 1)) / len(panels)
    for number, (measure, said) in enumerate(panels):
        left = _LEFT + number * (width + _BETWEEN)
        axes = figure.place(left, top + 0.22, width, height, "x")
        _panel(axes, report, rows, measure, default)
        axes.set_xlim(*limits[measure])
        axes.set_xlabel(said, fontsize=SMALL)
    for number, row in enumerate(rows):
        name = fitted(str(row.name), _LEFT - 0.3, 1, SMALL)[0]
        weight = "bold" if str(row.name) == default else "normal"
        middle = top + 0.22 + (number + 0.5) * _ROW
        figure.write(0.15, middle, name, SMALL, va="center", weight=weight)


def _panel(
    axes: Any, report: EvalReport, rows: Sequence[MapResult], measure: str, default: str
) -> None:
    for control, colour in zip(_CONTROLS, (Tone.ORANGE, Tone.GREY), strict=True):
        for row in report.rows:
            if row.name.method == control and measure in row.estimates:
                axes.axvline(row.estimates[measure].value, color=colour, linewidth=1.2)
    for number, row in enumerate(rows):
        found = row.estimates.get(measure)
        if found is None:
            continue
        colour = Tone.GREEN if str(row.name) == default else Tone.BLUE
        axes.plot(list(found.interval), [number, number], color=colour, linewidth=1.3)
        axes.plot(found.value, number, "o", color=colour, markersize=4.5)
    axes.set_ylim(max(1, len(rows)) - 0.5, -0.5)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(4))
    if measure == "pointing":
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.spines["left"].set_visible(False)


@house_style()
def effect_curves_figure(report: EvalReport, default: str, hidden: str) -> Figure:
    """Left deletion, right insertion: how much of what the images add is left, or there already.

    Means over all words that the images make more probable; the default map is green, the original
    report's blue.
    """
    side, top, left, between = 2.5, 1.05, 0.62, 0.78
    figure = Sheet(top + side + 0.62)
    figure.head(f"What the words lose and gain: {report.title}", WIDTH - 2.1)
    colours = {default: Tone.GREEN, "random": Tone.ORANGE, "centre": Tone.GREY}
    entries = [("—", colours.get(name, Tone.BLUE), name) for name in report.curves]
    figure.key(0.15, 0.45, entries[:2])
    figure.key(0.15, 0.67, entries[2:])
    for number, (measure, verb) in enumerate((("deletion", "hidden"), ("insertion", "shown"))):
        axes = figure.place(left + number * (side + between), top, side, side, "y")
        for name, found in report.curves.items():
            if measure in found:
                shares, heights = found[measure]
                axes.plot(shares, heights, color=colours.get(name, Tone.BLUE), linewidth=1.4)
        axes.set_xlabel(f"fraction of the patches that are {verb}, the map's first")
        axes.set_ylabel(f"{measure}: fraction of what the images add")
        axes.axhline(0, color=Tone.INK, linewidth=0.5)
        axes.set_xlim(0, 1)
    figure.write(WIDTH - 0.15, 0.14, hidden, SMALL, ha="right", color=Tone.MUTED)
    return figure


def _maps(report: EvalReport) -> list[MapResult]:
    return [row for row in report.rows if row.name.method not in _CONTROLS]
