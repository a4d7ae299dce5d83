"""ROUGE-L as coco-caption computes it (Lin 2004)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from captune_metrics.corpus import Corpus
from captune_metrics.scores import Candidates, References, Scores

_BETA = 1.2  # recall counts beta^2 times as much as precision
_SURROGATES = range(0xD800, 0xE000)  # no characters: a string cannot be made of them
_CHARACTERS = 0x110000 - len(_SURROGATES)


def rouge_l(candidates: Candidates, references: References) -> Scores:
    """ROUGE-L of each candidate: how much of the longest common subsequence both sides have.

    candidates: {image id: caption}; references: {image id: [caption, ...]}, tokenised with `ptb`.
    F = (1 + beta^2) P R / (R + beta^2 P) with beta = 1.2, where P and R are the best precision and
    the best recall over the references, each taken by itself (so they may come from two of them).
    As in coco-caption, captions are split at single spaces: an empty caption is one empty word, and
    two empty captions agree. Returns Scores: the corpus figure is the mean, 0..1.
    Raises MismatchedImages when the two have different image ids.
    """
    return rouge_l_of(Corpus(candidates, references))


def rouge_l_of(corpus: Corpus) -> Scores:
    """`rouge_l` of captions that are tokenised already."""
    lengths, common = _common_words(corpus)
    starts = corpus.starts
    is_reference = ~corpus.words.is_candidate
    recalls, precisions = np.zeros(lengths.size), np.zeros(lengths.size)
    recalls[is_reference] = common / lengths[is_reference]
    own = np.repeat(lengths[starts], corpus.n_references)
    precisions[is_reference] = common / own
    recall = np.maximum.reduceat(recalls, starts)
    precision = np.maximum.reduceat(precisions, starts)
    weighted = recall + _BETA**2 * precision
    f = np.zeros(starts.size)
    np.divide((1 + _BETA**2) * precision * recall, weighted, out=f, where=weighted > 0)
    return Scores(
        metric="rouge_l",
        corpus=float(f.mean()),
        per_image=corpus.by_image(f),
        recipe={**corpus.recipe(), "beta": _BETA, "precision_and_recall": "best of each"},
        title="ROUGE-L",
        details=(corpus.tokenizer, f"beta={_BETA}"),
    )


def _common_words(corpus: Corpus) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """([captions] words, [references] length of the longest subsequence shared with the candidate).

    Each word becomes one character, so that a string library compares captions.
    """
    # not needed by the other metrics
    from rapidfuzz.distance import LCSseq
    from rapidfuzz.process import cpdist

    strings, lengths = _as_strings(corpus)
    starts = corpus.starts.tolist()
    candidates = [
        strings[start]
        for start, n in zip(starts, corpus.n_references.tolist(), strict=True)
        for _ in range(n)
    ]
    references = [strings[i] for i in np.flatnonzero(~corpus.words.is_candidate).tolist()]
    common = cpdist(candidates, references, scorer=LCSseq.similarity, dtype=np.int64)
    return lengths, common


def _as_strings(corpus: Corpus) -> tuple[list[str] | list[list[int]], NDArray[np.int64]]:
    """([captions] a character for each word, [captions] words), split at single spaces."""
    words = corpus.words
    lengths = words.lengths.copy()
    vocabulary = dict(corpus.vocabulary)
    resplit: dict[int, list[int]] = {}
    for row in corpus.loosely_spaced:
        split = corpus.texts[row].split(" ")
        resplit[row] = [vocabulary.setdefault(word, len(vocabulary)) for word in split]
        lengths[row] = len(split)
    stops = np.cumsum(words.lengths)
    bounds = zip((stops - words.lengths).tolist(), stops.tolist(), strict=True)
    if len(vocabulary) > _CHARACTERS:
        numbers = words.ids.tolist()
        rows = [numbers[start:stop] for start, stop in bounds]
        for row, ids in resplit.items():
            rows[row] = ids
        return rows, lengths
    text = _characters(words.ids)
    strings = [text[start:stop] for start, stop in bounds]
    for row, ids in resplit.items():
        strings[row] = _characters(np.array(ids))
    return strings, lengths


def _characters(ids: NDArray[np.int64]) -> str:
    """A character for each id."""
    points = np.where(ids < _SURROGATES.start, ids, ids + len(_SURROGATES))
    return points.astype("<u4").tobytes().decode("utf-32-le")
