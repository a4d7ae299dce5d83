"""Every n-gram of a set of captions as integers: one sort an order, shared by all metrics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ORDERS = 4  # BLEU and CIDEr look at runs of 1 to 4 words
_KEY_BITS = 63  # a packed key is a positive int64


@dataclass(frozen=True)
class Words:
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


class Counts:
    """The n-grams of captions that stand image by image; each order is counted when asked for."""

    def __init__(self, words: Words) -> None:
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


def count_ngrams(words: Words, n: int, shorter: NGrams | None) -> NGrams:
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
    words: Words, n: int, shorter: NGrams | None
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
    words: Words, gram: NDArray[np.int32], caption: NDArray[np.int32], n_grams: int
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
