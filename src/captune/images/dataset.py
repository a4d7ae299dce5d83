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
import re
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path, PurePath
from typing import Any, Protocol
from urllib.parse import parse_qsl

from captune.errors import MissingExtra, Offline, UserError
from captune.files import lines_of, read_text, real_path
from captune.json_yaml import parse_json, read_object
from captune.storage import hub_cache, is_offline
from captune_metrics.display import named, printable, quoted
from captune_metrics.files import read_regular

logger = logging.getLogger("captune")

_MARK = "#split="
_MOST_ROWS = 2**24  # of a split; their names take a gigabyte
HUB = "hf:"
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SHARD = re.compile(r"(?:.*[/-])?(?P<split>[\w.]+)-\d+-of-\d+(?:-\w+)?\.(?:parquet|arrow)")
_LARGEST_GROUP = 4 * 2**30  # bytes of a column of Parquet that are decompressed at once


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
        if not any(place.is_relative_to(one) for one in (self.root, hub_cache().resolve())):
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

    def labels(self) -> tuple[list[str], dict[str, str]]:
        """The classes, in the dataset's order if it has one, and SPLIT/ROW -> its class, if any."""
        names = self._features.get(self.source.label, {}).get("names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            names = []
        found = {}
        cells = self.values([self.source.label], "--label-column")
        for name, (cell,) in zip(self.names, cells, strict=True):
            if isinstance(cell, int) and names:
                if 0 <= cell < len(names):  # -1 is a test set's "not known"
                    found[name] = names[cell]
            elif cell is not None:
                found[name] = str(cell)
        return names or sorted(set(found.values())), found


class _OpenedRows(Protocol):
    def image_bytes(self, row: int) -> bytes: ...


opened: dict[str, _OpenedRows] = {}  # by the folder that a row's path lies in


@contextmanager
def opened_rows(folder: str, rows: _OpenedRows) -> Iterator[None]:
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
        splits = _fetched(source.place)
        root = next(iter(splits.values()))[0].parent
    else:
        root = Path(source.place).resolve()
        splits = _files_by_split(root)
    shown, asked = printable(source.place), []
    if source.split:  # as it was asked for, then what else it is called
        same = next((names for names in _SPLITS.values() if source.split in names), ())
        asked = [source.split, *same]
    if not splits:
        if not source.split:
            return root
        folder = next((root / name for name in asked if (root / name).is_dir()), None)
        if folder is None:
            raise UserError(f"{shown} has no split {quoted(source.split)}")
        return folder
    if not source.split and len(splits) == 1:
        asked = list(splits)
    split = next((name for name in asked if name in splits), None)
    if split is None:
        problem = f"has no split {quoted(source.split)}" if source.split else "has several splits"
        raise UserError(f"{shown} {problem}; give --split {' or '.join(splits)}")
    known = opened.get(str(root / split))
    if isinstance(known, ImageRows) and known.source == source:
        return known
    parts = [part for file in splits[split] for part in row_groups_of(file) if part.rows]
    if not parts:
        raise UserError(f"{shown}: the split {printable(split)} has no rows")
    rows = sum(part.rows for part in parts)
    if rows > _MOST_ROWS:  # a few bytes stand for as many as one likes
        raise UserError(
            f"{shown}: the split {printable(split)} has {rows:,} rows; captune takes"
            f" {_MOST_ROWS:,} at most"
        )
    columns = parts[0].schema.names
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise UserError(f"{shown} has the column {quoted(twice[0])} twice")
    if any(part.schema.names != columns for part in parts):
        raise UserError(
            f"{shown}: its files have different columns; give the folder of one configuration"
        )
    return ImageRows(source, root, split, parts)


def metadata_file(folder: Path) -> Path | None:
    """What a folder of images says of them, as Hugging Face's `imagefolder` has it."""
    names = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def metadata_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a metadata file; each names its image in "file_name". Raises UserError."""
    shown = printable(file)
    if file.suffix == ".parquet":
        tables = [loaded(part, part.schema.names, shown) for part in row_groups_of(file)]
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


@dataclass(frozen=True)
class RowGroup:
    """Rows that are loaded together: a file of Arrow, or a row group of Parquet."""

    rows: int
    schema: Any
    load: Callable[[list[str]], Any]


def _files_by_split(root: Path) -> dict[str, list[Path]]:
    """Files of Arrow or Parquet; none for a folder of image files."""
    if (root / "dataset_dict.json").is_file():
        listed = read_object(root / "dataset_dict.json").get("splits")
        names = [name for name in listed if _is_name(name)] if isinstance(listed, list) else []
        return {name: _saved(root / name)[1] for name in names}
    if (root / "state.json").is_file():
        name, files = _saved(root)
        return {name: files}
    found: dict[str, list[Path]] = {}
    patterns = ("*.arrow", "*.parquet", "*/*.parquet", "*/*/*.parquet")
    files = [path for pattern in patterns for path in sorted(root.glob(pattern)) if path.is_file()]
    for path in files:
        # the library `datasets` keeps what it computed beside what it fetched
        if path.name != "metadata.parquet" and not path.name.startswith("cache-"):
            found.setdefault(_split_of(path.relative_to(root).as_posix()), []).append(path)
    return found


def _split_of(name: str) -> str:
    """By the name of a file, as the library `datasets` tells them apart."""
    if shard := _SHARD.fullmatch(name):
        return shard["split"]
    if name.endswith(".arrow"):  # of the hub's cache: NAME-SPLIT.arrow
        return name.removesuffix(".arrow").rpartition("-")[2]
    words = re.split(r"[^a-z0-9]+", name.lower())
    return next(
        (split for split, same in _SPLITS.items() if not {*words}.isdisjoint(same)), "train"
    )


def _saved(folder: Path) -> tuple[str, list[Path]]:
    """Split and files of a dataset that `save_to_disk` wrote."""
    state = read_object(folder / "state.json")
    listed = state.get("_data_files")
    files = [one.get("filename") for one in listed] if isinstance(listed, list) else []
    if not files or not all(map(_is_name, files)):
        raise UserError(f"{printable(folder)}: state.json names no files of its folder")
    split = state.get("_split")
    return str(split) if _is_name(split) else "train", [folder / name for name in files]


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and PurePath(name).name == name


def row_groups_of(path: Path) -> list[RowGroup]:
    """Of one file. Raises UserError for a damaged one, and MissingExtra."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("a dataset", "datasets") from None
    shown = printable(path)
    if not path.is_file():
        raise UserError(f"{shown} is not a file of a dataset; save the dataset again")
    try:
        if path.suffix == ".parquet":
            return list(_groups(path, pyarrow.parquet.ParquetFile(path)))
        mapped = pyarrow.memory_map(str(path))
        is_file = mapped.read(6) == b"ARROW1"  # the other form, which ends in a table of contents
        mapped.seek(0)
        table = (pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(mapped).read_all()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{shown} is damaged ({printable(error)[:120]})") from None
    return [RowGroup(len(table), table.schema, table.select)]


def _groups(path: Path, file: Any) -> Iterator[RowGroup]:
    schema = file.schema_arrow
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        sizes = [group.column(i).total_uncompressed_size for i in range(group.num_columns)]
        if max(sizes, default=0) > _LARGEST_GROUP:
            raise UserError(
                f"{printable(path)}: row group {number} is over {_LARGEST_GROUP / 2**30:.0f}"
                " GiB; write the file with smaller row groups"
            )

        def load(columns: list[str], number: int = number) -> Any:
            return file.read_row_group(number, columns=columns, use_threads=False)

        yield RowGroup(group.num_rows, schema, load)


def _fetched(place: str) -> dict[str, list[Path]]:
    """The Arrow files of a dataset of the hub, by split; downloaded where they are not here yet."""
    try:
        import datasets
    except ImportError:
        raise MissingExtra(f"{printable(place)} of the hub", "datasets") from None
    parts = place.removeprefix(HUB).split("/", 2)
    repo, config = "/".join(parts[:2]), parts[2] if len(parts) > 2 else None
    if not is_offline():
        logger.warning("asking the hub for the dataset %s", printable(repo))
    try:
        with _as_captune(datasets):
            found = datasets.load_dataset(repo, config)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = printable((str(error).strip() or type(error).__name__).splitlines()[0])[:200]
        if is_offline():
            raise Offline(
                f"captune is offline and the dataset {printable(repo)} is not in the hub's cache"
                f" here ({reason}); give a folder that save_to_disk wrote"
            ) from None
        raise UserError(f"{printable(place)}: the hub does not give it ({reason})") from None
    return {
        split: [Path(file["filename"]).resolve() for file in rows.cache_files]
        for split, rows in found.items()
    }


@contextmanager
def _as_captune(datasets: Any) -> Iterator[None]:
    """Within: no network where captune is offline, no bars."""
    from huggingface_hub import constants

    places: tuple[Any, ...] = (constants, datasets.config)
    before = [place.HF_HUB_OFFLINE for place in places]
    for place in places:
        place.HF_HUB_OFFLINE = place.HF_HUB_OFFLINE or is_offline()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def loaded(part: RowGroup, columns: list[str], shown: str) -> Any:
    """These columns of a part of what is `shown`. Raises UserError where it is damaged."""
    import pyarrow

    try:
        table = part.load(columns)
        table.validate(full=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{shown} is damaged ({printable(error)[:120]})") from None
    return table
