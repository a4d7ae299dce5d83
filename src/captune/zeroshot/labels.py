"""Labels: those to choose from, with ids and prompts of their own, and each image's true one."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from captune.errors import UserError
from captune.files import lines_of, read_text
from captune.images import ImageFile
from captune.images.dataset import (
    ImageRows,
    Source,
    metadata_file,
    metadata_rows,
    open_dataset,
    parse_source,
)
from captune.images.match import images_named
from captune.json_yaml import json_kind, parse_json
from captune.tables import as_typed
from captune.text import counted
from captune_metrics.display import named, printable, quoted

_PATH_ENDINGS = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml", ".names", ".labels")
_LONGEST = 10_000  # characters of a label or prompt; no model reads as many
_FORMS = 'names ("cat,dog"), a text file with one name per line, or a JSON {"id": "name"}'
EVERYDAY = "everyday"  # what stands for the nouns of everyday.txt


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
        source of a dataset (`images.dataset`) stands for the classes of its label column, and
        "everyday" for 321 nouns of people, animals, places, food and things (`everyday.txt`).
    White space around names is dropped; ids are kept to the letter.
    Raises UserError for a file that is missing or malformed, for no labels, and for doubled ones.
    """
    if isinstance(source, Mapping):
        return _from_mapping({str(key): value for key, value in source.items()}, "labels")
    if not isinstance(source, str | Path):
        return _from_names(list(source), "labels")
    text = os.fspath(source)
    if (asked := parse_source(text)) is not None:
        return _from_names(_labels_of(asked)[0], printable(text))
    # pathlib raises for ten thousand names in one string: too long for a path
    is_folder = os.path.isdir(text)  # noqa: PTH112
    if os.path.exists(text) and not is_folder:  # noqa: PTH110
        return _from_file(text)
    if text == EVERYDAY:
        listed = files("captune.zeroshot").joinpath("everyday.txt").read_text(encoding="utf-8")
        return _from_names(listed.splitlines(), text)
    if isinstance(source, Path) or is_folder or _looks_like_path(text):
        problem = "is a folder, as IMAGES may be" if is_folder else "does not exist"
        word = (
            f' (the word alone: "{printable(text)},")' if is_folder and os.sep not in text else ""
        )
        raise UserError(f"{printable(text)} {problem}; give {_FORMS}{word}.")
    return _from_names([name for name in text.split(",") if name.strip()], "labels")


def _labels_of(source: Source) -> tuple[list[str], dict[str, str]]:
    """The classes of the column `source.label`, and the class of each image that has one.

    Of a folder of images the column is one of its metadata file, or without that the folder that an
    image lies in; then nothing is said of each.
    """
    rows = open_dataset(source)
    if isinstance(rows, ImageRows):
        return rows.labels()
    file = metadata_file(rows)
    if file is None:
        return sorted(one.name for one in rows.iterdir() if one.is_dir() and one.name[0] != "."), {}
    found = {
        str(row.get("file_name")): str(row[source.label])
        for row in metadata_rows(file)
        if row.get(source.label) is not None
    }
    if not found:
        raise UserError(f"--label-column: {printable(file)} has no {printable(source.label)}")
    return sorted(set(found.values())), found


def _looks_like_path(text: str) -> bool:
    has_folders = "," not in text and not {"/", os.sep}.isdisjoint(text)
    return has_folders or text.strip().lower().endswith(_PATH_ENDINGS)


def _from_file(path: str) -> Labels:
    shown = printable(path)
    ending = Path(path).suffix.lower()
    if ending in (".csv", ".tsv", ".yaml", ".yml", ".jsonl"):
        raise UserError(f"{shown}: labels are not read from {ending[1:]} files; give {_FORMS}.")
    text = read_text(path)
    if ending != ".json":
        lines = [line for line in re.split(r"\r\n|\r|\n", text) if line.strip()]
        return _from_names(lines, shown)
    value = parse_json(text, shown, lambda of: "label" if isinstance(of, list) else "class id")
    if isinstance(value, list):
        return _from_names(value, shown)
    if isinstance(value, dict):
        return _from_mapping(value, shown)
    raise UserError(f"{shown} holds {json_kind(value)}, no labels; give {_FORMS}.")


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


_FILE_COLUMNS = (
    *("filename", "file_name", "file", "image", "image_name", "img", "path", "filepath"),
    *("file_path", "image_path", "image_id", "id", "name"),
)
_LABEL_COLUMNS = (
    *("label", "class", "category", "target", "truth", "ground_truth", "class_id", "label_id"),
    *("category_id", "class_name", "label_name", "category_name"),
)


