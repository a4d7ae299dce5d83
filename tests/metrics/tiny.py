"""Random corpora of a few words, and what pycocoevalcap's scorers make of them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from captune_metrics.corpus import Corpus

# few words, so that n-grams meet; some that look alike or are split by some and not by others
WORDS = ["a", "a", "a", "dog", "runs", "on", "b", "猫", "كلب", "🐕", "e\u0301", "x\u00a0y", "-lrb-"]
TOKENISED = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)
# spaces where a tokenizer leaves none: CIDEr and BLEU drop them, ROUGE counts empty words
SPACED = st.text("ab \u00a0\u2003\t", max_size=8)
CAPTIONS = st.one_of(TOKENISED, TOKENISED, SPACED)
IMAGES = st.lists(
    st.tuples(CAPTIONS, st.lists(CAPTIONS, min_size=1, max_size=4)), min_size=1, max_size=6
)

Pairs = Sequence[tuple[str, Sequence[str]]]


def split(pairs: Pairs) -> tuple[dict[str, str], dict[str, Sequence[str]]]:
    """(candidates, references) of images called "0", "1", ..."""
    candidates = {str(i): candidate for i, (candidate, _) in enumerate(pairs)}
    return candidates, {str(i): references for i, (_, references) in enumerate(pairs)}


def corpus_of(pairs: Pairs) -> Corpus:
    """A corpus of captions that are tokenised already."""
    return Corpus(*split(pairs), tokenizer="none")


def their_scores(scorer: Any, corpus: Corpus, **arguments: Any) -> tuple[Any, Any]:
    """(corpus, per image) of one of pycocoevalcap's scorers, on the same tokenised captions."""
    ours: dict[str, list[str]] = {}
    theirs: dict[str, list[str]] = {}
    for image, start, n in zip(corpus.images, corpus.starts, corpus.n_references, strict=True):
        ours[image] = [corpus.texts[start]]
        theirs[image] = list(corpus.texts[start + 1 : start + 1 + n])
    with contextlib.redirect_stdout(io.StringIO()):
        score: tuple[Any, Any] = scorer.compute_score(theirs, ours, **arguments)
    return score


def closest(per_image: Mapping[str, float], expected: Sequence[float]) -> float:
    """The largest difference of a score."""
    pairs = zip(per_image.values(), expected, strict=True)
    return max(abs(own - other) for own, other in pairs)
