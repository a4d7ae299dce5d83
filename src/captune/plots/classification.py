"""An image with its five most probable labels; confidence against accuracy; confusions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import Image

from captune.plots.canvas import (
    MARGIN,
    SMALL,
    TEXT,
    WIDTH,
    Sheet,
    Tone,
    clean,
    fitted,
    house_style,
    label_beside,
    measured,
    shrunk,
)
from captune.statistics import wilson
from captune.text import percent

if TYPE_CHECKING:  # figures are drawn without loading torch
    from captune.runs.metrics import Calibration, Reliability

BARS = 5
_GAP, _PERCENT, _AXIS, _TITLE, _LEGEND = 0.2, 0.64, 0.28, 0.26, 0.25
_BAR, _LINE = 0.13, 0.155  # inches
UNSURE = "#9CCBEB"
_WRITTEN = 14  # labels up to which the counts of a confusion stand in its cells
_LEFT, _TOP, _SIDE, _COUNTS, _BETWEEN = 0.62, 1.0, 2.7, 0.55, 0.75  # inches


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

    @property
    def height(self) -> float:
        return _BAR + _LINE * len(self.lines) + 0.12


@house_style()
def top5_grid_figure(panels: Sequence[Top5]) -> Figure:
    """Each image with its five most probable labels as bars (0 to 100 %) on its right.

    Green is the right label, orange the first answer where it is wrong, blue all others (and all of
    them where the truth is unknown). Two beside each other and as many rows as needed; one alone,
    and the last one of an odd number, fill the width.
    Raises ValueError without a panel, or where labels and probabilities differ in length.
    """
    if not panels:
        raise ValueError("expected at least one image to draw")
    columns = 1 if len(panels) == 1 else 2
    width = (WIDTH - MARGIN * (columns + 1)) / columns
    widths = [width] * len(panels)
    if len(panels) % columns:
        widths[-1] = WIDTH - 2 * MARGIN
    look = (2.9, 1.9, TEXT) if columns == 1 else (1.15, 1.1, SMALL)
    cards = [_AnswerCard(panel, own, *look) for panel, own in zip(panels, widths, strict=True)]
    grouped = [max(c.height for c in cards[i : i + columns]) for i in range(0, len(cards), columns)]
    tops = MARGIN + np.concatenate([[0], np.cumsum(grouped)])
    figure = Sheet(float(tops[-1]) + _LEGEND)
    for index, card in enumerate(cards):
        left = MARGIN + (index % columns) * (width + MARGIN)
        card.draw(figure, left, float(tops[index // columns]))
    colours = {row.colour for card in cards for row in card.rows}
    if colours != {Tone.BLUE}:
        entries = [("■", Tone.GREEN, "truth"), ("■", Tone.ORANGE, "first answer, wrong")]
        entries.append(("■", Tone.BLUE, "other answers"))
        figure.key(MARGIN, float(tops[-1]) + 0.02, entries, colours)
    return figure


class _AnswerCard:
    """A panel laid out. image: the width of its image; lowest: the least height, in inches."""

    def __init__(self, panel: Top5, width: float, image: float, lowest: float, size: float) -> None:
        if len(panel.labels) != len(panel.probabilities) or not len(panel.labels):
            raise ValueError(
                f"{len(panel.labels)} labels and {len(panel.probabilities)} probabilities: "
                "expected one probability per label, and at least one"
            )
        self.panel, self.width, self.size = panel, width, size
        self.image, self.lowest = image, lowest
        self.rows: list[_Row] = []
        for index in np.argsort(-np.asarray(panel.probabilities, dtype=float), kind="stable")[
            :BARS
        ]:
            known = panel.labels[index] if isinstance(panel.truth, str) else index
            right = panel.truth is not None and bool(known == panel.truth)
            wrong_first = not self.rows and panel.truth is not None
            colour = Tone.GREEN if right else Tone.ORANGE if wrong_first else Tone.BLUE
            weight, room = "bold" if right else "normal", width - image - _GAP - 0.05
            lines = fitted(panel.labels[index], room, 2, size, weight=weight)
            self.rows.append(_Row(lines, float(panel.probabilities[index]), colour, right))
        self.bars = sum(row.height for row in self.rows)
        self.is_wrong = panel.truth is not None and not self.rows[0].right
        bars = self.bars + _AXIS + (2 * _LINE if self.is_wrong else 0)
        self.height = _TITLE + max(bars, lowest) + 0.15

    def draw(self, figure: Sheet, left: float, top: float) -> None:
        """With its upper left corner at a place in inches."""
        panel, size = self.panel, self.size
        # fitted backwards, because the end of a path tells more than its beginning
        heading = fitted(clean(panel.title)[::-1], self.width, 1, size, weight="bold")[0][::-1]
        figure.write(left, top, heading, size, weight="bold")
        top += _TITLE
        room = max(self.bars, self.lowest)
        picture = figure.place(left, top, self.image, room)
        picture.imshow(shrunk(panel.image, self.image, room), aspect="equal")
        picture.set_anchor("C" if self.image > 2 and self.bars >= self.lowest else "N")
        picture.set_axis_off()
        left, width = left + self.image + _GAP, self.width - self.image - _GAP - _PERCENT
        axes = figure.place(left, top, width, self.bars)
        axes.set_xlim(0, 100)
        axes.set_ylim(self.bars, 0)  # inches downwards
        axes.set_yticks([])
        axes.set_xticks([0, 25, 50, 75, 100] if width < 2 else range(0, 101, 20))
        axes.grid(axis="x")
        axes.tick_params(length=0, labelsize=SMALL)
        axes.spines[["bottom", "left"]].set_visible(False)
        axes.axvline(0, color=Tone.GREY, linewidth=1, clip_on=False)
        edge = 0.0
        for row in self.rows:
            weight = "bold" if row.right else "normal"
            for number, line in enumerate(row.lines):
                # on the paper's colour, so that no grid line runs through the words
                ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
                y = edge + _LINE * (number + 0.5)
                axes.text(0.8, y, line, fontsize=size, va="center", bbox=ground, weight=weight)
            bar = edge + _LINE * len(row.lines) + _BAR / 2 + 0.03
            axes.barh(bar, 100, height=_BAR, color=Tone.FAINT, alpha=0.5)
            axes.barh(bar, 100 * row.probability, height=_BAR, color=row.colour)
            style = {"ha": "right", "fontsize": size, "weight": weight, "color": Tone.INK}
            label_beside(axes, 1, bar, _PERCENT, percent(row.probability), **style)
            edge += row.height
        if self.is_wrong:
            name = panel.truth if isinstance(panel.truth, str) else panel.labels[panel.truth or 0]
            among = "" if any(row.right for row in self.rows) else ", not among these"
            told = fitted(f"truth{among}: {name}", width + _PERCENT, 2, SMALL, weight="bold")
            below = top + self.bars + _AXIS
            figure.write(left, below, "\n".join(told), SMALL, color=Tone.GREEN, weight="bold")


@house_style()
def reliability_figure(calibration: Calibration, title: str = "") -> Figure:
    """Accuracy of each bin of confidence; on the diagonal, probabilities mean what they say.

    Left the model as it is; right, where a temperature was fitted, after scaling by it, measured on
    images that the fit did not see. Orange and light blue are the gap between accuracy and mean
    confidence, whiskers the 95 % interval of the accuracy (long where a bin holds few images), and
    the bars below count the images.
    """
    figure = Sheet(_TOP + _SIDE + _COUNTS + 0.86)
    figure.head(title or "Reliability")
    _draw_reliability(figure, calibration.raw, _LEFT, "probabilities as they are")
    left = _LEFT + _SIDE + _BETWEEN
    if calibration.scaled is not None and calibration.temperature is not None:
        name = f"after temperature {calibration.temperature:.3g} (cross-fitted)"
        _draw_reliability(figure, calibration.scaled, left, name)
    else:
        figure.write(left, 0.44, "too few images to fit a temperature", TEXT, color=Tone.MUTED)
    entries = [
        ("■", Tone.BLUE, "right, as often as claimed"),
        ("■", Tone.ORANGE, "claimed, but wrong: too sure"),
        ("■", UNSURE, "right, but not claimed: not sure enough"),
    ]
    figure.key(0.15, _TOP + _SIDE + _COUNTS + 0.72, entries)
    return figure


def _draw_reliability(figure: Sheet, found: Reliability, left: float, name: str) -> None:
    figure.write(left, 0.44, name, TEXT, weight="bold")
    said = f"ECE {percent(found.ece)}  (by chance alone {percent(found.ece_floor)})"
    figure.write(left, 0.62, said, SMALL)
    mean = f"mean confidence {percent(found.mean_confidence)}, accuracy {percent(found.accuracy)}"
    figure.write(left, 0.77, mean, SMALL)
    axes = figure.place(left, _TOP, _SIDE, _SIDE)
    axes.plot([0, 100], [0, 100], color=Tone.GREY, linewidth=1, linestyle=(0, (4, 3)))
    for bin_ in found.bins:
        middle, width = 50 * (bin_.low + bin_.high), 92 * (bin_.high - bin_.low)
        lower, upper = sorted((100 * bin_.accuracy, 100 * bin_.confidence))
        gap = Tone.ORANGE if bin_.confidence > bin_.accuracy else UNSURE
        axes.bar(middle, lower, width, color=Tone.BLUE)
        axes.bar(middle, upper - lower, width, bottom=lower, color=gap)
        low, high = wilson(bin_.correct, bin_.count)
        axes.vlines(middle, 100 * low, 100 * high, color=Tone.INK, linewidth=0.9)
    _percent_axes(axes)
    axes.set_ylim(0, 100)
    axes.set_yticks(range(0, 101, 20))
    axes.grid(axis="y")
    axes.set_ylabel("accuracy (%)")
    axes.tick_params(labelbottom=False)
    counts = figure.place(left, _TOP + _SIDE + 0.1, _SIDE, _COUNTS)
    for bin_ in found.bins:
        middle, width = 50 * (bin_.low + bin_.high), 92 * (bin_.high - bin_.low)
        counts.bar(middle, bin_.count, width, color=Tone.GREY)
    _percent_axes(counts)
    most = max(bin_.count for bin_ in found.bins)
    counts.set_ylim(0, most * 1.08)
    counts.set_yticks([0, most])
    counts.set_ylabel("images")
    counts.set_xlabel("confidence (%)")


def _percent_axes(axes: Any) -> None:
    axes.set_xlim(0, 100)
    axes.set_xticks(range(0, 101, 20))
    axes.tick_params(length=2, color=Tone.FAINT)


@house_style()
def confusion_figure(counts: ArrayLike, labels: Sequence[str], title: str = "") -> Figure:
    """counts [m, m]: images of the label of the row that were called the label of the column.

    Blue: right; orange: wrong; the deeper, the larger the share of the row.
    Raises ValueError where counts and labels do not fit.
    """
    table = np.asarray(counts, dtype=np.int64)
    m = len(labels)
    if table.shape != (m, m) or m == 0:
        raise ValueError(f"{table.shape} counts for {m} labels do not fit")
    size = SMALL if m <= 30 else max(3.5, SMALL * 30 / m)
    names = [fitted(name, 1.4, 1, size)[0] for name in labels]
    longest = max(map(measured(size), names)) + 0.12
    side = min(WIDTH - 2 * MARGIN - longest - 0.1, 0.42 * m)
    top = 0.5 + 0.9 * longest
    figure = Sheet(top + side + 0.4)
    figure.head(title or "Confusions")
    axes = figure.place(MARGIN + longest, top, side, side)
    totals = table.sum(axis=1, keepdims=True)
    shares = table / np.maximum(totals, 1)
    axes.imshow(_coloured(shares), aspect="equal", interpolation="nearest")
    axes.set_xticks(range(m), names, rotation=60, ha="left", rotation_mode="anchor", fontsize=size)
    axes.set_yticks(range(m), names, fontsize=size)
    axes.tick_params(length=0, pad=2, labeltop=True, labelbottom=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    if m <= _WRITTEN:
        for row, column in zip(*np.nonzero(table), strict=True):
            ink = Tone.PAPER if shares[row, column] > 0.55 else Tone.INK
            axes.text(
                column, row, str(table[row, column]), ha="center", va="center", color=ink,
                fontsize=SMALL,
            )  # fmt: skip
    figure.write(MARGIN, 0.38, "truth down, answer across", SMALL, color=Tone.MUTED)
    figure.key(MARGIN, top + side + 0.2, [("■", Tone.BLUE, "right"), ("■", Tone.ORANGE, "wrong")])
    return figure


def _coloured(shares: Any) -> Any:
    """[m, m, 4]: blue on the diagonal, orange beside it, over the faintest grey."""
    right, wrong = (
        LinearSegmentedColormap.from_list("shares", ["#F4F6F7", colour])
        for colour in (Tone.BLUE, Tone.ORANGE)
    )
    deep = np.where(shares > 0, 0.2 + 0.8 * shares, 0.0)
    return np.where(np.eye(len(shares), dtype=bool)[..., None], right(deep), wrong(deep))
