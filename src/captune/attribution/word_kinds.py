"""Words of captions -> the categories of COCO (Lin et al. 2014) and parts of speech, by lists.

The lists are all in `words.json`. In "categories", a word stands with its plural behind a slash
where that is not the word and an s. Only what names the thing itself is in it: a word that as often
means something else ("glasses", "board", "baseball", which is mostly the game) is left out, for a
wrong match would blame a map for our mistake. A match counts only in an image that has a box of the
category, which settles most of the rest ("bat", "mouse", "orange", "train").

Parts of speech, simply: nouns are the words of COCO's categories, the rest goes by lists. A tagger
would know more words and be wrong about some. A noun that names none of the 80 categories ("beach",
"plate") is among the other words, and so are adjectives and adverbs.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

NOUN, VERB, LITTLE, OTHER = "nouns", "verbs", "little words", "other words"
PARTS = (NOUN, VERB, OTHER, LITTLE)
_SIGNS = string.punctuation + "“”‘’…"


def categories_of(words: Sequence[str], known: Iterable[str] | None = None) -> list[str | None]:
    """Of each word of a caption its category, or None.

    known: the categories of a file of boxes; where it has others than COCO's, their own names and
    those with an s match too. The longest phrase wins: in "a hot dog" no dog is named, and in
    "teddy bear" no bear; the last word of a phrase has its category, the others have none.
    """
    phrases = _phrases(tuple(known) if known is not None else None)
    longest = max(len(phrase) for phrase in phrases)
    bare = [_stripped(word) for word in words]
    found: list[str | None] = [None] * len(words)
    place = 0
    while place < len(bare):
        for length in range(min(longest, len(bare) - place), 0, -1):
            phrase = tuple(bare[place : place + length])
            if phrase in phrases:
                found[place + length - 1] = phrases[phrase]
                place += length - 1
                break
        place += 1
    return found


def part_of(word: str, category: str | None) -> str:
    """One of PARTS for a word as it stands in a caption; category: that of COCO it names."""
    bare = word.lower().strip(_SIGNS)
    if category is not None:
        return NOUN
    if bare in _set("function_words") or not any(sign.isalpha() for sign in bare):
        return LITTLE
    is_participle = bare.endswith("ing") and len(bare) > 4
    is_verb = is_participle and bare not in _set("ing_words_that_are_no_verbs")
    return VERB if is_verb or bare in _set("verbs") else OTHER


@cache
def word_lists() -> dict[str, Any]:
    """What stands in `words.json`."""
    content: dict[str, Any] = json.loads(
        files("captune.attribution").joinpath("words.json").read_text(encoding="utf-8")
    )
    return content


@cache
def _set(name: str) -> frozenset[str]:
    return frozenset(word_lists()[name])


@cache
def _phrases(known: tuple[str, ...] | None) -> dict[tuple[str, ...], str | None]:
    found: dict[tuple[str, ...], str | None] = {
        tuple(phrase.split("_")): None for phrase in word_lists()["phrases_of_no_category"]
    }
    synonyms = word_lists()["categories"]
    for category, words in synonyms.items():
        if known is None or category in known:
            found |= dict.fromkeys(_forms(words), category)
            found[tuple(category.split())] = category
    for category in known or ():
        if category not in synonyms:
            name = category.lower().replace("_", " ")
            found |= {tuple(form.split()): category for form in (name, f"{name}s")}
    return found


def _forms(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for entry in words:
        one, *plurals = entry.split("/")
        for form in (one, *(plurals or [f"{one}s"])):
            yield tuple(form.split("_"))


def _stripped(word: str) -> str:
    """Without case, and without the signs around it: `"Dogs,"` is `dogs`, `man's` is `man`."""
    bare = word.lower().strip(_SIGNS)
    return bare.removesuffix("'s").removesuffix("’s")
