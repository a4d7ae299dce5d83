"""The page of `captune rank`: best and worst pairs of a score run, with a figure and a CSV."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median as median_of
from typing import Any

from markupsafe import Markup
from PIL.Image import Resampling

from captune.files import check_writable
from captune.images import Skipped, UnreadableImage, open_image
from captune.pages import charts
from captune.pages.blocks import (
    Bar,
    Card,
    Cards,
    Chart,
    Code,
    Gallery,
    Line,
    Paragraph,
    Remarks,
    Section,
)
from captune.pages.page import Page, write_page
from captune.pages.sections import PageContext, maps
from captune.pages.sections.caption_sources import caption_text
from captune.pages.sources import PageSettings, RunSet, RunSource, read_runs, words
from captune.pages.thumbnails import HIDDEN, Album, Picture
from captune.plots import PairPanel, pairs_figure, save_figure
from captune.scoring.rank import Pair, Ranking, Standing, Tie, write_table
from captune.tables import Column, Number, Table, numbers
from captune.text import count, counted, decimal, one_line, plain
from captune_metrics.display import shorten

_DRAWN = 20  # pairs at either end of the figure; the page shows all that were asked for
_KEPT_PX = (1056, 640)  # of an image in the figure that is drawn alone, or among others
_REFERENCES = 10
_NAMED = 20  # images that are not shown, by name
_ENDS = {"best": "good", "worst": "bad", "only": ""}


def write_gallery(
    ranking: Ranking,
    folder: Path,
    *,
    command: Sequence[str] = (),
    raw_csv: bool = False,
    explained: Path | None = None,
) -> tuple[dict[str, Path], list[Skipped]]:
    """Write rank-METRIC.html, .png, .svg and .csv into `folder`; only images shown are opened.

    command: the words that asked for it. raw_csv: cells that a spreadsheet would run as formulas
    stay as they are. explained: a run of captune explain with the pairs' maps. Returns what was
    written where, and the images that could not be shown. Raises UserError where a file cannot be
    written.
    """
    path, table, drawing, vectors = (
        folder / (stem_of(ranking) + ending) for ending in (".html", ".csv", ".png", ".svg")
    )
    for place in (path, table, drawing, vectors):
        check_writable(place)
    write_table(ranking, table, raw=raw_csv)
    album = Album()
    pictures = _pictures(ranking, album)
    runs = read_runs([ranking.run.folder, *([] if explained is None else [explained])])
    source = runs.sources[0]
    sections = _sections(ranking, source, pictures)
    if explained is not None:
        sections.append(_maps(ranking, runs, album))
    sections.append(_again(ranking, command))
    album.encode()
    skipped = [Skipped(one.name, one.missing) for one in pictures.values() if one.missing]
    page = Page(
        title=_title(ranking),
        runs=runs,
        answers=[(_answer(ranking, source, table.name), None)],
        sections=sections,
        album=album,
        settings=PageSettings(),
        made_by="rank",
    )
    remarks = [*map(one_line, ranking.remarks()), *_not_shown(skipped)]
    if remarks:
        sections[0].blocks.insert(0, Remarks(remarks))
    write_page(page, path)
    figure = pairs_of(ranking)
    for place in (drawing, vectors):
        save_figure(figure, place)
    return {"page": path, "figure": drawing, "svg": vectors, "table": table}, skipped


def stem_of(ranking: Ranking) -> str:
    """What the files of a gallery are called, without their endings."""
    return "rank-" + re.sub(r"[^\w.-]+", "-", ranking.by)


def _ends(ranking: Ranking) -> list[tuple[str, list[Pair]]]:
    """The ends by name; a single image is only one of them."""
    if len(ranking.pairs) == 1:
        return [("only", ranking.best)]
    return [("best", ranking.best), ("worst", ranking.worst)]


def _title(ranking: Ranking) -> str:
    label = ranking.label(ranking.by)
    if len(ranking.pairs) == 1:
        return f"The only caption of the run by {label}"
    return f"The best and the worst of {len(ranking.pairs):,} captions by {label}"


def _answer(ranking: Ranking, source: RunSource, table: str) -> Any:
    place, metric = ("metrics", ranking.by), ranking.metrics[ranking.by]
    said = words("{}", one_line(metric.name or ranking.by))
    if metric.corpus is not None:
        images = source.counted(count, len(ranking.pairs), "images with this score")
        said += words(": {} over {} images", source.figure(decimal, *place, "corpus"), images)
        if metric.ends:
            ends = [source.figure(decimal, *place, "interval", end) for end in (0, 1)]
            said += words(", 95 % interval {} to {}", *ends)
    said += words(".")
    if len(ranking.pairs) > 1:
        said += words(
            " Sorted by the score of each image: higher is better, and equal scores are in the"
            " order of the image ids. {} beside this page has all {}, captions in full.",
            Markup('<a href="{0}">{0}</a>').format(table), f"{len(ranking.pairs):,}",
        )  # fmt: skip
    return said


def _pictures(ranking: Ranking, album: Album) -> dict[str, Picture]:
    """Image id -> its picture, for the images shown; none where no images are known."""
    if ranking.root is None:
        return {}
    return {
        pair.image: album.add(
            pair.path or pair.image,
            ranking.places.get(pair.image),
            "no image of it was found" if pair.path is None else HIDDEN,
        )
        for _, pairs in _ends(ranking)
        for pair in pairs
    }


def _not_shown(skipped: Sequence[Skipped]) -> list[Any]:
    told = [words("not shown: {} ({})", one.path, one.reason) for one in skipped[:_NAMED]]
    if len(skipped) > _NAMED:
        told.append(words("... and {} more that are not shown", f"{len(skipped) - _NAMED:,}"))
    return told


def _sections(
    ranking: Ranking, source: RunSource, pictures: Mapping[str, Picture]
) -> list[Section]:
    parts = []
    others = _others(ranking, source)
    spread = [block for block in (_distribution(ranking), others) if block is not None]
    if spread:
        parts.append(Section("scores", "Where the scores lie", blocks=spread))
    pairs = Section("pairs", "The pairs")
    if others is not None:
        pairs.blocks.append(
            Paragraph(
                "The bars are the fraction of the other images that score lower by that metric;"
                " orange: it puts the pair in the other half. Behind the score its place, 1 is the"
                " best.",
                soft=True,
            )
        )
    for end, shown in _ends(ranking):
        cards = [_card(ranking, source, end, pair, pictures.get(pair.image)) for pair in shown]
        pairs.blocks.append(Cards(_heading(end, len(shown)), cards))
    return [*parts, pairs]


def _maps(ranking: Ranking, runs: RunSet, album: Album) -> Section:
    """The words of the pairs with their maps, best first."""
    source = runs.sources[1]
    part = maps.section(source, PageContext(runs, album, PageSettings()))
    rank = {
        ranking.places[pair.image].resolve(): pair.rank
        for pair in ranking.pairs
        if pair.image in ranking.places
    }
    root = source.run.root
    ranks = [rank[(root / record["path"]).resolve()] for record in source.run.records()]
    best_first = (f"{ranking.label(ranking.by)}: best first", ranks, False)
    part.blocks = [
        replace(block, sorts=[best_first, *block.sorts[1:]])
        if isinstance(block, Gallery)
        else block
        for block in part.blocks
    ]
    return part


def _heading(end: str, pairs: int) -> str:
    if end == "only":
        return "The only pair"
    several = f"The {pairs} {end}" + (", worst first" if end == "worst" else "")
    return f"The {end}" if pairs == 1 else several


def _card(
    ranking: Ranking, source: RunSource, end: str, pair: Pair, picture: Picture | None
) -> Card:
    bars = []
    for metric in ranking.distributions:
        if metric == ranking.by or metric not in pair.scores:
            continue
        standing = ranking.standing(pair, metric)
        bars.append(
            Bar(
                one_line(ranking.label(metric)),
                _score(source, pair, metric),
                "wrong" if _is_against(end, standing) else "other",
                fraction=standing.fraction_below,
                note=place_text(standing),
            )
        )
    return Card(
        name=one_line(pair.path or pair.image),
        picture=picture,
        above=_score(source, pair, ranking.by),
        below=words("{} of {}", f"{pair.rank:,}", f"{len(ranking.pairs):,}"),
        lines=[Line("", caption_text(pair.caption))],
        bars=bars,
        references=[caption_text(text) for text in pair.references[:_REFERENCES]],
        more_references=max(0, len(pair.references) - _REFERENCES),
        tone="" if ranking.is_tied else _ENDS[end],
    )


def _score(source: RunSource, pair: Pair, metric: str) -> Number:
    return source.counted(decimal, pair.scores[metric], f"{metric} of {pair.image}")


def place_text(standing: Standing) -> str:
    """`12 of 79`, or `40–79 of 79` where the score is shared."""
    places = f"{standing.first:,}"
    if standing.last != standing.first:
        places += f"–{standing.last:,}"
    return f"{places} of {standing.images:,}"


def _is_against(end: str, standing: Standing) -> bool:
    """Does this score put a pair that is among the best into the lower half, or the reverse?"""
    if end == "best":
        return standing.fraction_below < 0.5
    return end == "worst" and standing.fraction_below > 0.5


def _others(ranking: Ranking, source: RunSource) -> Table | None:
    if len(ranking.pairs) == 1 or len(ranking.distributions) < 2:
        return None
    rows = []
    for metric, distribution in ranking.distributions.items():
        if metric == ranking.by:
            continue
        median = source.counted(decimal, distribution.median, f"median of {metric}")
        cells: list[Any] = [one_line(ranking.label(metric)), _agreement(ranking, metric), median]
        for end, pairs in _ends(ranking):
            scored = [pair for pair in pairs if metric in pair.scores]
            against = [_is_against(end, ranking.standing(pair, metric)) for pair in scored]
            how = f"median of {metric} of the {end} pairs"
            values = [pair.scores[metric] for pair in scored]
            cells.append(source.counted(decimal, median_of(values), how) if values else None)
            cells.append(f"{sum(against)} of {len(scored)}")
        rows.append(cells)
    columns = [Column("metric", wide=True), *numbers("Kendall's tau (95 %)", "median of all")]
    columns += numbers("of the best", "best in its lower half")
    columns += numbers("of the worst", "worst in its upper half")
    note = (
        f"Best and worst are those of {one_line(ranking.label(ranking.by))}, shown below. Where a"
        " metric puts many of them in the other half, the two measure different things, and"
        " looking at the images says which to believe."
    )
    if any(row[1] is not None for row in rows):
        note += (
            " Kendall's tau is over all images: 1 where both metrics put them in the same order, 0"
            " where their orders have nothing in common."
        )
    else:
        del columns[1]
        rows = [[row[0], *row[2:]] for row in rows]
    return Table("other-metrics", "What the other metrics say of them", columns, rows, note=note)


def _agreement(ranking: Ranking, metric: str) -> str | None:
    found = ranking.agreement(metric)
    if found is None or found.tau is None:
        return None
    spread = " ({} to {})".format(*(decimal(one, 2) for one in found.ends)) if found.ends else ""
    return f"{decimal(found.tau, 2)}{spread}"


def _distribution(ranking: Ranking) -> Chart | None:
    """Bars of equal width over all scores; None where all are equal."""
    distribution = ranking.distributions[ranking.by]
    low, high = distribution.scores[0], distribution.scores[-1]
    if high - low < 1e-9:
        return None
    label = one_line(ranking.label(ranking.by))
    svg, tallest, is_cut = charts.distribution_chart(
        distribution.scores,
        median=distribution.median,
        best=[ranking.score(pair) for pair in ranking.best],
        worst=[ranking.score(pair) for pair in ranking.worst],
        says=f"Distribution of {label} over all images, from {decimal(low)} to {decimal(high)},"
        f" median {decimal(distribution.median)}; the pairs below are marked at both ends",
    )
    note = (
        f"lowest {decimal(low)}, median {decimal(distribution.median)} (dashed), highest"
        f" {decimal(high)}; tallest bar{' (cut)' if is_cut else ''}: {counted(tallest, 'image')}"
    )
    key = [("good", "best"), ("wrong", "worst")]
    return Chart(svg, f"{label} of each image", key, note, wide=True)


def _again(ranking: Ranking, command: Sequence[str]) -> Section:
    about = ranking.run.about
    lines = [shlex.join(line) for line in (about.get("command", []), command) if line]
    versions = (f"{package} {version}" for package, version in about.get("versions", {}).items())
    rows = [
        [one_line(key), one_line(shorten(plain(value), 300))]
        for key, value in ranking.metrics[ranking.by].recipe.items()
    ]
    rows.append(["run", one_line(str(ranking.run.folder))])
    if ranking.root is not None:
        rows.append(["images", one_line(str(ranking.root))])
    rows.append(["scored", one_line(", ".join([about.get("started", ""), *versions]))])
    part = Section("again", "How to make this again")
    part.blocks.append(Code("\n".join(map(one_line, lines))))
    part.blocks.append(Table("recipe", "Recipe", [Column("what"), Column("is", wide=True)], rows))
    return part


def pairs_of(ranking: Ranking) -> Any:
    """The gallery as one matplotlib figure."""
    metric = ranking.metrics[ranking.by]
    label = ranking.label(ranking.by)
    corpus = metric.name or ranking.by
    if metric.corpus is not None:
        corpus += f": {decimal(metric.corpus)} over {counted(len(ranking.pairs), 'image')}"
    if metric.ends:
        corpus += ", 95 % {} to {}".format(*map(decimal, metric.ends))
    ends = [[_panel(ranking, pair) for pair in pairs[:_DRAWN]] for _, pairs in _ends(ranking)]
    best, worst = [*ends, []][:2]
    title = f"{label}: best and worst of {len(ranking.pairs):,}" if worst else label
    remarks = (_tied(ranking.tie(ranking.best)), _tied(ranking.tie(ranking.worst)))
    return pairs_figure(
        best, worst, title, corpus, remarks=remarks, pictures=ranking.root is not None
    )


def _tied(tie: Tie | None) -> str:
    if tie is None:
        return ""
    return f"an arbitrary choice among {tie.images:,} images with {decimal(tie.score)}"


def _panel(ranking: Ranking, pair: Pair) -> PairPanel:
    image, missing = None, ""
    place = ranking.places.get(pair.image)
    if place is not None:
        try:
            image = open_image(place)
            image.thumbnail((_KEPT_PX[ranking.top > 1],) * 2, Resampling.LANCZOS)
        except UnreadableImage as error:
            missing = error.reason
    elif ranking.root is not None:
        missing = "no image was found" if pair.path is None else "not opened"
    others = [
        f"{ranking.label(metric)} {decimal(pair.scores[metric])}"
        for metric in ranking.quoted
        if metric in pair.scores
    ]
    return PairPanel(
        caption=pair.caption,
        score=decimal(ranking.score(pair)),
        place=f"{pair.rank:,} of {len(ranking.pairs):,}",
        image=image,
        missing=missing,
        others=others,
        references=pair.references,
    )
