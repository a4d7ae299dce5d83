"""What the page says of captions: scores, best and worst, where two sources differ, all of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path, PurePath
from typing import Any

from captune.options.base import IN_MEMORY
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
    Tiles,
)
from captune.pages.sections import (
    PageContext,
    agreement_blocks,
    chosen_blocks,
    read_before,
    score_tile,
    shard_blocks,
)
from captune.pages.sections.caption_sources import (
    CaptionSet,
    CaptionSources,
    SourcedCaption,
    SourcedImage,
    caption_text,
)
from captune.pages.sources import NOT_USABLE, PageSettings, RunSource, words
from captune.runs.evaluation import MetricFigure, ScoreMetrics
from captune.scoring.rank import Pair, Ranking
from captune.tables import Column, Number, Table, numbers
from captune.text import count, decimal, one_line, percent, signed
from captune_metrics.catalogue import LOG_PROBABILITY, label_of, leading, title_of

_REFERENCES = 5
_SORTED = 4  # scores of a set of captions that a gallery can be sorted by
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
    about = source.model
    images, ended = source.at("images"), source.at("ended")
    made = words("{}, language model {}", about.get("method"), about.get("decoder"))
    said = words(
        "The captioner {} ({}) described {} images, in {} words each on average.",
        about.get("spec"), about.get("family") or made,  # a family is of one of transformers
        source.figure(count, "images"),
        source.figure(lambda n: f"{n:.1f}", "words_mean"),
    )  # fmt: skip
    if ended < images:
        left = source.counted(count, images - ended, "images less ended")
        said += words(" {} of the captions reached the longest length before they ended.", left)
    if source.run.metrics.get("agreement_mean") is not None:
        mean = source.figure(percent, "agreement_mean")
        said += words(" People would agree with about {} of the captions", mean)
        if source.run.metrics.get("flagged") is not None:
            flagged = source.figure(count, "flagged")
            said += words(
                "; {} flagged, because the chance of it is below {}",
                words("{} are", flagged) if flagged.value != 1 else words("{} is", flagged),
                source.figure(percent, "flag_below"),
            )
            said += words(": look there first") if flagged.value else words("")
        said += words(".")
    return said, None


def _answer_of_scores(source: RunSource) -> tuple[Any, Tiles | None]:
    metrics = source.run.typed_metrics(ScoreMetrics).metrics
    quoted = leading(list(metrics)) or list(metrics)
    candidates = source.option("candidates", str, source.name) or source.name
    # of "/home/ann/hw3/tune/lora" a reader needs "tune/lora"
    scored = "captions of " + "/".join(PurePath(candidates).parts[-2:])
    scored = candidates if candidates == IN_MEMORY else scored
    first = source.estimate(decimal, "metrics", quoted[0])
    ends = words(" ({} to {})", *first.interval) if first.interval else ""
    said = words("The {} come to a {} of {}{} on {} images.", scored,
                 title_of(quoted[0]), first.number, ends,
                 source.images_told)  # fmt: skip
    tiles = [
        score_tile(source, id, source.name, metrics[id].name or id, "metrics", id)
        for id in quoted[:4]
    ]
    return said, Tiles(tiles)


def all_captions(context: PageContext) -> Section | None:
    """Everything about the captions of all runs; None where there are none."""
    runs, found = context.runs, context.captions
    if not found.sets:
        return None
    part = Section("captions", "Captions")
    scored = runs.of_kind("score")
    if scored:
        scored.sort(key=lambda source: found.by_score[source.number].is_unusable)
        part.blocks += [_scores(scored, found.unusable), *_agreement(scored)]
    for source in runs.of_kind("caption"):
        part.blocks += [*shard_blocks(source), *chosen_blocks(source, "reranking")]
        part.blocks += agreement_blocks(source, "agreement")
    blocks = _Blocks(found, context)
    ends, apart = blocks.best_and_worst(), blocks.differences()
    # who compares looks at the differences first
    part.blocks += [*apart, *ends] if runs.of_kind("captioners") else [*ends, *apart]
    part.blocks.append(blocks.gallery())
    return part


def _scores(scored: Sequence[RunSource], unusable: Collection[int] = ()) -> Table:
    ids = list(dict.fromkeys(id for source in scored for id in source.at("metrics")))
    rows = []
    for source in scored:
        known = source.at("metrics")
        scores = (source.estimate(decimal, "metrics", id) if id in known else None for id in ids)
        name = source.name + NOT_USABLE * (source.number in unusable)
        rows.append([name, source.images_told, *scores])
    columns = [Column("captions"), *numbers("images", *map(title_of, ids))]
    names = dict.fromkeys(
        str(source.at("metrics", id).get("name") or id)
        for source in scored
        for id in source.at("metrics")
    )
    note = "Below each score its 95 % interval, by resampling images. Recipes: " + "; ".join(names)
    return Table("scores", "Scores", columns, rows, note=one_line(note))


def _agreement(scored: Sequence[RunSource]) -> list[Any]:
    said = []
    for source in scored:
        found = source.run.metrics.get("agreement")
        sentences = found.get("sentences", []) if isinstance(found, dict) else []
        kept = [i for i, text in enumerate(sentences) if not re.search("BLEU-[123]", str(text))]
        said += [
            words("{}: {}", source.name, source.figure(str, "agreement", "sentences", i))
            for i in kept[:3]
        ]
    return [Fold("Do the metrics agree?", [Remarks(said)])] if said else []


class _Blocks:
    def __init__(self, found: CaptionSources, context: PageContext) -> None:
        self.sets, self.images, self.context = found.sets, found.images, context

    def best_and_worst(self) -> list[Any]:
        """Of each set of captions; of several the one to look at first is open."""
        known = [(one, blocks) for one in self.sets if (blocks := self._ends(one))]
        kinds = self.context.runs.of_kind("tune", "captioners")
        best = {source.run.metrics.get("best") for source in kinds}
        known.sort(key=lambda item: (item[0].is_unusable, item[0].tag not in best))
        titled = [
            (f"{'Scores' if one.is_unusable else 'Best and worst'}: {one.tag}", blocks)
            for one, blocks in known
        ]
        return _first_open(titled)

    def _ends(self, captions: CaptionSet) -> list[Any]:
        by = leading(captions.metrics)
        if not by and LOG_PROBABILITY in captions.metrics:
            by = [LOG_PROBABILITY]
        blocks: list[Any] = []
        for i, metric in enumerate(by):
            ranking = ranking_of(captions, self.images, metric, self.context.settings)
            label = label_of(metric)
            # of what is not usable nothing is good
            names = ("Highest", "Lowest") if captions.is_unusable else ("Best", "Worst")
            tones = ("", "") if captions.is_unusable else ("good", "bad")
            ends = [(names[0], ranking.best, tones[0])]
            if len(ranking.pairs) > 1:
                ends.append((names[1], ranking.worst, tones[1]))
            cards: list[Any] = [
                Cards(f"{end} by {label}", [self._pair(ranking, p, captions, tone) for p in pairs])
                for end, pairs, tone in ends
                if not ranking.is_tied
            ]
            whose = f"{label}: " if ranking.is_tied else ""
            cards += [
                Paragraph(one_line(f"{whose}{text}."), soft=True) for text in ranking.remarks()
            ]
            title = f"{names[0]} and {names[1].lower()} by {label}"
            blocks += cards if i == 0 or ranking.is_tied else [Fold(title, cards)]
        return blocks

    def _pair(self, ranking: Ranking, pair: Pair, captions: CaptionSet, tone: str) -> Card:
        caption = captions.captions[pair.image]
        others = [id for id in leading(list(pair.scores)) if id != ranking.by]
        scores = [(title_of(id), _quoted(caption, id)) for id in others]
        return self._card(
            pair.image,
            above=_quoted(caption, ranking.by),
            below=words("{} of {}", f"{pair.rank:,}", f"{len(ranking.pairs):,}"),
            lines=[Line("", caption_text(pair.caption), scores)],
            tone=tone,
        )

    def _card(self, key: str, **content: Any) -> Card:
        image = self.images[key]
        picture = self.context.album.picture(image.run, image.path)
        references = [caption_text(text) for text in image.references[:_REFERENCES]]
        return Card(image.name, picture, references=references, **content)

    def differences(self) -> list[Any]:
        """Where two sets are furthest apart by a score that both have; of many, the first pairs.

        Where a comparison of captune compare is on the page, it says more and stands in its own
        place.
        """
        if self.context.runs.of_kind("compare"):
            return []
        pairs = [
            (first, second, shared[0])
            for first, second in combinations(self.sets, 2)
            if (shared := _shared(first, second))
        ]
        titled = []
        for first, second, by in pairs[:3]:
            said = f"By {title_of(by)} of each image, the difference in bold."
            if cards := self._apart(first, second, by):
                title = f"Where {first.tag} and {second.tag} differ most"
                titled.append((title, [Paragraph(said, soft=True), *cards]))
        return _first_open(titled)

    def _apart(self, first: CaptionSet, second: CaptionSet, by: str) -> list[Cards]:
        from captune.scoring.rank import comparable

        both = [
            key
            for key in first.captions
            if first.score(key, by) is not None and second.score(key, by) is not None
        ]
        if not both:
            return []
        import numpy as np

        a, b = (comparable(by, np.array([one.score(key, by) for key in both]))
                for one in (first, second))  # fmt: skip
        gaps = dict(zip(both, (b - a).tolist(), strict=True))
        found = []
        for ahead, sign in ((second, 1), (first, -1)):
            keys = [key for key in both if sign * gaps[key] > 0]
            keys.sort(key=lambda key: -sign * gaps[key])
            cards = [
                self._card(
                    key,
                    # by how much the second is ahead
                    above=first.source.counted(
                        signed, gaps[key], f"{by} of {key}, second less first"
                    ),
                    below=words("{} − {}", second.tag, first.tag),
                    lines=[_line(one, key, by) for one in (first, second)],
                )
                for key in keys[: self.context.settings.top]
            ]
            if cards:
                found.append(Cards(f"{ahead.tag} ahead", cards, f"{len(keys):,} images in all"))
        return found

    def gallery(self) -> Gallery:
        """All captions of all sets, a card an image."""
        keys = list(self.images)[: self.context.settings.limit]
        hidden = len(self.images) - len(keys)
        note = words("The first {} of {} images; the run folders have all of them.",
                     f"{len(keys):,}", f"{len(self.images):,}") if hidden else ""  # fmt: skip
        items, tags = [self._item(key) for key in keys], [one.tag for one in self.sets]
        sorts, filters = _sorts(keys, self.sets), _filters(keys, self.sets)
        return Gallery("captions", "All captions", "image", items, sorts, filters, tags, note)

    def _item(self, key: str) -> dict[str, Any]:
        card = self._card(key)
        lines = [
            [tag, caption_text(one.text), {label_of(id): one.scores[id][0] for id in _shown(one)}]
            for tag, captions in enumerate(self.sets)
            if (one := captions.captions.get(key)) is not None
        ]
        return {
            "image": None if card.picture is None else card.picture.number,
            "name": card.name,
            **read_before(one.captions[key].read for one in self.sets if key in one.captions),
            "lines": lines,
            "references": card.references,
        }


def _first_open(titled: Sequence[tuple[str, list[Any]]]) -> list[Any]:
    """Blocks below their titles: the first are open, the others unfold."""
    blocks: list[Any] = []
    for i, (title, inside) in enumerate(titled):
        blocks += [Heading(title), *inside] if i == 0 else [Fold(title, inside)]
    return blocks


def ranking_of(
    captions: CaptionSet,
    images: Mapping[str, SourcedImage],
    by: str,
    settings: PageSettings,
    *,
    find_files: bool = False,
) -> Ranking:
    """The captions of a set in the order of a score, as `captune rank` has it.

    find_files: whether it has to know where the images are.
    """
    pairs = []
    places: dict[str, Path] = {}
    for key, caption in captions.captions.items():
        if by not in caption.scores:
            continue
        values = {id: value for id, (value, _, _) in caption.scores.items()}
        image = images[key]
        if find_files and (place := image.run.image_path(image.path)) is not None:
            places[key] = place
        pairs.append(Pair(0, key, image.path, caption.text, tuple(image.references), values))
    pairs.sort(key=lambda pair: (-pair.scores[by], pair.image))
    ranked = [replace(pair, rank=rank) for rank, pair in enumerate(pairs, 1)]
    metrics = {id: MetricFigure(label_of(id), None, None, {}) for id in captions.metrics}
    run = captions.source.run
    root = run.root if places else None
    return Ranking(run, by, metrics, ranked, settings.top, root, places=places)


def _quoted(caption: SourcedCaption, id: str) -> Number:
    value, source, line = caption.scores[id]
    return source.counted(decimal, value, f"line {line}: {id}")


def _line(captions: CaptionSet, key: str, by: str) -> Line:
    caption = captions.captions[key]
    return Line(captions.tag, caption_text(caption.text), [(title_of(by), _quoted(caption, by))])


def _shared(first: CaptionSet, second: CaptionSet) -> list[str]:
    return [id for id in leading(first.metrics) if id in second.metrics]


def _shown(caption: SourcedCaption) -> list[str]:
    """The scores on a gallery's card; the captioner's own only where there is no other."""
    return leading(list(caption.scores))[:_SORTED] or list(caption.scores)[:1]


def _sorts(keys: Sequence[str], sets: Sequence[CaptionSet]) -> list[tuple[str, list[Any], bool]]:
    sorts: list[tuple[str, list[Any], bool]] = [("order of the run", list(range(len(keys))), False)]
    for captions in sets[:4]:
        metrics = leading(captions.metrics)[:_SORTED]
        if LOG_PROBABILITY in captions.metrics:
            metrics = [*metrics, LOG_PROBABILITY]
        whose = f", {captions.tag}" if len(sets) > 1 else ""
        for id in metrics:
            values = [captions.score(key, id) for key in keys]
            ends = ("highest", "lowest") if captions.is_unusable else ("best", "worst")
            for end, down in zip(ends, (True, False), strict=True):
                sorts.append((f"{label_of(id)}{whose}: {end} first", values, down))
    for first, second in list(combinations(sets, 2))[:3]:
        for id in _shared(first, second)[:2]:
            scores = [(first.score(key, id), second.score(key, id)) for key in keys]
            gaps = [None if a is None or b is None else b - a for a, b in scores]
            label = label_of(id)
            sorts.append((f"{label}: {second.tag} ahead of {first.tag}", gaps, True))
            sorts.append((f"{label}: {first.tag} ahead of {second.tag}", gaps, False))
    return sorts


def _filters(keys: Sequence[str], sets: Sequence[CaptionSet]) -> list[tuple[str, list[int]]]:
    written = [[one.captions[key] for one in sets if key in one.captions] for key in keys]
    differ = [i for i, some in enumerate(written) if len({one.text for one in some}) > 1]
    flagged = [i for i, some in enumerate(written) if any(one.flagged for one in some)]
    unended = [i for i, some in enumerate(written) if any(one.ended is False for one in some)]
    filters = [("captions differ", differ), ("flagged only", flagged)]
    if len(unended) < len(keys):
        filters.append(("did not come to an end", unended))
    return [one for one in filters if one[1]]
