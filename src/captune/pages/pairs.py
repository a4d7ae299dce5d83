"""The best and worst pairs of a score run as a gallery: a page, a figure and a table."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from captune.files import check_writable, printable
from captune.images import Skipped, UnreadableImage, open_image
from captune.pages.pages import write_template
from captune.pages.thumbnails import HIDDEN, thumbnail
from captune.plots import PairPanel, pairs_figure, save_figure
from captune.scoring.rank import (
    Pair,
    Ranking,
    Standing,
    Tie,
    write_table,
)
from captune.text import one_line, plain, score, shorten

_DRAWN = 20  # pairs at either end of the figure; the page shows all that were asked for
_KEPT_PX = (1056, 640)  # of an image that is drawn alone, or among others
_LONGEST, _LONGEST_REFERENCE, _MOST_REFERENCES = 400, 300, 10


@dataclass
class Gallery:
    """What was written where, and the images that could not be shown."""

    written: dict[str, Path] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)


@dataclass(frozen=True)
class _Picture:
    """uri: the thumbnail; image: kept only for the figure; missing: why there is none."""

    uri: str | None = None
    image: Image.Image | None = None
    missing: str = ""


def write_gallery(
    ranking: Ranking, folder: Path, *, command: Sequence[str] = (), raw_csv: bool = False
) -> Gallery:
    """Write rank-METRIC.html, .png, .svg and .csv into `folder`; only images shown are opened.

    command: the words that asked for it. raw_csv: cells that a spreadsheet would run as formulas
    stay as they are. Raises UserError where a file cannot be written.
    """
    stem = "rank-" + re.sub(r"[^\w.-]+", "-", ranking.by)
    page, table, drawing, vectors = (
        folder / f"{stem}{ending}" for ending in (".html", ".csv", ".png", ".svg")
    )
    for path in (page, table, drawing, vectors):
        check_writable(path)
    gallery = Gallery()
    pictures = _open_images(ranking, gallery.skipped)
    write_table(ranking, table, raw=raw_csv)
    write_template(
        "pairs.html.jinja",
        page,
        page_content(ranking, pictures, gallery.skipped, table.name, command),
    )
    figure = _figure(ranking, pictures)
    for path in (drawing, vectors):
        save_figure(figure, path)
    gallery.written = {"page": page, "figure": drawing, "svg": vectors, "table": table}
    return gallery


def drawn_pairs(ranking: Ranking) -> Any:
    """The gallery as one matplotlib figure."""
    return _figure(ranking, _open_images(ranking, []))


def _scored(about: dict[str, Any]) -> str:
    """When, and with which packages."""
    versions = (f"{package} {version}" for package, version in about.get("versions", {}).items())
    return one_line(", ".join([about.get("started", ""), *versions]))


def _shown(ranking: Ranking) -> list[tuple[str, list[Pair]]]:
    """The ends by name; a single image is only one of them."""
    if len(ranking.pairs) == 1:
        return [("only", ranking.best)]
    return [("best", ranking.best), ("worst", ranking.worst)]


def _open_images(ranking: Ranking, skipped: list[Skipped]) -> dict[str, _Picture]:
    """Image id -> its picture, for the images shown; those without one are named in `skipped`."""
    if ranking.root is None:
        return {}
    pictures: dict[str, _Picture] = {}
    kept_px = _KEPT_PX[ranking.top > 1]
    for _, pairs in _shown(ranking):
        for index, pair in enumerate(pairs):
            if pair.path is None:
                skipped.append(Skipped(pair.image, "no image of it was found"))
                pictures[pair.image] = _Picture(missing="no image was found")
                continue
            place = ranking.places.get(pair.image)
            if place is None:
                skipped.append(Skipped(pair.path, HIDDEN))
                pictures[pair.image] = _Picture(missing="not opened")
                continue
            try:
                image = open_image(place)
            except UnreadableImage as error:
                skipped.append(Skipped(pair.path, error.reason))
                pictures[pair.image] = _Picture(missing=error.reason)
                continue
            image.thumbnail((kept_px, kept_px), Image.Resampling.LANCZOS)
            uri = thumbnail(image)
            pictures[pair.image] = _Picture(uri, image if index < _DRAWN else None)
    return pictures


def page_content(
    ranking: Ranking,
    pictures: dict[str, _Picture],
    skipped: Sequence[Skipped],
    table: str,
    command: Sequence[str],
) -> dict[str, Any]:
    """Everything that the template shows."""
    metric = ranking.metrics[ranking.by]
    images = len(ranking.pairs)
    label = one_line(ranking.label(ranking.by))
    ends = [_end(ranking, name, pairs, pictures) for name, pairs in _shown(ranking)]
    many = f"The best and the worst of {images:,} captions by {label}"
    return {
        "heading": many if images > 1 else f"The only caption of the run by {label}",
        "label": label,
        "name": one_line(metric.name or ranking.by),
        "corpus": None if metric.corpus is None else score(metric.corpus),
        "interval": _interval(metric.ends),
        "images": images,
        "remarks": [one_line(remark) for remark in ranking.remarks()],
        "skipped": [{"path": printable(item.path), "reason": item.reason} for item in skipped],
        "histogram": _histogram(ranking),
        "others": _others(ranking),
        "ends": ends,
        "pictures": ranking.root is not None,
        "table": table,
        "recipe": [
            (one_line(str(key)), one_line(shorten(plain(value), 300)))
            for key, value in metric.recipe.items()
        ],
        "run": printable(str(ranking.run.folder)),
        "root": printable(str(ranking.root)) if ranking.root is not None else None,
        "scored": _scored(ranking.run.about),
        "scored_by": one_line(shlex.join(ranking.run.about.get("command", []))),
        "command": one_line(shlex.join(command)),
    }


def _end(
    ranking: Ranking, name: str, pairs: list[Pair], pictures: dict[str, _Picture]
) -> dict[str, Any]:
    cards = [_card(ranking, name, pair, pictures.get(pair.image)) for pair in pairs]
    title = {
        "best": "The best" if len(pairs) == 1 else f"The {len(pairs)} best",
        "worst": "The worst" if len(pairs) == 1 else f"The {len(pairs)} worst, worst first",
        "only": "The only pair",
    }
    return {"name": name, "title": title[name], "cards": cards}


def _card(ranking: Ranking, end: str, pair: Pair, picture: _Picture | None) -> dict[str, Any]:
    others = []
    for metric in ranking.distributions:
        if metric == ranking.by or metric not in pair.scores:
            continue
        standing = ranking.standing(pair, metric)
        others.append(
            {
                "label": one_line(ranking.label(metric)),
                "score": score(pair.scores[metric]),
                "place": place_text(standing),
                "beaten": standing.fraction_below,
                "against": _is_against(end, standing),
            }
        )
    references = [one_line(shorten(text, _LONGEST_REFERENCE)) for text in pair.references]
    return {
        "image": printable(pair.image),
        "path": printable(pair.path) if pair.path else None,
        "score": score(ranking.score(pair)),
        "rank": pair.rank,
        "caption": one_line(shorten(pair.caption, _LONGEST)),
        "references": references[:_MOST_REFERENCES],
        "more_references": max(0, len(references) - _MOST_REFERENCES),
        "others": others,
        "picture": picture,
    }


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


def _others(ranking: Ranking) -> list[dict[str, Any]]:
    """How the ends fare under the run's other metrics."""
    if len(ranking.pairs) == 1:
        return []
    rows = []
    for metric, distribution in ranking.distributions.items():
        if metric == ranking.by:
            continue
        row: dict[str, Any] = {
            "label": one_line(ranking.label(metric)),
            "median": score(distribution.median),
            "agreement": _agreement(ranking, metric),
        }
        for end, pairs in _shown(ranking):
            scored = [pair for pair in pairs if metric in pair.scores]
            against = [_is_against(end, ranking.standing(pair, metric)) for pair in scored]
            scores = sorted(pair.scores[metric] for pair in scored)
            middle = (
                (scores[(len(scores) - 1) // 2] + scores[len(scores) // 2]) / 2 if scores else 0
            )
            row[end] = score(middle) if scores else "none"
            row[f"{end}_against"] = f"{sum(against)} of {len(scored)}"
        rows.append(row)
    return rows


def _agreement(ranking: Ranking, metric: str) -> str:
    found = ranking.agreement(metric)
    if found is None:
        return ""
    spread = " ({:.2f} to {:.2f})".format(*found.ends) if found.ends else ""
    return f"{found.tau:.2f}{spread}"


def _histogram(ranking: Ranking) -> dict[str, Any] | None:
    """Bars of equal width over all scores, in a box of 1000 x 100; None where all are equal."""
    scores = ranking.distributions[ranking.by].scores
    low, high = scores[0], scores[-1]
    if high - low < 1e-9:
        return None
    bins = min(60, max(10, 2 * math.isqrt(len(scores))))
    counts = [0] * bins
    for value in scores:
        counts[min(bins - 1, int(bins * (value - low) / (high - low)))] += 1
    second, tallest = sorted(counts)[-2:]
    # captions without any match would press all others flat: their bar is cut
    top = 1.5 * second if tallest > 5 * second else tallest

    def across(value: float) -> float:
        return round(1000 * (value - low) / (high - low), 2)

    return {
        # one image is still a pixel high
        "bars": [
            {
                "x": round(1000 * n / bins, 2),
                "height": round(min(100, max(1.5, 100 * count / top)), 2),
            }
            for n, count in enumerate(counts)
            if count
        ],
        "width": round(1000 / bins, 2),
        "best": sorted({across(ranking.score(pair)) for pair in ranking.best}),
        "worst": sorted({across(ranking.score(pair)) for pair in ranking.worst}),
        "median_at": across(ranking.distributions[ranking.by].median),
        "median": score(ranking.distributions[ranking.by].median),
        "low": score(low),
        "high": score(high),
        "tallest": tallest,
        "cut": round(1000 * counts.index(tallest) / bins, 2) if top < tallest else None,
    }


def _figure(ranking: Ranking, pictures: dict[str, _Picture]) -> Any:
    metric = ranking.metrics[ranking.by]
    label = ranking.label(ranking.by)
    corpus = metric.name or ranking.by
    if metric.corpus is not None:
        corpus += f": {score(metric.corpus)} over {len(ranking.pairs):,} images"
    interval = _interval(metric.ends)
    if interval:
        corpus += f", 95 % {interval[0]} to {interval[1]}"
    ends = [
        [_panel(ranking, pair, pictures.get(pair.image)) for pair in pairs[:_DRAWN]]
        for _, pairs in _shown(ranking)
    ]
    best, worst = [*ends, []][:2]
    title = f"{label}: best and worst of {len(ranking.pairs):,}" if worst else label
    first, last = ranking.tie(ranking.best), ranking.tie(ranking.worst)
    pictured = ranking.root is not None
    return pairs_figure(
        best, worst, title, corpus, remarks=(_tied(first), _tied(last)), pictures=pictured
    )


def _tied(tie: Tie | None) -> str:
    if tie is None:
        return ""
    return f"an arbitrary choice among {tie.images:,} images with {score(tie.score)}"


def _panel(ranking: Ranking, pair: Pair, picture: _Picture | None) -> PairPanel:
    others = [
        f"{ranking.label(metric)} {score(pair.scores[metric])}"
        for metric in ranking.quoted
        if metric in pair.scores
    ]
    return PairPanel(
        caption=pair.caption,
        score=score(ranking.score(pair)),
        place=f"{pair.rank:,} of {len(ranking.pairs):,}",
        image=picture.image if picture else None,
        missing=picture.missing if picture else "",
        others=others,
        references=pair.references,
    )


def _interval(interval: Sequence[float] | None) -> tuple[str, str] | None:
    if interval is None:
        return None
    low, high = interval
    return score(low), score(high)
