from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from tests.metrics.conftest import Coco
from tests.metrics.tiny import IMAGES, Pairs, closest, corpus_of, their_scores

from captune_metrics.cider_d import cider, cider_of, cider_original_of
from captune_metrics.corpus import Corpus
from captune_metrics.frequency import DocumentFrequency

Gram = tuple[str, ...]
TABLE = DocumentFrequency(
    "hand-made", 50, {("a",): 50, ("dog",): 9, ("a", "dog"): 4, ("on", "a", "dog", "runs"): 2}
)


@pytest.mark.needs("shared")
def test_coco_is_scored_as_the_reference_does(coco: Coco) -> None:
    scores = cider_of(coco.corpus)
    assert scores.corpus == pytest.approx(coco.overall["CIDEr"], abs=1e-12)
    assert coco.largest_difference("CIDEr", scores.per_image) < 1e-9
    assert scores.name == "CIDEr-D[ptb, df=corpus of 5000]"
    assert scores.notes == ()


@settings(deadline=None, max_examples=120)
@given(pairs=IMAGES)
def test_random_captions_are_scored_as_pycocoevalcap_does(pairs: Pairs) -> None:
    theirs = pytest.importorskip("pycocoevalcap.cider.cider")
    corpus = corpus_of(pairs)
    scores = cider_of(corpus)
    if not any(reference.split() for _, references in pairs for reference in references):
        assert set(scores.per_image.values()) == {0.0}  # it asks for the maximum of nothing
        return
    score, images = their_scores(theirs.Cider(), corpus)
    assert scores.corpus == pytest.approx(score, abs=1e-9)
    assert closest(scores.per_image, images) < 1e-9


@settings(deadline=None, max_examples=60)
@given(pairs=IMAGES)
def test_the_definition_is_followed_with_any_frequencies(pairs: Pairs) -> None:
    corpus = corpus_of(pairs)
    counted = _counted(pairs)
    for df, table, images in ((None, counted, len(pairs)), (TABLE, TABLE.counts, 50)):
        for metric, clipped in ((cider_of, True), (cider_original_of, False)):
            plain = [_by_definition(*pair, table, images, clipped=clipped) for pair in pairs]
            scores = metric(corpus, df)
            assert closest(scores.per_image, plain) < 1e-9
            assert scores.corpus == pytest.approx(np.mean(plain), abs=1e-9)


def test_by_hand() -> None:
    # of two images, only "a" is in both: ln 2 - ln 2 = 0; all else weighs ln 2
    pairs: Pairs = [("a dog", ["a dog runs"]), ("a b", ["a b"])]
    per_order = [
        1 / math.sqrt(2),  # dog against dog, runs
        1 / math.sqrt(2),  # a dog against a dog, dog runs
        0,
        0,
    ]
    penalty = math.exp(-1 / 72)
    scores = cider_of(corpus_of(pairs))
    assert scores.per_image["0"] == pytest.approx(10 * penalty * sum(per_order) / 4, abs=1e-14)
    assert scores.per_image["1"] == pytest.approx(10 * 2 / 4, abs=1e-14)
    plain = cider_original_of(corpus_of(pairs))
    assert plain.per_image["0"] == pytest.approx(10 * sum(per_order) / 4, abs=1e-14)


def test_a_repeated_word_is_clipped_only_with_the_d() -> None:
    pairs: Pairs = [("dog dog", ["dog x"]), ("b", ["c"])]
    # weights 2 against 1, of lengths 2 and sqrt 2: clipped to 1 * 1, else 2 * 1
    assert cider_of(corpus_of(pairs)).per_image["0"] == pytest.approx(10 / 4 / (2 * math.sqrt(2)))
    plain = cider_original_of(corpus_of(pairs))
    assert plain.per_image["0"] == pytest.approx(10 / 4 * 2 / (2 * math.sqrt(2)))


def test_one_image_scores_nothing_and_says_why() -> None:
    corpus = corpus_of([("a dog runs", ["a dog runs"])])
    scores = cider_of(corpus)
    assert scores.corpus == 0
    assert "single image" in scores.notes[0]
    assert "--df coco-val2017" in scores.notes[0]
    frozen = cider_of(corpus, TABLE)
    assert frozen.corpus == pytest.approx(7.5)  # three words have no run of four
    assert frozen.name == f"CIDEr-D[none, df=hand-made@{TABLE.digest[:8]} of 50]"


def test_the_recipe_line_tells_tables_of_one_name_apart() -> None:
    corpus = corpus_of([("a dog", ["a dog"])])
    shipped = DocumentFrequency.shipped("coco-val2017")
    assert cider_of(corpus, shipped).name == "CIDEr-D[none, df=coco-val2017 of 5000]"
    names = {
        cider_of(corpus, DocumentFrequency(name, 50, {("a",): count})).name
        for name in ("mine", "corpus", "coco-val2017")
        for count in (2, 3)
    }
    assert len(names) == 6
    assert "CIDEr-D[none, df=coco-val2017 of 50]" not in names
    assert all("@" in name for name in names)


def test_few_images_are_noted_and_so_is_another_tokenizer() -> None:
    corpus = corpus_of([("a dog", ["a dog"])] * 3)
    assert "only 3 images" in cider_of(corpus).notes[0]
    assert "tokenizer ptb" in cider_of(corpus, TABLE).notes[0]
    assert cider_of(corpus_with_ptb(), TABLE).notes == ()


def corpus_with_ptb() -> Corpus:
    return Corpus({"x": "A dog."}, {"x": ["A dog."]})


def test_the_recipe_names_all_that_decides_the_number() -> None:
    recipe = cider({"x": "A dog."}, {"x": ["A dog."]}, df=TABLE).recipe
    version = recipe.pop("tokenizer_version")
    assert isinstance(version, str)
    assert recipe == {
        "tokenizer": "ptb",
        "variant": "CIDEr-D",
        "n": 4,
        "sigma": 6.0,
        "scale": 10.0,
        "stemming": None,
        "df": "hand-made",
        "df_images": 50,
        "df_digest": TABLE.digest,
    }


def _grams(text: str) -> Counter[Gram]:
    words = text.split()
    return Counter(tuple(words[i : i + n]) for n in (1, 2, 3, 4) for i in range(len(words) - n + 1))


def _counted(pairs: Pairs) -> Counter[Gram]:
    return Counter(
        gram
        for _, references in pairs
        for gram in {gram for reference in references for gram in _grams(reference)}
    )


def _by_definition(
    candidate: str, references: list[str], table: Mapping[Gram, int], images: int, *, clipped: bool
) -> float:
    """CIDEr and CIDEr-D, written down as the paper has them."""

    def vector(text: str, n: int) -> dict[Gram, float]:
        return {
            gram: count * (math.log(images) - math.log(max(1, table.get(gram, 0))))
            for gram, count in _grams(text).items()
            if len(gram) == n
        }

    def norm(weights: Mapping[Gram, float]) -> float:
        return math.sqrt(sum(weight * weight for weight in weights.values()))

    limit: Callable[[float, float], float] = min if clipped else (lambda own, other: own)
    total = 0.0
    for reference in references:
        delta = max(len(candidate.split()) - 1, 0) - max(len(reference.split()) - 1, 0)
        penalty = math.exp(-(delta**2) / 72) if clipped else 1.0
        for n in (1, 2, 3, 4):
            own, other = vector(candidate, n), vector(reference, n)
            dot = sum(limit(own[gram], other[gram]) * other[gram] for gram in own if gram in other)
            if norm(own) * norm(other) > 0:
                total += penalty * dot / norm(own) / norm(other)
    return 10 * total / 4 / len(references)
