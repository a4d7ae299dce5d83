"""What must hold of every n-gram metric, whatever the captions."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.metrics.tiny import IMAGES, TOKENISED, Pairs, closest, corpus_of

from captune_metrics.bleu_n import bleu_of
from captune_metrics.cider_d import cider_of, cider_original_of
from captune_metrics.corpus import Corpus
from captune_metrics.frequency import DocumentFrequency
from captune_metrics.rouge import rouge_l_of
from captune_metrics.scores import Scores

Metric = Callable[[Corpus], Scores]
# 50 images, so no word is in all of them and each weighs something
TABLE = DocumentFrequency("hand-made", 50, {("a",): 49, ("dog",): 9, ("a", "dog"): 4})

METRICS: dict[str, Metric] = {
    **{f"bleu_{n}": (lambda corpus, n=n: bleu_of(corpus)[f"bleu_{n}"]) for n in (1, 2, 3, 4)},
    "rouge_l": rouge_l_of,
    "cider": cider_of,
    "cider_original": cider_original_of,
    "cider, frozen": lambda corpus: cider_of(corpus, TABLE),
    "cider_original, frozen": lambda corpus: cider_original_of(corpus, TABLE),
}
EVERY = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)


def all_scores(corpus: Corpus) -> dict[str, Scores]:
    return {name: metric(corpus) for name, metric in METRICS.items()}


def maximum(name: str, words: int) -> float:
    """What a caption of so many words scores against itself."""
    if name == "rouge_l":
        return 1.0
    if name.startswith("bleu"):
        # orders that a short caption does not have count 1e-15 of 1e-9 each
        n = int(name[-1])
        return float((1e-6) ** (max(0, n - words) / n)) if words else 0.0
    # an order without a single n-gram gives nothing
    return 10 * min(words, 4) / 4


@settings(deadline=None, max_examples=60)
@given(pairs=IMAGES)
def test_a_score_lies_between_nothing_and_its_maximum(pairs: Pairs) -> None:
    for name, scores in all_scores(corpus_of(pairs)).items():
        # without clipping too: a cosine
        highest = 10 if name.startswith("cider") else 1
        for score in (scores.corpus, *scores.per_image.values()):
            assert 0 <= score <= highest + 1e-9
        assert list(scores.per_image) == [str(i) for i in range(len(pairs))]


@settings(deadline=None, max_examples=60)
@given(caption=TOKENISED, others=IMAGES)
def test_a_candidate_equal_to_its_only_reference_has_the_maximum(
    caption: str, others: Pairs
) -> None:
    corpus = corpus_of([(caption, [caption]), *others])
    words = len(caption.split())
    for name, scores in all_scores(corpus).items():
        if name in ("cider", "cider_original"):
            # an n-gram that every image has weighs nothing: an order of only such is lost
            orders = [corpus.ngrams(n) for n in range(1, min(words, 4) + 1)]
            weighing = sum(
                bool(
                    (order.document_frequency[order.gram[order.caption == 0]] <= len(others)).any()
                )
                for order in orders
            )
            assert scores.per_image["0"] == pytest.approx(10 * weighing / 4, abs=1e-9)
        else:
            assert scores.per_image["0"] == pytest.approx(maximum(name, words), abs=1e-7)


@settings(deadline=None, max_examples=60)
@given(pairs=IMAGES, seed=st.integers(0, 1000))
def test_the_order_of_the_images_does_not_matter(pairs: Pairs, seed: int) -> None:
    order = list(range(len(pairs)))
    random.Random(seed).shuffle(order)
    shuffled = all_scores(corpus_of([pairs[i] for i in order]))
    for name, scores in all_scores(corpus_of(pairs)).items():
        assert shuffled[name].corpus == pytest.approx(scores.corpus, abs=1e-12)
        expected = [scores.per_image[str(i)] for i in order]
        assert closest(shuffled[name].per_image, expected) < 1e-12


@settings(deadline=None, max_examples=60)
@given(pairs=IMAGES, seed=st.integers(0, 1000))
def test_the_order_of_the_references_does_not_matter(pairs: Pairs, seed: int) -> None:
    shuffled = [(own, random.Random(seed).sample(refs, len(refs))) for own, refs in pairs]
    other = all_scores(corpus_of(shuffled))
    for name, scores in all_scores(corpus_of(pairs)).items():
        assert closest(other[name].per_image, list(scores.per_image.values())) < 1e-12


@settings(deadline=None, max_examples=60)
@given(pairs=IMAGES, cut=st.integers(1, 5))
def test_images_scored_in_parts_score_the_same(pairs: Pairs, cut: int) -> None:
    whole = all_scores(corpus_of(pairs))
    for part in filter(None, (pairs[:cut], pairs[cut:])):
        first = 0 if part == pairs[:cut] else cut
        for name, scores in all_scores(corpus_of(part)).items():
            if name in ("cider", "cider_original"):
                continue  # they count over the part: that is what a frozen table is for
            expected = [whole[name].per_image[str(first + i)] for i in range(len(part))]
            assert closest(scores.per_image, expected) < 1e-12


@EVERY
def test_an_empty_candidate_scores_nothing(metric: Metric) -> None:
    pairs: Pairs = [("", ["a dog runs"]), ("a cat", ["a cat", "the cat"]), ("b", ["c"])]
    scores = metric(corpus_of(pairs))
    assert scores.per_image["0"] == pytest.approx(0, abs=1e-6)
    assert scores.per_image["1"] > 0


def test_a_caption_of_one_word_has_no_higher_orders() -> None:
    corpus = corpus_of([("dog", ["dog"]), ("cat", ["cat"])])
    assert cider_of(corpus).per_image["0"] == pytest.approx(2.5)
    assert bleu_of(corpus)["bleu_1"].per_image["0"] == pytest.approx(1)
    assert bleu_of(corpus)["bleu_4"].per_image["0"] == pytest.approx(1e-6**0.75)
    assert rouge_l_of(corpus).per_image["0"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("caption", "other"),
    [
        ("一只 狗 在 草地 上 跑", "一只 猫 在 沙发 上 睡觉"),
        ("كلب يجري على العشب الأخضر", "قطة تنام على الأريكة"),
        ("🐕 🏃 🌿 👨‍👩‍👧‍👦 🎉", "🐈 💤 🛋️ 🏠"),
        ("собака бежит по траве утром", "кошка спит на диване"),
    ],
)
@EVERY
def test_other_scripts_score_like_any_words(metric: Metric, caption: str, other: str) -> None:
    pairs: Pairs = [(caption, [caption]), (other, [caption]), ("a dog", ["a dog"])]
    scores = metric(corpus_of(pairs))
    assert scores.per_image["0"] > scores.per_image["1"]


@EVERY
def test_huge_captions_take_seconds(metric: Metric) -> None:
    words = [f"w{i % 977}" for i in range(100_000)]
    text = " ".join(words)
    turned = " ".join(words[50_000:] + words[:50_000])
    started = time.process_time()
    scores = metric(corpus_of([(text, [turned, "a dog"]), ("a dog", ["a dog"])]))
    assert time.process_time() - started < 10
    assert scores.per_image["0"] > 0
