"""What the page says of a published study: its figures beside those of the runs, and why not alike.

Two things are kept apart: whether a difference is more than the choice of images explains (the 95 %
interval of the figure here), and what was done otherwise than in the study (its conditions).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from string import Template
from typing import Any

from markupsafe import Markup

from captune.pages.blocks import Fold, Paragraph, Points, Section
from captune.pages.sources import RunSet, RunSource, Show, joined, words
from captune.runs.reader import METRICS
from captune.studies import Condition, Figures, Study
from captune.tables import Column, Estimate, Number, Table, numbers
from captune.text import count, decimal, one_line, percent, plain, points, signed

_SHOWN: dict[str, tuple[Show, Show]] = {"share": (percent, points), "score": (decimal, signed)}


@dataclass(frozen=True)
class Here:
    """A figure of a run. said: of which image it is, where it is one image's."""

    source: RunSource
    figure: Number
    interval: tuple[Number, Number] | None = None
    said: str = ""

    @property
    def value(self) -> float:
        """With all its digits."""
        return float(self.figure.value)

    @property
    def ends(self) -> tuple[float, float]:
        """Of the interval; the figure itself where it has none."""
        if self.interval is None:
            return self.value, self.value
        return float(self.interval[0].value), float(self.interval[1].value)


@dataclass(frozen=True)
class PublishedFigure:
    """A published figure, as text, and the one here; None where its run is not on the page."""

    name: str
    published: str
    here: Here | None

    @property
    def side(self) -> int:
        """0 where the published figure lies within the interval here, +1 where it is higher here.

        A published figure is as wide as its rounding. A figure without an interval is never 0
        unless it is the same.
        """
        assert self.here is not None
        half = 0.5 * 10.0 ** -len(self.published.partition(".")[2])
        low, high = float(self.published) - half, float(self.published) + half
        below, above = self.here.ends
        if below <= high and low <= above:
            return 0
        return 1 if self.here.value > float(self.published) else -1


@dataclass(frozen=True)
class ComparedCondition:
    """A condition of the study and what the run has; None where it is not on the page."""

    name: str
    published: Any
    here: Number | None
    is_same: bool


def answer(study: Study, runs: RunSet) -> Markup:
    """The first lines of the page: how many figures came out again, and what was done otherwise."""
    rows = [row for figures in study.figures for row in rows_of(figures, runs) if row.here]
    if not rows:
        return words("None of the figures of the study ({}) is of these runs.", study.about)
    first = rows[0].here
    assert first is not None
    number = {
        side: first.source.counted(count, sum(row.side == side for row in rows), how)
        for side, how in ((0, "published figures within"), (1, "higher here"), (-1, "lower here"))
    }
    total = first.source.counted(count, len(rows), "published figures that are on the page")
    said = words(
        "Of {} published figures {} agree with those here, as they lie within their 95 %"
        " intervals; higher here: {}; lower here: {}.",
        total, number[0], number[1], number[-1],
    )  # fmt: skip
    other = [told.name for told in _conditions(study, runs, list(study.conditions))
             if told.here is not None and not told.is_same]  # fmt: skip
    if other:
        return said + words(
            " This was not the published experiment: it differs in {}.",
            joined([words("{}", name) for name in other]),
        )
    return said + words(" As far as the runs tell, it was done as published.")


def section(study: Study, runs: RunSet) -> Section:
    """All published figures beside those of the runs."""
    part = Section("published", "Published figures beside these")
    part.blocks.append(Paragraph(words("{}.", study.about), soft=True))
    for i, figures in enumerate(study.figures):
        rows = rows_of(figures, runs)
        part.blocks += [
            _table(i, figures, rows),
            Points(_sentences(figures, rows)),
            *_experiment(study, figures, rows, runs),
        ]
    told = _conditions(study, runs, list(study.conditions))
    if told:
        part.blocks.append(Fold("Both experiments side by side", [_side_by_side(told)]))
    return part


def rows_of(figures: Figures, runs: RunSet) -> list[PublishedFigure]:
    """The rows of a kind of figures, in the order of the study."""
    return [
        PublishedFigure(name, published, _here(figures, name, runs))
        for name, published in figures.rows.items()
    ]


