"""Objects with an image and a caption each: COCO results, JSON lines, metadata.jsonl."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from captune.captions.caption_file import FORMS, Gathering, filled_lines, is_file_name
from captune.files import json_kind, named, parse_json

# the first that is there is the image; an "id" is often the number of the row
_FILE_KEYS = (
    *("file_name", "filename", "file", "image_name", "image_path", "file_path", "filepath"),
    *("path", "image_file"),
)
_ID_KEYS = ("image_id", "image", "img_id", "img", *_FILE_KEYS, "stem", "name", "id")
_CAPTION_KEYS = (
    *("caption", "captions", "text", "comment", "references", "reference", "sentence"),
    *("sentences", "raw", "description", "candidate", "prediction"),
)
_NUMBERED = re.compile(r"(caption|text|comment|reference|sentence)[_.]?[0-9]+")


class Keys(NamedTuple):
    """Where in a record, or in the columns of a table, the image and its captions stand."""

    image: str
    file: str | None
    captions: tuple[str, ...]


@lru_cache(maxsize=64)
def keys_among(names: tuple[str, ...]) -> Keys | None:
    """The keys that hold image, file and captions; None where one is missing.

    names: as the file spells them; case, spaces around and within do not matter.
    """
    spelled: dict[str, str] = {}
    for name in names:
        spelled.setdefault(re.sub(r"[\s-]+", "_", name.strip().lower()), name)
    image = next((spelled[key] for key in _ID_KEYS if key in spelled), None)
    file = next((spelled[key] for key in _FILE_KEYS if key in spelled), None)
    kind = next((key for key in _CAPTION_KEYS if key in spelled), None)
    numbered = {key: match[1] for key in spelled if (match := _NUMBERED.fullmatch(key))}
    if kind is None and numbered:
        kind = next(iter(numbered.values()))
    captions = tuple(name for key, name in spelled.items() if kind in (key, numbered.get(key)))
    return Keys(image, file, captions) if image is not None and kind is not None else None


def read_records(records: Sequence[Any], gathering: Gathering) -> str:
    """Fill `gathering` from a list of objects; the name of the form. Raises UserError."""
    for number, record in enumerate(records, 1):
        _add(record, gathering, "entry", number)
    is_results = {"image_id", "caption"} <= records[0].keys()
    return "COCO results" if is_results else "JSON list"


def read_lines(text: str, gathering: Gathering) -> None:
    """Fill `gathering` from one object a line. Raises UserError."""
    for number, line in filled_lines(text):
        _add(parse_json(line, gathering.shown, line=number), gathering, "line", number)


def _add(record: Any, gathering: Gathering, noun: str, number: int) -> None:
    if type(record) is not dict:
        raise gathering.refuse(
            f"{noun} {number} is {json_kind(record)}, and an object with an image and a caption"
            f" was expected; give {FORMS}."
        )
    keys = keys_among(tuple(record))
    if keys is None:
        raise gathering.refuse(
            f"{noun} {number} has no image and caption (it has {named(record) or 'nothing'});"
            " name them image_id and caption."
        )
    image_id = gathering.id_of(record[keys.image], noun, number, keys.image)
    if keys.file is not None and record[keys.file] is not None:
        file_name = gathering.id_of(record[keys.file], noun, number, keys.file)
        gathering.name_file(image_id, file_name)
    elif keys.file is None and is_file_name(image_id):
        gathering.name_file(image_id, image_id)
    for key in keys.captions:
        value = record[key]
        if not isinstance(value, list):
            gathering.add(image_id, value, noun, number)
            continue
        if not value:
            raise gathering.refuse(f"{noun} {number} has no captions; give it one or take it out.")
        for caption in value:
            gathering.add(image_id, caption, noun, number)
