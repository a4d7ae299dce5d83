"""How a training went; two sets of captions side by side, by each metric and each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from captune.plots.canvas import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    INK,
    MARGIN,
    MUTED,
    ORANGE,
    SMALL,
    WIDTH,
    fitted,
    head,
    house_style,
    legend,
    new_figure,
    place,
    write,
)
from captune.runs.metrics import Curve
from captune.text import p_value
from captune_metrics.display import shorten

if TYPE_CHECKING:
    from captune.scoring.compare import Comparison, MetricComparison

# after the house's three, Okabe and Ito's others
_SERIES = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#D55E00", GREY)
_METRICS = {"cider": "CIDEr-D", "clipscore": "CLIPScore", "bleu_4": "BLEU-4", "loss": "loss"}
_TOP, _SIDE, _LEFT, _BETWEEN = 0.8, 2.5, 0.62, 0.78  # inches
_SMOOTH = 0.1  # of an epoch: the window of the thick line
# blue is B, orange is A, grey is neither: in every figure of a comparison
_SIDES = {"A": ORANGE, "B": BLUE}
_HEAD, _ROW, _NAMES, _NOTES = 0.86, 0.56, 1.15, 2.25  # inches
_MANY = 400  # images beyond which points cover each other


@dataclass(frozen=True)
class TrainingCurves:
    """losses: (epoch, loss) of the training. epochs: the validation scores after each of them."""

    method: str
    losses: Sequence[tuple[float, float]]
    epochs: Sequence[Mapping[str, float]]
    best_epoch: int


@house_style()
def curves_figure(curves: Sequence[TrainingCurves], select: str) -> Figure:
    """Left the training loss (thin as logged, thick smoothed) and the validation loss (dots).

    Right the validation score that picks the epoch, where it is not the loss; else CIDEr-D. The
    epoch that was kept is ringed.
    """
    figure = new_figure(_TOP + _SIDE + 0.62)
    head(figure, "How the training went")
    entries = [("—", _colour(i), one.method) for i, one in enumerate(curves)]
    legend(figure, 0.15, 0.42, [*entries, ("○", INK, "the epoch that was kept")])
    score = "cider" if select == "loss" else select
    losses = place(figure, _LEFT, _TOP, _SIDE, _SIDE)
    scores = place(figure, _LEFT + _SIDE + _BETWEEN, _TOP, _SIDE, _SIDE)
    for i, one in enumerate(curves):
        _draw_losses(losses, one, _colour(i), ringed=select == "loss")
        _draw_scores(scores, one, score, _colour(i), ringed=select != "loss")
    losses.set_ylabel("loss (line: training, dots: validation)")
    scores.set_ylabel(f"{_METRICS.get(score, score)} on the validation sample")
    for axes in (losses, scores):
        axes.set_xlabel("epoch")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y")
        axes.tick_params(length=2, color=MUTED)
    scores.set_ylim(bottom=0)
    return figure


@house_style()
def images_figure(curve: Curve) -> Figure:
    """The score against the number of training images, with 95 % intervals of each."""
    figure = new_figure(_TOP + _SIDE + 0.62)
    head(figure, "How many images?")
    axes = place(figure, _LEFT, _TOP, WIDTH - _LEFT - MARGIN, _SIDE)
    images = [one.images for one in curve.points]
    scores = [one.scores[curve.metric] for one in curve.points]
    axes.plot(images, [one.corpus for one in scores], "o-", color=BLUE, linewidth=1.4, markersize=4)
    for at, one in zip(images, scores, strict=True):
        if one.interval is not None:
            axes.plot([at, at], one.interval, color=BLUE, linewidth=1.4)
    axes.set_xlabel("training images")
    axes.set_ylabel(f"{_METRICS[curve.metric]} on the validation images (95 % interval)")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    axes.tick_params(length=2, color=MUTED)
    return figure


def _draw_losses(axes: Any, one: TrainingCurves, colour: str, *, ringed: bool) -> None:
    if one.losses:
        epochs, losses = np.array(one.losses).T
        axes.plot(epochs, losses, color=colour, linewidth=0.5, alpha=0.35)
        axes.plot(epochs, smoothed(epochs, losses), color=colour, linewidth=1.4)
    _dots(axes, one, "loss", colour, ringed=ringed)


def _draw_scores(axes: Any, one: TrainingCurves, score: str, colour: str, *, ringed: bool) -> None:
    known = [entry for entry in one.epochs if score in entry]
    axes.plot([e["epoch"] for e in known], [e[score] for e in known], color=colour, linewidth=1.4)
    _dots(axes, one, score, colour, ringed=ringed)


def _dots(axes: Any, one: TrainingCurves, score: str, colour: str, *, ringed: bool) -> None:
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
    return _SERIES[place % len(_SERIES)]


@house_style()
def difference_figure(comparison: Comparison) -> Figure:
    """B - A of each metric with its 95 % interval, each on a scale of its own.

    Blue: B is better; orange: A is better; grey: not told apart. The pale ground around 0 is what
    this many images cannot be relied on to show.
    Raises ValueError where no metric has an interval (one image).
    """
    metrics = [metric for metric in comparison.metrics.values() if metric.interval is not None]
    if not metrics:
        raise ValueError("expected two images or more: of one there is no interval to draw")
    bottom = _HEAD + _ROW * len(metrics)
    figure = new_figure(bottom + 0.62)
    _title(figure, f"B \N{MINUS SIGN} A on {comparison.images:,} images", comparison)
    left = MARGIN + _NAMES
    width = WIDTH - 2 * MARGIN - _NAMES - _NOTES
    right = left + width + 0.2
    heads = ((0.62, "A"), (1.22, "B"), (2.15, "p (Holm)"))
    label = {"color": MUTED, "va": "bottom"}
    for place_, text in heads:
        write(figure, right + place_, _HEAD - 0.08, text, SMALL, ha="right", **label)
    write(figure, left, _HEAD - 0.08, "difference, 95 % interval", SMALL, **label)
    for row, metric in enumerate(metrics):
        top = _HEAD + row * _ROW
        axes = place(figure, left, top + 0.04, width, _ROW - 0.3)
        _strip(axes, metric)
        middle = top + 0.04 + (_ROW - 0.3) / 2
        name = fitted(figure, metric.title, _NAMES - 0.15, 2, SMALL)
        write(
            figure, left - 0.12, middle, "\n".join(name), SMALL, ha="right", va="center",
            linespacing=1.05,
        )  # fmt: skip
        assert metric.p_holm is not None
        notes = (
            f"{metric.a.corpus:#.4g}",
            f"{metric.b.corpus:#.4g}",
            f"p {p_value(metric.p_holm)}",
        )
        for (place_, _), text in zip(heads, notes, strict=True):
            write(figure, right + place_, middle, text, SMALL, ha="right", va="center")
    _foot(figure, bottom + 0.2, metrics)
    return figure


def _strip(axes: Any, metric: MetricComparison) -> None:
    """One metric's interval on its own scale, 0 always in sight."""
    assert metric.interval is not None
    assert metric.detectable_difference is not None
    low, high = metric.interval
    colour = _SIDES.get(metric.finding, GREY)
    reach = 1.12 * max(abs(low), abs(high), metric.detectable_difference) or 1.0
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-1, 1)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=2, pad=1.5, labelsize=SMALL - 1.5)
    _ticks(axes.xaxis, -reach, reach)
    axes.axvspan(
        -metric.detectable_difference,
        metric.detectable_difference,
        color=FAINT,
        alpha=0.55,
        linewidth=0,
    )
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.hlines(0, low, high, color=colour, linewidth=2)
    axes.plot(metric.difference, 0, marker="o", color=colour, markersize=5.5, zorder=3)


