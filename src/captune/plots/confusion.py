"""Which labels are taken for which: truth down, answers across."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from captune.plots.canvas import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    SMALL,
    TEXT,
    WIDTH,
    fitted,
    house_style,
    legend,
    measured,
    new_figure,
    place,
    write,
)

_MARGIN, _HEAD, _FOOT = 0.15, 0.5, 0.3  # inches
_WRITTEN = 14  # labels up to which the counts stand in the cells


@house_style()
def confusion_figure(counts: ArrayLike, labels: Sequence[str], title: str = "") -> Figure:
    """counts [m, m]: photos of the label of the row that were called the label of the column.

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
