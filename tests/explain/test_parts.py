from __future__ import annotations

import pytest

from captune.explain.parts import LITTLE, NOUN, OTHER, PARTS, VERB, part_of


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
        ("The", None, LITTLE),
        ("of", None, LITTLE),
        ("2", None, LITTLE),
        ("-", None, LITTLE),
        ("train", "train", NOUN),
    ],
)
def test_part_of(word: str, category: str | None, part: str) -> None:
    assert part_of(word, category) == part
    assert part in PARTS
