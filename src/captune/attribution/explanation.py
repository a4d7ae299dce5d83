"""The maps of the words of one image, with a mark beside each: how far to believe it.

A quick mark is one deletion and one insertion mask per word, in one batch with random masks that
serve all words; a full mark comes from the whole curves.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from captune.attribution.captioned_image import CaptionedImage, WordSpan
from captune.attribution.deletion_insertion import Mark, full_marks, quick_marks
from captune.attribution.faithful.dataset import FUNCTION_WORDS, part_of_speech
from captune.attribution.geometry import Frame
from captune.attribution.masking import token_masking
from captune.attribution.methods import LayerHead, MapMethod
from captune.attribution.word_scores import scores_of, word_targets
from captune.captioning.caption import judged
from captune.images import ImageFile
from captune.runs.maps import MapWriter
from captune.runs.records import no_better
from captune.tables import NotebookDisplay
from captune.text import bare_word, counted, duration


@dataclass(frozen=True)
class ExplainedWord:
    """A word of a caption, or a class, with its map.

    map: [rows, columns] float32, over the frame of the explanation, row by row.
    fraction_on_image: of the attention, what the patches have, of methods whose maps sum to it; the
    rest went to tokens that stand for no patch, to tags, and to prefixes in that softmax.
    mark: how far to believe the map, or None where that was not asked for. told: it stands in what
    the captioner read of the image before, tags or captions of similar images.
    """

    word: str
    log_probability: float
    map: Tensor
    fraction_on_image: float | None = None
    mark: Mark | None = None
    told: bool = False

    def record(self) -> dict[str, Any]:
        """As a line in a run folder holds it, without the map."""
        found: dict[str, Any] = {
            "word": self.word,
            "log_probability": round(self.log_probability, 6),
            "faithfulness": None if self.mark is None else _recorded(self.mark),
        }
        if self.fraction_on_image is not None:
            found["on_image"] = round(self.fraction_on_image, 4)
        return found | ({"told": True} if self.told else {})


@dataclass(frozen=True)
class Explanation(NotebookDisplay):
    """What a captioner saw of one image, for words of one caption; or a classifier, of classes.

    method, layer_head: how the maps were made. is_user_caption: the captioner did not write it.
    frame: what of the upright image the maps lie over, or None: all of it. maps_file: where they
    are, relative to the run. agreement, flagged, read: as of a `Caption`.
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
    read: str | None = None

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
            **judged(self.agreement, self.flagged, self.read),
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
            **judged(self.agreement, self.flagged, self.read),
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
    budget: TimeBudget | None = None,
) -> Explanation | None:
    """The maps of a captioned image's words; None where its caption has none of those chosen.

    chosen: words, none for all. special: of the caption's end, too. against: another word, which
    each is held against. marks: quick, full or none. budget: for as many words as it has time for.
    """
    words = wanted_words(captioned, chosen, special=special)
    if not words:
        return None
    found: dict[int, ExplainedWord] = {}
    for some in [words] if budget is None else budget.parts(captioned, words):
        own = _explained(captioned, method, layer_head, some, against, marks)
        found |= zip(some, own, strict=True)
    return Explanation(
        captioned.image,
        captioned.caption,
        [found[word] for word in sorted(found)],
        method.name,
        layer_head,
        captioned.is_user_caption,
        agreement=captioned.agreement,
        read=captioned.read,
    )


def _explained(
    captioned: CaptionedImage,
    method: MapMethod,
    layer_head: LayerHead,
    words: Sequence[int],
    against: str | None,
    marks: str,
) -> list[ExplainedWord]:
    maps = method.maps(captioned, layer_head, words, against)
    targets = word_targets(captioned, words)
    with torch.no_grad():
        said = scores_of(captioned, captioned.grid, targets)[0].tolist()
    found: Sequence[Mark | None] = [None] * len(words)
    # a map against another word shows a difference, which the marks do not measure
    if marks != "none" and against is None:
        measure = full_marks if marks == "full" else quick_marks
        found = measure(token_masking(captioned, targets), maps)
    fractions: Sequence[float | None] = [None] * len(words)
    # cells of a map are not the tokens that the attention was over
    if method.is_fraction(layer_head) and captioned.reader is None:
        fractions = maps.sum(dim=(1, 2)).tolist()
    names = [captioned.spans[word].word for word in words]
    read = set(re.findall(r"\w+", (captioned.read or "").casefold()))
    told = [bare_word(name) in read for name in names]
    each = zip(names, said, maps, fractions, found, told, strict=True)
    return [ExplainedWord(*one) for one in each]


class TimeBudget:
    """Seconds for the words of some images, shared out evenly; say: hears what they are enough for.

    Of each image the time of one word is measured, then of two and four more; what is left of it
    goes to as many as it is enough for by these.
    """

    def __init__(self, seconds: float, images: int, say: Callable[[str], None]) -> None:
        self._images, self._say = images, say
        self._ends = time.monotonic() + seconds
        self._seen = self._words = self._done = 0

    def parts(self, captioned: CaptionedImage, words: Sequence[int]) -> Iterator[list[int]]:
        """Numbers of words to explain next, those with content first; one word at the least."""
        begun = time.monotonic()
        share = (self._ends - begun) / max(1, self._images - self._seen)
        ends = begun + share
        self._seen += 1
        self._words += len(words)
        names = [span.word for span in captioned.spans]
        left = sorted(words, key=lambda n: part_of_speech(names[n], None) == FUNCTION_WORDS)
        count, taken = 1, list[tuple[int, float]]()
        while left and count > 0:
            some, left = left[:count], left[count:]
            begun = time.monotonic()
            yield some
            now = time.monotonic()
            self._done += len(some)
            taken.append((len(some), now - begun))
            count = _fitting(taken, ends - now)
            if self._seen == len(taken) == 1:
                enough = min(len(words), 1 + int((ends - now) / max(now - begun, 1e-9)))
                self._say(
                    f"{counted(len(words), 'word')} of the first image; one took"
                    f" {duration(now - begun)}, so its {duration(share)} (--minutes) are enough"
                    f" for at least {enough:,}"
                )

    def close(self) -> None:
        """Says what there was no time for."""
        if self._done < self._words:
            self._say(
                f"{self._done:,} of {self._words:,} words have maps, for more there was no time"
                " (--minutes)"
            )


def _fitting(taken: Sequence[tuple[int, float]], seconds: float) -> int:
    """How many more words there is time for; taken: of each part its words and its time."""
    count, took = taken[-1]
    # the first part has loaded what the others find
    fewer, shorter = taken[-2] if len(taken) > 2 else (0, 0.0)
    each = took / count
    if fewer < count:
        each = max((took - shorter) / (count - fewer), each / 20)
    most = int((seconds - (took - count * each)) / max(each, 1e-9))
    return min(most, 2 * count) if len(taken) < 3 else most


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
