"""Rows of a Hugging Face dataset as images with captions and labels, read where they lie.

A source is `PLACE#split=NAME`, with the columns that were chosen: `flickr#split=val&caption=text`.
PLACE is a folder of `save_to_disk`, of Parquet files or of images, or `hf:USER/NAME[/CONFIG]`,
which the library `datasets` fetches. An image of rows is known as SPLIT/ROW, and its path is that
name below the folder: `decode` asks here for the bytes of a path where no file lies.

Nothing of a dataset is executed or unpickled; Arrow's offsets are checked before they are followed.
"""

from __future__ import annotations

import csv
import errno
import logging
import os
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl

from captune.errors import UserError
from captune.files import lines_of, read_text, real_path
from captune.images.dataset_files import (
    HUB,
    RowGroup,
    fetched,
    files_by_split,
    hub_cache,
    loaded,
    parts_of,
    spellings,
)
from captune.json_yaml import parse_json
from captune_metrics.display import named, printable, quoted
from captune_metrics.files import read_regular

logger = logging.getLogger("captune")

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_MARK = "#split="
_MOST_ROWS = 2**24  # of a split; their names take a gigabyte


@dataclass(frozen=True)
class Source:
    """What was asked for; "" is what the dataset itself says."""

    place: str
    split: str = ""
    image: str = ""
    caption: str = ""
    label: str = ""


def parse_source(text: str | os.PathLike[str]) -> Source | None:
    """None for what is a path like any other, and for the split of a file."""
    place, mark, rest = os.fspath(text).rpartition(_MARK)
    if not mark or not (place.startswith(HUB) or os.path.isdir(place)):
        return None
    chosen = dict(parse_qsl("split=" + rest))
    return Source(place, *(chosen.get(name, "") for name in ("split", "image", "caption", "label")))


class ImageRows:
    """One split of a dataset. root: the folder it lies in, absolute. names: SPLIT/ROW of each row.

    shown: what an error calls it. Raises UserError for columns that are not there.
    """

    def __init__(
        self, source: Source, root: Path, split: str, parts: Sequence[RowGroup], shown: str = ""
    ) -> None:
        self.source, self.root, self.split, self._parts = source, root, split, parts
        self.shown = shown or printable(f"{source.place}{_MARK}{split}")
        self._ends = list(accumulate(part.rows for part in parts))
        self.names = [f"{split}/{row}" for row in range(self._ends[-1])]
        self._lock = threading.Lock()
        self._loaded: tuple[int, Any] = (-1, None)
        self.image_column = self._image_column()
        opened[str(root / split)] = self

    @cached_property
    def columns(self) -> list[str]:
        """The names of all columns but the images'."""
        return [name for name in self._parts[0].schema.names if name != self.image_column]

    @cached_property
    def _features(self) -> dict[str, Any]:
        """What the library `datasets` noted of the columns."""
        noted = (self._parts[0].schema.metadata or {}).get(b"huggingface", b"{}")
        content: Any = parse_json(noted.decode("utf-8", "replace"), self.shown)
        try:
            features = content["info"]["features"]
            return {name: one for name, one in features.items() if isinstance(one, dict)}
        except (KeyError, TypeError, AttributeError):
            return {}

    def _image_column(self) -> str:
        schema = self._parts[0].schema
        if self.source.image:
            return self._require(self.source.image, "--image-column")
        typed = [name for name, one in self._features.items() if one.get("_type") == "Image"]
        kinds = {name: str(schema.field(name).type) for name in schema.names}
        structs = [name for name, kind in kinds.items() if kind.startswith("struct<bytes: ")]
        found = typed or structs or [name for name, kind in kinds.items() if kind == "binary"]
        if len(found) != 1:
            which = f"these may be it: {named(found)}" if found else f"it has {named(kinds)}"
            raise UserError(
                f"{self.shown}: say with --image-column which column holds the images; {which}"
            )
        return found[0]

    def _require(self, column: str, option: str) -> str:
        names = self._parts[0].schema.names
        if column not in names:
            raise UserError(
                f"{option} {printable(column)}: {self.shown} has no such column; it has"
                f" {named(names)}"
            )
        return column

    def image_bytes(self, row: int) -> bytes:
        """The image file of a row. Raises OSError, with a phrase, where it has none to read."""
        if row >= len(self.names):
            raise OSError(errno.EINVAL, "no such row")
        part = bisect_right(self._ends, row)
        with self._lock:
            if self._loaded[0] != part:
                self._loaded = part, loaded(self._parts[part], [self.image_column], self.shown)
            column = self._loaded[1].column(0)
        cell = column[row - (self._ends[part] - self._parts[part].rows)].as_py()
        # bytes; a path; or both, as Hugging Face has them
        data, path = (
            (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, cell)
        )
        if isinstance(data, bytes):
            return data
        if not isinstance(path, str):
            raise OSError(errno.EINVAL, "the row holds no image")
        if "\0" in path:
            raise OSError(errno.EINVAL, "the row names no file")
        place = real_path(self.root / path)
        if not any(place.is_relative_to(folder) for folder in (self.root, hub_cache())):
            raise OSError(errno.EINVAL, "the row names a file outside of the dataset")
        return read_regular(place)

    def values(self, columns: Sequence[str], option: str) -> Iterator[list[Any]]:
        """The cells of each row in these columns. option: that chose them."""
        for column in columns:
            self._require(column, option)
        for part in self._parts:
            table = loaded(part, list(columns), self.shown)
            cells = [table.column(column).to_pylist() for column in columns]
            yield from map(list, zip(*cells, strict=True))

    def label_names(self) -> list[str] | None:
        """The names of the classes, in their order; None where the dataset names none."""
        names = self._features.get(self.source.label, {}).get("names")
        is_whole = isinstance(names, list) and all(isinstance(name, str) for name in names)
        return names if is_whole and names else None

    def labels(self) -> dict[str, str]:
        """SPLIT/ROW -> the name of its class, of the rows that have one."""
        names = self.label_names()
        found = {}
        cells = self.values([self.source.label], "--label-column")
        for name, (cell,) in zip(self.names, cells, strict=True):
            if isinstance(cell, int) and names is not None:
                if 0 <= cell < len(names):  # -1 is a test set's "not known"
                    found[name] = names[cell]
            elif cell is not None:
                found[name] = str(cell)
        return found