@dataclass(frozen=True)
class Truth:
    """The right answers that are known.

    indices: image name -> position in the labels; images that are not in it are not scored.
    notes: sentences about images without truth and rows without image, for the user.
    """

    indices: dict[str, int]
    notes: tuple[str, ...] = ()


def known_truth(
    source: str | None, images: Sequence[ImageFile], labels: Labels, say: Callable[[str], None]
) -> dict[str, int]:
    """Image name -> position in the labels, as far as it is known; its notes are said.

    Raises UserError as `read_truth`.
    """
    if source is None:
        return {}
    truth = read_truth(source, images, labels)
    for note in truth.notes:
        say(note)
    return truth.indices


class _Answer(NamedTuple):
    label: str
    where: str


def read_truth(source: str | Path, images: Sequence[ImageFile], labels: Labels) -> Truth:
    """The label of each image, as far as it is known.

    source: `from-name` for files called `<class id>_<n>.jpg`; `from-folder` where the nearest
        folder that is called like a class id or a name gives the answer; otherwise a table with a
        header (commas, semicolons or tabs) such as `filename,label`, the label being an id or,
        where no id fits, a name. A row belongs to the image with the same name, else to the only
        image whose path ends like it, else to the only one that differs just in its ending.
        A folder stands for its metadata file, and a metadata.jsonl or .parquet is read as well.
    Rows without an image and images without a row are counted in the notes.
    Raises UserError for a table that cannot be understood, for a label of an image that is not
    among the labels, for an image with two labels, and when no image has a label at all.
    """
    shown = printable(source)
    asked = parse_source(source)
    named_rows = {} if asked is None else _labels_of(asked)[1]
    unused: list[str] = []
    if source == "from-name":
        answers = dict(_by_names(images, labels))
    elif source == "from-folder" or (asked is not None and not named_rows):
        answers = dict(_by_folders(images, labels))
    else:
        rows = {name: _Answer(label, name) for name, label in named_rows.items()}
        if asked is None:
            rows = _read_table(str(source), labels, {image.name for image in images})
        found, unused = images_named(
            rows, images, lambda names: len({rows[name].label for name in names}) == 1
        )
        answers = {image: rows[name] for image, name in found.items()}
    indices = _positions(answers, labels, shown)
    if not indices:
        raise UserError(_why_nothing(str(source), images, unused))
    return Truth(indices, tuple(_notes(shown, indices, images, unused)))


def _by_names(images: Iterable[ImageFile], labels: Labels) -> Iterator[tuple[str, _Answer]]:
    for image in images:
        stem = PurePosixPath(image.name).stem
        cuts = [match.start() for match in re.finditer("_", stem)]
        # ids may hold underscores themselves: the longest that is a label counts
        known = (stem[:cut] for cut in reversed(cuts) if labels.index_of(stem[:cut]) is not None)
        label = next(known, None)
        if label is None and re.fullmatch(r".+_\d+", stem, re.DOTALL):
            label = stem[: cuts[-1]]
        if label is not None:
            yield image.name, _Answer(label, image.name)


def _by_folders(images: Iterable[ImageFile], labels: Labels) -> Iterator[tuple[str, _Answer]]:
    for image in images:
        folders = PurePosixPath(image.name).parts[-2::-1] or (image.path.parent.name,)
        spellings = (text for name in folders for text in (name, name.replace("_", " ")))
        known = (text for text in spellings if labels.index_of(text) is not None)
        yield image.name, _Answer(next(known, folders[0]), image.name)


def _positions(answers: dict[str, _Answer], labels: Labels, source: str) -> dict[str, int]:
    indices: dict[str, int] = {}
    unknown: dict[str, str] = {}
    for name, answer in answers.items():
        index = labels.index_of(answer.label)
        if index is None:
            unknown.setdefault(answer.label, answer.where)
        else:
            indices[name] = index
    if unknown:
        first = ", ".join(
            f'"{printable(label)}" ({printable(where)})'
            for label, where in list(unknown.items())[:3]
        )
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise UserError(
            f"{source}: {first}{more} {'is' if len(unknown) == 1 else 'are'} not among the"
            f" {len(labels)} labels of {labels.source}; use its ids or names."
        )
    return indices


