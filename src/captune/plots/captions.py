"""Captions: how a training went, two sets side by side, the best and the worst pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image

from captune.plots.canvas import (
    MARGIN,
    SMALL,
    TEXT,
    WIDTH,
    Sheet,
    Tone,
    fitted,
    full_rows,
    house_style,
    measured,
    shrunk,
)
from captune.runs.metrics import Curve, Tuned
from captune.text import p_value
from captune_metrics.catalogue import title_of
from captune_metrics.display import shorten
from captune_metrics.resampling import Doubles

if TYPE_CHECKING:
    from captune.scoring.compare import Comparison, MetricComparison

# after the house's three, Okabe and Ito's others
_SERIES = (Tone.BLUE, Tone.ORANGE, Tone.GREEN, "#CC79A7", "#56B4E9", "#D55E00", Tone.GREY)
_TOP, _SIDE, _LEFT, _BETWEEN = 0.8, 2.5, 0.62, 0.78  # inches
_SMOOTH = 0.1  # of an epoch: the window of the thick line
# blue is B, orange is A, grey is neither: in every figure of a comparison
_SIDES = {"A": Tone.ORANGE, "B": Tone.BLUE}
_HEAD, _ROW, _NAMES, _NOTES = 0.86, 0.56, 1.15, 2.25  # inches
_MANY = 400  # images beyond which points cover each other
_GAP, _LINE, _SECTION = 0.15, 0.155, 0.27  # inches, of pairs
_CAPTION_LINES, _MOST_COLUMNS = 5, 5


@house_style()
def curves_figure(methods: Sequence[Tuned], select: str) -> Figure:
    """Left the training loss (thin as logged, thick smoothed) and the validation loss (dots).

    Right the validation score that picks the epoch, where it is not the loss; else CIDEr-D. The
    epoch that was kept is ringed.
    """
    figure = Sheet(_TOP + _SIDE + 0.62)
    figure.head("How the training went")
    entries = [("—", _colour(i), one.method) for i, one in enumerate(methods)]
    figure.key(0.15, 0.42, [*entries, ("○", Tone.INK, "the epoch that was kept")])
    score = "cider" if select == "loss" else select
    losses = figure.place(_LEFT, _TOP, _SIDE, _SIDE, "y")
    scores = figure.place(_LEFT + _SIDE + _BETWEEN, _TOP, _SIDE, _SIDE, "y")
    for i, one in enumerate(methods):
        _draw(losses, one, "loss", _colour(i), ringed=select == "loss")
        _draw(scores, one, score, _colour(i), ringed=select != "loss")
    losses.set_ylabel("loss (line: training, dots: validation)")
    scores.set_ylabel(f"{title_of(score)} on the validation sample")
    for axes in (losses, scores):
        axes.set_xlabel("epoch")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    scores.set_ylim(bottom=0)
    return figure


@house_style()
def images_figure(curve: Curve) -> Figure:
    """The score against the number of training images, with 95 % intervals of each."""
    figure = Sheet(_TOP + _SIDE + 0.62)
    figure.head("How many images?")
    axes = figure.place(_LEFT, _TOP, WIDTH - _LEFT - MARGIN, _SIDE, "y")
    images = [one.images for one in curve.points]
    scores = [one.scores[curve.metric] for one in curve.points]
    line: dict[str, Any] = {"color": Tone.BLUE, "linewidth": 1.4}
    axes.plot(images, [one.corpus for one in scores], "o-", markersize=4, **line)
    for at, one in zip(images, scores, strict=True):
        if one.interval is not None:
            axes.plot([at, at], one.interval, **line)
    axes.set_xlabel("training images")
    axes.set_ylabel(f"{title_of(curve.metric)} on the validation images (95 % interval)")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    return figure


def _draw(axes: Any, one: Tuned, score: str, colour: str, *, ringed: bool) -> None:
    epochs = one.history.epochs
    known = [(entry["epoch"], entry.get(score)) for entry in epochs]
    points = [(epoch, value) for epoch, value in known if epoch is not None and value is not None]
    logged = [(epoch, loss) for epoch, loss in one.history.losses if loss is not None]
    if score != "loss":
        axes.plot([x for x, _ in points], [y for _, y in points], color=colour, linewidth=1.4)
    elif logged:
        x, losses = np.array(logged).T
        axes.plot(x, losses, color=colour, linewidth=0.5, alpha=0.35)
        axes.plot(x, smoothed(x, losses), color=colour, linewidth=1.4)
    for epoch, value in points:
        axes.plot(epoch, value, "o", color=colour, markersize=3.5)
        if ringed and round(epoch) == one.best_epoch:
            ring = {"markerfacecolor": "none", "markeredgecolor": Tone.INK, "markersize": 8}
            axes.plot(epoch, value, "o", **ring)


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
    figure = Sheet(bottom + 0.62)
    _title(figure, f"B \N{MINUS SIGN} A on {comparison.images:,} images", comparison)
    left = MARGIN + _NAMES
    width = WIDTH - 2 * MARGIN - _NAMES - _NOTES
    right = left + width + 0.2
    heads = ((0.62, "A"), (1.22, "B"), (2.15, "p (Holm)"))
    label = {"color": Tone.MUTED, "va": "bottom"}
    for place_, text in heads:
        figure.write(right + place_, _HEAD - 0.08, text, SMALL, ha="right", **label)
    figure.write(left, _HEAD - 0.08, "difference, 95 % interval", SMALL, **label)
    for row, metric in enumerate(metrics):
        top = _HEAD + row * _ROW
        axes = figure.place(left, top + 0.04, width, _ROW - 0.3)
        _strip(axes, metric)
        middle = top + 0.04 + (_ROW - 0.3) / 2
        name = fitted(metric.title, _NAMES - 0.15, 2, SMALL)
        beside = {"ha": "right", "va": "center"}
        figure.write(left - 0.12, middle, "\n".join(name), SMALL, linespacing=1.05, **beside)
        assert metric.p_holm is not None
        p = f"p {p_value(metric.p_holm)}"
        notes = (f"{metric.a.corpus:#.4g}", f"{metric.b.corpus:#.4g}", p)
        for (place_, _), text in zip(heads, notes, strict=True):
            figure.write(right + place_, middle, text, SMALL, **beside)
    _foot(figure, bottom + 0.2, metrics)
    return figure


def _strip(axes: Any, metric: MetricComparison) -> None:
    """One metric's interval on its own scale, 0 always in sight."""
    assert metric.interval is not None
    assert metric.detectable_difference is not None
    low, high = metric.interval
    colour = _SIDES.get(metric.finding, Tone.GREY)
    reach = 1.12 * max(abs(low), abs(high), metric.detectable_difference) or 1.0
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-1, 1)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=2, pad=1.5, labelsize=SMALL - 1.5)
    _ticks(axes.xaxis, -reach, reach)
    unseen = metric.detectable_difference
    axes.axvspan(-unseen, unseen, color=Tone.FAINT, alpha=0.55, linewidth=0)
    axes.axvline(0, color=Tone.INK, linewidth=0.8)
    axes.hlines(0, low, high, color=colour, linewidth=2)
    axes.plot(metric.difference, 0, marker="o", color=colour, markersize=5.5, zorder=3)


