"""Whose captions a page shows, image by image: captioners, tuned methods, scored files.

A score run of captions that another run of the page wrote adds its scores to that run's captions
and has no captions of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from captune.images.match import plain_path, without_ending
from captune.options.base import IN_MEMORY
from captune.pages.sources import NOT_USABLE, RunSet, RunSource
from captune.runs import Run
from captune.runs.writer import captioner_run
from captune.text import one_line
from captune_metrics.catalogue import LOG_PROBABILITY
from captune_metrics.display import shorten

PEOPLE_AGREE = "chance that people agree"  # by the captioner itself
_LONGEST = 400
_WEIGHTS = "model.safetensors"  # of a tuned captioner, in its run


@dataclass
class SourcedCaption:
    """One caption. line: of the records it is from. scores: metric id -> (value, where it is from).

    ended: whether it came to an end by itself, None where nobody knows. flagged: by --flag-below.
    read: what the captioner read of the image before.
    """

    text: str
    line: int
    scores: dict[str, tuple[float, RunSource, int]] = field(default_factory=dict)
    ended: bool | None = None
    flagged: bool = False
    read: str = ""


@dataclass
class SourcedImage:
    """An image, by the name that all captioners know it by. run: that says where it is."""

    name: str
    run: Run
    path: str | None
    references: list[str]


@dataclass
class CaptionSet:
    """The captions of one captioner or file. tag: its name on the page. captions: by image key.

    is_unusable: they repeat themselves or do not depend on the image, as its training found.
    """

    tag: str
    source: RunSource
    is_unusable: bool = False
    captions: dict[str, SourcedCaption] = field(default_factory=dict)

    @property
    def metrics(self) -> list[str]:
        """The scores that its captions have."""
        return list(dict.fromkeys(id for one in self.captions.values() for id in one.scores))

    def score(self, key: str, metric: str) -> float | None:
        """The score of the caption of an image, where it has one."""
        caption = self.captions.get(key)
        return caption.scores[metric][0] if caption and metric in caption.scores else None


class CaptionSources:
    """All captions of some runs. sets: in the order of the page, usable ones first. images: by key.

    by_score: number of a score run -> the captions that it scored. unusable: numbers of the runs
    with captions of a captioner that is not usable.

    Raises UserError for damaged records.
    """

    def __init__(self, runs: RunSet) -> None:
        self.images: dict[str, SourcedImage] = {}
        self._by_place: dict[str, CaptionSet] = {}  # folders, files and hashes of captions
        self._unusable: set[str] = set()  # weights of captioners
        self.by_score: dict[int, CaptionSet] = {}
        self.unusable: set[int] = set()
        self.sets: list[CaptionSet] = []
        self._keeps_folders = _has_doubled_names(runs)
        tunes = runs.of_kind("tune")
        for source in tunes:
            for name, run in (source.methods or {source.name: source}).items():
                tag = f"{source.name}/{name}" if len(tunes) > 1 and run is not source else name
                self._added(tag, run)
        for source in runs.of_kind("captioners"):
            files = source.run.metrics.get("inputs", {}).get("candidates")
            for name in source.at("captioners"):
                place = str(captioner_run(source.run.folder, name).resolve())
                file = files.get(name) if isinstance(files, Mapping) else None
                read = [place, *_places({"candidates": file})]
                self._added(name, source, read, side=name)
        captioned = [
            source
            for source in runs.of_kind("caption")
            if self._known([str(source.run.folder.resolve())]) is None
        ]
        names = [_own_name(source) for source in captioned]
        for name, source in zip(names, captioned, strict=True):
            self._added(name if names.count(name) == 1 else source.name, source)
        for source in runs.of_kind("score"):
            read = _places(source.run.metrics.get("inputs"))
            scored = self._known(read)
            if scored is None:
                scored = self._added(source.name, source, read)
            else:
                self._add_scores(scored, source)
            self.by_score[source.number] = scored
            self._note(scored, source)
        for source in runs.of_kind("compare"):
            inputs = source.run.metrics.get("inputs")
            for side in ("a", "b"):
                read = _places(inputs.get(side) if isinstance(inputs, Mapping) else None)
                compared = self._known(read)
                if compared is None:
                    tag = f"{source.name} {side.upper()}"
                    compared = self._added(tag, source, read, side=side)
                self._note(compared, source)
        self.sets = [one for one in self.sets if one.captions]
        self.sets.sort(key=lambda one: one.is_unusable)

    def _known(self, places: Sequence[str]) -> CaptionSet | None:
        return next((self._by_place[one] for one in places if one in self._by_place), None)

    def _added(
        self, tag: str, source: RunSource, read: Sequence[str] = (), side: str = ""
    ) -> CaptionSet:
        """The captions of a run, or of one side of it. read: where it has them from."""
        is_unusable = source.is_unusable
        if is_unusable and (source.run.folder / _WEIGHTS).is_file():
            self._unusable.add(source.run.digest(_WEIGHTS))
        if source.run.kind == "caption":  # whose first model is the captioner
            is_unusable = source.model.get("weights_id") in self._unusable
        found = CaptionSet(tag + NOT_USABLE * is_unusable, source, is_unusable)
        for line, record in enumerate(source.run.records(), 1):
            written = record.get("captions", record)[side] if side else record
            key = self._image(record, source)
            marks = record.get("ended"), bool(record.get("flagged")), str(record.get("read") or "")
            caption = SourcedCaption(written["caption"], line, {}, *marks)
            caption.scores.update(_scores(written, source, line))
            found.captions[key] = caption
        for place in (str(source.run.folder.resolve()), *read):
            self._by_place.setdefault(place, found)
        self._note(found, source)
        self.sets.append(found)
        return found

    def _note(self, captions: CaptionSet, source: RunSource) -> None:
        if captions.is_unusable:
            self.unusable.add(source.number)

    def _add_scores(self, captions: CaptionSet, source: RunSource) -> None:
        """Scores of captions that are there already; of others, nothing."""
        for line, record in enumerate(source.run.records(), 1):
            caption = captions.captions.get(self._key(record))
            if caption is not None and caption.text == record["caption"]:
                caption.scores.update(_scores(record, source, line))
                self._image(record, source)

    def _image(self, record: Mapping[str, Any], source: RunSource) -> str:
        """Take in the image of a record; returns its key."""
        key, path = self._key(record), record.get("path") or None
        references = [] if source.run.kind == "caption" else record.get("references", [])
        image = self.images.get(key)
        if image is None:
            name = one_line(str(record.get("name") or path or record["image"]))
            self.images[key] = SourcedImage(name, source.run, path, references)
            return key
        image.references = image.references or references
        if image.path is None and path is not None:
            image.run, image.path = source.run, path
        return key

    def _key(self, record: Mapping[str, Any]) -> str:
        name = _name_of(record)
        return name if self._keeps_folders else PurePosixPath(name).name


def _own_name(source: RunSource) -> str:
    """Of a captioner of transformers its own name; of captune's the run's, for all may be lite."""
    spec = str(source.model.get("spec"))
    return PurePosixPath(spec).name if source.model.get("family") else source.name


def _places(inputs: Any) -> list[str]:
    """The path and the hash of the captions that a run read, as its metrics.json has them."""
    file = inputs.get("candidates") if isinstance(inputs, Mapping) else None
    named = file if isinstance(file, Mapping) else {}
    return [str(named[key]) for key in ("path", "sha256") if named.get(key, IN_MEMORY) != IN_MEMORY]


def _scores(
    record: Mapping[str, Any], source: RunSource, line: int
) -> dict[str, tuple[float, RunSource, int]]:
    if source.run.kind == "caption":
        scores = {
            PEOPLE_AGREE: record.get("agreement"),
            LOG_PROBABILITY: record.get("mean_log_probability"),
        }
    else:
        scores = record["scores"]
    return {id: (float(n), source, line) for id, n in scores.items() if n is not None}


def _name_of(record: Mapping[str, Any]) -> str:
    return without_ending(plain_path(str(record.get("path") or record["image"])))


def _has_doubled_names(runs: RunSet) -> bool:
    for source in runs.of_kind("tune", "caption", "captioners", "score", "compare"):
        names = [PurePosixPath(_name_of(record)).name for record in source.run.records()]
        if len(set(names)) < len(names):
            return True
    return False


def caption_text(text: str) -> str:
    """A caption as a page shows it: one line, the end of a very long one left out."""
    return one_line(shorten(text, _LONGEST)) or "(empty caption)"
