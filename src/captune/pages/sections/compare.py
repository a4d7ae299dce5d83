"""What the page says of a comparison of two sets of captions: which is better, and how surely."""

from __future__ import annotations

from functools import partial
from typing import Any

from markupsafe import Markup

from captune.pages.blocks import Card, Cards, Fold, Line, Paragraph, Points, Section, Tiles
from captune.pages.sections import PageContext
from captune.pages.sources import RunSource, words
from captune.runs.evaluation import CompareMetrics
from captune.tables import Column, Table, difference, numbers
from captune.text import count, one_line, p_value, plain, score, signed
from captune_metrics.catalogue import leading, title_of

_REFERENCES = 5


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
    rows = []
    for id, found in source.run.typed_metrics(CompareMetrics).metrics.items():
        place = ("metrics", id)
        shown, with_sign = (partial(show, digits=found.digits) for show in (score, signed))
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
    titles = ("A", "B", "B − A", "p (Holm)", "d_z", "B / A / equal")
    columns = [Column("metric", wide=True), *numbers(*titles)]
    note = (
        "With each number its 95 % interval, from resampling images with both captions together."
        " p: permutation test (A and B swapped at random per image), Holm-corrected for the number"
        " of metrics: below 0.05 the difference is unlikely to be chance. d_z: mean difference"
        " divided by its standard deviation; BLEU has none, because it is no mean over images, nor"
        " has a metric by which no image differs. B / A / equal: images that score higher in B, in"
        " A, and the same in both."
    )
    return Table(f"comparison-{source.number}", "A and B", columns, rows, note=note)


def _cards(source: RunSource, id: str, side: str, context: PageContext) -> list[Card]:
    place = ("differences", id, f"{side}_better")
    cards = []
    for i, item in enumerate(source.at(*place)[: context.settings.top]):
        lines = [
            Line(
                which.upper(),
                one_line(str(item[which]["caption"])) or "(empty caption)",
                [(title_of(id), source.figure(score, *place, i, which, "score"))],
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