def _foot(figure: Sheet, top: float, metrics: list[MetricComparison]) -> None:
    findings = {metric.finding for metric in metrics}
    entries = [("●", _SIDES[side], f"{side} is better") for side in ("B", "A") if side in findings]
    if findings - {"A", "B"}:
        entries.append(("●", Tone.GREY, "not significantly different"))
    entries.append(("■", Tone.FAINT, "differences inside this band are too small to detect"))
    figure.key(MARGIN, top, entries)


@house_style()
def image_difference_figure(comparison: Comparison, metric: str) -> Figure:
    """Each image's two scores by one metric (left) and how its differences are spread (right)."""
    found = comparison.metrics[metric]
    size, gap, edge = 2.6, 0.75, MARGIN + 0.8
    figure = Sheet(_HEAD + size + 0.75)
    _title(figure, f"{found.title} of each of {len(found.ids):,} images", comparison)
    left = figure.place(edge, _HEAD, size, size)
    start = edge + size + gap
    right = figure.place(start, _HEAD, WIDTH - MARGIN - start, size)
    _scatter(left, found)
    _histogram(right, found)
    entries = [
        ("●", Tone.BLUE, f"B higher: {found.images.b_better:,}"),
        ("●", Tone.ORANGE, f"A higher: {found.images.a_better:,}"),
        ("●", Tone.GREY, f"equal: {found.images.equal:,}"),
    ]
    figure.key(edge, _HEAD + size + 0.6, entries)
    return figure


def _scatter(axes: Any, metric: MetricComparison) -> None:
    a, b, differences = metric.raw_a, metric.raw_b, metric.differences
    low = min(float(a.min()), float(b.min()))
    high = max(float(a.max()), float(b.max()))
    room = 0.04 * (high - low) or 0.5
    many = len(a) > _MANY
    axes.set_xlim(low - room, high + room)
    axes.set_ylim(low - room, high + room)
    axes.axline((0, 0), slope=1, color=Tone.GREY, linewidth=0.8, zorder=1)
    alpha = max(0.25, min(0.7, 300 / len(a))) if many else 0.7
    points: dict[str, Any] = {"s": 6 if many else 14, "linewidths": 0, "rasterized": many}
    for colour, sign in ((Tone.GREY, 0), (Tone.BLUE, 1), (Tone.ORANGE, -1)):
        chosen = np.sign(differences) == sign
        axes.scatter(a[chosen], b[chosen], color=colour, alpha=alpha, **points)
    axes.set_xlabel("score of A's caption")
    axes.set_ylabel("score of B's caption")
    for axis in (axes.xaxis, axes.yaxis):
        _ticks(axis, low - room, high + room)
    axes.set_title("above the line B is higher", color=Tone.MUTED, fontsize=SMALL)


