from __future__ import annotations

import json
from pathlib import Path

import pytest

from captune.attribution.faithful.dataset import (
    FUNCTION_WORDS,
    NOUN,
    OTHER,
    PARTS_OF_SPEECH,
    VERB,
    categories_of,
    part_of_speech,
    word_lists,
)

SYNONYMS = word_lists()["categories"]


def matched(caption: str, known: list[str] | None = None) -> dict[str, str]:
    words = caption.split()
    found = zip(words, categories_of(words, known), strict=True)
    return {word: category for word, category in found if category}


def test_all_80_categories_are_there_and_name_themselves() -> None:
    assert len(SYNONYMS) == 80
    for category in SYNONYMS:
        words = f"a {category} there".split()
        assert categories_of(words)[len(category.split())] == category


def test_no_word_stands_for_two_categories() -> None:
    forms = [form for words in SYNONYMS.values() for form in words]
    assert len(forms) == len(set(forms))


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Two dogs and a puppy.", {"dogs": "dog", "puppy.": "dog"}),
        ("A man's bike", {"man's": "person", "bike": "bicycle"}),
        ("women with babies", {"women": "person", "babies": "person"}),
        ("buses, knives and geese", {"buses,": "bus", "knives": "knife", "geese": "bird"}),
        ("a hot dog", {"dog": "hot dog"}),
        ("two hot dogs", {"dogs": "hot dog"}),
        ("a teddy bear", {"bear": "teddy bear"}),
        ("a polar bear", {"bear": "bear"}),
        ("a fire hydrant and a hydrant", {"hydrant": "fire hydrant"}),
        ("a cable car", {}),
        ("sheep", {"sheep": "sheep"}),
        ("skiing on skis", {"skis": "skis"}),
        ("a wine glass or a glass", {"glass": "wine glass"}),
        ("", {}),
    ],
)
def test_words_of_captions(caption: str, expected: dict[str, str]) -> None:
    if caption == "a wine glass or a glass":  # the bare one is none
        assert categories_of(caption.split()) == [None, None, "wine glass", None, None, None]
    assert matched(caption) == expected


def test_a_file_of_other_categories_matches_their_own_names() -> None:
    known = ["dog", "space_ship", "Tower"]
    assert matched("dogs at a tower, two space ships and a cat", known) == {
        "dogs": "dog",
        "tower,": "Tower",
        "ships": "space_ship",
    }


@pytest.mark.needs("shared")
def test_the_categories_are_those_of_the_data_set(shared: Path) -> None:
    path = shared / "data" / "coco-mini" / "instances_val.json"
    names = [c["name"] for c in json.loads(path.read_text())["categories"]]
    assert set(SYNONYMS) == set(names)


@pytest.mark.parametrize(
    ("word", "category", "part"),
    [
        ("dog", "dog", NOUN),
        ("Riding", None, VERB),
        ("sits.", None, VERB),
        ("building", None, OTHER),
        ("string", None, OTHER),
        ("beach", None, OTHER),
        ("red", None, OTHER),
        ("The", None, FUNCTION_WORDS),
        ("of", None, FUNCTION_WORDS),
        ("2", None, FUNCTION_WORDS),
        ("-", None, FUNCTION_WORDS),
        ("train", "train", NOUN),
    ],
)
def test_part_of(word: str, category: str | None, part: str) -> None:
    assert part_of_speech(word, category) == part
    assert part in PARTS_OF_SPEECH
