from __future__ import annotations

import pytest
from hypothesis import given, settings
from tests.metrics.conftest import Coco
from tests.metrics.tiny import IMAGES, Pairs, closest, corpus_of, their_scores

from captune_metrics import rouge
from captune_metrics.rouge import rouge_l_of


@pytest.mark.needs("shared")
def test_coco_is_scored_as_the_reference_does(coco: Coco) -> None:
    scores = rouge_l_of(coco.corpus)
    assert scores.corpus == pytest.approx(coco.overall["ROUGE-L"], abs=1e-12)
    assert coco.largest_difference("ROUGE-L", scores.per_image) < 1e-12


# 0: more words than there are characters, so that lists of numbers are compared
@pytest.mark.parametrize("characters", [rouge._CHARACTERS, 0])
@settings(deadline=None, max_examples=80)
@given(pairs=IMAGES)
def test_random_captions_are_scored_as_pycocoevalcap_does(characters: int, pairs: Pairs) -> None:
    theirs = pytest.importorskip("pycocoevalcap.rouge.rouge")
    corpus = corpus_of(pairs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rouge, "_CHARACTERS", characters)
        scores = rouge_l_of(corpus)
    score, images = their_scores(theirs.Rouge(), corpus)
    assert scores.corpus == pytest.approx(score, abs=1e-9)
    assert closest(scores.per_image, images) < 1e-9


def test_more_words_than_there_are_characters_before_the_surrogates() -> None:
    words = [f"w{i}" for i in range(0xE100)]
    text = " ".join(words)
    backwards = " ".join(reversed(words))
    scores = rouge_l_of(corpus_of([(text, [text]), (text, [backwards])]))
    assert scores.per_image["0"] == pytest.approx(1)
    assert scores.per_image["1"] == pytest.approx(1 / len(words))


def test_precision_and_recall_may_come_from_two_references() -> None:
    # P = 3/4 from the first, R = 2/2 from the second
    scores = rouge_l_of(corpus_of([("a b c d", ["a x b y c z", "a d"])]))
    precision, recall = 3 / 4, 1.0
    expected = 2.44 * precision * recall / (recall + 1.44 * precision)
    assert scores.corpus == pytest.approx(expected, abs=1e-15)
    assert scores.name == "ROUGE-L[none, beta=1.2]"


def test_an_empty_caption_is_one_empty_word() -> None:
    scores = rouge_l_of(corpus_of([("", [""]), ("", ["a b"]), ("a", [""])]))
    assert scores.per_image == {"0": pytest.approx(1), "1": 0.0, "2": 0.0}