class _Rows(Protocol):
    def image_bytes(self, row: int) -> bytes: ...


opened: dict[str, _Rows] = {}  # by the folder that a row's path lies in


@contextmanager
def opened_rows(folder: str, rows: _Rows) -> Iterator[None]:
    """Within, the paths `folder`/ROW are these rows, where no file lies there."""
    opened[folder] = rows
    try:
        yield
    finally:
        opened.pop(folder, None)


def row_bytes(path: str | os.PathLike[str], *, is_missing: bool = False) -> bytes | None:
    """The image of a row that has this path; None where it is none of a dataset.

    is_missing: no file lies there, so the dataset of an earlier run is opened again. Raises
    OSError, with a phrase, for a row without an image that can be read.
    """
    folder, row = os.path.split(os.fspath(path))
    rows = opened.get(folder)
    if rows is None and is_missing and row.isdecimal():
        rows = _opened_again(folder)
    return rows.image_bytes(int(row)) if rows is not None and row.isdecimal() else None


@lru_cache(maxsize=8)
def _opened_again(folder: str) -> ImageRows | None:
    place, split = os.path.split(folder)
    try:
        found = open_dataset(Source(place, split)) if place and os.path.isdir(place) else None
    except UserError:
        return None
    return found if isinstance(found, ImageRows) else None


def open_dataset(source: Source) -> ImageRows | Path:
    """One split; of a folder of image files that folder, or the one of the split in it.

    Raises UserError for a split or column that is not there and for damaged files, MissingExtra,
    and Offline for a dataset of the hub that is not in its cache here.
    """
    if source.place.startswith(HUB):
        splits = fetched(source.place)
        root = next(iter(splits.values()))[0].parent
    else:
        root = Path(source.place).resolve()
        splits = files_by_split(root)
    if not splits:
        if not source.split:
            return root
        folder = next((root / n for n in spellings(source.split) if (root / n).is_dir()), None)
        if folder is None:
            raise UserError(f"{printable(source.place)} has no split {quoted(source.split)}")
        return folder
    split = _chosen(source, list(splits))
    known = opened.get(str(root / split))
    if isinstance(known, ImageRows) and known.source == source:
        return known
    parts = [part for file in splits[split] for part in parts_of(file) if part.rows]
    if not parts:
        raise UserError(f"{printable(source.place)}: the split {printable(split)} has no rows")
    rows = sum(part.rows for part in parts)
    if rows > _MOST_ROWS:  # a few bytes stand for as many as one likes
        raise UserError(
            f"{printable(source.place)}: the split {printable(split)} has {rows:,} rows; captune"
            f" takes {_MOST_ROWS:,} at most"
        )
    columns = parts[0].schema.names
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise UserError(f"{printable(source.place)} has the column {quoted(twice[0])} twice")
    if any(part.schema.names != columns for part in parts):
        raise UserError(
            f"{printable(source.place)}: its files have different columns; give the folder of one"
            " configuration"
        )
    return ImageRows(source, root, split, parts)


def labels_of(source: Source) -> tuple[list[str], dict[str, str]]:
    """The classes of the column `source.label`, and the class of each image that has one.

    Of a folder of images the column is one of its metadata file, or without that the folder that an
    image lies in; then nothing is said of each.
    """
    rows = open_dataset(source)
    if isinstance(rows, ImageRows):
        found = rows.labels()
        return rows.label_names() or sorted(set(found.values())), found
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


def metadata_file(folder: Path) -> Path | None:
    """What a folder of images says of them, as Hugging Face's `imagefolder` has it."""
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def metadata_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a metadata file; each names its image in "file_name". Raises UserError."""
    shown = printable(file)
    if file.suffix == ".parquet":
        tables = [loaded(part, part.schema.names, shown) for part in parts_of(file)]
        rows = [row for table in tables for row in table.to_pylist()]
    else:
        lines = [line for line in lines_of(read_text(str(file))) if not line.isspace()]
        if file.suffix == ".csv":
            rows = list(csv.DictReader(lines))
        else:
            rows = [parse_json(line, shown, line=n) for n, line in enumerate(lines, 1)]
    if not rows or not all(isinstance(row, dict) and row.get("file_name") for row in rows):
        raise UserError(f"{shown} has a row without file_name, or no rows; each names its image")
    return rows


def _chosen(source: Source, splits: list[str]) -> str:
    asked = spellings(source.split) if source.split else splits if len(splits) == 1 else []
    found = next((split for split in asked if split in splits), None)
    if found is None:
        problem = f"has no split {quoted(source.split)}" if source.split else "has several splits"
        raise UserError(f"{printable(source.place)} {problem}; give --split {' or '.join(splits)}")
    return found