def _histogram(axes: Any, metric: MetricComparison) -> None:
    differences = metric.differences
    differing: Doubles = differences[differences != 0]
    reach = float(np.abs(differences).max()) or 1.0
    # an odd number of bins would put one across 0
    edges = np.linspace(-reach, reach, 2 * int(np.clip(np.sqrt(differing.size) / 2, 6, 20)) + 1)
    counts, _ = np.histogram(differing, edges)
    middles = (edges[:-1] + edges[1:]) / 2
    colours = [Tone.BLUE if middle > 0 else Tone.ORANGE for middle in middles]
    axes.bar(middles, counts, width=0.92 * (edges[1] - edges[0]), color=colours)
    axes.axvline(0, color=Tone.INK, linewidth=0.8)
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
        color=Tone.MUTED,
        fontsize=SMALL,
    )


def _ticks(axis: Any, low: float, high: float, *, integer: bool = False) -> None:
    """About five round numbers within the axis, each written out."""
    found = MaxNLocator(5, integer=integer).tick_values(low, high)
    # 0 comes out as a remainder such as 1e-17
    exact = [0.0 if abs(place) < 1e-9 * (high - low) else float(place) for place in found]
    places = [place for place in exact if low <= place <= high]
    axis.set_ticks(places, [f"{place:g}".replace("-", "\N{MINUS SIGN}") for place in places])


def _title(figure: Sheet, text: str, comparison: Comparison) -> None:
    whole = WIDTH - 2 * MARGIN
    figure.head(text)
    for line, (side, source) in enumerate((("A", comparison.a), ("B", comparison.b))):
        name = fitted(f"{side}: {shorten(source, 90, keep='end')}", whole, 1, SMALL)[0]
        figure.write(MARGIN, 0.34 + 0.15 * line, name, SMALL, color=Tone.MUTED)


@dataclass(frozen=True)
class PairPanel:
    """One picture with its caption.

    image: RGB, any size; None draws a grey place that says `missing`. score: the number as text,
    place: its rank as text. others: what else is said of it (other scores), a line each where the
        panels are narrow. references: as many as fit beside a picture that has the row for itself.
    """

    caption: str
    score: str
    place: str = ""
    image: Image.Image | None = None
    missing: str = "no image"
    others: Sequence[str] = ()
    references: Sequence[str] = ()


@house_style()
def pairs_figure(
    best: Sequence[PairPanel],
    worst: Sequence[PairPanel],
    title: str = "",
    subtitle: str = "",
    *,
    remarks: tuple[str, str] = ("", ""),
    pictures: bool = True,
) -> Figure:
    """Two galleries under each other; up to five pairs in a row, a single one beside its caption.

    worst: may be empty. remarks: what a reader must know of the best and of the worst, such as
        ties. pictures: False where no image is known at all: captions alone.
    Raises ValueError without a pair.
    """
    both = [(Tone.GREEN, "best", best, remarks[0]), (Tone.ORANGE, "worst", worst, remarks[1])]
    sections = [section for section in both if section[2]]
    if not sections:
        raise ValueError("expected at least one pair to draw")
    columns = full_rows(max(len(section[2]) for section in sections), _MOST_COLUMNS, 3)
    width = (WIDTH - 2 * MARGIN - _GAP * (columns - 1)) / columns
    image = (2.9 if columns == 1 else width) if pictures else 0.0
    cards = [[_CaptionCard(panel, width, image) for panel in section[2]] for section in sections]
    heads = fitted(title, WIDTH - 2 * MARGIN, 2, TEXT + 2, weight="bold") if title else []
    below = fitted(subtitle, WIDTH - 2 * MARGIN, 2, SMALL) if subtitle else []
    head = 0.2 * len(heads) + _LINE * len(below) + (0.1 if heads or below else 0)
    rows = [[row[i : i + columns] for i in range(0, len(row), columns)] for row in cards]
    heights = [[max(card.height for card in row) + 0.12 for row in section] for section in rows]
    total = MARGIN + head + sum(_SECTION + sum(section) for section in heights) + 0.05
    figure = Sheet(total)
    top = figure.write_lines(MARGIN, MARGIN, heads, 0.2, TEXT + 2, weight="bold")
    figure.write_lines(MARGIN, top, below, _LINE, SMALL, color=Tone.MUTED)
    top = MARGIN + head
    for (colour, end, panels, remark), section, section_heights in zip(
        sections, rows, heights, strict=True
    ):
        name = end if len(panels) == 1 else f"the {len(panels)} {end}"
        _heading(figure, top, colour, name if len(sections) > 1 else "the only pair", remark)
        top += _SECTION
        for row, height in zip(section, section_heights, strict=True):
            for column, card in enumerate(row):
                card.draw(figure, MARGIN + column * (width + _GAP), top, colour)
            top += height
    return figure


