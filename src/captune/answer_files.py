"""The files of `--to`: answers for other programs, by the ending CSV, JSON lines, JSON or Parquet.

Vectors have forms of their own, in `jobs/embed.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from captune.errors import MissingExtra, UserError
from captune.files import whole_file
from captune.tables import csv_row
from captune.text import listed
from captune_metrics.display import printable

_FORMS = (".csv", ".jsonl", ".parquet", ".json")
_GROUP = 10_000  # rows that wait for their group of a Parquet file

Row = Mapping[str, Any]


def check_ending(option: str, path: Path | None, ending: str, instead: str = "--to") -> None:
    """Refuse a file of one form that is named like another one; raises UserError.

    ending: of the form. instead: the option that writes others, "" for none. A name without an
    ending, such as /dev/stdout, is taken.
    """
    named = "" if path is None else path.suffix.lower()
    if named not in ("", ending):
        shown = printable(path)
        others = f" ({instead} writes {listed(_FORMS)})" if instead else ""
        is_other = instead and named in _FORMS
        then = f"use {instead} {shown}" if is_other else f"name it *{ending}{others}"
        raise UserError(f"{option} {shown} writes {ending[1:].upper()}; {then}")


def row_paths(names: Sequence[str], forms: Sequence[str] = _FORMS) -> list[Path]:
    """The files of --to. Raises UserError for an ending that is none of `forms`."""
    paths = [Path(name) for name in names]
    for path in paths:
        if path.suffix.lower() not in forms:
            raise UserError(f"--to {printable(path)} must end in {listed(forms, 'or')}")
        if path.suffix.lower() == ".parquet":
            parquet()
    return paths


@contextmanager
def row_files(
    names: Sequence[str], model: Row, *, raw: bool = False, json_row: Callable[[Row], Row] = dict
) -> Iterator[Callable[[Row], None]]:
    """Files of rows by their endings, which appear whole; yields what takes a row.

    names: .csv, .jsonl, .json (an array) or .parquet. The rows of a CSV and a Parquet file are
    flat: the dictionaries of a list get columns of their own, numbered from 1. model: its "spec"
    and "weights_id" stand in each row; all of it is the metadata `captune` of a Parquet file.
    raw: as `csv_row`. json_row: a row as .json has it. Raises UserError as `row_paths`.
    """
    columns = {
        name: model[key]
        for name, key in (("model", "spec"), ("weights_id", "weights_id"))
        if key in model
    }

    def in_array(row: Row) -> str:
        return json.dumps(json_row(row))

    forms: Mapping[str, Any] = {
        ".csv": lambda path: _csv_file(path, raw),
        ".jsonl": lambda path: joined_file(path, "", "\n", "\n", json.dumps),
        ".json": lambda path: joined_file(path, "[\n", ",\n", "\n]\n", in_array),
        ".parquet": lambda path: _parquet_file(path, model),
    }
    with ExitStack() as stack:
        files = [stack.enter_context(forms[path.suffix.lower()](path)) for path in row_paths(names)]

        def add(row: Row) -> None:
            for file in files:
                file({**row, **columns})

        yield add


@contextmanager
def _csv_file(path: Path, raw: bool) -> Iterator[Callable[[Row], None]]:
    header: list[str] = []
    with whole_file(path) as file:

        def add(row: Row) -> None:
            cells = flat(row)
            if not header:
                header.extend(cells)
                file.write(csv_row(header))
            file.write(csv_row(map(cells.get, header), raw=raw))

        yield add


@contextmanager
def joined_file(
    path: Path, before: str, between: str, after: str, form: Callable[[Any], str]
) -> Iterator[Callable[[Any], None]]:
    """A file of texts, which appears whole; yields what takes a thing, whose text is its `form`."""
    with whole_file(path) as file:
        written = 0

        def add(row: Any) -> None:
            nonlocal written
            file.write((between if written else before) + form(row))
            written += 1

        yield add
        file.write(after if written else f"{before.strip()}{after.strip()}")


@contextmanager
def _parquet_file(path: Path, model: Row) -> Iterator[Callable[[Row], None]]:
    with whole_file(path, "wb") as file, parquet_rows(file, model, _GROUP) as write:
        yield lambda row: write({name: in_utf8(cell) for name, cell in flat(row).items()})


@contextmanager
def parquet_rows(
    file: Any, about: Row, group: int, schema: Any = None
) -> Iterator[Callable[[Row], None]]:
    """An open file as Parquet, written in groups of so many rows; yields what takes a row.

    about: its metadata `captune`. schema: None for the types of the rows of the first group.
    """
    arrow = parquet()
    waiting: list[Row] = []
    with ExitStack() as stack:
        writer: Any = None

        def write() -> None:
            nonlocal writer
            table = arrow.Table.from_pylist(waiting, writer.schema if writer else schema)
            writer = writer or stack.enter_context(parquet_writer(file, table.schema, about))
            writer.write_table(table)
            waiting.clear()

        def add(row: Row) -> None:
            waiting.append(row)
            if len(waiting) == group:
                write()

        yield add
        if waiting or writer is None:
            write()


def parquet_writer(file: Any, schema: Any, about: Row) -> Any:
    """pyarrow's writer of tables, a context manager. about: the metadata `captune`."""
    told = {"captune": json.dumps(dict(about))}
    return parquet().parquet.ParquetWriter(file, schema.with_metadata(told))


def parquet() -> Any:
    """pyarrow with its Parquet. Raises MissingExtra where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("writing .parquet", "parquet") from None
    return pyarrow


def flat(row: Row) -> dict[str, Any]:
    """Its cells, those of a list of dictionaries as label_1, probability_1, label_2, ..."""
    cells: dict[str, Any] = {}
    for name, cell in row.items():
        if isinstance(cell, list):
            for number, item in enumerate(cell, 1):
                cells |= {f"{key}_{number}": value for key, value in item.items()}
        else:
            cells[name] = cell
    return cells


def in_utf8(cell: Any) -> Any:
    """Bytes of a file name that are not UTF-8 have no form in Parquet: they are escaped."""
    return cell.encode("utf-8", "backslashreplace").decode() if isinstance(cell, str) else cell
