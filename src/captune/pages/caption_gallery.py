"""All captions of all writers, a card an image, to be searched and sorted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from captune.metrics.catalogue import LOG_PROBABILITY, label_of, leading
from captune.pages.blocks import Gallery
from captune.pages.numbers import words
from captune.pages.settings import Settings
from captune.pages.thumbnails import Album
from captune.pages.writers import Caption, Captions, Writer, caption_text

_REFERENCES = 5
_SORTED = 4  # scores of a writer that a gallery can be sorted by


def gallery(captions: Captions, album: Album, settings: Settings) -> Gallery:
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


def _shown(caption: Caption) -> list[str]:
    """The scores on a gallery's card; the captioner's own only where there is no other."""
    return leading(list(caption.scores))[:_SORTED] or list(caption.scores)[:1]


def _sorts(keys: Sequence[str], writers: Sequence[Writer]) -> list[tuple[str, list[Any], bool]]:
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


def _value(writer: Writer, key: str, id: str) -> float | None:
    caption = writer.captions.get(key)
    return caption.scores[id][0] if caption is not None and id in caption.scores else None


def _filters(keys: Sequence[str], writers: Sequence[Writer]) -> list[tuple[str, list[int]]]:
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