def _heading(figure: Sheet, top: float, colour: str, name: str, remark: str) -> None:
    figure.write(MARGIN, top, "■", TEXT + 1, color=colour)
    figure.write(MARGIN + 0.17, top, name, TEXT, weight="bold")
    if remark:
        left = MARGIN + 0.17 + measured(TEXT, weight="bold")(name) + 0.15
        words = fitted(remark, WIDTH - MARGIN - left, 1, SMALL)[0]
        figure.write(left, top + 0.01, words, SMALL, color=Tone.MUTED)


class _CaptionCard:
    """A panel whose words are broken into lines that fit its width, in inches."""

    def __init__(self, panel: PairPanel, width: float, image: float) -> None:
        self.panel = panel
        self.beside = width > 4 and image > 0  # a single pair in the row: words beside the picture
        self.image = image
        self.width = width - image - 0.25 if self.beside else width
        lines = _CAPTION_LINES if width < 3 else 12
        size = TEXT if width > 2 else SMALL
        self.size = size
        self.caption = fitted(panel.caption or "(empty caption)", self.width, lines, size)
        if self.width < 3:
            lines_of_others = [(words, 1) for words in panel.others]
        else:
            lines_of_others = [(" · ".join(panel.others), 3)]
        self.others = [
            line
            for words, most in lines_of_others
            for line in fitted(words, self.width, most, SMALL - 1)
        ]
        room = self.width - measured(TEXT, weight="bold")(panel.score) - 0.08
        self.place = fitted(panel.place, room, 1, SMALL)[0] if panel.place else ""
        self.line = _LINE * size / SMALL
        self.references: list[str] = []
        words = 0.22 + self.line * len(self.caption) + 0.04 + 0.14 * len(self.others)
        self.picture = 0.75 * image  # most images are 4:3; others leave a part of it empty
        if self.beside:
            self._add_references(int((self.picture - words - 0.1) / _LINE))
            self.height = max(words, self.picture)
        else:
            self.height = words + self.picture + (0.06 if image else 0)

    def _add_references(self, room: int) -> None:
        """Whole references while there are lines left, below a line that names them."""
        for reference in self.panel.references:
            lines = fitted(f"– {reference}", self.width, 3, SMALL)
            if 1 + len(self.references) + len(lines) > room:
                break
            self.references += lines
        if self.references:
            self.references.insert(0, "references")

    def draw(self, figure: Sheet, left: float, top: float, colour: str) -> None:
        """With its upper left corner at a place in inches."""
        if self.image:
            self._draw_image(figure, left, top)
            if self.beside:
                left += self.image + 0.25
            else:
                top += self.picture + 0.06
        figure.write(left, top, self.panel.score, TEXT, weight="bold", color=Tone.INK)
        right = left + self.width
        figure.write(right, top + 0.01, self.place, SMALL, color=Tone.MUTED, ha="right")
        (x, y), (end, above) = figure.share(left, top + 0.18), figure.share(right, top + 0.165)
        whole: dict[str, Any] = {"color": colour, "linewidth": 0, "transform": figure.transFigure}
        figure.add_artist(Rectangle((x, y), end - x, above - y, **whole))
        top += 0.22
        top = figure.write_lines(left, top, self.caption, self.line, self.size) + 0.04
        top = figure.write_lines(left, top, self.others, 0.14, SMALL - 1, color=Tone.MUTED) + 0.1
        figure.write_lines(left, top, self.references, _LINE, SMALL, color=Tone.MUTED)

    def _draw_image(self, figure: Sheet, left: float, top: float) -> None:
        axes = figure.place(left, top, self.image, self.picture)
        axes.set_axis_off()
        if self.panel.image is not None:
            axes.imshow(shrunk(self.panel.image, self.image, self.picture), aspect="equal")
            axes.set_anchor("NW" if self.beside else "S")
            return
        axes.add_patch(Rectangle((0, 0), 1, 1, color=Tone.FAINT, transform=axes.transAxes))
        words = "\n".join(fitted(self.panel.missing, self.image - 0.2, 3, SMALL))
        middle = {"ha": "center", "va": "center", "transform": axes.transAxes}
        axes.text(0.5, 0.5, words, fontsize=SMALL, color=Tone.MUTED, **middle)
