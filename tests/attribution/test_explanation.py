from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import torch
from tests.attribution.planted import bright_subject, planted_captioner

from captune.attribution.captioned_image import CaptionedImage, WordSpan
from captune.attribution.deletion_insertion import (
    BETTER,
    NO_BETTER,
    UNSEEN,
    full_marks,
    quick_marks,
)
from captune.attribution.explanation import TimeBudget, wanted_words
from captune.attribution.masking import token_masking
from captune.attribution.methods import MAP_METHODS, LayerHead
from captune.attribution.word_scores import word_targets


@pytest.mark.parametrize("measure", [quick_marks, full_marks])
def test_a_planted_captioner_s_attention_is_marked_true(measure: object) -> None:
    captioner = planted_captioner()
    method = MAP_METHODS.get("attention")
    for row, column in ((0, 0), (2, 3), (4, 4)):
        captioned = bright_subject(captioner, row, column, side=2)
        words = range(len(captioned.words))
        maps = method.maps(captioned, LayerHead(0, "mean"), words)
        assert [one.mark for one in measure(token_masking(captioned), maps)] == [BETTER] * 3
        # a constant map is the first of the controls, so it never beats them all
        constant = measure(token_masking(captioned), torch.zeros(3, 6, 6))
        assert [one.mark for one in constant] == [NO_BETTER] * 3


@pytest.mark.parametrize("measure", [quick_marks, full_marks])
def test_words_keep_their_numbers(measure: object) -> None:
    captioner = planted_captioner()
    captioned = bright_subject(captioner, 2, 3, side=2)
    maps = MAP_METHODS.get("attention").maps(captioned, LayerHead(0, "mean"), [0, 1, 2, 3])
    targets = word_targets(captioned, [0, 1, 2, 3])  # 3 is the end
    every = measure(token_masking(captioned, targets), maps)
    some = measure(token_masking(captioned, [targets[3], targets[1]]), maps[[3, 1]])
    for one, whole in zip(some, (every[3], every[1]), strict=True):
        assert one.gain == pytest.approx(whole.gain, abs=1e-4)
        assert one.mark == whole.mark


@pytest.mark.parametrize("measure", [quick_marks, full_marks])
def test_a_blind_captioner_s_words_are_not_from_the_image(measure: object) -> None:
    captioner = planted_captioner()
    with torch.no_grad():
        for layer in captioner.bridge.cross_attention_layers:
            layer.out.weight.zero_()
    captioned = bright_subject(captioner, 1, 1, side=2)
    found = measure(token_masking(captioned), torch.rand(3, 6, 6))
    assert [one.mark for one in found] == [UNSEEN] * 3


def test_full_is_near_perfect_on_the_planted_one_and_half_by_chance() -> None:
    captioner = planted_captioner()
    captioned = bright_subject(captioner, 2, 4, side=1)
    maps = MAP_METHODS.get("attention").maps(captioned, LayerHead(0, "mean"), range(3))
    for one in full_marks(token_masking(captioned), maps):
        assert one.insertion is not None
        assert one.insertion > 0.9
        assert one.deletion is not None
        assert one.deletion < 0.1
        assert one.random_insertion == pytest.approx(0.5, abs=0.2)
        assert one.random_deletion == pytest.approx(0.5, abs=0.2)


def test_punctuation_is_explained_only_where_it_was_asked_for() -> None:
    words = ("A", "dog,", ".", "100", "<|endoftext|>")
    spans = [WordSpan(word, (i,), special=i == 4) for i, word in enumerate(words)]
    captioned = cast("CaptionedImage", SimpleNamespace(spans=spans))
    assert wanted_words(captioned, [], special=False) == [0, 1, 3]
    assert wanted_words(captioned, ["."], special=False) == [2]
    assert wanted_words(captioned, ["Dog"], special=True) == [1, 4]


def clocked(
    monkeypatch: pytest.MonkeyPatch, count: int, seconds: float, once: float, each: float
) -> tuple[list[list[int]], float, list[str]]:
    """Parts of words where a part takes `once` and `each` a word; until when; what is said."""
    now, said = [0.0], list[str]()
    monkeypatch.setattr("captune.attribution.explanation.time.monotonic", lambda: now[0])
    spans = [WordSpan("the" if i % 2 else "dog", (i,)) for i in range(count)]
    captioned = cast("CaptionedImage", SimpleNamespace(spans=spans))
    budget = TimeBudget(seconds, 1, said.append)
    found = []
    for part in budget.parts(captioned, range(count)):
        found.append(part)
        now[0] += once + each * len(part)
    budget.close()
    return found, now[0], said


def test_words_are_explained_within_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, took, said = clocked(monkeypatch, 200, seconds=60, once=0, each=1)
    assert [len(part) for part in parts] == [1, 2, 4, 53]
    assert took == 60
    # words with content first
    assert [word for part in parts for word in part] == list(range(0, 120, 2))
    assert said[0] == (
        "200 words of the first image; one took 1.0 s, so its 60 s (--minutes) are enough for at"
        " least 60"
    )
    assert said[1] == "60 of 200 words have maps, for more there was no time (--minutes)"
    # where a map costs hardly more than the pass that all words share
    parts, took, said = clocked(monkeypatch, 200, seconds=60, once=5, each=0.01)
    assert [len(part) for part in parts] == [1, 2, 4, 193]
    assert took == pytest.approx(22)
    assert len(said) == 1
    # one word at the least
    parts, _, said = clocked(monkeypatch, 3, seconds=1, once=5, each=0)
    assert parts == [[0]]
    assert said[1].startswith("1 of 3 words")
