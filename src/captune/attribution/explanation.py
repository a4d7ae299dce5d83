"""The maps of the words of one image, with a mark beside each: how far to believe it.

A quick mark is one deletion and one insertion mask per word, in one batch with random masks that
serve all words; a full mark comes from the whole curves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from captune.attribution.captioned_image import CaptionedImage, WordSpan
from captune.attribution.deletion_insertion import Mark, full_marks, quick_marks
from captune.attribution.geometry import Frame
from captune.attribution.masking import token_masking
from captune.attribution.methods import LayerHead, MapMethod
from captune.attribution.vlm_image import reader_in
from captune.attribution.word_scores import scores_of, targets_of
from captune.captioning.generate import judged
from captune.images import ImageFile
from captune.runs.maps import MapWriter
from captune.runs.records import no_better
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
    mark: Mark | None = None

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
    are, relative to the run. agreement, flagged: as of a `Caption`.
    """

    image: ImageFile
    caption: str
    words: list[ExplainedWord]
    method: str
    layer_head: LayerHead
    is_user_caption: bool = False
    frame: Frame | None = None
    maps_file: str | None = None
    agreement: float | None = None
    flagged: bool | None = None

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
            **judged(self),
            "words": [word.record() for word in self.words],
            "maps": self.maps_file,
            **({} if self.frame is None else {"frame": self.frame.edges}),
        }

    def answer(self) -> dict[str, Any]:
        """What other programs are told: the caption, and the words whose maps say nothing."""
        marks = [word.mark for word in self.words]
        doubtful = no_better(self.record())
        return {
            "image": self.image.spelled,
            "caption": self.caption,
            **judged(self),
            "no_better_than_chance": " ".join(doubtful) if any(marks) else None,
        }


def _recorded(mark: Mark) -> dict[str, Any]:
    """The mark in words, and the figures that it comes from."""
    figures = {k: v if v is None else round(v, 4) for k, v in vars(mark).items()}
    return {"mark": mark.mark, **figures}


def explain_words(
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
    words = wanted_words(captioned, chosen, special=special)
    if not words:
        return None
    maps = method.maps(captioned, layer_head, words, against)
    targets = targets_of(captioned, words)
    with torch.no_grad():
        said = scores_of(captioned, captioned.grid, targets)[0].tolist()
    found: Sequence[Mark | None] = [None] * len(words)
    # a map against another word shows a difference, which the marks do not measure
    if marks != "none" and against is None:
        measure = full_marks if marks == "full" else quick_marks
        found = measure(token_masking(captioned, targets), maps)
    fractions: Sequence[float | None] = [None] * len(words)
    # cells of a map are not the tokens that the attention was over
    if method.is_fraction(layer_head) and reader_in(captioned) is None:
        fractions = maps.sum(dim=(1, 2)).tolist()
    names = [captioned.spans[word].word for word in words]
    return Explanation(
        captioned.image,
        captioned.caption,
        [ExplainedWord(*one) for one in zip(names, said, maps, fractions, found, strict=True)],
        method.name,
        layer_head,
        captioned.is_user_caption,
        agreement=captioned.agreement,
    )


def wanted_words(captioned: CaptionedImage, chosen: Sequence[str], *, special: bool) -> list[int]:
    """Numbers, in `captioned.spans`, of the words to explain; chosen: none for all.

    Case and the signs around a word do not count. Punctuation is no word unless it was chosen.
    """
    bare = {bare_word(word) for word in chosen}

    def is_wanted(span: WordSpan) -> bool:
        if span.special:
            return special
        if bare:
            return bare_word(span.word) in bare
        return any(sign.isalnum() for sign in span.word)

    return [number for number, span in enumerate(captioned.spans) if is_wanted(span)]
