"""Candidates and references side by side, tokenised once; the metrics share what they count.

Every n-gram of all captions is an integer: one sort per order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from captune_metrics import ptb
from captune_metrics.display import named
from captune_metrics.errors import MismatchedImages, UserError
from captune_metrics.resampling import Doubles
from captune_metrics.scores import Candidates, References

ORDERS = 4  # BLEU and CIDEr look at runs of 1 to 4 words
_KEY_BITS = 63  # a packed key is a positive int64


@dataclass(frozen=True)
class TokenizedCaptions:
    """The words of all captions as one row of integers, caption after caption.

    ids: [words] word ids, below `vocabulary_size`. lengths: [captions] words a caption.
    caption: [words] whose word it is. image: [captions] whose caption it is, ascending.
    is_candidate: [captions]; the candidate of an image stands before its references.
    """

    ids: NDArray[np.int64]
    vocabulary_size: int
    lengths: NDArray[np.int64]
    caption: NDArray[np.int32]
    image: NDArray[np.int32]
    is_candidate: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        ids: Sequence[NDArray[np.int64]],
        vocabulary_size: int,
        lengths: NDArray[np.int64],
        captions_an_image: Sequence[int],
    ) -> TokenizedCaptions:
        """Of captions that stand image by image; ids: in several parts."""
        image = np.repeat(np.arange(len(captions_an_image), dtype=np.int32), captions_an_image)
        caption = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        is_candidate = np.diff(image, prepend=np.int32(-1)) != 0
        return cls(np.concatenate(ids), vocabulary_size, lengths, caption, image, is_candidate)


@dataclass(frozen=True)
class NGrams:
    """The n-grams of one order: an entry for every (n-gram, caption that has it).

    Entries are sorted by n-gram, then by caption. So those of one n-gram in one image stand
    together (a "run"), and the image's candidate, where it has the n-gram, begins the run.

    gram, caption, count: [entries] which n-gram, in which caption, how often there.
    keys: [n-grams] ascending; key = (id of the first n - 1 words) * vocabulary + last word.
    at: [words] the n-gram that starts at each word, -1 where the caption ends too soon.
    document_frequency: [n-grams] images that have it in at least one reference.
    matched: [matches, 2] entries (candidate, reference) of the same n-gram and image, run by run.
    """

    gram: NDArray[np.int32]
    caption: NDArray[np.int32]
    count: NDArray[np.int32]
    keys: NDArray[np.int64]
    at: NDArray[np.int32]
    document_frequency: NDArray[np.int64]
    matched: NDArray[np.int64]


class NgramCounts:
    """The n-grams of captions that stand image by image; each order is counted when asked for.

    starts: [images] the place of each image's candidate among the captions; its references follow.
    n_references: [images] how many each has.
    """

    def __init__(self, words: TokenizedCaptions) -> None:
        self.words = words
        self.starts: NDArray[np.int64] = np.flatnonzero(words.is_candidate)
        self.n_references = np.diff(self.starts, append=words.lengths.size) - 1
        self._orders: list[NGrams] = []

    def ngrams(self, n: int) -> NGrams:
        """The n-grams of order `n`, 1 to 4."""
        if not 1 <= n <= ORDERS:
            raise ValueError(f"order {n}: expected 1 to {ORDERS}")
        while len(self._orders) < n:
            shorter = self._orders[-1] if self._orders else None
            self._orders.append(count_ngrams(self.words, len(self._orders) + 1, shorter))
        return self._orders[n - 1]


def count_ngrams(words: TokenizedCaptions, n: int, shorter: NGrams | None) -> NGrams:
    """Count the n-grams of order `n`; `shorter` holds those of order n - 1 (None for n = 1)."""
    keys, places = _sorted_keys(words, n, shorter)
    captions = words.caption[places]
    is_new_gram = _differs(keys)
    gram_of_place = np.cumsum(is_new_gram, dtype=np.int32) - np.int32(1)
    at = np.full(words.ids.size, -1, dtype=np.int32)
    at[places] = gram_of_place
    starts = np.flatnonzero(is_new_gram | _differs(captions))
    gram, caption = gram_of_place[starts], captions[starts]
    document_frequency, matched = _by_image(words, gram, caption, int(is_new_gram.sum()))
    return NGrams(
        gram=gram,
        caption=caption,
        count=np.diff(starts, append=places.size).astype(np.int32),
        keys=keys[is_new_gram],
        at=at,
        document_frequency=document_frequency,
        matched=matched,
    )


def _sorted_keys(
    words: TokenizedCaptions, n: int, shorter: NGrams | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(n-gram keys, ascending; the place in the text of each, ascending within equal keys)."""
    total = words.ids.size
    if shorter is None:
        places, keys = np.arange(total), words.ids
        highest = words.vocabulary_size
    else:
        last = np.arange(n - 1, total)
        places = np.flatnonzero(words.caption[: last.size] == words.caption[last])
        keys = shorter.at[places] * np.int64(words.vocabulary_size) + words.ids[places + n - 1]
        highest = shorter.keys.size * words.vocabulary_size
    shift = total.bit_length()
    if highest.bit_length() + shift <= _KEY_BITS:
        # the place rides in the low bits: sorting bare values is several times faster than argsort
        packed = np.sort((keys << shift) | places)
        return packed >> shift, packed & ((1 << shift) - 1)
    order = np.argsort(keys, kind="stable")
    return keys[order], places[order]


