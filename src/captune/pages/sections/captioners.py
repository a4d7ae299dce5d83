"""What the page says of several captioners, or files of captions: scores, speed and memory."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from captune.pages.blocks import Paragraph, Section, Tile, Tiles
from captune.pages.sections import PageContext
from captune.pages.sources import RunSource, words
from captune.runs.evaluation import CaptionersMetrics
from captune.statistics import is_settled
from captune.tables import Column, Estimate, Fraction, Table, difference, numbers
from captune.text import count, one_line, p_value, plain, score, signed
from captune_metrics.catalogue import leading, meaning_of, title_of

_TILES = 4


def answer(source: RunSource) -> tuple[Any, Tiles | None]:
    """The first lines of the page: who is best, and how surely."""
    metrics = source.run.typed_metrics(CaptionersMetrics)
    said = Markup(" ").join(
        words("{}.", source.figure(plain, "verdict", i)) for i in range(len(metrics.verdict))
    )
    by = _by(metrics)
    if by is None:
        return said, None
    tiles = [
        Tile(
            f"{title_of(by)}, {one_line(name)}",
            source.figure(score, "captioners", name, "scores", by, "corpus"),
            source.interval(score, "captioners", name, "scores", by, "interval"),
            meaning_of(by),
            one_line(metrics.names[by]),
        )
        for name in list(metrics.captioners)[:_TILES]
    ]
    return said, Tiles(tiles)


def section(source: RunSource, _context: PageContext) -> Section:
    """All side by side; the captions of each image are shown with all captions of the page."""
    part = Section(f"captioners-{source.number}", "Side by side", source.name)
    said = words("Compared on {} images", source.figure(count, "images"))
    if source.at("best") is not None:
        said += words(", of which {} have scores", source.figure(count, "scored"))
    part.blocks += [Paragraph(words("{}.", said), soft=True), *tables(source)]
    return part


def tables(source: RunSource) -> list[Table]:
    """What each comes to, and the others against the best one."""
    metrics = source.run.typed_metrics(CaptionersMetrics)
    return [_captioners(source, metrics), *_against_best(source, metrics)]


def _by(metrics: CaptionersMetrics) -> str | None:
    """The score that captioners are ordered by."""
    known = list(metrics.names)
    return next(iter(leading(known) or known), None)


def _captioners(source: RunSource, metrics: CaptionersMetrics) -> Table:
    by = _by(metrics)
    ids = [] if by is None else list(dict.fromkeys([by, *leading(list(metrics.names))]))
    # of files nobody knows more than their words
    are_files = all(one.ended is None for one in metrics.captioners.values())
    rows = []
    for name, one in metrics.captioners.items():
        place = ("captioners", name)
        scores: list[Any] = [source.estimate(score, *place, "scores", id) for id in ids]
        if by is not None:
            scores.insert(1, _strip(metrics, name, by))
        if one.ended is not None:
            scores[2:2] = [
                source.figure(_rate, *place, "images_per_second"),
                source.figure(_gigabytes, *place, "peak_bytes"),
                source.counted(count, one.images - one.ended, f"{name}: images less ended"),
            ]
        words_each = source.figure(lambda n: f"{n:.1f}", *place, "words_mean")
        rows.append([name, *scores, words_each])
    columns = numbers(*map(title_of, ids))
    note = []
    if by is not None:
        columns.insert(1, Column("", wide=True))
        recipes = "; ".join(metrics.names[id] for id in ids)
        note.append(f"With each score its 95 % interval, by resampling images. Recipes: {recipes}.")
    if not are_files:
        columns[2:2] = numbers("speed", "memory", "cut off")
        note.append(
            "Speed and memory are of this run on its machine: images per second, without the time"
            " to load, and the most that was held, of a GPU or by the whole process. Cut off:"
            " captions that reached --max-tokens."
        )
    columns = [Column("captions"), *columns, *numbers("words")]
    marked = frozenset(i for i, name in enumerate(metrics.captioners) if name == metrics.best)
    name, said = f"captioners-{source.number}", one_line(" ".join(note))
    return Table(name, "Captions side by side", columns, rows, marked, said)


def _strip(metrics: CaptionersMetrics, name: str, by: str) -> Fraction:
    """The score with its interval, on a line that all of them share."""
    figures = [one.scores[by] for one in metrics.captioners.values()]
    ends = [end for one in figures for end in one.interval or [one.corpus]]
    own, against = metrics.captioners[name].scores[by], metrics.against_best.get(name, {}).get(by)
    worse = against is not None and is_settled(against.p_holm, against.interval)
    return Fraction.between(
        min(0.0, *ends), max(ends), own.corpus, own.interval,
        best=name == metrics.best, worse=worse,
    )  # fmt: skip


def _against_best(source: RunSource, metrics: CaptionersMetrics) -> list[Table]:
    rows = []
    for name, one in metrics.against_best.items():
        for id in one:
            place = ("against_best", name, id)
            gain = source.figure(signed, *place, "difference")
            cell: Estimate = difference(gain, source.interval(signed, *place, "interval"))
            rows.append([name, title_of(id), cell, source.figure(p_value, *place, "p_holm")])
    if not rows:
        return []
    columns = [Column("captions", wide=True), Column("score"), *numbers("difference", "p (Holm)")]
    note = (
        "With each difference its 95 % interval, from resampling images with both captions"
        " together. p: permutation test, Holm-corrected for all rows: below 0.05 the difference is"
        " unlikely to be chance."
    )
    title = f"The others less the best, {one_line(str(metrics.best))}"
    return [Table(f"against-best-{source.number}", title, columns, rows, note=note)]


def _rate(value: float) -> str:
    return f"{value:.3g}/s"


def _gigabytes(value: int) -> str:
    return f"{value / 1e9:.2f} GB"
