"""What the page says of captions: scores, best and worst, where two sources differ, all of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path, PurePath
from typing import Any

from captune.metrics.catalogue import LOG_PROBABILITY, label_of, leading, meaning_of, title_of
from captune.pages.album import Album
from captune.pages.blocks import (
    Card,
    Cards,
    Fold,
    Gallery,
    Heading,
    Line,
    Paragraph,
    Remarks,
    Section,
    Tile,
    Tiles,
)
from captune.pages.sections import PageContext
from captune.pages.sections.caption_sources import (
    Captions,
    CaptionSource,
    SourcedCaption,
    caption_text,
    read_caption_sources,
)
from captune.pages.sources import PageSettings, RunSet, RunSource, interval_of, words
from captune.runs.metrics import MetricFigure, ScoreMetrics
from captune.scoring.rank import Pair, Ranking
from captune.tables import Column, Estimate, Number, Table
from captune.text import count, one_line, score, signed

_REFERENCES = 5
LAST_KIND = "compare"  # of those whose runs hold captions, in the order of a page


def section(_source: RunSource, _context: PageContext) -> Section | None:
    """None: what is said of captions is said of those of all runs together (`all_captions`)."""
    return None


def answer(source: RunSource) -> tuple[Any, Tiles | None]:
    """The first lines of the page about captions or their scores."""
    return _answer_of_scores(source) if source.run.kind == "score" else _answer_of_captions(source)


def tables(source: RunSource) -> list[Table]:
    """The scores; captions alone have no table."""
    return [_scores([source])] if source.run.kind == "score" else []


def _answer_of_captions(source: RunSource) -> tuple[Any, Tiles | None]:
    """The first lines of the page about a captioning."""
    about = source.model
    images, ended = source.at("images"), source.at("ended")
    said = words(
        "The captioner {} ({}, language model {}) described {} images, in {} words each on"
        " average.",
        about.get("spec"), about.get("method"), about.get("decoder"),
        source.figure(count, "images"),
        source.figure(lambda n: f"{n:.1f}", "words_mean"),
    )  # fmt: skip
    if ended < images:
        left = source.counted(count, images - ended, "images less ended")
        said += words(" {} of the captions reached the longest length before they ended.", left)
    return said, None


def _answer_of_scores(source: RunSource) -> tuple[Any, Tiles | None]:
    """The first lines of the page about a score run."""
    metrics = source.run.typed_metrics(ScoreMetrics).metrics
    quoted = leading(list(metrics)) or list(metrics)
    candidates = source.option("candidates", str, source.name) or source.name
    # of "/home/ann/hw3/tune/lora" a reader needs "tune/lora"
    scored = "/".join(PurePath(candidates).parts[-2:])
    first = quoted[0]
    figure, ends = (
        source.figure(score, "metrics", first, "corpus"),
        interval_of(source, score, "metrics", first, "interval"),
    )
    said = words("The captions of {} come to a {} of {}{} on {} images.", scored,
                 title_of(first), figure, words(" ({} to {})", *ends) if ends else "",
                 source.figure(count, "images"))  # fmt: skip
    tiles = [
        Tile(
            f"{title_of(id)}, {source.name}",
            source.figure(score, "metrics", id, "corpus"),
            interval_of(source, score, "metrics", id, "interval"),
            meaning_of(id),
            one_line(metrics[id].name or id),
        )
        for id in quoted[:4]
    ]
    return said, Tiles(tiles)


def all_captions(context: PageContext) -> Section | None:
    """Everything about the captions of all runs; None where there are none."""
    runs, album, settings = context.runs, context.album, context.settings
    captions = read_caption_sources(runs)
    if not captions.writers:
        return None
    part = Section("captions", "Captions")
    scored = runs.of_kind("score")
    if scored:
        part.blocks.append(_scores(scored))
        part.blocks += _agreement(scored)
    part.blocks += _all_ends(captions, runs, album, settings)
    part.blocks += _differences(captions, runs, album, settings)
    part.blocks.append(gallery(captions, album, settings))
    return part


def _scores(scored: Sequence[RunSource]) -> Table:
    ids = list(dict.fromkeys(id for source in scored for id in source.at("metrics")))
    rows = []
    for source in scored:
        cells: list[Any] = [source.name, source.figure(count, "images")]
        for id in ids:
            cells.append(_score_cell(source, id) if id in source.at("metrics") else None)
        rows.append(cells)
    columns = [Column("captions"), Column("images", number=True)]
    columns += [Column(title_of(id), number=True) for id in ids]
    names = dict.fromkeys(
        str(source.at("metrics", id).get("name") or id)
        for source in scored
        for id in source.at("metrics")
    )
    note = "Below each score its 95 % interval, by resampling images. Recipes: " + "; ".join(names)
    return Table("scores", "Scores", columns, rows, note=one_line(note))


def _score_cell(source: RunSource, id: str) -> Any:
    figure = source.figure(score, "metrics", id, "corpus")
    ends = interval_of(source, score, "metrics", id, "interval")
    return Estimate(figure, ends)


def _agreement(scored: Sequence[RunSource]) -> list[Any]:
    """Sentences of the runs on metrics that order the images differently."""
    said = []
    for source in scored:
        found = source.run.metrics.get("agreement")
        sentences = found.get("sentences", []) if isinstance(found, dict) else []
        kept = [i for i, text in enumerate(sentences) if not _is_short_bleu(str(text))]
        said += [
            words("{}: {}", source.name, source.figure(str, "agreement", "sentences", i))
            for i in kept[:3]
        ]
    return [Fold("Do the metrics agree?", [Remarks(said)])] if said else []


def _is_short_bleu(text: str) -> bool:
    return any(name in text for name in ("BLEU-1", "BLEU-2", "BLEU-3"))


def _all_ends(captions: Captions, runs: RunSet, album: Album, settings: PageSettings) -> list[Any]:
    """Best and worst of each writer; of several the one to look at first is open."""
    shown = {id(w): _ends(w, captions, album, settings) for w in captions.writers}
    known = [writer for writer in captions.writers if shown[id(writer)]]
    best = {source.run.metrics.get("best") for source in runs.of_kind("tune")}
    known.sort(key=lambda writer: writer.tag not in best)
    blocks: list[Any] = []
    for i, writer in enumerate(known):
        title = f"Best and worst: {writer.tag}"
        if i == 0:
            blocks += [Heading(title), *shown[id(writer)]]
        else:
            blocks.append(Fold(title, shown[id(writer)]))
    return blocks


def _ends(
    writer: CaptionSource, captions: Captions, album: Album, settings: PageSettings
) -> list[Any]:
    """Best and worst by each score; the first is open, the others unfold."""
    by = leading(writer.metrics)
    if not by and LOG_PROBABILITY in writer.metrics:
        by = [LOG_PROBABILITY]
    blocks: list[Any] = []
    for i, metric in enumerate(by):
        ranking = ranking_of(writer, captions, metric, settings)
        label = label_of(metric)
        cards: list[Any] = []
        ends = [("best", ranking.best, "good")]
        if len(ranking.pairs) > 1:
            ends.append(("worst", ranking.worst, "bad"))
        for end, pairs, tone in ends:
            title = f"{end.capitalize()} by {label}"
            shown = [_pair_card(ranking, pair, writer, captions, album, tone) for pair in pairs]
            cards.append(Cards(title, shown))
        cards += [Paragraph(one_line(text) + ".", soft=True) for text in ranking.remarks()]
        blocks += cards if i == 0 else [Fold(f"Best and worst by {label}", cards)]
    return blocks


def ranking_of(
    writer: CaptionSource,
    captions: Captions,
    by: str,
    settings: PageSettings,
    *,
    images: bool = False,
) -> Ranking:
    """The writer's captions in the order of a score, as `captune rank` has it.

    images: whether it has to know where they are.
    """
    pairs = []
    places: dict[str, Path] = {}
    for key, caption in writer.captions.items():
        if by not in caption.scores:
            continue
        values = {id: value for id, (value, _, _) in caption.scores.items()}
        image = captions.images[key]
        if images and (place := image.run.image_path(image.path)) is not None:
            places[key] = place
        pairs.append(Pair(0, key, image.path, caption.text, tuple(image.references), values))
    pairs.sort(key=lambda pair: (-pair.scores[by], pair.image))
    ranked = [
        Pair(rank, one.image, one.path, one.caption, one.references, one.scores)
        for rank, one in enumerate(pairs, 1)
    ]
    metrics = {id: MetricFigure(label_of(id), None, None, {}) for id in writer.metrics}
    root = writer.source.run.root if places else None
    return Ranking(writer.source.run, by, metrics, ranked, settings.top, root, places=places)


def _pair_card(
    ranking: Ranking, pair: Pair, writer: CaptionSource, captions: Captions, album: Album, tone: str
) -> Card:
    image, caption = captions.images[pair.image], writer.captions[pair.image]
    others = [id for id in leading(list(pair.scores)) if id != ranking.by]
    scores = [(title_of(id), _quoted(caption, id)) for id in others]
    return Card(
        name=image.name,
        picture=album.picture(image.run, image.path),
        above=_quoted(caption, ranking.by),
        below=words("{} of {}", f"{pair.rank:,}", f"{len(ranking.pairs):,}"),
        lines=[Line("", caption_text(pair.caption), scores)],
        references=[caption_text(text) for text in pair.references[:_REFERENCES]],
        tone=tone,
    )


def _quoted(caption: SourcedCaption, id: str) -> Number:
    value, source, line = caption.scores[id]
    return source.counted(score, value, f"line {line}: {id}")


def _differences(
    captions: Captions, runs: RunSet, album: Album, settings: PageSettings
) -> list[Any]:
    """Where two writers are furthest apart by a score that both have; of many, the first pairs.

    Where a comparison of captune compare is on the page, it says more and stands in its own place.
    """
    if runs.of_kind("compare"):
        return []
    blocks: list[Any] = []
    pairs = [
        (first, second, shared)
        for first, second in combinations(captions.writers, 2)
        if (shared := [id for id in leading(first.metrics) if id in second.metrics])
    ]
    for n, (first, second, shared) in enumerate(pairs[:3]):
        cards = _apart(first, second, shared[0], captions, album, settings)
        if not cards:
            continue
        title = f"Where {first.tag} and {second.tag} differ most"
        told = Paragraph(f"By {title_of(shared[0])} of each image, the difference in bold.", True)
        inside = [told, *cards]
        blocks += [Heading(title), *inside] if n == 0 else [Fold(title, inside)]
    return blocks


def _apart(
    first: CaptionSource,
    second: CaptionSource,
    by: str,
    captions: Captions,
    album: Album,
    settings: PageSettings,
) -> list[Cards]:
    from captune.scoring.agreement import comparable

    both = [
        key
        for key, one in first.captions.items()
        if key in second.captions and by in one.scores and by in second.captions[key].scores
    ]
    if not both:
        return []
    import numpy as np

    a, b = (
        comparable(by, np.array([writer.captions[key].scores[by][0] for key in both]))
        for writer in (first, second)
    )
    gaps = dict(zip(both, (b - a).tolist(), strict=True))
    found = []
    for ahead, sign in ((second, 1), (first, -1)):
        keys = sorted((key for key in both if sign * gaps[key] > 0), key=lambda k: -sign * gaps[k])
        cards = [
            two_cards(key, (first, second), by, gaps[key], captions, album)
            for key in keys[: settings.top]
        ]
        if cards:
            found.append(Cards(f"{ahead.tag} ahead", cards, f"{len(keys):,} images in all"))
    return found


def two_cards(
    key: str,
    writers: tuple[CaptionSource, CaptionSource],
    by: str,
    gap: float,
    captions: Captions,
    album: Album,
) -> Card:
    """An image with both captions; above, by how much the second is ahead."""
    image = captions.images[key]
    lines = [
        Line(writer.tag, caption_text(one.text), [(title_of(by), _quoted(one, by))])
        for writer in writers
        if (one := writer.captions[key])
    ]
    return Card(
        name=image.name,
        picture=album.picture(image.run, image.path),
        above=writers[0].source.counted(signed, gap, f"{by} of {key}, second less first"),
        below=words("{} − {}", writers[1].tag, writers[0].tag),
        lines=lines,
        references=[caption_text(text) for text in image.references[:_REFERENCES]],
    )


_REFERENCES = 5
_SORTED = 4  # scores of a writer that a gallery can be sorted by


def gallery(captions: Captions, album: Album, settings: PageSettings) -> Gallery:
    """All captions of all writers, a card an image."""
    keys = list(captions.images)[: settings.limit]
    writers = captions.writers
    items = []
    for key in keys:
        image = captions.images[key]
        picture = album.picture(image.run, image.path)
        lines = []
        for tag, writer in enumerate(writers):
            one = writer.captions.get(key)
            if one is not None:
                shown = {label_of(id): one.scores[id][0] for id in _shown(one)}
                lines.append([tag, caption_text(one.text), shown])
        items.append(
            {
                "image": None if picture is None else picture.number,
                "name": image.name,
                "lines": lines,
                "references": [caption_text(text) for text in image.references[:_REFERENCES]],
            }
        )
    hidden = len(captions.images) - len(keys)
    note = words("The first {} of {} images; the run folders have all of them.",
                 f"{len(keys):,}", f"{len(captions.images):,}") if hidden else ""  # fmt: skip
    return Gallery(
        "captions", "All captions", "image", items, _sorts(keys, writers),
        _filters(keys, writers), [writer.tag for writer in writers], note,
    )  # fmt: skip


def _shown(caption: SourcedCaption) -> list[str]:
    """The scores on a gallery's card; the captioner's own only where there is no other."""
    return leading(list(caption.scores))[:_SORTED] or list(caption.scores)[:1]


def _sorts(
    keys: Sequence[str], writers: Sequence[CaptionSource]
) -> list[tuple[str, list[Any], bool]]:
    sorts: list[tuple[str, list[Any], bool]] = [("order of the run", list(range(len(keys))), False)]
    for writer in writers[:4]:
        metrics = [*leading(writer.metrics)[:_SORTED]]
        if LOG_PROBABILITY in writer.metrics:
            metrics.append(LOG_PROBABILITY)
        whose = f", {writer.tag}" if len(writers) > 1 else ""
        for id in metrics:
            values = [_value(writer, key, id) for key in keys]
            sorts.append((f"{label_of(id)}{whose}: best first", values, True))
            sorts.append((f"{label_of(id)}{whose}: worst first", values, False))
    for first, second in list(combinations(writers, 2))[:3]:
        for id in [id for id in leading(first.metrics) if id in second.metrics][:2]:
            gaps = [
                None if a is None or b is None else b - a
                for a, b in ((_value(first, k, id), _value(second, k, id)) for k in keys)
            ]
            label = f"{label_of(id)}: {second.tag} ahead of {first.tag}"
            sorts.append((label, gaps, True))
            sorts.append((f"{label_of(id)}: {first.tag} ahead of {second.tag}", gaps, False))
    return sorts


def _value(writer: CaptionSource, key: str, id: str) -> float | None:
    caption = writer.captions.get(key)
    return caption.scores[id][0] if caption is not None and id in caption.scores else None


def _filters(keys: Sequence[str], writers: Sequence[CaptionSource]) -> list[tuple[str, list[int]]]:
    filters = []
    if len(writers) > 1:
        differ = [
            i
            for i, key in enumerate(keys)
            if len({w.captions[key].text for w in writers if key in w.captions}) > 1
        ]
        filters.append(("captions differ", differ))
    unended = [
        i
        for i, key in enumerate(keys)
        if any(key in w.captions and w.captions[key].ended is False for w in writers)
    ]
    if unended and len(unended) < len(keys):
        filters.append(("did not come to an end", unended))
    return [one for one in filters if one[1]]
