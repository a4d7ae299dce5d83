"""BLEU-1 to BLEU-4 as coco-caption computes them (Papineni et al. 2002)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captune_metrics.corpus import ORDERS, Corpus
from captune_metrics.resampling import Doubles
from captune_metrics.scores import Candidates, References, Scores

# coco-caption's stand-ins for smoothing: no division by 0, and a product that is never quite 0
_TINY = 1e-15
_SMALL = 1e-9


def bleu(candidates: Candidates, references: References) -> dict[str, Scores]:
    """BLEU-1 to BLEU-4 of all candidates together and of each (coco-caption's `closest` variant).

    candidates: {image id: caption}; references: {image id: [caption, ...]}, tokenised with `ptb`.
    Clipped n-gram precisions, their geometric mean, and a penalty for candidates shorter than their
    references; an image's reference length is the one closest to its candidate's, the shorter of
    two that are as close. The corpus figure is made of summed counts: it is no mean over images.
    Returns {"bleu_1": Scores, ..., "bleu_4": Scores}, 0..1.
    Raises MismatchedImages when the two have different image ids.
    """
    return bleu_of(Corpus(candidates, references))


def bleu_of(corpus: Corpus) -> dict[str, Scores]:
    """`bleu` of captions that are tokenised already."""
    statistics = sufficient_counts(corpus)
    per_image = _bleu(statistics)
    totals = statistics.sum(axis=0, keepdims=True)
    return {
        f"bleu_{n}": Scores(
            metric=f"bleu_{n}",
            corpus=float(_bleu(totals)[0, n - 1]),
            per_image=corpus.by_image(per_image[:, n - 1]),
            recipe=_recipe(corpus, n),
            statistics=statistics,
            of_sums=partial(_of_sums, n),
            title=f"BLEU-{n}",
            details=(corpus.tokenizer, "closest reference length"),
        )
        for n in range(1, ORDERS + 1)
    }


def sufficient_counts(corpus: Corpus) -> Doubles:
    """[images, 10] what BLEU knows of an image; a corpus figure needs only their sums.

    Columns: n-grams of order 1 to 4 that a reference has too; n-grams of order 1 to 4; words of
    the candidate; words of its closest reference.
    """
    starts, lengths = corpus.starts, corpus.words.lengths
    candidate_lengths = lengths[starts]
    guessed = np.maximum(candidate_lengths[:, None] - np.arange(ORDERS), 0)
    correct = [_correct(corpus, n) for n in range(1, ORDERS + 1)]
    closest = _closest_lengths(corpus)
    columns = [*correct, *guessed.T, candidate_lengths, closest]
    return np.stack(columns, axis=1).astype(np.float64)


def _correct(corpus: Corpus, n: int) -> Doubles:
    """[images] n-grams of the candidate, each counted as often as one reference has it at most."""
    ngrams, words = corpus.ngrams(n), corpus.words
    candidates, references = ngrams.matched.T
    firsts = np.flatnonzero(np.diff(candidates, prepend=-1))
    if not firsts.size:
        return np.zeros(len(corpus.images))
    most = np.maximum.reduceat(ngrams.count[references], firsts)
    entries = candidates[firsts]
    clipped = np.minimum(ngrams.count[entries], most)
    image = words.image[ngrams.caption[entries]]
    weights: Doubles = clipped.astype(np.float64)
    return np.bincount(image, weights, minlength=len(corpus.images)).astype(np.float64)


def _closest_lengths(corpus: Corpus) -> NDArray[np.int64]:
    """[images] length of the reference whose length is closest to the candidate's."""
    words = corpus.words
    own = words.lengths[corpus.starts][words.image]
    # by distance, then by length: one number that is smallest for the closest, shorter one
    scale = int(words.lengths.max(initial=0)) + 1
    ranked = np.abs(words.lengths - own) * scale + words.lengths
    ranked[words.is_candidate] = np.iinfo(np.int64).max
    return np.minimum.reduceat(ranked, corpus.starts) % scale


def _bleu(counts: Doubles) -> Doubles:
    """[m, 4] BLEU-1 to BLEU-4 of [m, 10] counts, columns as in `sufficient_counts`."""
    correct, guessed = counts[:, :ORDERS], counts[:, ORDERS : 2 * ORDERS]
    products = np.cumprod((correct + _TINY) / (guessed + _SMALL), axis=1)
    means = products ** (1 / np.arange(1, ORDERS + 1))
    ratio = (counts[:, -2] + _TINY) / (counts[:, -1] + _SMALL)
    penalty: Doubles = np.exp(np.minimum(0, 1 - 1 / ratio))
    scores: Doubles = means * penalty[:, None]
    return scores


def _of_sums(n: int, sums: Doubles, images: int) -> Doubles:  # noqa: ARG001
    """[m] BLEU-n of sums of counts [m, 10]; how many images they are sums of does not matter."""
    return _bleu(sums)[:, n - 1]


def _recipe(corpus: Corpus, n: int) -> dict[str, Any]:
    return {
        **corpus.recipe(),
        "n": n,
        "reference_length": "closest",
        "smoothing": None,
        "tiny": _TINY,
        "small": _SMALL,
    }