def _here(figures: Figures, name: str, runs: RunSet) -> Here | None:
    source = _source(figures.run, runs, row=name)
    if source is None:
        return None
    show, _ = _SHOWN[figures.shown]
    if figures.ends:
        return _end(source, figures.ends, highest=name == "highest", show=show)
    keys = _number(source, figures.at, name)
    if keys is None:
        return None
    ends = [_number(source, at, name) for at in (figures.low, figures.high)]
    low, high = (None if end is None else source.figure(show, *end) for end in ends)
    interval = None if low is None or high is None else (low, high)
    return Here(source, source.figure(show, *keys), interval)


def _number(source: RunSource, at: Sequence[Any], row: str) -> tuple[str | int, ...] | None:
    """The way to a number of metrics.json; None where there is none."""
    keys = _keys(source, METRICS, at, row=row)
    is_number = keys is not None and type(source.at(*keys)) in (int, float)
    return keys if is_number else None


def _end(source: RunSource, metric: str, *, highest: bool, show: Show) -> Here | None:
    """The image that scores highest or lowest: of several the one where `captune rank` has it."""
    if source.run.kind not in ("score", "tune"):
        return None
    ranked = [
        (-float(value), str(record.get("image")), str(record.get("path") or record.get("image")))
        for record in source.run.records()
        if (value := record["scores"].get(metric)) is not None
    ]
    if not ranked:
        return None
    negative, _, image = min(ranked) if highest else max(ranked)
    how = f"{'highest' if highest else 'lowest'} {metric}"
    return Here(source, source.counted(show, 0.0 - negative, how), said=one_line(image))


def _source(run: str, runs: RunSet, **names: str) -> RunSource | None:
    """The run with a name of the study, by the last folder of its path."""
    if "$best" in run:
        tunes = [s for s in runs.of_kind("tune") if isinstance(s.run.metrics.get("best"), str)]
        if not tunes:
            return None
        names["best"] = tunes[0].run.metrics["best"]
    wanted = Template(run).safe_substitute(names)
    of_name = (s for s in runs.sources if PurePath(s.run.folder.resolve()).name == wanted)
    return next(of_name, None)


def _keys(
    source: RunSource, file: str, at: Sequence[Any], **names: str
) -> tuple[str | int, ...] | None:
    """The way to a value: a mapping in `at` picks the row of a list; None where it ends early."""
    value: Any = source.run.metrics if file == METRICS else source.run.about
    keys: list[str | int] = []
    for step in at:
        key = _key(value, step, names)
        if key is None:
            return None
        value = value[key]
        keys.append(key)
    return tuple(keys) if keys and value is not None else None


def _key(value: Any, step: Any, names: Mapping[str, str]) -> str | int | None:
    """The key or the number that a step leads to; None where there is none."""
    if isinstance(step, Mapping):
        wanted = {key: Template(str(text)).safe_substitute(names) for key, text in step.items()}
        rows = enumerate(value) if isinstance(value, list) else ()
        return next(
            (i for i, row in rows if isinstance(row, dict) and wanted.items() <= row.items()), None
        )
    if isinstance(value, Mapping):
        return step if step in value else None
    is_number = isinstance(value, list) and type(step) is int and -len(value) <= step < len(value)
    return step if is_number else None


def _table(number: int, figures: Figures, rows: Sequence[PublishedFigure]) -> Table:
    show, less = _SHOWN[figures.shown]
    cells: list[list[Any]] = []
    for name, published, here in [
        *((row.name, row.published, row.here) for row in rows),
        *((name, bar, best.here) for name, bar, best in _bars(figures, rows)),
    ]:
        estimate = None if here is None else Estimate(here.figure, here.interval)
        difference = None if here is None else _less(here, published, less)
        cells.append([name, _published(published, figures), estimate, difference])
    title = "points" if show is percent else "difference"
    columns = [Column(figures.of, wide=True), *numbers("published", "here", title)]
    return Table(f"published-{number + 1}", figures.title, columns, cells)


