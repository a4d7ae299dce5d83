"""A caption as captune gives it: its words, how probable each is, and its line in a run.

Its words are put together from token ids here; how these are found is in generate.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from msgspec import structs

from captune.images import ImageFile
from captune.runs.records import Candidate, CaptionWord
from captune.tables import NotebookDisplay
from captune.text import as_sentence

if TYPE_CHECKING:  # these load torch
    from captune.captioning.generate import Generated
    from captune.models.decoders import Decoder

WORD = re.compile(r"\S+")
_PREAMBLE = re.compile(r"(an?|the) (photo|photograph|image|picture) of", re.IGNORECASE)


@dataclass(frozen=True)
class Caption(NotebookDisplay):
    """What was written for one image.

    caption: the words as a sentence, no blank before its full stop.
    log_probability: of the whole caption: of all its tokens, and of the end where it came.
    tokens: how many those are. ended: whether it came to an end by itself.
    agreement: the chance that people would agree with it (captioning.agreement), None where that
    was not fitted for its captioner. flagged: whether it is below --flag-below, None without.
    candidates: what it was chosen among (captioning.rerank), the best first; None where it was not.
    ids: of its tokens, without the end; of one that is read from a run none.
    captioner: the name of the one that wrote it, where several were asked.
    read: tags, or captions of similar images, that the captioner read of the image before, which
    may be none: ""; None where it reads nothing.
    """

    image: ImageFile
    caption: str
    words: list[CaptionWord]
    log_probability: float
    tokens: int
    ended: bool
    agreement: float | None = None
    flagged: bool | None = None
    candidates: list[Candidate] | None = None
    ids: Sequence[int] = ()
    captioner: str = ""
    read: str | None = None

    @property
    def mean_log_probability(self) -> float:
        """A token, so that long captions compare with short ones."""
        return self.log_probability / max(1, self.tokens)

    def record(self, *, candidates: bool = False) -> dict[str, Any]:
        """Its line in a run folder, which `runs.records.CaptionRecord` reads."""
        kept = {"candidates": [told(one) for one in self.candidates or []]} if candidates else {}
        return {
            "path": self.image.name,
            "caption": self.caption,
            "ended": self.ended,
            "tokens": self.tokens,
            "log_probability": round(self.log_probability, 6),
            "mean_log_probability": round(self.mean_log_probability, 6),
            **judged(self.agreement, self.flagged, self.read),
            "words": [
                {"word": word.word, "log_probability": round(word.log_probability, 6)}
                for word in self.words
            ],
            **kept,
        }

    def answer(self) -> dict[str, Any]:
        """What other programs are told."""
        return {
            "image": self.image.spelled,
            **({"captioner": self.captioner} if self.captioner else {}),
            "caption": self.caption,
            "log_probability": round(self.log_probability, 6),
            **judged(self.agreement, self.flagged, self.read),
        }

    @classmethod
    def of_record(cls, image: ImageFile, record: Mapping[str, Any]) -> Caption:
        """What `record` wrote down."""
        return cls(
            image,
            record["caption"],
            [CaptionWord(word["word"], word["log_probability"]) for word in record["words"]],
            record["log_probability"],
            record["tokens"],
            record["ended"],
            record.get("agreement"),
            record.get("flagged"),
            [Candidate(**one) for one in record.get("candidates", [])] or None,
            read=record.get("read"),
        )


def without_preamble(caption: Caption) -> Caption:
    """The caption without "a photo of" or its like before it; its log-probability is of all of it.

    One that has nothing else stays.
    """
    begin, words = " ".join(word.word for word in caption.words[:3]), caption.words[3:]
    if not words or not _PREAMBLE.fullmatch(begin):
        return caption
    if begin[0].isupper():
        start = words[0].word
        words[0] = structs.replace(words[0], word=start[0].upper() + start[1:])
    return replace(caption, words=words, caption=" ".join(word.word for word in words))


def told(candidate: Candidate) -> dict[str, Any]:
    """A candidate as a record has it."""
    names = ("score", "mean_log_probability", "match", "neighbours")
    figures = {name: getattr(candidate, name) for name in names}
    known = {name: round(value, 6) for name, value in figures.items() if value is not None}
    return {"caption": as_sentence(candidate.caption), **known}


def judged(
    agreement: float | None, flagged: bool | None, read: str | None = None
) -> dict[str, Any]:
    """Whether people would agree, and what was read before, as records and answers have it."""
    known = {"agreement": agreement and round(agreement, 4), "flagged": flagged, "read": read}
    return {name: value for name, value in known.items() if value is not None}


def captions_of(
    images: Sequence[ImageFile], generated: Generated, decoder: Decoder
) -> Iterator[Caption]:
    """What was generated for images, as their captions."""
    among: Sequence[list[Candidate] | None] = generated.candidates or [None] * len(images)
    for image, ids, chosen, offered in zip(
        images, generated.ids, generated.log_probabilities, among, strict=True
    ):
        words = caption_words(decoder, ids, chosen)
        if offered is not None:
            offered = sorted(offered, key=lambda one: -one.score)
        yield Caption(
            image,
            as_sentence(" ".join(word.word for word in words)),
            words,
            sum(chosen),
            tokens=len(chosen),
            # the end has a log-probability too, and no id
            ended=len(chosen) > len(ids),
            candidates=offered,
            ids=ids,
        )


def caption_words(
    decoder: Decoder, ids: Sequence[int], log_probabilities: Sequence[float]
) -> list[CaptionWord]:
    """The words that token ids spell, the pieces of each put together as `word_pieces` does.

    log_probabilities: of each id; what follows them (the end's) is of no word.
    """
    return [
        CaptionWord(word, sum(log_probabilities[place] for place in places))
        for word, places in word_pieces(decoder, ids)
    ]


def word_pieces(
    decoder: Decoder, ids: Sequence[int], word: re.Pattern[str] = WORD
) -> list[tuple[str, tuple[int, ...]]]:
    """The words that token ids spell, each with the places of its pieces in `ids`.

    A piece belongs to the word that its first character stands in, the space before a word to that
    word; a piece that shows nothing yet, such as half a character, to the word that comes of it.
    """
    prefixes = decoder.decode([ids[: count + 1] for count in range(len(ids))])
    text = prefixes[-1] if prefixes else ""
    spans = [match.span() for match in word.finditer(text)]
    if not spans:
        return []
    owned: list[list[int]] = [[] for _ in spans]
    shown = current = 0
    waiting: list[int] = []
    for place, prefix in enumerate(prefixes):
        waiting.append(place)
        # half a character is shown as a mark that is not in the whole text
        now = max(shown, _agreeing(prefix, text))
        if now == shown:
            continue
        while current < len(spans) - 1 and spans[current][1] <= shown:
            current += 1
        owned[current] += waiting
        waiting, shown = [], now
    owned[-1] += waiting
    return [(text[a:b], tuple(places)) for (a, b), places in zip(spans, owned, strict=True)]


def _agreeing(prefix: str, text: str) -> int:
    pairs = enumerate(zip(prefix, text, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(prefix), len(text)))
