"""What the page says of a leaderboard of maps: which of them are faithful."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from captune.pages.blocks import Heading, Paragraph, Points, Section, Tiles
from captune.pages.sections import PageContext
from captune.pages.sections.explain import described
from captune.pages.sources import RunSource, words
from captune.runs.evaluation import FaithfulMetrics
from captune.tables import Column, Estimate, Table, numbers
from captune.text import count, one_line, percent, plain, score, signed

_MEASURES = (
    ("insertion", score),
    ("deletion", score),
    ("comprehensiveness", score),
    ("sufficiency", score),
    ("pointing", percent),
    ("pointing_centre", percent),
    ("overlap", score),
)


def answer(source: RunSource) -> tuple[Any, Tiles | None]:
    """The first lines of the page about a leaderboard: the sentences that it came to."""
    sentences = source.at("sentences")
    said = words("")
    for i in range(min(2, len(sentences))):
        said += words("{} ", source.figure(_sentence, "sentences", i))
    return said, None


def _sentence(value: Any) -> str:
    text = plain(value)
    return text if text.endswith(".") else f"{text}."


def section(source: RunSource, _context: PageContext) -> Section:
    """One run of captune faithful: which maps are faithful."""
    part = Section(f"faithful-{source.number}", "Are the maps faithful?", run=source.name)
    stages = source.run.typed_metrics(FaithfulMetrics).stages
    if stages.choosing is not None and source.at("images") > source.images:
        counts = (source.figure(count, "stages", name) for name in ("choosing", "reporting"))
        said = words(
            "Images that chose the default map: {}; other images, which the figures are of: {}.",
            *counts,
        )
        part.blocks.append(Paragraph(said, soft=True))
    for i, report in enumerate(source.at("reports")):
        title = str(report["title"])
        part.blocks.append(Heading(f"{title[:1].upper()}{title[1:]}"))
        part.blocks += [_sentences(source, "reports", i), _board(source, i, report)]
        verdicts = _verdicts(source, i, report)
        if verdicts.rows:
            part.blocks.append(verdicts)
    if source.at("sanity", "sentences"):
        part.blocks += [Heading("Checks of the map itself"), _sentences(source, "sanity")]
    return part


def _sentences(source: RunSource, *keys: str | int) -> Points:
    places = range(len(source.at(*keys, "sentences")))
    told = [source.figure(_sentence, *keys, "sentences", i) for i in places]
    return Points([words("{}", one) for one in told])


def tables(source: RunSource) -> list[Table]:
    """The leaderboards."""
    reports = enumerate(source.at("reports"))
    return [_board(source, number, report) for number, report in reports]


def _board(source: RunSource, report: int, content: Mapping[str, Any]) -> Table:
    rows = []
    known = [
        (name, show)
        for name, show in _MEASURES
        if any(row.get(name) is not None for row in content["rows"])
    ]
    default = source.at("default")
    for i, row in enumerate(content["rows"]):
        is_default = all(row[key] == default[key] for key in ("method", "layer", "head"))
        cells: list[Any] = [one_line(described(row)) + "*" * is_default]
        for name, show in known:
            place = ("reports", report, "rows", i, name)
            cells.append(None if row.get(name) is None else _estimate(source, show, place, row))
        cells.append(source.figure(count, "reports", report, "rows", i, "words"))
        advantage = None
        if row.get("advantage") is not None:
            advantage = source.figure(signed, "reports", report, "rows", i, "advantage")
        cells.append(advantage)
        rows.append(cells)
    titles = [name.replace("pointing_centre", "centre") for name, _ in known]
    columns = [Column("map"), *numbers(*titles, "words", "advantage")]
    note = (
        "*: the default map, chosen on other images where there were others. insertion: higher is"
        " better; deletion: lower is better; comprehensiveness: what is lost without the map's"
        " strongest tenth, higher is better; sufficiency: what is lost with that tenth alone, lower"
        " is better; pointing: how often the strongest patch lies in a box that people drew;"
        " centre: how often the centre of the image does; overlap: of map and boxes, higher is"
        " better; advantage: insertion and deletion above random maps plus pointing above the"
        " centre; the map with the highest was chosen. random and centre are the controls. With"
        " each figure its 95 % interval over images."
    )
    title = f"Leaderboard: {content['title']}"
    if content.get("measured_on"):
        title += f" ({content['measured_on']})"
    return Table(
        f"leaderboard-{source.number}-{report + 1}", one_line(title), columns, rows, note=note
    )


def _estimate(
    source: RunSource, show: Any, place: tuple[Any, ...], row: Mapping[str, Any]
) -> Estimate:
    """A figure whose interval stands beside it as NAME_interval."""
    name = f"{place[-1]}_interval"
    ends = None if row.get(name) is None else source.interval(show, *place[:-1], name)
    return Estimate(source.figure(show, *place), ends)


def _verdicts(source: RunSource, report: int, content: Mapping[str, Any]) -> Table:
    rows = []
    for i, verdict in enumerate(content["verdicts"]):
        place = ("reports", report, "verdicts", i)
        rows.append(
            [
                one_line(str(verdict["part"])),
                source.figure(count, *place, "words"),
                source.figure(plain, *place, "answer"),
            ]
        )
    columns = [Column("part of speech"), *numbers("words"), Column("than random maps")]
    name = f"verdicts-{source.number}-{report + 1}"
    return Table(name, "Faithfulness by part of speech", columns, rows)