def _sentences(figures: Figures, rows: Sequence[PublishedFigure]) -> list[Markup]:
    """What the differences say; rows of which the same is to be said share a sentence."""
    said: dict[Markup, list[Markup]] = {}
    for row in rows:
        said.setdefault(_verdict(row), []).append(words("“{}”", row.name))
    for name, bar, best in _bars(figures, rows):
        said.setdefault(_reached(bar, best), []).append(words("{}", name))
    return [words("{}: {}", joined(names), sentence) for sentence, names in said.items()]


def _verdict(row: PublishedFigure) -> Markup:
    if row.here is None:
        return words("no run on this page has this figure.")
    if row.here.interval is None:
        told = {0: "the same", 1: "higher here", -1: "lower here"}[row.side]
        return words(
            "{}, for {}. One pair has no interval, and more images have ends further apart.",
            told, row.here.said,
        )  # fmt: skip
    return words(
        {
            0: "no significant difference: the published figure lies within the interval here.",
            1: "higher here, by more than the choice of images explains.",
            -1: "lower here, by more than the choice of images explains.",
        }[row.side]
    )


def _bars(
    figures: Figures, rows: Sequence[PublishedFigure]
) -> list[tuple[str, str, PublishedFigure]]:
    """(name, what was to be reached, the best of the rows)."""
    known = [row for row in rows if row.here is not None]
    if not known:
        return []
    best = max(known, key=lambda row: row.here.value if row.here else 0.0)
    return [(name, bar, best) for name, bar in figures.bars.items()]


def _reached(bar: str, best: PublishedFigure) -> Markup:
    here = best.here
    assert here is not None
    low, high = here.ends
    wanted = float(bar)
    unsure = "; other images might have told otherwise."
    if here.value >= wanted:
        ending = ", with its whole interval." if low >= wanted else unsure
        return words("reached by “{}”" + ending, best.name)
    return words("missed, also by the best of these, “{}”" + ("." if high < wanted else unsure),
                 best.name)  # fmt: skip


def _less(here: Here, published: str, less: Show) -> Number:
    difference = here.value - float(published)
    return here.source.counted(less, difference, f"{here.figure.source} less {published}")


def _published(text: str, figures: Figures) -> str:
    if figures.shown != "share":
        return text
    digits = max(0, len(text.partition(".")[2]) - 2)
    return percent(float(text), digits)


def _experiment(
    study: Study, figures: Figures, rows: Sequence[PublishedFigure], runs: RunSet
) -> list[Paragraph]:
    """What was done otherwise than in the study, and what alike."""
    if not any(row.here for row in rows):
        return []
    told = [one for one in _conditions(study, runs, figures.depends) if one.here is not None]
    other = [
        words("{} ({}, not {})", one.name, one.here, _value(one.published))
        for one in told
        if not one.is_same
    ]
    alike = [one.name for one in told if one.is_same]
    said = Markup()
    if other:
        said += words("Otherwise than published: {}.", joined(other))
    if alike:
        said += words(" As published: {}.", joined([words("{}", name) for name in alike]))
    return [Paragraph(said)] if said else []


def _conditions(study: Study, runs: RunSet, names: Sequence[str]) -> list[ComparedCondition]:
    return [_told(name, study.conditions[name], runs) for name in names]


def _told(name: str, condition: Condition, runs: RunSet) -> ComparedCondition:
    source = _source(condition.run, runs)
    keys = None if source is None else _keys(source, condition.file, condition.at)
    if source is None or keys is None:
        return ComparedCondition(name, condition.published, None, False)
    figure = source.figure(_value, *keys, file=condition.file)
    alike = [condition.published, *condition.same]
    return ComparedCondition(name, condition.published, figure, figure.value in alike)


def _side_by_side(told: Sequence[ComparedCondition]) -> Table:
    rows = [
        [one.name, _value(one.published), one.here,
         None if one.here is None else "yes" if one.is_same else "no"]
        for one in told
    ]  # fmt: skip
    columns = [*map(Column, ("of the experiment", "published", "here"))]
    columns.append(Column("the same", wide=True))
    return Table("published-conditions", "Both experiments", columns, rows)


def _value(value: Any) -> str:
    return count(value) if type(value) is int else plain(value)
