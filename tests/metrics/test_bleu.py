from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from tests.metrics.conftest import Coco
from tests.metrics.tiny import IMAGES, Pairs, closest, corpus_of, their_scores

from captune_metrics.bleu_n import bleu_of


@pytest.mark.needs("shared")
def test_coco_is_scored_as_the_reference_does(coco: Coco) -> None:
    for n, scores in enumerate(bleu_of(coco.corpus).values(), start=1):
        assert scores.corpus == pytest.approx(coco.overall[f"BLEU-{n}"], abs=1e-12)
        assert coco.largest_difference(f"BLEU-{n}", scores.per_image) < 1e-12


@settings(deadline=None, max_examples=120)
@given(pairs=IMAGES)
def test_random_captions_are_scored_as_pycocoevalcap_does(pairs: Pairs) -> None:
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu")
    corpus = corpus_of(pairs)
    theirs, their_images = their_scores(bleu.Bleu(4), corpus, verbose=0)
    for scores, corpus_score, images in zip(
        bleu_of(corpus).values(), theirs, their_images, strict=True
    ):
        assert scores.corpus == pytest.approx(corpus_score, abs=1e-9)
        assert closest(scores.per_image, images) < 1e-9


@settings(deadline=None, max_examples=60)
@given(pairs=IMAGES)
def test_the_sums_of_the_counts_give_the_corpus_figure_exactly(pairs: Pairs) -> None:
    for scores in bleu_of(corpus_of(pairs)).values():
        assert scores.statistics is not None
        assert scores.of_sums is not None
        sums = scores.statistics.sum(axis=0, keepdims=True)
        assert scores.of_sums(sums, len(pairs)).tolist() == [scores.corpus]
        # and the counts of one image give its own figure
        assert scores.of_sums(scores.statistics, 1).tolist() == list(scores.per_image.values())


def test_a_resampled_corpus_is_scored_by_its_counts() -> None:
    pairs: Pairs = [
        ("a dog runs on grass", ["a dog runs fast on grass"]),
        ("b", ["a b c d", "b"]),
        ("two cats sleep in a box", ["two cats sleep inside a box today"]),
    ]
    drawn = [2, 0, 2, 2]
    resampled = bleu_of(corpus_of([pairs[i] for i in drawn]))
    for metric, scores in bleu_of(corpus_of(pairs)).items():
        weights = np.bincount(drawn, minlength=3)
        assert scores.statistics is not None
        assert scores.of_sums is not None
        sums = weights[None, :] @ scores.statistics
        assert scores.of_sums(sums, 4)[0] == pytest.approx(resampled[metric].corpus, abs=1e-15)


def test_counts_of_a_caption_by_hand() -> None:
    # "a" stands twice in one reference and so counts twice; "runs on" is nobody's
    (row,) = bleu_of(corpus_of([("a a a dog runs", ["a dog a", "dog sleeps"])]))[
        "bleu_4"
    ].statistics
    correct, guessed, lengths = row[:4], row[4:8], row[8:]
    assert correct.tolist() == [3, 1, 0, 0]
    assert guessed.tolist() == [5, 4, 3, 2]
    assert lengths.tolist() == [5, 3]


def test_of_two_lengths_that_are_as_close_the_shorter_counts() -> None:
    scores = bleu_of(corpus_of([("a b c", ["a b c d", "a b"])]))["bleu_1"]
    assert scores.per_image["0"] == pytest.approx(1)
    longer = bleu_of(corpus_of([("a b c", ["a b c d"])]))["bleu_1"]
    assert longer.per_image["0"] == pytest.approx(math.exp(1 - 4 / 3))


def test_the_recipe_is_said() -> None:
    scores = bleu_of(corpus_of([("a", ["a"])]))["bleu_2"]
    assert scores.name == "BLEU-2[none, closest reference length]"
    assert scores.recipe["reference_length"] == "closest"
    assert scores.recipe["tokenizer"] == "none"
