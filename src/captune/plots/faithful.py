"""How faithful the maps are: the leaderboard with intervals, and the mean curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from captune.plots.canvas import (
    BLUE,
    GREEN,
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

if TYPE_CHECKING:  # figures are drawn without loading torch
    from captune.attribution.faithful.results import EvalReport, MapResult

_PANELS = (("insertion", "insertion (more is better)"), ("deletion", "deletion (less is better)"))
_PEOPLE = ("pointing", "pointing (more is better)")
_LEFT, _ROW, _TOP, _GAP = 2.15, 0.21, 0.95, 0.26  # inches
_CONTROLS = ("random", "centre")


@house_style()
def leaderboard_figure(reports: Sequence[EvalReport], default: str) -> Figure:
    """One block per report: a row per map, a panel per measure, dots with 95 % intervals.

    Lines: what random maps and the centre of the image get. The default map is green.
    """
    heights = [len(_maps(report)) * _ROW + 0.85 for report in reports]
    figure = new_figure(_TOP + sum(heights) - 0.2)
    title = fitted(figure, "Are the maps faithful?", WIDTH - 0.3, 1, TEXT + 1, weight="bold")[0]
    write(figure, 0.15, 0.12, title, TEXT + 1, weight="bold")
    entries = [("●", GREEN, "the default map"), ("●", BLUE, "other maps")]
    entries += [("|", ORANGE, "random maps"), ("|", GREY, "the centre of the image")]
    legend(figure, 0.15, 0.45, entries)
    panels = [*_PANELS, *([_PEOPLE] if any(map(_has_people, reports)) else [])]
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
    figure: Figure,
    report: EvalReport,
    default: str,
    panels: Sequence[tuple[str, str]],
    limits: Mapping[str, tuple[float, float]],
    top: float,
) -> None:
    rows = _maps(report)
    heading = fitted(figure, f"{report.title} ({report.images})", WIDTH - 0.3, 1, TEXT)[0]
    write(figure, 0.15, top, heading, TEXT, weight="bold")
    height = len(rows) * _ROW
    width = (WIDTH - _LEFT - 0.15 - _GAP * (len(panels) - 1)) / len(panels)
    for number, (measure, said) in enumerate(panels):
        left = _LEFT + number * (width + _GAP)
        axes = place(figure, left, top + 0.22, width, height)
        _panel(axes, report, rows, measure, default)
        axes.set_xlim(*limits[measure])
        axes.set_xlabel(said, fontsize=SMALL)
    for number, row in enumerate(rows):
        name = fitted(figure, str(row.name), _LEFT - 0.3, 1, SMALL)[0]
        weight = "bold" if str(row.name) == default else "normal"
        middle = top + 0.22 + (number + 0.5) * _ROW
        write(figure, 0.15, middle, name, SMALL, va="center", weight=weight)


def _panel(
    axes: Any, report: EvalReport, rows: Sequence[MapResult], measure: str, default: str
) -> None:
    for control, colour in zip(_CONTROLS, (ORANGE, GREY), strict=True):
        for row in report.rows:
            if row.name.method == control and measure in row.estimates:
                axes.axvline(row.estimates[measure].value, color=colour, linewidth=1.2)
    for number, row in enumerate(rows):
        found = row.estimates.get(measure)
        if found is None:
            continue
        colour = GREEN if str(row.name) == default else BLUE
        axes.plot(list(found.interval), [number, number], color=colour, linewidth=1.3)
        axes.plot(found.value, number, "o", color=colour, markersize=4.5)
    axes.set_ylim(max(1, len(rows)) - 0.5, -0.5)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(4))
    if measure == "pointing":
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.tick_params(length=2, color=MUTED)


@house_style()
def curves_figure(report: EvalReport, default: str, hidden: str) -> Figure:
    """Left deletion, right insertion: how much of what the images add is left, or there already.

    Means over all words that the images make more probable; the default map is green, the original
    report's blue.
    """
    side, top, left, between = 2.5, 1.05, 0.62, 0.78
    figure = new_figure(top + side + 0.62)
    heading = f"What the words lose and gain: {report.title}"
    title = fitted(figure, heading, WIDTH - 2.1, 1, TEXT + 1, weight="bold")[0]
    write(figure, 0.15, 0.12, title, TEXT + 1, weight="bold")
    colours = {default: GREEN, "random": ORANGE, "centre": GREY}
    entries = [("—", colours.get(name, BLUE), name) for name in report.curves]
    legend(figure, 0.15, 0.45, entries[:2])
    legend(figure, 0.15, 0.67, entries[2:])
    for number, (measure, verb) in enumerate((("deletion", "hidden"), ("insertion", "shown"))):
        axes = place(figure, left + number * (side + between), top, side, side)
        for name, found in report.curves.items():
            if measure in found:
                shares, heights = found[measure]
                axes.plot(shares, heights, color=colours.get(name, BLUE), linewidth=1.4)
        axes.set_xlabel(f"fraction of the patches that are {verb}, the map's first")
        axes.set_ylabel(f"{measure}: fraction of what the images add")
        axes.axhline(0, color=INK, linewidth=0.5)
        axes.set_xlim(0, 1)
        axes.grid(axis="y")
        axes.tick_params(length=2, color=MUTED)
    write(figure, WIDTH - 0.15, 0.14, hidden, SMALL, ha="right", color=MUTED)
    return figure


def _maps(report: EvalReport) -> list[MapResult]:
    return [row for row in report.rows if row.name.method not in _CONTROLS]


def _has_people(report: EvalReport) -> bool:
    return any("pointing" in row.estimates for row in report.rows)