def _read_table(path: str, labels: Labels, names: Set[str]) -> dict[str, _Answer]:
    """Rows as file -> answer; the file is as the table spells it, with forward slashes.

    names: of images. A cell that is none of them, nor a label, loses the apostrophe that
    `captune.tables` put in front of what a spreadsheet would run.
    """
    shown = printable(path)
    folder = Path(path)
    file = metadata_file(folder) if os.path.isdir(path) else folder  # noqa: PTH112
    if file is not None and file.suffix in (".jsonl", ".parquet") and file.is_file():
        return _metadata_answers(file)
    path = path if file is None else str(file)
    if not os.path.exists(path):  # noqa: PTH110 - pathlib raises for what cannot be a path
        raise UserError(
            f"{shown} does not exist; give a CSV with filename,label, or from-name, or from-folder."
        )
    text = read_text(path, keep_bytes=True)
    start = text.lstrip("\r\n").partition("\n")[0]
    delimiter = "\t" if "\t" in start else ";" if ";" in start and "," not in start else ","
    reader = csv.reader(lines_of(text), delimiter=delimiter)
    rows: dict[str, _Answer] = {}
    columns: tuple[int, int] | None = None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if columns is None:
                columns, is_header = _columns(cells, labels, shown)
                if is_header:
                    continue
            typed = [
                cell
                if cell in names or labels.index_of(cell.strip()) is not None
                else as_typed(cell)
                for cell in cells
            ]
            _add_row(rows, typed, columns, f"line {reader.line_num}", shown)
    except csv.Error as error:
        raise UserError(f"{shown}: line {reader.line_num} is not a table row ({error}).") from None
    if not rows:
        raise UserError(f"{shown} holds no rows; give one line filename,label for each image.")
    return rows


def _metadata_answers(file: Path) -> dict[str, _Answer]:
    rows = metadata_rows(file)
    column = next((name for name in _LABEL_COLUMNS if name in rows[0]), None)
    if column is None:
        raise UserError(
            f"{printable(file)} has no column for the label; call it label (it has"
            f" {named(rows[0])})."
        )
    return {
        str(row["file_name"]): _Answer(str(row[column]), f"row {number}")
        for number, row in enumerate(rows, 1)
        if row.get(column) is not None
    }


def _columns(cells: Sequence[str], labels: Labels, source: str) -> tuple[tuple[int, int], bool]:
    names = [cell.strip().lower().replace(" ", "_") for cell in cells]
    file = next((names.index(name) for name in _FILE_COLUMNS if name in names), None)
    label = next((names.index(name) for name in _LABEL_COLUMNS if name in names), None)
    if file is not None and label is not None:
        return (file, label), True
    if len(cells) == 2 and labels.index_of(cells[1].strip()) is not None:
        return (0, 1), False
    found = ", ".join(f'"{printable(cell)}"' for cell in cells[:6])
    raise UserError(
        f"{source}: its first line has no columns for file and label; write filename,label there"
        f" (found {found})."
    )


def _add_row(
    rows: dict[str, _Answer],
    cells: Sequence[str],
    columns: tuple[int, int],
    where: str,
    source: str,
) -> None:
    if len(cells) <= max(columns):
        raise UserError(
            f"{source}: {where} has {len(cells)} of the {max(columns) + 1} columns it needs."
        )
    file, label = cells[columns[0]], cells[columns[1]].strip()
    if not file or not label:
        return
    known = rows.setdefault(file, _Answer(label, where))
    if known.label != label:
        raise UserError(
            f'{source}: "{printable(file)}" has two labels, "{printable(known.label)}"'
            f' ({known.where}) and "{printable(label)}" ({where}); keep one of them.'
        )


def _notes(
    source: str, indices: dict[str, int], images: Sequence[ImageFile], unused: Sequence[str]
) -> Iterator[str]:
    without = [image.name for image in images if image.name not in indices]
    if without:
        yield (
            f"{source}: {len(without)} of {len(images)} images have no truth and are not scored"
            f" (the first is {printable(without[0])})."
        )
    if unused:
        yield (
            f"{source}: {counted(len(unused), 'row')} for none of the"
            f" {counted(len(images), 'image')} (the first is {printable(unused[0])})."
        )


def _why_nothing(source: str, images: Sequence[ImageFile], unused: Sequence[str]) -> str:
    image = printable(images[0].name) if images else "none"
    if source == "from-name":
        return (
            f"from-name: no image is called <class id>_<n>, such as 7_1.jpg (the first is {image})."
        )
    row = printable(unused[0]) if unused else "none"
    return (
        f"{printable(source)}: none of its rows names one of these images (its first is {row},"
        f" the first image is {image})."
    )