def _foot(figure: Figure, top: float, metrics: list[MetricComparison]) -> None:
    findings = {metric.finding for metric in metrics}
    entries = [("●", _SIDES[side], f"{side} is better") for side in ("B", "A") if side in findings]
    if findings - {"A", "B"}:
        entries.append(("●", GREY, "not significantly different"))
    entries.append(("■", FAINT, "differences inside this band are too small to detect"))
    legend(figure, MARGIN, top, entries)


@house_style()
def image_difference_figure(comparison: Comparison, metric: str) -> Figure:
    """Each image's two scores by one metric (left) and how its differences are spread (right)."""
    found = comparison.metrics[metric]
    size, gap, edge = 2.6, 0.75, MARGIN + 0.8
    figure = new_figure(_HEAD + size + 0.75)
    _title(figure, f"{found.title} of each of {len(found.ids):,} images", comparison)
    left = place(figure, edge, _HEAD, size, size)
    start = edge + size + gap
    right = place(figure, start, _HEAD, WIDTH - MARGIN - start, size)
    _scatter(left, found)
    _histogram(right, found)
    entries = [
        ("●", BLUE, f"B higher: {found.images.b_better:,}"),
        ("●", ORANGE, f"A higher: {found.images.a_better:,}"),
        ("●", GREY, f"equal: {found.images.equal:,}"),
    ]
    legend(figure, edge, _HEAD + size + 0.6, entries)
    return figure


