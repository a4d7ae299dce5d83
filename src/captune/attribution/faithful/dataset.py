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

Boxes are read from COCO's instances_*.json (Lin et al. 2014) and kept in fractions of the image's
sides, so they fit the image at any size.
"""

from __future__ import annotations

import codecs
import json
import random
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from captune.attribution.captioned_image import CaptionedImage, ids_of_caption
from captune.attribution.vlm_image import AnyModel
from captune.captioning.dataset import CaptionDataset
from captune.errors import UserError
from captune.images import ImageFile
from captune_metrics.display import printable, quoted
from captune_metrics.files import read_bytes
from captune_metrics.resampling import Doubles

NOUN, VERB, FUNCTION_WORDS, OTHER = "nouns", "verbs", "function words", "other words"
PARTS_OF_SPEECH = (NOUN, VERB, OTHER, FUNCTION_WORDS)
_SIGNS = string.punctuation + "“”‘’…"
Bools = NDArray[np.bool_]
_Part = TypeVar("_Part", bound=msgspec.Struct)
_Key = str | int | float
_Length = Annotated[float, msgspec.Meta(ge=0)]
_MOST = 3_000_000  # objects of a part; LVIS has 1.3 million annotations
_GIVE = "give the instances_*.json of the data set (captions go to --captions)"
_WRONG = {  # a field, and why its value will not do
    "bbox": ": bbox is not left, top, width, height in pixels, four numbers",
    "width": " has no width and height above 0; give both in pixels",
    "height": " has no width and height above 0; give both in pixels",
}


class _Category(msgspec.Struct):
    id: _Key
    name: _Key


class _Image(msgspec.Struct):
    id: _Key
    width: Annotated[float, msgspec.Meta(gt=0)]
    height: Annotated[float, msgspec.Meta(gt=0)]
    file_name: Any = None


class _Annotation(msgspec.Struct):
    image_id: _Key
    category_id: _Key
    bbox: tuple[float, float, _Length, _Length]


@dataclass(frozen=True)
class Box:
    """One thing in an image: its category, and its sides in fractions of the image's, 0 to 1."""

    category: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Boxes:
    """The boxes of a file: by image id, and by file name, for files that number images anew.

    categories: all that the file knows.
    """

    source: str
    categories: list[str]
    by_id: dict[str, list[Box]]
    by_file_name: dict[str, list[Box]] = field(default_factory=dict)

    def of(self, image_id: str, file_name: str | None = None) -> list[Box] | None:
        """The boxes of an image, by its id or its file's name; None for an unknown image."""
        found = self.by_id.get(image_id)
        if found is None and file_name is not None:
            return self.by_file_name.get(file_name)
        return found


def read_boxes(path: str | Path) -> Boxes:
    """Read `{"images": [...], "annotations": [{"image_id", "category_id", "bbox"}], ...}`.

    bbox: left, top, width, height in pixels of an image whose width and height the file gives.
    Boxes are cut at the image's edges. Raises UserError for anything else, naming the patch.
    """
    shown = printable(path)
    parts = _parts(read_bytes(str(path)), shown)
    categories = _listed(parts, "categories", _Category, shown)
    names = {str(category.id): str(category.name) for category in categories}
    by_id: dict[str, list[Box]] = {}
    by_file_name: dict[str, list[Box]] = {}
    sizes: dict[str, tuple[float, float]] = {}
    for image in _listed(parts, "images", _Image, shown):
        key = str(image.id)
        if key in by_id:
            raise _refusal(shown, f"image id {quoted(key)} appears twice; keep one of them")
        by_id[key] = []
        sizes[key] = (image.width, image.height)
        if isinstance(image.file_name, str):
            by_file_name[image.file_name] = by_id[key]
    for number, one in enumerate(_listed(parts, "annotations", _Annotation, shown), 1):
        key, category = str(one.image_id), str(one.category_id)
        what = f"annotation {number}"
        if key not in by_id:
            raise _refusal(shown, f'{what} is of image {quoted(key)}, which is not in "images"')
        if category not in names:
            raise _refusal(
                shown, f'{what} has category {quoted(category)}, which is not in "categories"'
            )
        left, top, width, height = one.bbox
        across, down = sizes[key]
        sides = left / across, top / down, (left + width) / across, (top + height) / down
        by_id[key].append(Box(names[category], *(min(max(side, 0.0), 1.0) for side in sides)))
    return Boxes(shown, list(names.values()), by_id, by_file_name)


