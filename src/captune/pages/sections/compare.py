"""What the page says of captions compared, two sets or several: which is better, how surely."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import PurePath
from typing import Any

from markupsafe import Markup

from captune.captions.file import CAPTION_ENDINGS
from captune.pages.blocks import Card, Cards, Fold, Line, Paragraph, Points, Section, Tiles
from captune.pages.sections import KindSection, PageContext, score_strips, score_tile
from captune.pages.sources import RunSource, words
from captune.runs.evaluation import CaptionersMetrics, CompareMetrics
from captune.runs.metrics import AgainstBest
from captune.statistics import is_settled
from captune.tables import Column, Estimate, Table, difference, numbers
from captune.text import count, decimal, one_line, p_value, plain, short_names, signed
from captune_metrics.catalogue import leading, title_of

_REFERENCES = 5
_TILES = 4  # of captioners


def answer(source: RunSource) -> tuple[Any, Tiles | None]:
    """The first lines of the page: the sentences that captune compare came to."""
    verdicts = source.at("verdicts")
    first = next(iter(leading(list(verdicts)) or verdicts))
    return _sides(source) + words(" {}.", source.figure(plain, "verdicts", first)), None


def _sides(source: RunSource) -> Markup:
    return words(
        "A is {}, B is {}, compared on {} images.",
        str(source.at("a")), str(source.at("b")), source.images_told,
    )  # fmt: skip


def section(source: RunSource, context: PageContext) -> Section:
    """All that the page says of one comparison."""
    part = Section(f"compare-{source.number}", "Comparison", source.name)
    metrics = leading(list(source.at("metrics"))) or list(source.at("metrics"))
    told = [words("{}.", source.figure(plain, "verdict", i))
            for i, text in enumerate(source.at("verdict"))
            if str(text).partition(":")[0] not in ("BLEU-1", "BLEU-2", "BLEU-3")]  # fmt: skip
    part.blocks += [Paragraph(_sides(source), soft=True), Points(told), _table(source)]
    for n, id in enumerate(metrics):
        cards = [
            Cards(f"{side.upper()} furthest ahead by {title_of(id)}", shown)
            for side in ("b", "a")
            if (shown := _cards(source, id, side, context))
        ]
        if cards:
            fold = Fold(f"Images that differ most by {title_of(id)}", cards)
            part.blocks += cards if n == 0 else [fold]
    return part


def tables(source: RunSource) -> list[Table]:
    """A and B by each metric."""
    return [_table(source)]


def _table(source: RunSource) -> Table:
    metrics = source.run.typed_metrics(CompareMetrics)
    names = short_names([PurePath(metrics.a), PurePath(metrics.b)], CAPTION_ENDINGS)
    a, b = (f"{one_line(name)} ({side})" for name, side in zip(names, "AB", strict=True))
    rows = []
    for id, found in metrics.metrics.items():
        place = ("metrics", id)
        shown, with_sign = (partial(show, digits=found.digits) for show in (decimal, signed))
        gain = source.figure(with_sign, *place, "difference")
        images = (source.figure(count, *place, "images", side)
                  for side in ("b_better", "a_better", "equal"))  # fmt: skip
        rows.append(
            [
                title_of(id),
                source.estimate(shown, *place, "a"),
                source.estimate(shown, *place, "b"),
                difference(gain, source.interval(with_sign, *place, "interval")),
                source.known(p_value, *place, "p_holm"),
                source.known(partial(signed, digits=2), *place, "effect_size"),
                words("{} / {} / {}", *images),
            ]
        )
    titles = (a, b, "B − A", "p (Holm)", "d_z", "B / A / equal")
    columns = [Column("metric", wide=True), *numbers(*titles)]
    note = (
        "With each number its 95 % interval, from resampling images with both captions together."
        " p: permutation test (A and B swapped at random per image), Holm-corrected for the number"
        " of metrics: below 0.05 the difference is unlikely to be chance. d_z: mean difference"
        " divided by its standard deviation; BLEU has none, because it is no mean over images, nor"
        " has a metric by which no image differs. B / A / equal: images that score higher in B, in"
        " A, and the same in both."
    )
    return Table(f"comparison-{source.number}", f"{a} and {b}", columns, rows, note=note)


def _cards(source: RunSource, id: str, side: str, context: PageContext) -> list[Card]:
    place = ("differences", id, f"{side}_better")
    cards = []
    for i, item in enumerate(source.at(*place)[: context.settings.top]):
        lines = [
            Line(
                which.upper(),
                one_line(str(item[which]["caption"])) or "(empty caption)",
                [(title_of(id), source.figure(decimal, *place, i, which, "score"))],
            )
            for which in ("a", "b")
        ]
        cards.append(
            Card(
                name=one_line(str(item["path"] or item["image"])),
                picture=context.album.picture(source.run, item["path"]),
                above=source.figure(signed, *place, i, "difference"),
                below="B − A",
                lines=lines,
                references=[one_line(str(text)) for text in item["references"][:_REFERENCES]],
            )
        )
    return cards


def _answer_of_several(source: RunSource) -> tuple[Any, Tiles | None]:
    """The first lines of the page: who is best, and how surely."""
    metrics = source.run.typed_metrics(CaptionersMetrics)
    said = Markup(" ").join(
        words("{}.", source.figure(plain, "verdict", i)) for i in range(len(metrics.verdict))
    )
    by = _by(metrics)
    if by is None:
        return said, None
    tiles = [
        score_tile(source, by, one_line(name), metrics.names[by], "captioners", name, "scores", by)
        for name in list(metrics.captioners)[:_TILES]
    ]
    return said, Tiles(tiles)


def _section_of_several(source: RunSource, _context: PageContext) -> Section:
    """All side by side; the captions of each image are shown with all captions of the page."""
    part = Section(f"captioners-{source.number}", "Side by side", source.name)
    said = words("Compared on {} images", source.figure(count, "images"))
    if source.at("best") is not None:
        said += words(", of which {} have scores", source.figure(count, "scored"))
    part.blocks += [Paragraph(words("{}.", said), soft=True), *_tables_of_several(source)]
    return part


def _tables_of_several(source: RunSource) -> list[Table]:
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
    lines, has_mark = {}, False
    if by is not None:
        known = {name: one.scores[by] for name, one in metrics.captioners.items()}
        against = {name: one[by] for name, one in metrics.against_best.items() if by in one}
        worse = [name for name, one in against.items() if _is_settled(one)]
        scored = {name: (one.corpus, one.interval) for name, one in known.items()}
        lines = score_strips(scored, metrics.best or "", worse)
    rows = []
    for name, one in metrics.captioners.items():
        place = ("captioners", name)
        differ = {
            id for id, found in metrics.against_best.get(name, {}).items() if _is_settled(found)
        }
        has_mark |= not differ.isdisjoint(ids)
        scores: list[Any] = [
            replace(
                source.estimate(decimal, *place, "scores", id), mark="†" if id in differ else ""
            )
            for id in ids
        ]
        first = [scores[0], lines[name]] if scores else []
        if one.ended is not None:
            first += [
                source.figure("{:.3g}/s".format, *place, "images_per_second"),
                source.figure(lambda n: f"{n / 1e9:.2f} GB", *place, "peak_bytes"),
                source.counted(count, one.images - one.ended, f"{name}: images less ended"),
            ]
        mean = source.figure("{:.1f}".format, *place, "words_mean")
        rows.append([name, *first, *scores[1:], mean])
    columns, note = [Column("captions")], []
    if by is not None:
        columns += [*numbers(title_of(by)), Column("", wide=True)]
        recipes = "; ".join(metrics.names[id] for id in ids)
        note.append(f"With each score its 95 % interval, by resampling images. Recipes: {recipes}.")
    if has_mark:
        note.append(
            f"†: significantly different from {metrics.best}, the best by {title_of(by or '')}"
            " (p < 0.05 by a permutation test, Holm-corrected, and 0 outside the 95 % interval of"
            " the difference)."
        )
    if not are_files:
        columns += numbers("speed", "memory", "cut off")
        note.append(
            "Speed and memory are of this run on its machine: images per second, without the time"
            " to load, and the most that was held, of a GPU or by the whole process. Cut off:"
            " captions that reached --max-tokens."
        )
    columns += numbers(*map(title_of, ids[1:]), "words")
    marked = frozenset(i for i, name in enumerate(metrics.captioners) if name == metrics.best)
    name, said = f"captioners-{source.number}", one_line(" ".join(note))
    return Table(name, "Captions side by side", columns, rows, marked, said)


def _is_settled(found: AgainstBest) -> bool:
    return is_settled(found.p_holm, found.interval)


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


captioners = KindSection(_section_of_several, _answer_of_several, _tables_of_several)