def _scatter(axes: Any, metric: MetricComparison) -> None:
    a, b, differences = metric.raw_a, metric.raw_b, metric.differences
    low = min(float(a.min()), float(b.min()))
    high = max(float(a.max()), float(b.max()))
    room = 0.04 * (high - low) or 0.5
    many = len(a) > _MANY
    axes.set_xlim(low - room, high + room)
    axes.set_ylim(low - room, high + room)
    axes.axline((0, 0), slope=1, color=GREY, linewidth=0.8, zorder=1)
    for colour, chosen in (
        (GREY, differences == 0),
        (BLUE, differences > 0),
        (ORANGE, differences < 0),
    ):
        axes.scatter(
            a[chosen], b[chosen], s=6 if many else 14, color=colour, linewidths=0,
            alpha=max(0.25, min(0.7, 300 / len(a))) if many else 0.7, rasterized=many,
        )  # fmt: skip
    axes.set_xlabel("score of A's caption")
    axes.set_ylabel("score of B's caption")
    for axis in (axes.xaxis, axes.yaxis):
        _ticks(axis, low - room, high + room)
    axes.set_title("above the line B is higher", color=MUTED, fontsize=SMALL)


def _histogram(axes: Any, metric: MetricComparison) -> None:
    differences = metric.differences
    differing: NDArray[np.float64] = differences[differences != 0]
    reach = float(np.abs(differences).max()) or 1.0
    # an odd number of bins would put one across 0
    edges = np.linspace(-reach, reach, 2 * int(np.clip(np.sqrt(differing.size) / 2, 6, 20)) + 1)
    counts, _ = np.histogram(differing, edges)
    middles = (edges[:-1] + edges[1:]) / 2
    colours = [BLUE if middle > 0 else ORANGE for middle in middles]
    axes.bar(middles, counts, width=0.92 * (edges[1] - edges[0]), color=colours)
    axes.axvline(0, color=INK, linewidth=0.8)
    most = max(1, int(counts.max())) * 1.12
    axes.set_xlim(-1.04 * reach, 1.04 * reach)
    axes.set_ylim(0, most)
    _ticks(axes.xaxis, -1.04 * reach, 1.04 * reach)
    _ticks(axes.yaxis, 0, most, integer=True)
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("B \N{MINUS SIGN} A of one image")
    axes.set_title(
        f"images ({metric.images.equal:,} equal, not drawn)" if metric.images.equal else "images",
        color=MUTED,
        fontsize=SMALL,
    )


def _ticks(axis: Any, low: float, high: float, *, integer: bool = False) -> None:
    """About five round numbers within the axis, each written out."""
    found = MaxNLocator(5, integer=integer).tick_values(low, high)
    # 0 comes out as a remainder such as 1e-17
    exact = [0.0 if abs(place) < 1e-9 * (high - low) else float(place) for place in found]
    places = [place for place in exact if low <= place <= high]
    axis.set_ticks(places, [f"{place:g}".replace("-", "\N{MINUS SIGN}") for place in places])


def _title(figure: Figure, text: str, comparison: Comparison) -> None:
    whole = WIDTH - 2 * MARGIN
    head(figure, text)
    for line, (side, source) in enumerate((("A", comparison.a), ("B", comparison.b))):
        name = fitted(figure, f"{side}: {shorten(source, 90, keep='end')}", whole, 1, SMALL)[0]
        write(figure, MARGIN, 0.34 + 0.15 * line, name, SMALL, color=MUTED)
