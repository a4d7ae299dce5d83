"""The labels to choose from: names, the ids that they are written as, and prompts of their own."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from captune.errors import UserError
from captune.files import read_text
from captune.images.dataset import labels_of, parse_source
from captune.json_yaml import json_kind, parse_json
from captune_metrics.display import named, printable, quoted

_PATH_ENDINGS = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml", ".names", ".labels")
_LONGEST = 10_000  # characters of a label or prompt; no model reads as many
_FORMS = 'names ("cat,dog"), a text file with one name per line, or a JSON {"id": "name"}'


@dataclass(frozen=True)
class Labels:
    """ids and names, position by position; an id is what answers are written with.

    ids: as the file spells them, in its order; where it gives none, the names are the ids.
    prompts: for each label the sentences that stand for it, or None to fill templates instead.
    source: what the labels were read from, for messages.
    """

    ids: tuple[str, ...]
    names: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...] | None = None
    source: str = "labels"

    def __len__(self) -> int:
        return len(self.ids)

    def index_of(self, id_or_name: str) -> int | None:
        """The position of an id, or else of a name; None for neither."""
        return self._positions.get(id_or_name)

    @cached_property
    def _positions(self) -> dict[str, int]:
        positions = {name: index for index, name in enumerate(self.names)}
        positions.update({id: index for index, id in enumerate(self.ids)})
        return positions


def read_labels(source: str | Path | Sequence[str] | Mapping[str, object]) -> Labels:
    """Labels from what a person has: names, a file, or the same as Python objects.

    source: "cat,dog"; a text file with one name per line, each taken as it stands (no comments);
        a JSON list of names, `{"id": "name"}` (also as `id2label` in a model's config.json), or
        `{"name": ["prompt", ...]}`, whose prompts are used as they stand, braces and all; the
        source of a dataset (`images.dataset`) stands for the classes of its label column.
    White space around names is dropped; ids are kept to the letter.
    Raises UserError for a file that is missing or malformed, for no labels, and for doubled ones.
    """
    if isinstance(source, Mapping):
        return _from_mapping({str(key): value for key, value in source.items()}, "labels")
    if not isinstance(source, str | Path):
        return _from_names(list(source), "labels")
    text = os.fspath(source)
    if (asked := parse_source(text)) is not None:
        return _from_names(labels_of(asked)[0], printable(text))
    # pathlib raises for ten thousand names in one string: too long for a path
    if os.path.exists(text) and not os.path.isdir(text):  # noqa: PTH110, PTH112
        return _from_file(text)
    if isinstance(source, Path) or _looks_like_path(text):
        is_folder = os.path.isdir(text)  # noqa: PTH112  # pathlib's raises for a long name
        problem = "is a folder" if is_folder else "does not exist"
        raise UserError(f"{printable(text)} {problem}; give {_FORMS}.")
    return _from_names([name for name in text.split(",") if name.strip()], "labels")


def _looks_like_path(text: str) -> bool:
    separators = {"/", os.sep}
    return text.strip().lower().endswith(_PATH_ENDINGS) or (
        "," not in text and any(separator in text for separator in separators)
    )


def _from_file(path: str) -> Labels:
    shown = printable(path)
    ending = Path(path).suffix.lower()
    if ending in (".csv", ".tsv", ".yaml", ".yml", ".jsonl"):
        raise UserError(f"{shown}: labels are not read from {ending[1:]} files; give {_FORMS}.")
    text = read_text(path)
    if ending == ".json":
        return _from_json(text, shown)
    lines = [line for line in re.split(r"\r\n|\r|\n", text) if line.strip()]
    return _from_names(lines, shown)


def _from_json(text: str, source: str) -> Labels:
    value = parse_json(
        text, source, lambda value: "label" if isinstance(value, list) else "class id"
    )
    if isinstance(value, list):
        return _from_names(value, source)
    if isinstance(value, dict):
        return _from_mapping(value, source)
    raise UserError(f"{source} holds {json_kind(value)}, no labels; give {_FORMS}.")


def _from_mapping(value: Mapping[str, object], source: str) -> Labels:
    inner = value.get("id2label")
    if isinstance(inner, Mapping):
        value = inner
    if value and all(isinstance(item, list | tuple) for item in value.values()):
        names = [_text(name, source, "a label") for name in value]
        prompts = tuple(_prompts(name, items, source) for name, items in value.items())
        return _checked(names, names, prompts, source)
    names = [_text(name, source, f"class id {quoted(id)}") for id, name in value.items()]
    if any(not id.strip() for id in value):
        raise UserError(f"{source}: a class id is empty; give it one.")
    return _checked(list(value), names, None, source)


def _from_names(items: Sequence[object], source: str) -> Labels:
    names = [_text(item, source, f"name {number}") for number, item in enumerate(items, 1)]
    return _checked(names, names, None, source)


def _prompts(name: str, items: object, source: str) -> tuple[str, ...]:
    assert isinstance(items, list | tuple)
    if not items:
        raise UserError(f"{source}: label {quoted(name)} has no prompts; give it at least one.")
    return tuple(_text(item, source, f"a prompt of {quoted(name)}") for item in items)


def _text(item: object, source: str, what: str) -> str:
    if not isinstance(item, str):
        raise UserError(
            f"{source}: {what} is {json_kind(item)}, and text was expected; give {_FORMS}."
        )
    if not item.strip():
        raise UserError(f"{source}: {what} is empty; give it a name or take it out.")
    if len(item) > _LONGEST:
        raise UserError(
            f"{source}: {what} has {len(item):,} characters, and {_LONGEST:,} are the most; is"
            " this the right file?"
        )
    try:
        item.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{source}: {what} is not whole text ({quoted(item)}); type it again."
        ) from None
    return item.strip()


def _checked(
    ids: Sequence[str],
    names: Sequence[str],
    prompts: tuple[tuple[str, ...], ...] | None,
    source: str,
) -> Labels:
    if not names:
        raise UserError(f"{source}: there are no labels; give {_FORMS}.")
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise UserError(
            f"{source}: {named(doubled)} {'appears' if len(doubled) == 1 else 'appear'} more than"
            " once; labels with one name cannot be told apart, so rename or remove one."
        )
    return Labels(tuple(ids), tuple(names), prompts, source)
