"""Whose captions a page shows, image by image: captioners, tuned methods, scored files.

A score run of captions that another run of the page wrote adds its scores to that run's captions
and is no writer of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from captune.images.match import plain_path, without_ending
from captune.metrics.catalogue import LOG_PROBABILITY
from captune.pages.sources import RunSet, RunSource
from captune.runs import Run
from captune.text import one_line, shorten

_LONGEST = 400


@dataclass
class SourcedCaption:
    """One caption. line: of the records it is from. scores: metric id -> (value, where it is from).

    ended: whether it came to an end by itself, None where nobody knows.
    """

    text: str
    line: int
    scores: dict[str, tuple[float, RunSource, int]] = field(default_factory=dict)
    ended: bool | None = None


@dataclass
class Image:
    """An image, by the name that all writers know it by. run: that says where it is."""

    name: str
    run: Run
    path: str | None
    references: list[str]


@dataclass
class CaptionSource:
    """tag: what the page calls it. source: the run. captions: image key -> caption.

    scored_by: the score runs whose figures are of these captions.
    """

    tag: str
    source: RunSource
    captions: dict[str, SourcedCaption] = field(default_factory=dict)
    scored_by: list[RunSource] = field(default_factory=list)

    @property
    def metrics(self) -> list[str]:
        """The scores that its captions have."""
        return list(dict.fromkeys(id for one in self.captions.values() for id in one.scores))


@dataclass
class Captions:
    """All writers, and the images that any of them describes."""

    writers: list[CaptionSource] = field(default_factory=list)
    images: dict[str, Image] = field(default_factory=dict)


def read_caption_sources(runs: RunSet) -> Captions:
    """Whose captions the runs hold. Raises UserError for damaged records."""
    found = Captions()
    owners: dict[str, CaptionSource] = {}
    full = _doubled_stems(runs)
    tunes = runs.of_kind("tune")
    for source in tunes:
        methods = source.methods or {source.name: source}
        for name, run in methods.items():
            tag = f"{source.name}/{name}" if len(tunes) > 1 and run is not source else name
            _add(found, owners, CaptionSource(tag, run), full)
    for source in runs.of_kind("caption"):
        _add(found, owners, CaptionSource(source.name, source), full)
    for source in runs.of_kind("score"):
        told = source.run.metrics.get("inputs")
        scored = told.get("candidates") if isinstance(told, Mapping) else None
        owner = _owner(owners, scored)
        if owner is None:
            owner = CaptionSource(source.name, source)
            _add(found, owners, owner, full)
            _own(owners, owner, scored)
        else:
            _score(found, owner, source, full)
        owner.scored_by.append(source)
    for source in runs.of_kind("compare"):
        inputs = source.run.metrics.get("inputs")
        for side in ("a", "b"):
            told = inputs.get(side) if isinstance(inputs, Mapping) else None
            compared = told.get("candidates") if isinstance(told, Mapping) else None
            if _owner(owners, compared) is None:
                writer = CaptionSource(f"{source.name} {side.upper()}", source)
                _add(found, owners, writer, full, side=side)
                _own(owners, writer, compared)
    found.writers = [writer for writer in found.writers if writer.captions]
    return found


def _owner(owners: Mapping[str, CaptionSource], about: Any) -> CaptionSource | None:
    """Whose captions a run was runs, by their file or its content."""
    if not isinstance(about, Mapping):
        return None
    named = (owners.get(str(about.get(key))) for key in ("path", "sha256"))
    return next((writer for writer in named if writer is not None), None)


def _own(owners: dict[str, CaptionSource], writer: CaptionSource, about: Any) -> None:
    if isinstance(about, Mapping):
        for key in ("path", "sha256"):
            owners.setdefault(str(about.get(key)), writer)


def _add(
    found: Captions,
    owners: dict[str, CaptionSource],
    writer: CaptionSource,
    full: bool,
    side: str = "",
) -> None:
    for line, record in enumerate(writer.source.run.records(), 1):
        written = record[side] if side else record
        key = _key(record, full)
        caption = SourcedCaption(written["caption"], line, ended=record.get("ended"))
        _take_scores(caption, written, writer.source, line)
        writer.captions[key] = caption
        _image(found, key, record, writer.source)
    found.writers.append(writer)
    owners.setdefault(str(writer.source.run.folder.resolve()), writer)


def _score(found: Captions, owner: CaptionSource, source: RunSource, full: bool) -> None:
    """Scores of captions that are there already; of others, nothing."""
    for line, record in enumerate(source.run.records(), 1):
        key = _key(record, full)
        caption = owner.captions.get(key)
        if caption is not None and caption.text == record["caption"]:
            _take_scores(caption, record, source, line)
            _image(found, key, record, source)


def _take_scores(
    caption: SourcedCaption, record: Mapping[str, Any], source: RunSource, line: int
) -> None:
    scores = {} if source.run.kind == "caption" else record["scores"]
    for id, value in scores.items():
        if value is not None:
            caption.scores[id] = (float(value), source, line)
    value = record.get("mean_log_probability") if source.run.kind == "caption" else None
    if value is not None:
        caption.scores[LOG_PROBABILITY] = (float(value), source, line)


def _image(found: Captions, key: str, record: Mapping[str, Any], source: RunSource) -> None:
    references = record["references"] if _has_references(source, record) else []
    path = record.get("path") or None
    image = found.images.get(key)
    if image is None:
        name = one_line(str(path or record["image"]))
        found.images[key] = Image(name, source.run, path, references)
        return
    image.references = image.references or references
    if image.path is None and path is not None:
        image.run, image.path = source.run, path


def _has_references(source: RunSource, record: Mapping[str, Any]) -> bool:
    return source.run.kind in ("score", "compare") and "references" in record


def _key(record: Mapping[str, Any], full: bool) -> str:
    """The name of an image without folder and ending, where that is enough to tell them apart."""
    name = without_ending(plain_path(str(record.get("path") or record["image"])))
    return name if full else PurePosixPath(name).name


def _doubled_stems(runs: RunSet) -> bool:
    """Whether two images of a run have the same name in different folders."""
    for source in runs.of_kind("tune", "caption", "score", "compare"):
        stems = Counter(_key(record, False) for record in source.run.records())
        if any(n > 1 for n in stems.values()):
            return True
    return False


def caption_text(text: str) -> str:
    """A caption as a page shows it: one line, the end of a very long one left out."""
    return one_line(shorten(text, _LONGEST)) or "(empty caption)"
