"""Captions as a file gives them, and what every reader fills: each caption checked, to the letter.

JSON is read in `json_forms`, rows in `tables`; `read` finds out which it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from captune.errors import UserError
from captune.files import lines_of
from captune.images.find import ENDINGS
from captune.json_yaml import json_kind
from captune_metrics.display import printable, quoted

FORMS = (
    '{"stem": "caption"}, COCO results or annotations, a CSV or JSONL with image and caption,'
    " name.txt beside name.jpg, or a captune run"
)
CAPTION_ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".parquet")
KARPATHY = "Karpathy's splits"
SAMPLES = "samples of lm-evaluation-harness or lmms-eval"
# the first that is there is the image; an "id" is often the number of the row
FILE_KEYS = (
    *("file_name", "filename", "file", "image_name", "image_path", "file_path", "filepath"),
    *("path", "image_file"),
)
_ID_KEYS = ("image_id", "image", "img_id", "img", *FILE_KEYS, "stem", "name", "id")
_CAPTION_KEYS = (
    *("caption", "captions", "text", "comment", "references", "reference", "sentence"),
    *("sentences", "raw", "description", "candidate", "prediction"),
)
_NUMBERED = re.compile(r"(caption|text|comment|reference|sentence)[_.]?[0-9]+")


@dataclass(frozen=True)
class CaptionFile:
    """Captions as one file or folder gives them.

    source: the path, as it was given.
    form: the kind of file it was found to be, such as "COCO annotations".
    captions: image id -> its captions, to the letter, in the order of the file; at least one each.
    file_names: image id -> file name, for the images that the file gives one of.
    sha256: of the file's bytes; of sidecars over their sorted names and bytes.
    references: image id -> what its caption is scored against, where the file says it itself.
    """

    source: str
    form: str
    captions: dict[str, list[str]]
    file_names: dict[str, str]
    sha256: str
    references: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many images have captions."""
        return len(self.captions)


class CaptionCollector:
    """Collects captions while a file is read; every refusal names the file and the place in it.

    A place is a noun and a number: "line 7", "annotation 12".
    """

    def __init__(self, source: str, split: str | None = None) -> None:
        self.source = source
        self.shown = printable(source)
        self.split = split
        self.captions: dict[str, list[str]] = {}
        self.file_names: dict[str, str] = {}
        self.references: dict[str, list[str]] = {}

    def refuse(self, sentence: str) -> UserError:
        """The error to raise; `sentence` goes on after the name of the file."""
        return UserError(f"{self.shown}: {sentence}")

    def id_of(self, value: object, noun: str, number: int, what: str = "image id") -> str:
        """An image's id as text: 139 and "139" are the same image. Raises UserError."""
        kind = type(value)
        if kind is int:
            return str(value)
        if kind is float and value.is_integer():  # type: ignore[attr-defined]
            return str(int(value))  # type: ignore[call-overload]
        if kind is not str:
            raise self.refuse(
                f"{noun} {number}: its {what} is {json_kind(value)}, and text or a whole number"
                " was expected."
            )
        assert isinstance(value, str)
        if not value:
            raise self.refuse(f"{noun} {number}: its {what} is empty; name the image there.")
        if not value.isascii() or "\0" in value:
            self._check_text(value, f"{noun} {number}: its {what}")
        return value

    def add(self, image_id: str, caption: object, noun: str, number: int) -> None:
        """One more caption of an image. Raises UserError for what is no text."""
        if type(caption) is not str:
            raise self.refuse(
                f"{noun} {number}: its caption is {json_kind(caption)}, and text was expected."
            )
        if not caption.isascii() or "\0" in caption:
            self._check_text(caption, f"{noun} {number}: its caption")
        self.captions.setdefault(image_id, []).append(caption)

    def name_file(self, image_id: str, file_name: str) -> None:
        """Say which file an image is. Raises UserError where it was another one before."""
        known = self.file_names.setdefault(image_id, file_name)
        if known != file_name:
            raise self.refuse(
                f"image {quoted(image_id)} has two files, {quoted(known)} and"
                f" {quoted(file_name)}; keep one of them."
            )

    def _check_text(self, text: str, what: str) -> None:
        if "\0" in text:
            raise self.refuse(f"{what} holds a zero byte ({quoted(text)}); take it out.")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise self.refuse(f"{what} is not whole text ({quoted(text)}); type it again.") from (
                None
            )

    def finished(self, form: str, sha256: str) -> CaptionFile:
        """The file that was read. Raises UserError where it held no caption."""
        if not self.captions:
            raise UserError(f"{self.shown} holds no captions ({form}); give {FORMS}.")
        return CaptionFile(
            self.source, form, self.captions, self.file_names, sha256, self.references
        )


def filled_lines(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not blank, to the letter but for its end."""
    for number, line in enumerate(lines_of(text), 1):
        if not line.isspace():
            yield number, line.rstrip("\r\n")


def is_file_name(text: str) -> bool:
    """Whether it ends as image files do."""
    _, dot, ending = text.rpartition(".")
    return bool(dot) and ending.lower() in ENDINGS


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
    file = next((spelled[key] for key in FILE_KEYS if key in spelled), None)
    kind = next((key for key in _CAPTION_KEYS if key in spelled), None)
    numbered = {key: match[1] for key in spelled if (match := _NUMBERED.fullmatch(key))}
    if kind is None and numbered:
        kind = next(iter(numbered.values()))
    captions = tuple(name for key, name in spelled.items() if kind in (key, numbered.get(key)))
    return Keys(image, file, captions) if image is not None and kind is not None else None