def _by_image(
    words: TokenizedCaptions, gram: NDArray[np.int32], caption: NDArray[np.int32], n_grams: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(document frequencies, matched entries) of the sorted entries."""
    starts_run = _differs(gram) | _differs(words.image[caption])
    firsts = np.flatnonzero(starts_run)
    lasts = np.append(firsts[1:], gram.size) - 1 if firsts.size else firsts
    is_candidate = words.is_candidate[caption]
    # a candidate is the first of its run: when it is also the last, no reference has the n-gram
    document_frequency = np.bincount(gram[lasts[~is_candidate[lasts]]], minlength=n_grams)
    lengths = lasts - firsts  # references in the run of a candidate
    with_both = is_candidate[firsts] & (lengths > 0)
    candidates = np.repeat(firsts[with_both], lengths[with_both])
    offsets = np.cumsum(lengths[with_both]) - lengths[with_both]
    within = np.arange(candidates.size) - np.repeat(offsets, lengths[with_both])
    return document_frequency, np.stack([candidates, candidates + within + 1], axis=1)


def _differs(values: NDArray[np.int64] | NDArray[np.int32]) -> NDArray[np.bool_]:
    """Where a value is not its predecessor's; the first always differs."""
    differs = np.ones(values.size, dtype=np.bool_)
    np.not_equal(values[1:], values[:-1], out=differs[1:])
    return differs


Tokenize = Callable[[list[str]], Sequence[str]]
_TOKENIZERS: dict[str, Tokenize] = {"ptb": ptb.tokenize_each, "none": list}
_BLOCK = 20_000  # texts split into words at once


class Corpus(NgramCounts):
    """Captions to score and what they are scored against, aligned by image.

    candidates: {image id: caption}; references: {image id: [caption, ...]}, at least one each.
    tokenizer: "ptb", "none" for words between spaces, or the name of `tokenize`; it stands in the
        recipe of each score. tokenize: captions -> each caption's tokens joined by a space, same
        length and order; every different caption is handed over once.
    Raises MismatchedImages when the two do not have the same image ids, and UserError for an image
    without references and for no images at all.

    texts: each caption's tokens. words: the same split at any white space (as CIDEr and BLEU do).
    vocabulary: word -> id, in order of appearance. loosely_spaced: places in `texts` that splitting
        at single spaces (as ROUGE does) splits otherwise.
    """

    def __init__(
        self,
        candidates: Candidates,
        references: References,
        tokenizer: str = "ptb",
        tokenize: Tokenize | None = None,
    ) -> None:
        check_images(candidates, references)
        self.images = list(candidates)
        self.tokenizer = tokenizer
        self.tokenizer_version = ptb.VERSION if tokenizer == "ptb" else None
        tokens_of = tokenize or _TOKENIZERS[tokenizer]
        captions: list[str] = []
        for image, candidate in candidates.items():
            captions.append(candidate)
            captions.extend(references[image])
        different = list(dict.fromkeys(captions))
        tokenised = dict(zip(different, tokens_of(different), strict=True))
        self.texts = [tokenised[caption] for caption in captions]
        self.loosely_spaced: list[int] = []
        vocabulary: defaultdict[str, int] = defaultdict(count().__next__)  # a new word's number
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
                    self.loosely_spaced.append(place)
                    lengths[place] = len(parts)
        self.vocabulary = dict(vocabulary)
        each = [1 + len(references[image]) for image in candidates]
        super().__init__(TokenizedCaptions.of(ids, len(vocabulary), lengths, each))

    def recipe(self) -> dict[str, str | None]:
        """What the text was made of, for the recipe of a score."""
        return {"tokenizer": self.tokenizer, "tokenizer_version": self.tokenizer_version}

    def by_image(self, values: Doubles) -> dict[str, float]:
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
                f"the candidate of {named([image], 'image')} must be one caption, a string"
            )
    bare = [image for image, captions in references.items() if isinstance(captions, str)]
    if bare:
        raise UserError(
            f"the references of {named(bare, 'image')} must be a list of captions, not one string"
        )
    empty = [image for image, captions in references.items() if not captions]
    if empty:
        raise UserError(
            f"the references of {named(empty, 'image')} must be at least one caption each"
        )
    odd = [
        image
        for image, captions in references.items()
        if not all(isinstance(caption, str) for caption in captions)
    ]
    if odd:
        raise UserError(f"the references of {named(odd, 'image')} must be strings")
