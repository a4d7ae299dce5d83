"""What maps are measured on: an image, one caption of it, and the boxes that people drew there.

Words are matched to the categories of COCO (Lin et al. 2014) and to parts of speech by the lists in
`words.json`. In "categories", a word stands with its plural behind a slash where that is not the
word and an s. Only what names the thing itself is in it: a word that as often means something else
("glasses", "board", "baseball", which is mostly the game) is left out, for a wrong match would
blame a map for our mistake. A match counts only in an image that has a box of the category, which
settles most of the rest ("bat", "mouse", "orange", "train").

Parts of speech, simply: nouns are the words of COCO's categories, the rest goes by lists. A tagger
would know more words and be wrong about some. A noun that names none of the 80 categories ("beach",
"plate") is among the other words, and so are adjectives and adverbs.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from captune.attribution.captioned_image import CaptionedImage, ids_of_caption
from captune.attribution.faithful.pointing import Box, Boxes, BoxTarget, box_target
from captune.captioning.dataset import CaptionDataset
from captune.captioning.model import CaptionModel
from captune.errors import UserError
from captune.images import ImageFile

NOUN, VERB, FUNCTION_WORDS, OTHER = "nouns", "verbs", "function words", "other words"
PARTS_OF_SPEECH = (NOUN, VERB, OTHER, FUNCTION_WORDS)
_SIGNS = string.punctuation + "“”‘’…"


@dataclass(frozen=True)
class Example:
    """image: its number; examples of one image are resampled together.

    categories: of each word that names one, or None. targets: of the words, by number, whose
    category has a box in the image.
    """

    image: int
    captioned: CaptionedImage
    categories: list[str | None]
    targets: dict[int, BoxTarget]


@dataclass(frozen=True)
class ChosenCaption:
    """Which caption of an image is taken; boxes: None where no file of boxes knows the image."""

    image: ImageFile
    caption: str
    boxes: list[Box] | None


def chosen_captions(
    data: CaptionDataset, captioner: CaptionModel, boxes: Boxes | None
) -> tuple[list[ChosenCaption], list[str]]:
    """Of each image the caption that names the most things that have a box; of equals the first.

    Captions with a word that the captioner cannot write are passed over; images that have no other
    are named in the second list. Raises UserError where no image is left, and where boxes are given
    and none of the images is among their images.
    """
    chosen, unwritable = [], []
    for id, image, own in zip(data.ids, data.images, data.captions, strict=True):
        known = None if boxes is None else boxes.of(id, image.path.name)
        drawn = {box.category for box in known or ()}
        writable = [caption for caption in own if _is_writable(captioner, caption)]
        if not writable:
            unwritable.append(image.name)
            continue

        def named(caption: str, drawn: set[str] = drawn) -> int:
            found = categories_of(caption.split(), None if boxes is None else boxes.categories)
            return len(drawn & set(found))

        chosen.append(ChosenCaption(image, max(writable, key=named), known))
    if not chosen:
        raise UserError(
            f"none of {len(data):,} images has a caption that the captioner can write; it knows"
            " the tokens of the captions that it was trained with"
        )
    if boxes is not None and all(one.boxes is None for one in chosen):
        raise UserError(
            f"{boxes.source}: knows none of the {len(data):,} images by image id or file name; give"
            " the boxes of the same images"
        )
    return chosen, unwritable


def examples_of(
    captioned: Iterable[CaptionedImage],
    chosen: Sequence[ChosenCaption],
    categories: Sequence[str] | None,
) -> list[Example]:
    """An example of each captioned image with a word in its caption.

    categories: that the file of boxes knows; None for COCO's.
    """
    number_of = {one.image: number for number, one in enumerate(chosen)}
    numbered = [(number_of[one.image], one) for one in captioned if one.words]
    return [example_of(n, one, chosen[n].boxes, categories) for n, one in numbered]


def example_of(
    image: int,
    captioned: CaptionedImage,
    boxes: list[Box] | None,
    known: Sequence[str] | None = None,
) -> Example:
    """A captioned image with its boxes."""
    shape = captioned.shape
    categories = categories_of([span.word for span in captioned.words], known)
    targets = {}
    for word, category in enumerate(categories):
        own = [box for box in boxes or () if box.category == category]
        if own:
            targets[word] = box_target(own, shape.rows, shape.columns)
    return Example(image, captioned, categories, targets)


def _is_writable(captioner: CaptionModel, caption: str) -> bool:
    try:
        ids_of_caption(captioner.decoder, caption)
    except UserError:
        return False
    return True


def shuffled(examples: Sequence[Example], seed: int) -> list[Example]:
    """In a random order that depends on the seed only: what takes the first few takes a sample."""
    order = list(examples)
    random.Random(seed).shuffle(order)  # noqa: S311
    return order


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


def part_of_speech(word: str, category: str | None) -> str:
    """One of PARTS_OF_SPEECH for a word of a caption; category: that of COCO which it names."""
    bare = word.lower().strip(_SIGNS)
    if category is not None:
        return NOUN
    if bare in _set("function_words") or not any(sign.isalpha() for sign in bare):
        return FUNCTION_WORDS
    is_participle = bare.endswith("ing") and len(bare) > 4
    is_verb = is_participle and bare not in _set("ing_words_that_are_no_verbs")
    return VERB if is_verb or bare in _set("verbs") else OTHER


@cache
def word_lists() -> dict[str, Any]:
    """What stands in `words.json`."""
    content: dict[str, Any] = json.loads(
        files("captune.attribution.faithful").joinpath("words.json").read_text(encoding="utf-8")
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
