"""The maps of the words of one image, with a mark beside each: how far to believe it.

A quick mark is one deletion and one insertion mask per word, in one batch with random masks that
serve all words; a full mark comes from the whole curves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from captune.attribution.captioned_image import CaptionedImage
from captune.attribution.deletion_insertion import (
    CONTROLS,
    Curves,
    QuickMark,
    curves,
    endpoints,
    mark_of,
    one_mask,
    random_curves,
)
from captune.attribution.geometry import Frame
from captune.attribution.masking import token_masking
from captune.attribution.methods import LayerHead, MapMethod
from captune.attribution.word_scores import word_log_probabilities
from captune.captioning.model import CaptionModel
from captune.images import ImageFile
from captune.runs.maps import MapWriter
from captune.tables import NotebookDisplay
from captune.text import bare_word


@dataclass(frozen=True)
class ExplainedWord:
    """A word of a caption, or a class, with its map.

    map: [rows, columns] float32, over the frame of the explanation, row by row.
    fraction_on_image: of the attention, what the patches have, of methods whose maps sum to it; the
    rest went to tokens that stand for no patch, to known words, and to prefixes in that softmax.
    mark: how far to believe the map, or None where that was not asked for.
    """

    word: str
    log_probability: float
    map: Tensor
    fraction_on_image: float | None = None
    mark: QuickMark | FullMark | None = None

    def record(self) -> dict[str, Any]:
        """As a line in a run folder holds it, without the map."""
        found: dict[str, Any] = {
            "word": self.word,
            "log_probability": round(self.log_probability, 6),
            "faithfulness": None if self.mark is None else _recorded(self.mark),
        }
        if self.fraction_on_image is not None:
            found["on_image"] = round(self.fraction_on_image, 4)
        return found


@dataclass(frozen=True)
class Explanation(NotebookDisplay):
    """What a captioner saw of one image, for words of one caption; or a classifier, of classes.

    method, layer_head: how the maps were made. is_user_caption: the captioner did not write it.
    frame: what of the upright image the maps lie over, or None: all of it. maps_file: where they
    are, relative to the run.
    """

    image: ImageFile
    caption: str
    words: list[ExplainedWord]
    method: str
    layer_head: LayerHead
    is_user_caption: bool = False
    frame: Frame | None = None
    maps_file: str | None = None

    @property
    def maps(self) -> Tensor:
        """[words, rows, columns]."""
        return torch.stack([word.map for word in self.words])

    def written_by(self, writer: MapWriter) -> Explanation:
        """The same, with its maps in a file of the run."""
        words = [word.word for word in self.words]
        frame = None if self.frame is None else self.frame.edges
        file = writer.write(self.image.name, words, self.maps.numpy(), frame)
        return replace(self, maps_file=file)

    def record(self) -> dict[str, Any]:
        """Its line in a run folder."""
        return {
            "path": self.image.name,
            "caption": self.caption,
            "given": self.is_user_caption,
            "words": [word.record() for word in self.words],
            "maps": self.maps_file,
            **({} if self.frame is None else {"frame": self.frame.edges}),
        }


def _recorded(mark: QuickMark | FullMark) -> dict[str, Any]:
    """The mark in words, and the figures that it comes from."""
    figures = {name: value for name, value in asdict(mark).items() if name != "word"}
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}
    return {"mark": mark.mark, **rounded}


def quick_marks(
    captioner: CaptionModel,
    captioned: CaptionedImage,
    maps: Tensor,
    words: Sequence[int] | None = None,
    *,
    fill: Tensor | None = None,
    controls: int = CONTROLS,
) -> list[QuickMark]:
    """How far to believe each map [words, rows, columns], by one mask of each kind per word.

    words: numbers in `captioned.spans` that the maps are of; None for `captioned.words`. fill: what
    stands for a hidden patch token, as `masking.token_masking` takes it.
    """
    found = one_mask(token_masking(captioner, captioned, fill, words), maps, controls=controls)
    numbers = range(len(found)) if words is None else words
    return [replace(one, word=word) for one, word in zip(found, numbers, strict=True)]


@dataclass(frozen=True)
class FullMark:
    """How far to believe the map of one word, from whole curves.

    gain: nats that the image adds to the word. insertion, deletion: mean heights of the curves
    above the blank image, as fractions of the gain; nothing where there is none. random_insertion,
    random_deletion: the same, mean over random maps. better_than: fraction of the random maps whose
    insertion - deletion is less.
    """

    word: int
    gain: float
    insertion: float | None
    deletion: float | None
    random_insertion: float | None
    random_deletion: float | None
    better_than: float

    @property
    def mark(self) -> str:
        """In words."""
        return mark_of(self.gain, self.better_than)


def full_marks(
    captioner: CaptionModel,
    captioned: CaptionedImage,
    maps: Tensor,
    words: Sequence[int] | None = None,
    *,
    fill: Tensor | None = None,
    controls: int = CONTROLS,
) -> list[FullMark]:
    """As `quick_marks`, by the whole curves of deletion and insertion."""
    score = token_masking(captioner, captioned, fill, words)
    ends = endpoints(score)
    asked = range(score.words)
    own = curves(score, ends, maps, asked)
    random = random_curves(score, ends, asked, range(controls))
    difference = own.insertion_area - own.deletion_area
    by_chance = torch.stack([one.insertion_area - one.deletion_area for one in random])
    beaten = (difference > by_chance).double().mean(dim=0)

    def of_gain(several: Sequence[Curves], what: str, word: int) -> float | None:
        gain = float(ends.gain[word])
        if gain <= 0:
            return None
        areas = [float(getattr(one, f"{what}_area")[word]) for one in several]
        return (sum(areas) / len(areas) - float(ends.blank[word])) / gain

    return [
        FullMark(
            number if words is None else words[number],
            float(ends.gain[number]),
            of_gain([own], "insertion", number),
            of_gain([own], "deletion", number),
            of_gain(random, "insertion", number),
            of_gain(random, "deletion", number),
            float(beaten[number]),
        )
        for number in asked
    ]


def explain_words(
    captioner: CaptionModel,
    captioned: CaptionedImage,
    method: MapMethod,
    layer_head: LayerHead,
    chosen: Sequence[str] = (),
    *,
    special: bool = False,
    against: str | None = None,
    marks: str = "quick",
) -> Explanation | None:
    """The maps of a captioned image's words; None where its caption has none of those chosen.

    chosen: words, none for all. special: of the caption's end, too. against: another word, which
    each is held against. marks: quick, full or none.
    """
    words = list(wanted_words(captioned, chosen, special=special))
    if not words:
        return None
    maps = method.maps(captioner, captioned, layer_head, words, against)
    with torch.no_grad():
        said = word_log_probabilities(captioner, captioned, captioned.grid, words)[0].tolist()
    found: Sequence[QuickMark | FullMark | None] = [None] * len(words)
    # a map against another word shows a difference, which the marks do not measure
    if marks != "none" and against is None:
        measure = full_marks if marks == "full" else quick_marks
        found = measure(captioner, captioned, maps, words)
    fractions: Sequence[float | None] = [None] * len(words)
    if method.is_fraction(layer_head):
        fractions = maps.sum(dim=(1, 2)).tolist()
    return Explanation(
        captioned.image,
        captioned.caption,
        [
            ExplainedWord(captioned.spans[word].word, log_probability, own, fraction, mark)
            for word, log_probability, own, fraction, mark in zip(
                words, said, maps, fractions, found, strict=True
            )
        ],
        method.name,
        layer_head,
        captioned.is_user_caption,
    )


def wanted_words(
    captioned: CaptionedImage, chosen: Sequence[str], *, special: bool
) -> Iterator[int]:
    """Numbers, in `captioned.spans`, of the words to explain; chosen: none for all.

    Case and the signs around a word do not count.
    """
    bare = {bare_word(word) for word in chosen}
    for number, span in enumerate(captioned.spans):
        if special if span.special else not bare or bare_word(span.word) in bare:
            yield number
