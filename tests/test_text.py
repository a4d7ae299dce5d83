from __future__ import annotations

from pathlib import PurePath

import pytest

from captune.text import (
    as_sentence,
    bare_word,
    counted,
    decimal,
    duration,
    listed,
    p_value,
    percent,
    points,
    short_names,
    signed,
)
from captune_metrics.display import shorten


def test_counted() -> None:
    assert [counted(n, "image") for n in (0, 1, 1200)] == ["0 images", "1 image", "1,200 images"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.44, "0.4 s"), (45.2, "45 s"), (120, "2 min"), (7199, "120 min"), (9e6, "2,500.0 h")],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_numbers() -> None:
    assert [percent(0.7104), percent(0.005, 0), points(-0.0761), points(0.00004)] == [
        "71.0 %", "0 %", "−7.6", "0.0",
    ]  # fmt: skip
    assert [decimal(-0.3851), decimal(-0.0001), signed(0.1), signed(-0.1), signed(0.0)] == [
        "−0.385", "0.000", "+0.100", "−0.100", "0.000",
    ]  # fmt: skip
    assert [p_value(p) for p in (0.0004, 0.001, 0.0123, 0.58)] == [
        "< 0.001", "0.001", "0.012", "0.58",
    ]  # fmt: skip


def test_listed() -> None:
    assert [listed([]), listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"], "or")] == [
        "", "a", "a and b", "a, b or c",
    ]  # fmt: skip


def test_a_shortened_text_is_no_longer_than_asked() -> None:
    assert shorten("a dog", 5) == "a dog"
    assert shorten("a dog with a ball", 6) == "a dog…"
    assert shorten("/home/ann/runs/three", 6, keep="end") == "…three"


def test_a_bare_word_has_no_case_and_no_signs() -> None:
    assert [bare_word(w) for w in ('"Dogs,"', "it's", "...")] == ["dogs", "it's", "..."]


@pytest.mark.parametrize(
    ("caption", "sentence"),
    [
        ("a man with a  football .", "a man with a football."),
        ("a dog.", "a dog."),
        ("a dog . it runs .", "a dog . it runs."),
        ("a dog", "a dog"),
        (". . .", ". . ."),  # what has not learnt to write shows that it has not
        ("dog . . .", "dog . . ."),
        (".", "."),
        ("", ""),
    ],
)
def test_a_full_stop_is_at_its_word(caption: str, sentence: str) -> None:
    assert as_sentence(caption) == sentence
    assert as_sentence(as_sentence(caption, " ."), ".") == sentence


def test_short_names_lose_the_endings_that_tell_nothing() -> None:
    def names(*paths: str) -> list[str]:
        return short_names([PurePath(path) for path in paths], (".json", ".csv"))

    assert names("a/human.json", "a/v1.5") == ["human", "v1.5"]
    assert names("a/x.json", "b/x.json") == ["a/x", "b/x"]
    assert names("a/x.json", "a/x.csv") == ["x.json", "x.csv"]
    assert names("a/x.json", "a/x.json") == ["x", "x"]
