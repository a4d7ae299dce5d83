"""How a training went: its loss, and the scores of each epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from captune.plots.canvas import (
    BLUE,
    GREEN,
    GREY,
    INK,
    MUTED,
    ORANGE,
    TEXT,
    WIDTH,
    fitted,
    house_style,
    legend,
    new_figure,
    place,
    write,
)

# after the house's three, Okabe and Ito's others
_COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#D55E00", GREY)
_NAMES = {"cider": "CIDEr-D", "clipscore": "CLIPScore", "bleu_4": "BLEU-4", "loss": "loss"}
_TOP, _SIDE, _LEFT, _BETWEEN = 0.8, 2.5, 0.62, 0.78  # inches
_SMOOTH = 0.1  # of an epoch: the window of the thick line


@dataclass(frozen=True)
class Curves:
    """losses: (epoch, loss) of the training. epochs: the validation scores after each of them."""

    method: str
    losses: Sequence[tuple[float, float]]
    epochs: Sequence[Mapping[str, float]]
    best_epoch: int


@house_style()
def curves_figure(curves: Sequence[Curves], select: str) -> Figure:
    """Left the training loss (thin as logged, thick smoothed) and the validation loss (dots).

    Right the validation score that picks the epoch, where it is not the loss; else CIDEr-D. The
    epoch that was kept is ringed.
    """
    figure = new_figure(_TOP + _SIDE + 0.62)
    heading = fitted(figure, "How the training went", WIDTH - 0.3, 1, TEXT + 1, weight="bold")[0]
    write(figure, 0.15, 0.12, heading, TEXT + 1, weight="bold")
    entries = [("—", _colour(i), one.method) for i, one in enumerate(curves)]
    legend(figure, 0.15, 0.42, [*entries, ("○", INK, "the epoch that was kept")])
    score = "cider" if select == "loss" else select
    losses = place(figure, _LEFT, _TOP, _SIDE, _SIDE)
    scores = place(figure, _LEFT + _SIDE + _BETWEEN, _TOP, _SIDE, _SIDE)
    for i, one in enumerate(curves):
        _draw_losses(losses, one, _colour(i), ringed=select == "loss")
        _draw_scores(scores, one, score, _colour(i), ringed=select != "loss")
    losses.set_ylabel("loss (line: training, dots: validation)")
    scores.set_ylabel(f"{_NAMES.get(score, score)} on the validation sample")
    for axes in (losses, scores):
        axes.set_xlabel("epoch")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y")
        axes.tick_params(length=2, color=MUTED)
    scores.set_ylim(bottom=0)
    return figure


def _draw_losses(axes: Any, one: Curves, colour: str, *, ringed: bool) -> None:
    if one.losses:
        epochs, losses = np.array(one.losses).T
        axes.plot(epochs, losses, color=colour, linewidth=0.5, alpha=0.35)
        axes.plot(epochs, smoothed(epochs, losses), color=colour, linewidth=1.4)
    _dots(axes, one, "loss", colour, ringed=ringed)


def _draw_scores(axes: Any, one: Curves, score: str, colour: str, *, ringed: bool) -> None:
    known = [entry for entry in one.epochs if score in entry]
    axes.plot([e["epoch"] for e in known], [e[score] for e in known], color=colour, linewidth=1.4)
    _dots(axes, one, score, colour, ringed=ringed)


def _dots(axes: Any, one: Curves, score: str, colour: str, *, ringed: bool) -> None:
    for entry in one.epochs:
        if score not in entry:
            continue
        axes.plot(entry["epoch"], entry[score], "o", color=colour, markersize=3.5)
        if ringed and round(entry["epoch"]) == one.best_epoch:
            ring = {"markerfacecolor": "none", "markeredgecolor": INK, "markersize": 8}
            axes.plot(entry["epoch"], entry[score], "o", **ring)


def smoothed(epochs: Any, losses: Any) -> Any:
    """The mean of what was logged in the tenth of an epoch up to each point."""
    sums = np.concatenate([[0.0], np.cumsum(losses)])
    first = np.searchsorted(epochs, epochs - _SMOOTH, side="right")
    last = np.arange(1, len(epochs) + 1)
    first = np.minimum(first, last - 1)
    return (sums[last] - sums[first]) / (last - first)


def _colour(place: int) -> str:
    return _COLOURS[place % len(_COLOURS)]
