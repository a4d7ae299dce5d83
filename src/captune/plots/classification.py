"""Confidence against accuracy, and which labels are taken for which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from captune.plots.canvas import (
    BLUE,
    FAINT,
    GREY,
    INK,
    MUTED,
    ORANGE,
    SMALL,
    TEXT,
    WIDTH,
    fitted,
    house_style,
    legend,
    new_figure,
    place,
    write,
)
from captune.statistics import wilson
from captune.text import percent

if TYPE_CHECKING:  # figures are drawn without loading torch
    from captune.statistics.calibration import Calibration, Reliability


from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from numpy.typing import ArrayLike

from captune.plots.canvas import (
    PAPER,
    measured,
)

UNSURE = "#9CCBEB"
_LEFT, _TOP, _SIDE, _COUNTS, _BETWEEN = 0.62, 1.0, 2.7, 0.55, 0.75


@house_style()
def reliability_figure(calibration: Calibration, title: str = "") -> Figure:
    """Accuracy of each bin of confidence; on the diagonal, probabilities mean what they say.

    Left the model as it is; right, where a temperature was fitted, after scaling by it, measured on
    images that the fit did not see. Orange and light blue are the gap between accuracy and mean
    confidence, whiskers the 95 % interval of the accuracy (long where a bin holds few images), and
    the bars below count the images.
    """
    figure = new_figure(_TOP + _SIDE + _COUNTS + 0.86)
    heading = fitted(figure, title or "Reliability", WIDTH - 0.3, 1, TEXT + 1, weight="bold")[0]
    write(figure, 0.15, 0.12, heading, TEXT + 1, weight="bold")
    _draw(figure, calibration.raw, _LEFT, "probabilities as they are")
    if calibration.scaled is not None and calibration.temperature is not None:
        left = _LEFT + _SIDE + _BETWEEN
        name = f"after temperature {calibration.temperature:.3g} (cross-fitted)"
        _draw(figure, calibration.scaled, left, name)
    else:
        left = _LEFT + _SIDE + _BETWEEN
        write(figure, left, 0.44, "too few images to fit a temperature", TEXT, color=MUTED)
    entries = [
        ("■", BLUE, "right, as often as claimed"),
        ("■", ORANGE, "claimed, but wrong: too sure"),
        ("■", UNSURE, "right, but not claimed: not sure enough"),
    ]
    legend(figure, 0.15, _TOP + _SIDE + _COUNTS + 0.72, entries)
    return figure


def _draw(figure: Figure, found: Reliability, left: float, name: str) -> None:
    write(figure, left, 0.44, name, TEXT, weight="bold")
    said = f"ECE {percent(found.ece)}  (by chance alone {percent(found.ece_floor)})"
    write(figure, left, 0.62, said, SMALL)
    mean = f"mean confidence {percent(found.mean_confidence)}, accuracy {percent(found.accuracy)}"
    write(figure, left, 0.77, mean, SMALL)
    axes = place(figure, left, _TOP, _SIDE, _SIDE)
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    for bin_ in found.bins:
        middle, width = 50 * (bin_.low + bin_.high), 92 * (bin_.high - bin_.low)
        lower, upper = sorted((100 * bin_.accuracy, 100 * bin_.confidence))
        gap = ORANGE if bin_.confidence > bin_.accuracy else UNSURE
        axes.bar(middle, lower, width, color=BLUE)
        axes.bar(middle, upper - lower, width, bottom=lower, color=gap)
        low, high = wilson(bin_.correct, bin_.count)
        axes.vlines(middle, 100 * low, 100 * high, color=INK, linewidth=0.9)
    _percent_axes(axes)
    axes.set_ylim(0, 100)
    axes.set_yticks(range(0, 101, 20))
    axes.grid(axis="y")
    axes.set_ylabel("accuracy (%)")
    axes.tick_params(labelbottom=False)
    counts = place(figure, left, _TOP + _SIDE + 0.1, _SIDE, _COUNTS)
    for bin_ in found.bins:
        middle, width = 50 * (bin_.low + bin_.high), 92 * (bin_.high - bin_.low)
        counts.bar(middle, bin_.count, width, color=GREY)
    _percent_axes(counts)
    most = max(bin_.count for bin_ in found.bins)
    counts.set_ylim(0, most * 1.08)
    counts.set_yticks([0, most])
    counts.set_ylabel("images")
    counts.set_xlabel("confidence (%)")


def _percent_axes(axes: Any) -> None:
    axes.set_xlim(0, 100)
    axes.set_xticks(range(0, 101, 20))
    axes.tick_params(length=2, color=FAINT)


_MARGIN, _HEAD, _FOOT = 0.15, 0.5, 0.3  # inches
_WRITTEN = 14  # labels up to which the counts stand in the cells


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
    scratch = new_figure(1)
    names = [fitted(scratch, name, 1.4, 1, size)[0] for name in labels]
    longest = max(map(measured(scratch, size), names)) + 0.12
    side = min(WIDTH - 2 * _MARGIN - longest - 0.1, 0.42 * m)
    top = _HEAD + 0.9 * longest
    figure = new_figure(top + side + _FOOT + 0.1)
    heading = fitted(figure, title or "Confusions", WIDTH - 0.3, 1, TEXT + 1, weight="bold")[0]
    write(figure, _MARGIN, 0.12, heading, TEXT + 1, weight="bold")
    axes = place(figure, _MARGIN + longest, top, side, side)
    totals = table.sum(axis=1, keepdims=True)
    shares = table / np.maximum(totals, 1)
    axes.imshow(_coloured(shares), aspect="equal", interpolation="nearest")
    axes.set_xticks(range(m), names, rotation=60, ha="left", rotation_mode="anchor", fontsize=size)
    axes.set_yticks(range(m), names, fontsize=size)
    axes.tick_params(length=0, pad=2, labeltop=True, labelbottom=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    if m <= _WRITTEN:
        for row, column in zip(*np.nonzero(table), strict=True):
            ink = PAPER if shares[row, column] > 0.55 else INK
            axes.text(
                column, row, str(table[row, column]), ha="center", va="center", color=ink,
                fontsize=SMALL,
            )  # fmt: skip
    write(figure, _MARGIN, _HEAD - 0.12, "truth down, answer across", SMALL, color=MUTED)
    legend(figure, _MARGIN, top + side + 0.2, [("■", BLUE, "right"), ("■", ORANGE, "wrong")])
    return figure


def _coloured(shares: Any) -> Any:
    """[m, m, 4]: blue on the diagonal, orange beside it, over the faintest grey."""
    right, wrong = (
        LinearSegmentedColormap.from_list("shares", ["#F4F6F7", colour])
        for colour in (BLUE, ORANGE)
    )
    deep = np.where(shares > 0, 0.2 + 0.8 * shares, 0.0)
    return np.where(np.eye(len(shares), dtype=bool)[..., None], right(deep), wrong(deep))
