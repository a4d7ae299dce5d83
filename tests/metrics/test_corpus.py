from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from tests.metrics.tiny import IMAGES, Pairs, corpus_of

import captune_metrics as metrics
from captune_metrics import corpus as counting
from captune_metrics.corpus import Corpus
from captune_metrics.errors import MismatchedImages, UserError


def test_a_caption_is_tokenised_once_however_often_it_stands_there() -> None:
    seen: list[str] = []

    def tokenize(captions: list[str]) -> list[str]:
        seen.extend(captions)
        return [caption.lower() for caption in captions]

    corpus = Corpus({"x": "A Dog", "y": "A Cat"}, {"x": ["A Cat"], "y": ["A Dog"]}, "own", tokenize)
    assert sorted(seen) == ["A Cat", "A Dog"]
    assert corpus.texts == ["a dog", "a cat", "a cat", "a dog"]
    assert corpus.recipe() == {"tokenizer": "own", "tokenizer_version": None}


def test_references_are_aligned_by_image_whatever_their_order() -> None:
    corpus = Corpus({"b": "x", "a": "y"}, {"a": ["1", "2"], "b": ["3"]}, "none")
    assert corpus.images == ["b", "a"]
    assert corpus.texts == ["x", "3", "y", "1", "2"]
    assert corpus.starts.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("candidates", "references", "says"),
    [
        ({"a": "x"}, {"b": ["x"]}, 'no references for image "a"; no candidate for image "b"'),
        ({}, {str(i): ["x"] for i in range(9)}, 'no candidate for images "0", "1", "2" and 6 more'),
        ({"a\x1b[2J": "x"}, {}, 'no references for image "a\\x1b[2J"'),
    ],
)
def test_other_images_are_refused_by_name(
    candidates: dict[str, str], references: dict[str, list[str]], says: str
) -> None:
    with pytest.raises(MismatchedImages) as caught:
        Corpus(candidates, references)
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize(
    ("candidates", "references", "says"),
    [
        ({}, {}, "no captions to score"),
        ({"a": "x"}, {"a": []}, "must be at least one caption"),
        ({"a": "x"}, {"a": "one string"}, "must be a list of captions"),
        ({"a": ["x"]}, {"a": ["x"]}, "must be one caption"),
        ({"a": "x"}, {"a": [None]}, "must be strings"),
    ],
)
def test_what_is_no_caption_is_refused(candidates: dict, references: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Corpus(candidates, references)


def test_a_tokenizer_that_loses_a_caption_is_noticed() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Corpus({"a": "x"}, {"a": ["y"]}, "broken", lambda captions: captions[:1])


@pytest.mark.parametrize("bits", [63, 0])  # 0: no room for the place beside the key
@settings(deadline=None, max_examples=60)
@given(pairs=IMAGES)
def test_ngrams_are_those_counted_by_hand(bits: int, pairs: Pairs) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "_KEY_BITS", bits)
        corpus = corpus_of(pairs)
        for n in (1, 2, 3, 4):
            _check_order(corpus, n)


def _check_order(corpus: Corpus, n: int) -> None:
    counted = [_by_hand(text, n) for text in corpus.texts]
    ngrams = corpus.ngrams(n)
    words = corpus.words
    spelled = _spelled(corpus, n)
    entries = {
        (int(row), spelled[gram]): int(count)
        for gram, row, count in zip(ngrams.gram, ngrams.caption, ngrams.count, strict=True)
    }
    assert entries == {
        (row, gram): count for row, grams in enumerate(counted) for gram, count in grams.items()
    }
    in_images = Counter(
        gram
        for image in range(len(corpus.images))
        for gram in {
            gram
            for row, grams in enumerate(counted)
            if words.image[row] == image and not words.is_candidate[row]
            for gram in grams
        }
    )
    found = dict(zip(spelled, ngrams.document_frequency.tolist(), strict=True))
    assert {gram: count for gram, count in found.items() if count} == in_images
    pairs = {
        (int(ngrams.caption[own]), int(ngrams.caption[other]), spelled[ngrams.gram[own]])
        for own, other in ngrams.matched
        if ngrams.gram[own] == ngrams.gram[other]
    }
    assert len(pairs) == len(ngrams.matched)
    assert pairs == {
        (candidate, row, gram)
        for candidate in corpus.starts.tolist()
        for row in range(len(corpus.texts))
        if words.image[row] == words.image[candidate] and row != candidate
        for gram in counted[candidate].keys() & counted[row].keys()
    }


def _by_hand(text: str, n: int) -> Counter[tuple[str, ...]]:
    words = text.split()
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _spelled(corpus: Corpus, n: int) -> list[tuple[str, ...]]:
    """The words of each n-gram, read off the place where it stands."""
    names = list(corpus.vocabulary)
    at = corpus.ngrams(n).at
    spelled: list[tuple[str, ...]] = [()] * corpus.ngrams(n).keys.size
    for place in np.flatnonzero(at >= 0):
        spelled[at[place]] = tuple(names[i] for i in corpus.words.ids[place : place + n])
    return spelled


def test_the_metrics_load_neither_torch_nor_anything_else_that_is_slow() -> None:
    program = (
        "import sys\n"
        "from captune_metrics import bleu, cider, rouge\n"
        "slow = {'torch', 'transformers', 'scipy', 'PIL', 'matplotlib', 'rich', 'rapidfuzz'}\n"
        "assert not slow & sys.modules.keys(), slow & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_names_mean_the_functions_whatever_was_imported_before() -> None:
    from captune_metrics.cider_d import cider_of

    assert callable(metrics.cider)
    assert callable(metrics.bleu)
    assert metrics.cider_of is cider_of
    assert set(metrics.__all__) <= set(dir(metrics))
