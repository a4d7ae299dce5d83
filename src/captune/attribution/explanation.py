"""What an explanation is, as a value, as a line of a run folder and as `--json` prints it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captune.attribution.faithfulness import Faithfulness
from captune.attribution.geometry import Frame
from captune.attribution.marks import Followed
from captune.attribution.methods import Choice
from captune.images import ImageFile, Skipped
from captune.tables import NotebookDisplay

KEPT = 1000  # images whose explanation the result holds itself; more are in the files alone


@dataclass(frozen=True)
class ExplainedWord:
    """A word of a caption, or a class, with its map.

    map: [rows, columns] float32, over the frame of the explanation, row by row.
    on_image: share of the attention that the patches have, of methods whose maps are shares; the
    rest went to tokens that stand for no place, to known words, and to prefixes in that softmax.
    mark: how far to believe the map, or None where that was not asked for.
    """

    word: str
    log_probability: float
    map: Tensor
    on_image: float | None = None
    mark: Faithfulness | Followed | None = None

    def record(self) -> dict[str, Any]:
        """As a line in a run folder holds it, without the map."""
        found: dict[str, Any] = {
            "word": self.word,
            "log_probability": round(self.log_probability, 6),
            "faithfulness": None if self.mark is None else _recorded(self.mark),
        }
        if self.on_image is not None:
            found["on_image"] = round(self.on_image, 4)
        return found


@dataclass(frozen=True)
class Explanation(NotebookDisplay):
    """What a captioner saw of one image, for words of one caption; or a classifier, of classes.

    method, choice: how the maps were made. is_given: the caption is the user's. frame: what of the
    upright image the maps lie over, or None: all of it. maps_file: where they are, relative to the
    run.
    """

    image: ImageFile
    caption: str
    words: list[ExplainedWord]
    method: str
    choice: Choice
    is_given: bool = False
    frame: Frame | None = None
    maps_file: str | None = None

    @property
    def maps(self) -> Tensor:
        """[words, rows, columns]."""
        return torch.stack([word.map for word in self.words])

    def record(self) -> dict[str, Any]:
        """Its line in a run folder."""
        return {
            "path": self.image.name,
            "caption": self.caption,
            "given": self.is_given,
            "words": [word.record() for word in self.words],
            "maps": self.maps_file,
            **({} if self.frame is None else {"frame": self.frame.edges}),
        }


@dataclass
class ExplainResult(NotebookDisplay):
    """What one explanation wrote. records: of the first 1,000 images. model: as a run names it.

    against: the word that was held against the others.
    """

    model: dict[str, Any]
    method: str = ""
    choice: Choice = field(default_factory=Choice)
    against: str | None = None
    images: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    marks: dict[str, int] = field(default_factory=dict)
    words: int = 0
    seconds: float = 0.0
    run: Path | None = None
    figures: list[Path] = field(default_factory=list)

    def count(self, record: dict[str, Any]) -> None:
        """One more image."""
        self.images += 1
        self.words += len(record["words"])
        for word in record["words"]:
            if word["faithfulness"] is not None:
                mark = word["faithfulness"]["mark"]
                self.marks[mark] = self.marks.get(mark, 0) + 1
        if len(self.records) < KEPT:
            self.records.append(record)

    def metrics(self) -> dict[str, Any]:
        """The run's metrics.json."""
        return {
            "images": self.images,
            "words": self.words,
            "map": self._described(),
            "marks": self.marks,
            "skipped": [{"path": one.path, "reason": one.reason} for one in self.skipped],
        }

    def summary(self) -> dict[str, Any]:
        """What `--json` prints; explanations are null where there are more than a thousand."""
        run = None if self.run is None else str(self.run)
        return {
            "run": run,
            "images": self.images,
            "skipped": [{"path": one.path, "reason": one.reason} for one in self.skipped],
            "model": self.model,
            "map": self._described(),
            "explanations": self.records if self.images <= KEPT else None,
            "words": self.words,
            "marks": self.marks,
            "seconds": round(self.seconds, 3),
            "figures": [str(path) for path in self.figures],
        }

    def _described(self) -> dict[str, Any]:
        about = {"method": self.method, "layer": self.choice.layer, "head": self.choice.head}
        return about if self.against is None else {**about, "against": self.against}


def _recorded(mark: Faithfulness | Followed) -> dict[str, Any]:
    """The mark in words, and the figures that it comes from."""
    figures = {name: value for name, value in asdict(mark).items() if name != "word"}
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}
    return {"mark": mark.mark, **rounded}
