"""Candidates and references side by side, tokenised once; the metrics share what they count."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import count

import numpy as np
from numpy.typing import NDArray

from captune.errors import MismatchedImages, UserError
from captune.files import named
from captune.metrics import ptb
from captune.metrics.ngrams import Counts, NGrams, Words
from captune.metrics.scores import Candidates, References

Tokenize = Callable[[list[str]], Sequence[str]]
_BLOCK = 20_000  # texts split into words at once


class Corpus:
    """Captions to score and what they are scored against, aligned by image.

    candidates: {image id: caption}; references: {image id: [caption, ...]}, at least one each.
    tokenize: captions -> each caption's tokens joined by a space, same length and order; every
        different caption is handed over once. tokenizer_name stands in the recipe of each score.
    Raises MismatchedImages when the two do not have the same image ids, and UserError for an image
    without references and for no images at all.
    """

    def __init__(
        self,
        candidates: Candidates,
        references: References,
        tokenize: Tokenize = ptb.tokenize_each,
        tokenizer_name: str = "ptb",
    ) -> None:
        check_images(candidates, references)
        self.images = list(candidates)
        self.tokenizer = tokenizer_name
        self.tokenizer_version = ptb.VERSION if tokenizer_name == "ptb" else None
        captions: list[str] = []
        for image, candidate in candidates.items():
            captions.append(candidate)
            captions.extend(references[image])
        different = list(dict.fromkeys(captions))
        tokenised = dict(zip(different, tokenize(different), strict=True))
        self.texts = [tokenised[caption] for caption in captions]
        self._captions_an_image = [1 + len(references[image]) for image in candidates]

    @cached_property
    def counts(self) -> Counts:
        """The n-grams of all captions, split at any white space (as CIDEr and BLEU do)."""
        return Counts(self._split[1])

    @property
    def words(self) -> Words:
        """The words of all captions, split at any white space."""
        return self._split[1]

    @property
    def starts(self) -> NDArray[np.int64]:
        """[images] the place of each image's candidate in `texts`; its references follow it."""
        return self.counts.starts

    @property
    def n_references(self) -> NDArray[np.int64]:
        """[images] how many references each has."""
        return self.counts.n_references

    def ngrams(self, n: int) -> NGrams:
        """The n-grams of order `n`, 1 to 4; counted when first asked for."""
        return self.counts.ngrams(n)

    @property
    def vocabulary(self) -> dict[str, int]:
        """Word -> id, in order of appearance."""
        return self._split[0]

    @property
    def loosely_spaced(self) -> list[int]:
        """Places in `texts` that splitting at single spaces (as ROUGE does) splits otherwise."""
        return self._split[2]

    @cached_property
    def _split(self) -> tuple[dict[str, int], Words, list[int]]:
        vocabulary: defaultdict[str, int] = defaultdict(count().__next__)  # a new word's number
        loose: list[int] = []
        ids, lengths = [], np.empty(len(self.texts), dtype=np.int64)
        # in blocks: a string for every word of 100,000 images would take half a gigabyte
        for start in range(0, len(self.texts), _BLOCK):
            texts = self.texts[start : start + _BLOCK]
            joined = " ".join(texts)
            words = joined.split()
            ids.append(np.fromiter(map(vocabulary.__getitem__, words), np.int64, len(words)))
            lengths[start : start + len(texts)] = [text.count(" ") + 1 for text in texts]
            if " ".join(words) == joined and all(texts):
                continue  # one space between any two words, and nothing else between or around
            for place, text in enumerate(texts, start=start):
                parts = text.split()
                if not parts or " ".join(parts) != text:
                    loose.append(place)
                    lengths[place] = len(parts)
        image = np.repeat(np.arange(len(self.images), dtype=np.int32), self._captions_an_image)
        is_candidate = np.diff(image, prepend=np.int32(-1)) != 0
        return (
            dict(vocabulary),
            Words(
                ids=np.concatenate(ids),
                vocabulary_size=len(vocabulary),
                lengths=lengths,
                caption=np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
                image=image,
                is_candidate=is_candidate,
            ),
            loose,
        )

    def recipe(self) -> dict[str, str | None]:
        """What the text was made of, for the recipe of a score."""
        return {"tokenizer": self.tokenizer, "tokenizer_version": self.tokenizer_version}

    def by_image(self, values: NDArray[np.float64]) -> dict[str, float]:
        """[images] values under their image ids."""
        return dict(zip(self.images, values.tolist(), strict=True))


def check_images(candidates: Candidates, references: References) -> None:
    """Refuse what cannot be scored. Raises MismatchedImages and UserError, as Corpus."""
    without_references = [image for image in candidates if image not in references]
    without_candidate = [image for image in references if image not in candidates]
    if without_references or without_candidate:
        parts = []
        if without_references:
            parts.append(f"no references for {named(without_references, 'image')}")
        if without_candidate:
            parts.append(f"no candidate for {named(without_candidate, 'image')}")
        raise MismatchedImages(f"{'; '.join(parts)}: give both for the same images")
    if not candidates:
        raise UserError("no captions to score: give at least one candidate with its references")
    for image, candidate in candidates.items():
        if not isinstance(candidate, str):
            raise UserError(
                f"candidate of {named([image], 'image')}: must be one caption, a string"
            )
    bare = [image for image, captions in references.items() if isinstance(captions, str)]
    if bare:
        raise UserError(
            f"references of {named(bare, 'image')}: must be a list of captions, not one string"
        )
    empty = [image for image, captions in references.items() if not captions]
    if empty:
        raise UserError(f"references of {named(empty, 'image')}: must be at least one caption each")
    odd = [
        image
        for image, captions in references.items()
        if not all(isinstance(caption, str) for caption in captions)
    ]
    if odd:
        raise UserError(f"references of {named(odd, 'image')}: must be strings")
