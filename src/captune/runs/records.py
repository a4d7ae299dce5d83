"""run.json, and a line of records.jsonl by kind of run. See `runs.kinds` for how they are used."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

import captune_metrics.display
from captune.json_yaml import Finite, Share, require

# what a map was found to be, by how it follows the model
BETTER, NO_BETTER, UNSEEN = (
    "better than chance",
    "no better than chance",
    "independent of the image",
)
Path = Annotated[str, Meta(min_length=1)]
OpenInterval = tuple[Finite | None, Finite | None]  # an end that was no number is nothing

if TYPE_CHECKING:
    from captune_metrics.display import Interval as Interval
else:

    class Interval(captune_metrics.display.Interval):
        """As it is read, with ends in bounds."""

        low: Finite
        high: Finite


def no_better(record: Mapping[str, Any]) -> list[str]:
    """The words of a record of `explain` that neither their map nor a tag speaks for."""
    return [
        str(word["word"])
        for word in record["words"]
        if (word.get("faithfulness") or {}).get("mark") == NO_BETTER and not word.get("told")
    ]


def known_ends(interval: OpenInterval | None) -> Interval | None:
    """The interval, where both ends of it are known."""
    if interval is None or interval[0] is None or interval[1] is None:
        return None
    return Interval(interval[0], interval[1])


def json_value(value: Any) -> Any:
    """A value as JSON has it: structs and dataclasses as dictionaries, arrays as lists."""
    return msgspec.to_builtins(value, enc_hook=_plain)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, pathlib.Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


class About(Struct, frozen=True):
    """run.json, of every kind."""

    schema: int
    kind: str
    command: list[str]
    options: dict[str, Any]
    models: list[dict[str, Any]]
    root: Annotated[str, Meta(pattern=r"^[^\0]*$")]
    started: str
    versions: dict[str, Any]
    hardware: dict[str, Any]
    device: str | None = None


class Record(Struct, frozen=True):
    """What every line of an image has; kinds that this captune does not know have no more."""


class Answer(Struct, frozen=True):
    """A label with the probability that it was given."""

    id: str
    name: str
    probability: Share


class ClassifyRecord(Record, frozen=True):
    """The most probable labels of an image, the first one first.

    name: of the image, where `path` is a thumbnail that was made of it.
    """

    path: Path
    top: Annotated[list[Answer], Meta(min_length=1)]
    truth: str | None = None
    truth_name: str | None = None
    name: str | None = None


class PromptAnswer(Struct, frozen=True):
    """The answer of one prompt."""

    id: str
    probability: Share


class PromptsRecord(Record, frozen=True):
    """The answer of each prompt to an image."""

    path: Path
    answers: Annotated[list[PromptAnswer], Meta(min_length=1)]
    truth: str | None = None


class TuneRecord(Record, frozen=True):
    """The caption of a validation image, and what people say of it."""

    path: Path
    caption: str
    scores: dict[str, Finite | None]
    image_id: str | None = None
    ended: bool | None = None
    references: list[str] = []


class CaptionWord(Struct, frozen=True):
    """A word of a caption, as it stands between spaces.

    log_probability: natural, the sum over its pieces, each given the image and what stands before.
    """

    word: str
    log_probability: Finite


class Candidate(Struct, frozen=True):
    """A caption of an image that may be chosen, and what speaks for it (`captioning.rerank`).

    score: 0 until it was judged. match, neighbours: None where they were not looked at. ids: of its
    tokens, with the end where it came; a run has none.
    """

    caption: str
    score: Finite
    mean_log_probability: Finite
    match: Finite | None = None
    neighbours: Finite | None = None
    ids: list[int] = []


class CaptionRecord(Record, frozen=True):
    """The caption of an image. read: before it was written. name: as in `ClassifyRecord`."""

    path: Path
    caption: str
    ended: bool
    words: list[CaptionWord]
    tokens: int | None = None
    log_probability: Finite | None = None
    mean_log_probability: Finite | None = None
    agreement: Share | None = None
    flagged: bool | None = None
    read: str | None = None
    candidates: list[Candidate] = []
    name: str | None = None


class ScoreRecord(Record, frozen=True, kw_only=True):
    """A caption with its scores."""

    image: str
    path: str | None = None
    caption: str
    references: list[str] = []
    scores: dict[str, Finite | None]


class ComparedCaption(Struct, frozen=True):
    """A caption of a comparison with its scores."""

    caption: str
    scores: dict[str, Finite]


class CompareRecord(Record, frozen=True, kw_only=True):
    """Both captions of an image."""

    image: str
    path: str | None = None
    references: list[str]
    a: ComparedCaption
    b: ComparedCaption


class CaptionersRecord(Record, frozen=True, kw_only=True):
    """An image's caption by each captioner, by its name."""

    image: str
    path: str | None = None
    references: list[str] = []
    captions: dict[str, ComparedCaption]


class Faithfulness(Struct, frozen=True):
    """How far to believe a map. gain: nats that the image adds to the word."""

    mark: str
    gain: Finite | None = None


class MappedWord(Struct, frozen=True):
    """A word with a map. told: it stands in the tags or captions that were read before."""

    word: str
    faithfulness: Faithfulness | None = None
    told: bool = False


class ExplainRecord(Record, frozen=True):
    """The maps of an image. frame: left, top, right, bottom of what they lie over, in pixels."""

    path: Path
    caption: str
    words: Annotated[list[MappedWord], Meta(min_length=1)]
    maps: Path
    frame: tuple[Finite, Finite, Finite, Finite] | None = None
    agreement: Share | None = None
    flagged: bool | None = None
    read: str | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a frame that is turned over."""
        if self.frame is not None:
            left, top, right, bottom = self.frame
            require(left < right and top < bottom, "frame is not a rectangle")


class FaithfulRecord(Record, frozen=True):
    """An image whose maps were measured."""

    path: Path
