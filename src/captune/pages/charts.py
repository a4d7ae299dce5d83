"""Drawings of a page as SVG in the colours of its style sheet, so that they follow light and dark.

Every text goes through Markup.format and is text. The figures of `captune.plots` are for papers;
these are for a screen of any width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

from markupsafe import Markup

from captune.text import counted, one_line, percent
from captune_metrics.display import shorten

_SVG = Markup(
    '<svg class="chart {}" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">'
    "{}</svg>"
)
_LINE = Markup('<path class="{}" d="{}"/>')
_TEXT = Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>')
_RECT = Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"{}>{}</rect>')
_TURNED = Markup('<text class="label middle" transform="translate(12 {}) rotate(-90)">{}</text>')
_TITLE = Markup("<title>{}</title>")
_POINTS = 300  # of a line, about
_DOT = Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"/>')


def reliability_chart(
    bins: Sequence[Mapping[str, Any]], says: str, confidence: str, right: str
) -> Markup:
    """Accuracy of each bin of confidence as a bar; the dashed diagonal is a model that knows.

    bins: low, high, count, confidence, accuracy, as `captune prompts` writes them. confidence,
    right: what the axes are called.
    """
    left, top, side, below = 44, 8, 280, 42

    def x(share: float) -> float:
        return left + side * share

    def y(share: float) -> float:
        return top + side * (1 - share)

    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(_LINE.format("grid", f"M{left} {y(tick):.1f}h{side}"))
        parts.append(_TEXT.format("tick end", left - 6, y(tick) + 4, f"{100 * tick:.0f}"))
        parts.append(_TEXT.format("tick middle", x(tick), top + side + 16, f"{100 * tick:.0f}"))
    for one in bins:
        width = side * (one["high"] - one["low"]) - 2
        start = x(one["low"]) + 1
        low, high = sorted((one["accuracy"], one["confidence"]))
        told = (
            f"{confidence} {percent(one['confidence'], 0)}: {percent(one['accuracy'], 0)} {right}, "
            f"{counted(one['count'], 'image')}"
        )
        title = _TITLE.format(told)
        gap = "over" if one["confidence"] > one["accuracy"] else "under"
        parts.append(_RECT.format("bar", start, y(low), width, side * low, "", title))
        parts.append(_RECT.format(gap, start, y(high), width, side * (high - low), "", title))
    parts.append(_LINE.format("diagonal", f"M{x(0)} {y(0)}L{x(1)} {y(1)}"))
    parts.append(
        _TEXT.format("label middle", left + side / 2, top + side + 36, f"{confidence} (%)")
    )
    parts.append(_TURNED.format(top + side / 2, f"{right} (%)"))
    return _svg("square", left + side + 12, top + side + below, says, parts)


def confusion_chart(names: Sequence[str], counts: Mapping[tuple[int, int], int]) -> Markup:
    """Truth down, answer across; the deeper the colour, the larger the share of the row's images.

    counts: (truth, answer) -> images, those above 0.
    """
    cell = 12 if len(names) > 20 else 24
    labels = min(140, 12 + 6.2 * max(map(len, names), default=0))
    side = cell * len(names)
    rows = [sum(n for (truth, _), n in counts.items() if truth == row) for row in range(len(names))]
    parts = []
    for i, name in enumerate(names):
        short = one_line(shorten(name, 22))
        middle = labels + cell * (i + 0.5)
        parts.append(_TEXT.format("tick end", labels - 5, middle + 4, short))
        above = Markup(
            '<text class="tick" transform="translate({:.1f} {:.1f}) rotate(-60)">{}</text>'
        )
        parts.append(above.format(middle + 4, labels - 5, short))
    ground = Markup('<rect class="ground" x="{0:.1f}" y="{0:.1f}" width="{1}" height="{1}"/>')
    parts.append(ground.format(labels, side))
    for (truth, answer), n in sorted(counts.items()):
        told = f"{names[truth]}: {n} of {rows[truth]} called {names[answer]}"
        tone = "right" if truth == answer else "wrong"
        style = Markup(' style="opacity:{:.2f}"').format(0.2 + 0.8 * n / max(1, rows[truth]))
        place = (labels + cell * answer + 0.5, labels + cell * truth + 0.5)
        parts.append(
            _RECT.format(tone, *place, cell - 1, cell - 1, style, _TITLE.format(one_line(told)))
        )
    says = "Confusion matrix: truth in rows, answers in columns; the table beside it says the same"
    width = labels + side + 0.35 * labels
    return _svg("matrix", width, labels + side + 4, says, parts)


def curves_chart(
    lines: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    dots: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    kept: Sequence[tuple[str, float, float]],
    *,
    label: str,
    says: str,
    from_zero: bool,
    across: str = "epoch",
    intervals: Sequence[tuple[str, float, float, float]] = (),
) -> Markup:
    """Something over epochs: lines and dots by tone (series-1, ...); kept: points with a ring.

    across: what is over there instead. intervals: tone, where, from, to.
    """
    top, height, below = 10, 200, 40
    points = [point for _, some in (*lines, *dots) for point in some]
    if not points:
        return Markup()
    most = max(x for x, _ in points) or 1.0
    ends = [y for _, y in points] + [y for *_, low, high in intervals for y in (low, high)]
    low, high = min(ends), max(ends)
    low = min(0.0, low) if from_zero else low
    room = 0.06 * (high - low) or 0.5
    low, high = (low if from_zero and low == 0 else low - room), high + room
    # the name of the axis stands left of its longest number
    left = 30 + 6.5 * max(len(f"{tick:g}") for tick in _ticks(low, high))
    width = 420 - left

    def x(value: float) -> float:
        return left + width * value / most

    def y(value: float) -> float:
        return top + height * (1 - (value - low) / (high - low))

    parts = []
    for tick in _ticks(low, high):
        parts.append(_LINE.format("grid", f"M{left:.1f} {y(tick):.1f}h{width:.1f}"))
        parts.append(_TEXT.format("tick end", left - 6, y(tick) + 4, f"{tick:g}"))
    for tick in _ticks(0, most, whole=True):
        parts.append(_TEXT.format("tick middle", x(tick), top + height + 19, f"{tick:g}"))
    for tone, some in lines:
        path = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in _thinned(some))
        parts.append(_LINE.format(f"curve {tone}", f"M{path}"))
    for tone, at, start, end in intervals:
        parts.append(_LINE.format(f"curve {tone}", f"M{x(at):.1f} {y(start):.1f}V{y(end):.1f}"))
    for tone, some in dots:
        parts += [_DOT.format(f"dot {tone}", x(a), y(b), 3.5) for a, b in some]
    parts += [_DOT.format(f"ring {tone}", x(a), y(b), 7) for tone, a, b in kept]
    parts.append(_TEXT.format("label middle", left + width / 2, top + height + 34, across))
    parts.append(_TURNED.format(top + height / 2, label))
    return _svg("curves", left + width + 14, top + height + below, says, parts)


def distribution_chart(
    values: Sequence[float],
    *,
    median: float,
    best: Sequence[float],
    worst: Sequence[float],
    says: str,
) -> tuple[Markup, int, bool]:
    """Sorted values as bars of equal width; those of the best and the worst are marked below.

    Returns the drawing, how many values the tallest bar stands for, and whether it is cut: a
    score that most captions share would press all others flat.
    """
    width, height, marks = 760.0, 90.0, 16.0
    low, high = values[0], values[-1]
    bins = min(60, max(10, 2 * isqrt(len(values))))
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int(bins * (value - low) / (high - low)))] += 1
    second, tallest = sorted(counts)[-2:]
    is_cut = tallest > 5 * second
    top = 1.5 * second if is_cut else tallest

    def x(value: float) -> float:
        return width * (value - low) / (high - low)

    each = width / bins
    parts = []
    for i, n in enumerate(counts):
        if n:  # one value is still a line high
            tall = min(height, max(1.5, height * n / top))
            parts.append(_RECT.format("bar", each * i, height - tall, 0.92 * each, tall, "", ""))
            if is_cut and n == tallest:
                parts.append(_RECT.format("cut", each * i - 1, 14, each + 1, 5, "", ""))
    parts.append(_LINE.format("grid", f"M0 {height}H{width:.0f}"))
    parts.append(_LINE.format("diagonal", f"M{x(median):.1f} 0V{height}"))
    for tone, ends in (("good-mark", best), ("bad-mark", worst)):
        path = "".join(f"M{at:.1f} {height + 4}v{marks - 4}" for at in sorted({*map(x, ends)}))
        parts.append(_LINE.format(tone, path))
    return _svg("spread", width, height + marks, says, parts), tallest, is_cut


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    step = max(1, -(-len(points) // _POINTS))
    return [*points[:-1:step], points[-1]]


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """About four round numbers between two."""
    from math import floor, log10

    step = 10 ** floor(log10((high - low) / 4))
    step = next(s * step for s in (1, 2, 5, 10) if (high - low) / (s * step) <= 5)
    if whole:
        step = max(1.0, step)
    first = -int(-low // step)
    return [round(step * i, 10) for i in range(first, int(high // step) + 1)]


def _svg(kind: str, width: float, height: float, says: str, parts: Sequence[Markup]) -> Markup:
    w, h = f"{width:.0f}", f"{height:.0f}"
    return _SVG.format(kind, w, h, w, h, one_line(says), Markup().join(parts))
