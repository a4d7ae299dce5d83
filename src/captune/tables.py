"""CSV files that no spreadsheet runs, whatever others have typed into their cells.

A spreadsheet takes a cell that begins with = + - @ (also full-width), a tab or a line end for a
formula, which may read other cells and send them away (OWASP, "CSV Injection"). Such a cell gets
an apostrophe in front, which a spreadsheet reads as "this is text".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from captune.files import whole_file

# where German and French spreadsheets divide a cell, its parts are cells too: behind ; and a tab
_PLACE = r"(^|[;\t\r\n])"
_FORMULA = r"""(?=[\s"']*[=+\-@＝＋－＠])"""
_RUNS = re.compile(rf"{_PLACE}{_FORMULA}|^(?='*[\t\r\n])")
_MADE_HARMLESS = re.compile(rf"{_PLACE}'{_FORMULA}|^'(?='*[\t\r\n])")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")
_DIVIDES = re.compile(r'[,"\r\n]')


def harmless(text: str) -> str:
    """A cell that no spreadsheet takes for a formula: as it is, or with apostrophes.

    A number such as -0.5 is none, and stays.
    """
    return text if _NUMBER.fullmatch(text) else _RUNS.sub(r"\g<1>'", text)


def as_typed(cell: str) -> str:
    """What `harmless` was given; a spreadsheet leaves the same apostrophe away."""
    return _MADE_HARMLESS.sub(r"\g<1>", cell) if "'" in cell else cell


def csv_row(cells: Iterable[Any], *, raw: bool = False) -> str:
    """A line with its end. raw: text is written as it is, also where a spreadsheet runs it."""
    return ",".join(_field(cell, raw) for cell in cells) + "\n"


def write_csv(path: Path, rows: Iterable[Iterable[Any]], *, raw: bool = False) -> None:
    """The header and rows as one file, which appears whole. Raises UserError as `whole_file`."""
    with whole_file(path) as file:
        write_rows(file, rows, raw=raw)


def write_rows(file: IO[str], rows: Iterable[Iterable[Any]], *, raw: bool = False) -> None:
    """Several lines."""
    file.writelines(csv_row(row, raw=raw) for row in rows)


def of_mappings(rows: Iterable[dict[str, Any]]) -> list[list[Any]]:
    """Rows with the same names, as a header and their values."""
    every = list(rows)
    return [list(every[0]), *(list(row.values()) for row in every)]


def _field(cell: Any, raw: bool) -> str:
    text = "" if cell is None else str(cell)
    if isinstance(cell, str):
        text = _encodable(text if raw else harmless(text))
    if _DIVIDES.search(text):
        doubled = text.replace('"', '""')
        return f'"{doubled}"'
    return text


def _encodable(text: str) -> str:
    r"""JSON may hold half of a character (`"\ud83d"`), which no file in UTF-8 can."""
    try:
        text.encode("utf-8", "surrogateescape")  # bytes of a file name that are not UTF-8 are kept
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text
