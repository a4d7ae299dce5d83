"""Prompt templates side by side: accuracy, classes that change, agreement, and the word "not"."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from captune.plots.canvas import (
    MARGIN,
    SMALL,
    WIDTH,
    Sheet,
    Tone,
    fitted,
    house_style,
    label_beside,
)
from captune.statistics import SIGNIFICANT
from captune.text import p_value, percent, points

if TYPE_CHECKING:  # figures are drawn without loading torch
    from captune.runs.metrics import NegationProbe
    from captune.zeroshot.template_comparison import TemplateComparison
    from captune_metrics.display import Interval

_MOST = 12  # classes, or templates beside each other
_HEAD, _ROW, _LINE, _BAR = 0.62, 0.24, 0.14, 0.15  # inches


@house_style()
def prompt_comparison_figure(comparison: TemplateComparison, limit: int = 30) -> Figure:
    """Accuracy of each template with its 95 % interval, best first.

    Green diamond: the best. Blue: not told apart from it (Holm-adjusted p of 0.05 or more). Orange:
    worse than it. limit: rows drawn; the others are counted below.
    Raises ValueError without truth (draw `agreement_figure` instead).
    """
    results, best = comparison.results, comparison.best
    if best is None:
        raise ValueError("without truth there is no accuracy to draw")
    # the best is chosen in the order given, so equals stay in it
    order = sorted(range(len(results)), key=lambda i: (-(results[i].accuracy or 0), i))
    shown = order[:limit]
    rows = _NamedRows([results[i].template for i in shown], names=2.55, notes=1.85)
    figure, axes = rows.figure, rows.axes
    title = f"Accuracy of {_counted(comparison)} on {comparison.known} images"
    others = len(results) > 1
    rows.head(title, "accuracy (%), 95 % interval", "against the best" if others else "", 0.85)
    low = min(results[i].interval.low for i in shown)  # type: ignore[union-attr]
    high = max(results[i].interval.high for i in shown)  # type: ignore[union-attr]
    room = max(0.02, 0.06 * (high - low))
    axes.set_xlim(max(0, 100 * (low - room)), min(100, 100 * (high + room)))
    axes.axvline(100 * (results[best].accuracy or 0), color=Tone.GREEN, linewidth=1, alpha=0.5)
    colours = set()
    for row, index in enumerate(shown):
        result, against = results[index], results[index].against_best
        assert result.accuracy is not None
        assert result.interval is not None
        worse = against is not None and against.p_holm < SIGNIFICANT
        colour = Tone.GREEN if against is None else Tone.ORANGE if worse else Tone.BLUE
        marker = "D" if against is None else "o"
        rows.dot(row, result.accuracy, result.interval, colour, marker)
        difference = "best" if against is None else points(against.difference)
        p = "" if against is None else f"p {p_value(against.p_holm)}"
        rows.note(row, (percent(result.accuracy), difference, p), bold=against is None)
        colours.add(colour)
    entries = [("◆", Tone.GREEN, "best"), ("●", Tone.BLUE, "not significantly different")]
    entries.append(("●", Tone.ORANGE, "worse"))
    hidden = len(order) - len(shown)
    told = ""
    if others:
        told = f"p: exact McNemar, Holm-adjusted for {len(results) - 1} comparisons."
        told += " The best was chosen on these images: it flatters a little."
    if hidden:
        told += f" {hidden} more prompts are in the table."
    rows.foot(entries, told, colours)
    return figure


def _counted(comparison: TemplateComparison) -> str:
    prompts = len(comparison.results) - (comparison.ensemble is not None)
    text = f"{prompts} prompt{'s' if prompts > 1 else ''}"
    return text if comparison.ensemble is None else f"{text} and their ensemble"


@house_style()
def class_change_figure(comparison: TemplateComparison, index: int) -> Figure:
    """Classes that the template at `index` has right more (blue) or less often (orange).

    Than the best template, that is: bars are points of accuracy of the class, the notes count its
    right images under the best and under this one.
    Raises ValueError without truth, or for the best template itself.
    """
    if comparison.best is None or index == comparison.best:
        raise ValueError("expected truth, and a template other than the best")
    changes = comparison.class_changes(index)
    kept = sorted(changes[:_MOST], key=lambda change: change.share)
    rows = _NamedRows([change.label for change in kept] or [""], names=2.0, notes=1.3)
    figure, axes = rows.figure, rows.axes
    other = comparison.results[index].template
    rows.head(f"“{other}”", "change in accuracy (percentage points)", "best → this")
    best = f"against the best: “{comparison.results[comparison.best].template}”"
    figure.write(MARGIN, 0.3, fitted(best, 6.7, 1, SMALL)[0], SMALL, color=Tone.INK)
    shares = [100 * change.share for change in kept] or [-10, 10]
    room = 0.08 * max(abs(share) for share in shares)
    axes.set_xlim(min(0, *shares) - room, max(0, *shares) + room)
    axes.axvline(0, color=Tone.GREY, linewidth=1)
    for row, change in enumerate(kept):
        colour = Tone.BLUE if change.change > 0 else Tone.ORANGE
        axes.barh(row, 100 * change.share, height=_BAR / rows.height, color=colour)
        count = f"{change.correct - change.change} → {change.correct} of {change.images}"
        rows.note(row, ("", "", count))
    if not kept:
        axes.text(0, 0, "no class changes", ha="center", va="center", fontsize=SMALL, zorder=3)
    rest = len(changes) - len(kept)
    told = f"{len(changes)} of {len(comparison.labels)} classes change"
    told += f"; {rest} with smaller changes are not drawn." if rest else "."
    colours = {Tone.BLUE if change.change > 0 else Tone.ORANGE for change in kept}
    entries = [("■", Tone.BLUE, "more right"), ("■", Tone.ORANGE, "fewer right")]
    rows.foot(entries, told, colours)
    return figure


@house_style()
def negation_figure(probes: Sequence[NegationProbe]) -> Figure:
    """What happens when each template is denied; a model that reads "not" shows 0 % everywhere.

    Raises ValueError without a probe.
    """
    if not probes:
        raise ValueError("expected at least one probe")
    rows = _NamedRows([probe.negated for probe in probes], names=2.55, notes=0.15, height=0.62)
    figure, axes = rows.figure, rows.axes
    rows.head("Does the model understand “not”?", "images (%), 95 % interval", "")
    told = "If it does, the filled marks are at 0 % and the open diamond at 100 %."
    figure.write(MARGIN, 0.32, told, SMALL)
    axes.set_xlim(0, 100)
    marks = set()
    for row, probe in enumerate(probes):
        kinds = (
            ("same_answer", Tone.BLUE, "o"),
            ("right_answer", Tone.ORANGE, "s"),
            ("denial_wins", Tone.INK, "D"),
        )
        for step, (name, colour, marker) in enumerate(kinds):
            share = getattr(probe, name)
            if share is not None:
                height = row + step * 0.21 - 0.32
                rows.dot(height, share, probe.interval(name), colour, marker)
                marks.add(marker)
        if probe.denial_wins_elsewhere is not None:
            rows.hollow(row + 0.31, probe.denial_wins_elsewhere)
    entries = [
        ("●", Tone.BLUE, "denied prompts put the same class first"),
        ("■", Tone.ORANGE, "denied prompts put the right class first"),
        ("◆", Tone.INK, "“not X” scores above “X”, X the right class"),
        ("◇", Tone.INK, "the same for the wrong classes"),
    ]
    known = [entry for entry in entries if entry[1] != Tone.ORANGE or "s" in marks]
    rows.foot(known[:2], "")
    figure.key(MARGIN, rows.bottom + 0.70, known[2:])
    return figure


@house_style()
def agreement_figure(comparison: TemplateComparison) -> Figure:
    """Share of images to which two templates answer the same; needs no truth."""
    names = [result.template for result in comparison.results][:_MOST]
    count, left, top = len(names), 2.6, 0.75
    cell = min(0.5, (WIDTH - left - MARGIN) / count)
    figure = Sheet(top + count * cell + 0.55)
    figure.head(f"Same answer to {comparison.images} images (%)")
    axes = figure.place(left, top, count * cell, count * cell)
    shares = 100 * comparison.agreement[:count, :count]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=125, aspect="auto")
    for row in range(count):
        for column in range(count):
            share = shares[row, column]
            colour = "white" if share > 75 else Tone.INK
            axes.text(
                column, row, f"{share:.0f}", ha="center", va="center", fontsize=SMALL, color=colour
            )
        text = f"{row + 1}  {names[row]}"
        _name(axes, row, fitted(text, left - MARGIN - 0.1, 2, SMALL))
    axes.set_xticks(range(count), [str(i + 1) for i in range(count)])
    axes.xaxis.tick_top()
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    hidden = len(comparison.results) - count
    if hidden:
        told = f"{hidden} more prompts are in the table."
        figure.write(MARGIN, top + count * cell + 0.2, told, SMALL, color=Tone.MUTED)
    return figure


class _NamedRows:
    """One named row a template or class: names left, marks in the middle, notes right."""

    def __init__(self, texts: Sequence[str], names: float, notes: float, height: float = _ROW):
        lines = [fitted(name, names - 0.1, 2, SMALL) for name in texts]
        if any(len(line) > 1 for line in lines):
            height = max(height, 2 * _LINE + 0.08)
        self.height = height
        self.bottom = _HEAD + height * len(texts)
        self.figure = Sheet(self.bottom + 0.95)
        width = WIDTH - 2 * MARGIN - names - notes
        self.left = MARGIN + names
        self.axes = self.figure.place(self.left, _HEAD, width, height * len(texts))
        self.right = self.left + width
        self.axes.set_ylim(len(texts) - 0.5, -0.5)
        self.axes.set_yticks([])
        self.axes.grid(axis="x")
        self.axes.tick_params(length=0)
        self.axes.spines[["left", "bottom"]].set_visible(False)
        for row, line in enumerate(lines):
            _name(self.axes, row, line)

    def head(self, title: str, axis: str, notes: str, notes_left: float = 0.15) -> None:
        """Title above, what the axis and the notes (so many inches to the right of it) mean."""
        self.figure.head(title)
        place = self.right + notes_left, _HEAD - 0.06
        self.figure.write(*place, notes, SMALL, color=Tone.MUTED, va="bottom")
        self.axes.set_xlabel(axis)

    def dot(self, row: float, share: float, interval: Interval, colour: str, marker: str) -> None:
        """A share with its interval."""
        self.axes.hlines(row, 100 * interval.low, 100 * interval.high, color=colour, linewidth=1.6)
        self.axes.plot(
            100 * share, row, marker=marker, color=colour, markersize=5.5, clip_on=False, zorder=3
        )

    def hollow(self, row: float, share: float) -> None:
        """A share without an interval."""
        self.axes.plot(
            100 * share, row, marker="D", color=Tone.PAPER, markeredgecolor=Tone.INK,
            markersize=5.5, markeredgewidth=1.2, clip_on=False, zorder=3,
        )  # fmt: skip

    def note(self, row: float, texts: tuple[str, str, str], bold: bool = False) -> None:
        """Three columns at the right of a row: two numbers aligned right, a text aligned left."""
        ends = ((0.7, "right"), (1.13, "right"), (1.22 if texts[0] else 0.15, "left"))
        for text, (left, align) in zip(texts, ends, strict=True):
            weight = "bold" if bold else "normal"
            label_beside(self.axes, 1, row, left, text, ha=align, fontsize=SMALL, weight=weight)

    def foot(
        self, entries: list[tuple[str, str, str]], text: str, only: Collection[str] | None = None
    ) -> None:
        """Legend, `only` of these colours, and a sentence below."""
        self.figure.key(MARGIN, self.bottom + 0.52, entries, only)
        lines = fitted(text, WIDTH - 2 * MARGIN, 2, SMALL)
        self.figure.write(MARGIN, self.bottom + 0.66, "\n".join(lines), SMALL, color=Tone.MUTED)


def _name(axes: Any, row: int, lines: Sequence[str]) -> None:
    text = "\n".join(lines)
    label_beside(axes, 0, row, -8 / 72, text, ha="right", fontsize=SMALL, linespacing=1.05)