def coverage(boxes: Sequence[Box], rows: int, columns: int) -> Doubles:
    """Which fraction of each patch of a grid over the whole image the boxes cover, [rows, columns].

    Of boxes that overlap, the union counts, exactly.
    """
    # between two neighbouring lines, of a patch or of a box, everything is inside or outside
    down = _lines([edge for box in boxes for edge in (box.top, box.bottom)], rows)
    across = _lines([edge for box in boxes for edge in (box.left, box.right)], columns)
    middle_down, middle_across = (lines[:-1] + np.diff(lines) / 2 for lines in (down, across))
    inside = np.zeros((len(middle_down), len(middle_across)))
    for box in boxes:
        is_down = (middle_down > box.top) & (middle_down < box.bottom)
        is_across = (middle_across > box.left) & (middle_across < box.right)
        inside[np.ix_(is_down, is_across)] = 1
    areas = inside * np.diff(down)[:, None] * np.diff(across)[None, :]
    patches = np.zeros((rows, columns))
    row = np.minimum((middle_down * rows).astype(int), rows - 1)
    column = np.minimum((middle_across * columns).astype(int), columns - 1)
    np.add.at(patches, np.ix_(row, column), areas)
    return patches * rows * columns


def _lines(edges: Sequence[float], patches: int) -> Doubles:
    return np.unique(np.concatenate([np.arange(patches + 1) / patches, np.asarray(edges, float)]))


def _parts(data: bytes, shown: str) -> dict[str, msgspec.Raw]:
    """The file's parts, still as text: what is not asked for (outlines) takes no memory."""
    try:
        return msgspec.json.decode(data.removeprefix(codecs.BOM_UTF8), type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        kind = "a list" if data.lstrip()[:1] == b"[" else "something else"
        raise UserError(f"{shown} holds {kind}, and an object was expected.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{shown} is not valid JSON ({printable(error)}).") from None


def _listed(
    parts: Mapping[str, msgspec.Raw], key: str, kind: type[_Part], shown: str
) -> list[_Part]:
    data = bytes(parts.get(key, b"null"))
    if data.count(b"{") > _MOST:
        raise _refusal(shown, f'"{key}" holds more than {_MOST:,} objects; take fewer images')
    try:
        return msgspec.json.decode(data, type=list[kind])  # type: ignore[valid-type]
    except msgspec.ValidationError as error:
        raise _refusal(shown, _objection(str(error), key, kind)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{shown} is not valid JSON ({printable(error)}).") from None


def _objection(error: str, key: str, kind: type[msgspec.Struct]) -> str:
    """What msgspec says of an object in a part, in words that name the object and its field."""
    missing = re.search(r"missing required field `(\w+)`", error)
    place = re.search(r" at `\$\[(\d+)\](?:\.(\w+))?", error)
    if place is None or not (missing or place[2]):
        return f'"{key}" is not a list of objects; {_GIVE}'
    what = f"{kind.__name__.strip('_').lower()} {int(place[1]) + 1}"
    if missing:
        return f"{what} has no {missing[1]}; {_GIVE}"
    return what + _WRONG.get(place[2], f": its {place[2]} is neither text nor a number")


def _refusal(shown: str, what: str) -> UserError:
    return UserError(f"{shown}: {what}.")


@dataclass(frozen=True)
class BoxTarget:
    """Where on the patch grid the things are that a word names.

    hits: [rows, columns], whether a patch counts as in a box. covered: [rows, columns], which
    fraction of each patch the boxes cover.
    """

    hits: Bools
    covered: Doubles


def box_target(boxes: Sequence[Box], rows: int, columns: int) -> BoxTarget:
    """The target of a word from the boxes of its category."""
    down = (np.arange(rows) + 0.5) / rows
    across = (np.arange(columns) + 0.5) / columns
    hits = np.zeros((rows, columns), dtype=bool)
    for box in boxes:
        is_down = (down >= box.top) & (down <= box.bottom)
        is_across = (across >= box.left) & (across <= box.right)
        hits |= np.outer(is_down, is_across)
        middle_down, middle_across = (box.top + box.bottom) / 2, (box.left + box.right) / 2
        row, column = int(middle_down * rows), int(middle_across * columns)
        hits[min(row, rows - 1), min(column, columns - 1)] = True
    return BoxTarget(hits, coverage(boxes, rows, columns))


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
    data: CaptionDataset, captioner: AnyModel, boxes: Boxes | None
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


def _is_writable(captioner: AnyModel, caption: str) -> bool:
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
