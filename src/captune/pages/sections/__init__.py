"""What a page says of a run: a module for each kind, or a `KindSection` in that of another.

Each has three functions:
`section(source, context)` is the part of the page about a run, or None where another part tells it;
`answer(source)` is a sentence for the top of the page, and its headline numbers or None;
`tables(source)` are the tables of the run, for a terminal, a notebook and files.

Here is what several share: how far to believe a confidence, a chance that people agree, a choice
among candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from captune.pages import charts
from captune.pages.blocks import Beside, Chart, Fold, Paragraph, Section, Tile, Tiles
from captune.pages.sources import PageSettings, RunSet, RunSource, words
from captune.pages.thumbnails import Album
from captune.runs.kinds import KINDS
from captune.runs.metrics import RERANK_DF
from captune.tables import Column, Fraction, Table, numbers
from captune.text import count, decimal, one_line, percent, plain, signed
from captune_metrics.catalogue import meaning_of, title_of

if TYPE_CHECKING:
    from captune.pages.sections.caption_sources import CaptionSources

_LITTLE = 0.9  # of a squared error, for which a gain is called a little


@dataclass(frozen=True)
class PageContext:
    """What a section may need beside its run: all runs of the page, its images, its settings."""

    runs: RunSet
    album: Album
    settings: PageSettings

    @cached_property
    def captions(self) -> CaptionSources:
        """The captions of all runs."""
        from captune.pages.sections.caption_sources import CaptionSources

        return CaptionSources(self.runs)


def read_before(texts: Iterable[str]) -> dict[str, str]:
    """What captioners read of an image before its caption, as an item of a gallery has it."""
    read = "; ".join(filter(None, dict.fromkeys(texts)))
    return {"read": one_line(read)} if read else {}


@dataclass(frozen=True)
class KindSection:
    """What modules of this package have as functions (see its docstring)."""

    section: Callable[[RunSource, PageContext], Section | None]
    answer: Callable[[RunSource], tuple[Any, Tiles | None]]
    tables: Callable[[RunSource], list[Table]]


def shard_blocks(source: RunSource) -> list[Any]:
    """How much of a job on shards is done, and what failed; nothing of another run."""
    if source.run.metrics.get("sharded") is None:
        return []

    def figure(name: str) -> Any:
        return source.figure(count, "sharded", name)

    is_sample = sum(1 for _ in source.run.records()) < source.at("images")
    said = words("The images here are a sample. " if is_sample else "")
    said += words(
        "{} of {} shards are done, in {}: {} images, {} of them without an answer.",
        figure("shards"), figure("shards_of"), source.at("sharded", "place"),
        figure("rows"), figure("errors"),
    )  # fmt: skip
    rows = [
        [one_line(reason), source.figure(count, "sharded", "reasons", reason)]
        for reason in source.at("sharded").get("reasons", {})
    ]
    columns = [Column("no answer because", wide=True), *numbers("images")]
    table = [Table(f"errors-{source.number}", "Images without an answer", columns, rows)]
    return [Paragraph(said), *(table if rows else [])]


def section_of(kind: str) -> KindSection:
    """What says what a page says of runs of this kind."""
    module, _, name = KINDS[kind].section.partition(":")
    found = import_module(module)
    return cast("KindSection", getattr(found, name) if name else found)


def score_tile(source: RunSource, id: str, whose: str, recipe: str, *keys: str | int) -> Tile:
    """A score as a headline number. keys: to what has its `corpus` and its `interval`."""
    return Tile(
        f"{title_of(id)}, {whose}",
        source.figure(decimal, *keys, "corpus"),
        source.interval(decimal, *keys, "interval"),
        meaning_of(id),
        one_line(recipe),
    )


def score_strips(
    scores: Mapping[str, tuple[float, Sequence[float] | None]], best: str, worse: Collection[str]
) -> dict[str, Fraction]:
    """Scores with their intervals, by name, each on the same line from zero."""
    ends = [end for score, interval in scores.values() for end in interval or [score]]
    line = min(0.0, *ends), max(ends)
    return {
        name: Fraction.between(*line, *score, best=name == best, worse=name in worse)
        for name, score in scores.items()
    }


def reliability_block(
    bins: list[dict[str, Any]],
    says: str,
    names: tuple[str, str] = ("confidence", "right"),
    told: tuple[str, str, str] = (
        "right, as often as claimed",
        "claimed, but wrong",
        "right, but not claimed",
    ),
) -> Chart:
    """A reliability diagram with its key. names: of its axes. told: what the colours say."""
    key = list(zip(("bar", "over", "under"), told, strict=True))
    return Chart(charts.reliability_chart(bins, says, *names), key=key)


def _found(source: RunSource, keys: Sequence[str | int]) -> Any:
    """What these keys of metrics.json lead to; an empty object where that is nothing."""
    found: Any = source.run.metrics
    for key in keys:
        found = (found[key] if isinstance(key, int) else found.get(key)) or {}
    return found


def chosen_blocks(source: RunSource, *keys: str | int) -> list[Any]:
    """What choosing among candidates gave; keys: to a Reranking, or nothing."""
    fitted = _found(source, keys)
    if not fitted.get("figures"):
        return []
    at = (*keys, "figures")
    ends = source.interval(signed, *at, "interval")
    assert ends is not None
    said = words(
        "Each caption is chosen among {} (by {}). On {} validation images, with weights that were"
        " fitted on others of them, the chosen captions have CIDEr-D {} where the likeliest have {}"
        " (95 % {} to {}), and BLEU-4 {} where those have {}. The best candidate of each image"
        " would give CIDEr-D {}. Its document frequencies are those of {}, not of these images.",
        source.figure(count, *keys, "candidates"), source.figure(plain, *keys, "evidence"),
        source.figure(count, *at, "images"), source.figure(decimal, *at, "chosen"),
        source.figure(decimal, *at, "first"), *ends,
        source.figure(decimal, *at, "bleu_4_chosen"), source.figure(decimal, *at, "bleu_4_first"),
        source.figure(decimal, *at, "best"), RERANK_DF,
    )  # fmt: skip
    return [Fold("Chosen among candidates", [Paragraph(said)])]


def agreement_blocks(source: RunSource, *keys: str | int) -> list[Any]:
    """How far to believe the chance that people agree; keys: to a PeopleAgreement, or nothing."""
    fitted = _found(source, keys)
    if not fitted:
        return []
    measured = (*keys, "reliability")
    said = words(
        "People agree with a caption that is at least as close to what others wrote of the image as"
        " the caption of a typical person is (CIDEr-D, each person against the others). That is so"
        " for {} of this captioner's captions of {} validation images (beam {}).",
        source.figure(percent, *measured, "accuracy"), source.figure(count, *measured, "images"),
        source.figure(count, *keys, "beam"),
    )  # fmt: skip
    ends = source.interval(percent, *keys, "ece_interval")
    assert ends is not None
    believed = words(
        "Of a hundred captions with a chance of 60 %, people agree with about 60: on images that"
        " the chance was not fitted on it is off by {} on average ({} to {}; luck alone would give"
        " {}). Its squared error is {} on average; of one chance for all captions it is {}",
        source.figure(percent, *measured, "ece"), *ends,
        source.figure(percent, *measured, "ece_floor"),
        source.figure(decimal, *keys, "brier"), source.figure(decimal, *keys, "brier_of_rate"),
    )  # fmt: skip
    brier, most = fitted["brier"], fitted["brier_of_rate"]
    tells = "tells captions apart" if brier < most else "does not tell captions apart"
    believed += words(", so it {}{}.", tells, " a little" if _LITTLE * most < brier < most else "")
    bins = fitted["reliability"]["bins"]
    drawn = reliability_block(
        bins,
        "Reliability diagram: how often people agree in each of 15 bins of the chance",
        ("chance", "agreed"),
        ("agreed, as often as the chance says", "chance too high", "chance too low"),
    )
    rows = [
        [source.figure(percent, *measured, "bins", i, key) for key in ("confidence", "accuracy")]
        + [source.figure(count, *measured, "bins", i, "count")]
        for i in range(len(bins))
    ]
    columns = numbers("chance", "people agree", "captions")
    name = "-".join(map(str, (f"agreement-{source.number}", *keys)))
    table = Table(name, "Captions by their chance", columns, rows)
    blocks = [Paragraph(said), Paragraph(believed), Beside([drawn, table], natural=True)]
    return [Fold("Would people agree with the captions?", blocks)]
