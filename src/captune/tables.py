"""Tables: one definition for CSV, Markdown, LaTeX, terminal and page. `--to`: `answer_files`.

No spreadsheet runs the CSV, whatever others have typed into its cells. A spreadsheet takes a cell
that begins with = + - @ (also full-width), a tab or a line end for a formula, which may read other
cells and send them away (OWASP, "CSV Injection"). Such a cell gets an apostrophe in front, which a
spreadsheet reads as "this is text".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from captune.files import whole_file
from captune.text import one_line

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


@dataclass(frozen=True)
class Number:
    """One number (or a sentence of a run).

    value: with all its digits. text: as a reader sees it. source: the place in a run it is from,
    `RUN:FILE#/pointer` (RFC 6901) or `RUN:records.jsonl how it was computed`; RUN is the number of
    the run on a page, from 1. It is "" outside a page.
    """

    value: Any
    text: str
    source: str = ""

    def __html__(self) -> str:
        from markupsafe import Markup

        kind = "figure phrase" if isinstance(self.value, str) else "figure"
        return Markup('<data class="{}" value="{}" data-from="{}">{}</data>').format(
            kind, exact(self.value), one_line(self.source), one_line(self.text)
        )

    def __str__(self) -> str:
        return self.text


def exact(value: Any) -> str:
    """A value with all its digits, as JSON; a text as one line."""
    return one_line(value) if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, in one cell. mark: a sign that the table's note explains."""

    kind: ClassVar[str] = "estimate"
    number: Number
    interval: tuple[Number, Number] | None = None
    mark: str = ""

    def __str__(self) -> str:
        if self.interval is None:
            return f"{self.number}{self.mark}"
        return "{}{} [{}, {}]".format(self.number, self.mark, *self.interval)


def number(value: float | None, form: Callable[[float], str]) -> Number | None:
    """The cell of a value; None has no cell."""
    return None if value is None else Number(value, form(value))


def estimate(
    value: float | None, interval: Sequence[float] | None, form: Callable[[float], str]
) -> Estimate | None:
    """The cell of a value with its interval; None has no cell."""
    if value is None:
        return None
    ends = [Number(end, form(end)) for end in interval or ()]
    return Estimate(Number(value, form(value)), (ends[0], ends[1]) if ends else None)


def difference(found: Number, interval: tuple[Number, Number] | None) -> Estimate:
    """The cell of a paired difference; one whose interval is 0 to 0 is none in any image."""
    if found.value == 0 and interval and interval[0].value == interval[1].value == 0:
        return Estimate(replace(found, text="no difference in any image"))
    return Estimate(found, interval)


@dataclass(frozen=True)
class Fraction:
    """A value and its interval drawn on a line of length 1; only pages show it.

    best, worse: drawn as the best, as significantly worse than it.
    """

    kind: ClassVar[str] = "fraction"
    value: float
    low: float | None = None
    high: float | None = None
    best: bool = False
    worse: bool = False

    @classmethod
    def between(
        cls, low: float, high: float, value: float, interval: Sequence[float] | None, **more: Any
    ) -> Fraction:
        """A value on a line from `low` to `high`."""
        width = (high - low) or 1.0
        ends = [(end - low) / width for end in interval] if interval else [None, None]
        return cls((value - low) / width, *ends, **more)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    title: its name, in a CSV file too. number: aligned at the right. wide: takes what is left of
    the line.
    """

    title: str
    number: bool = False
    wide: bool = False


def numbers(*titles: str) -> list[Column]:
    """Columns of numbers."""
    return [Column(title, number=True) for title in titles]


@dataclass(frozen=True)
class Table:
    """A table in all its forms: CSV, Markdown, LaTeX, a terminal, a page.

    name: of its CSV file. caption: what it shows. rows: cells are texts, numbers of Python,
    Number, Estimate, Fraction, or None for nothing. marked: positions of rows that stand out.
    """

    kind: ClassVar[str] = "table"
    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    marked: frozenset[int] = frozenset()
    note: Any = ""

    @property
    def is_coloured(self) -> bool:
        """Whether a page draws a row as the best, or as worse than it."""
        cells = (cell for row in self.rows for cell in row if isinstance(cell, Fraction))
        return any(cell.best or cell.worse for cell in cells)

    def values(self) -> list[list[Any]]:
        """Header and rows with all digits: an estimate has three columns, a Fraction none."""
        columns: list[Sequence[Any]] = []
        for i in self._shown():
            title, cells = self.columns[i].title, [row[i] for row in self.rows]
            if any(isinstance(cell, Estimate) for cell in cells):
                titles = (title, f"{title}, 95 % from", f"{title}, 95 % to")
                columns += zip(titles, *map(_values, cells), strict=True)
            else:
                columns.append([title, *map(_value, cells)])
        return [list(row) for row in zip(*columns, strict=True)]

    def csv(self) -> str:
        """The values as CSV."""
        return "".join(map(csv_row, self.values()))

    def markdown(self) -> str:
        """A Markdown table, its caption above it and its note below."""
        columns, rows = self.texts(in_markdown)
        marks = ["---:" if self.columns[i].number else "---" for i in self._shown()]
        lines = [f"| {' | '.join(row)} |" for row in (columns, marks, *self._bold(rows, "**{}**"))]
        note = in_markdown(_text(self.note))
        parts = [in_markdown(self.caption), "\n".join(lines), note]
        return "\n\n".join(part for part in parts if part) + "\n"

    def latex(self) -> str:
        r"""A LaTeX table in the style of booktabs (`\usepackage{booktabs}`)."""
        columns, rows = self.texts(in_latex)
        layout = "".join("r" if self.columns[i].number else "l" for i in self._shown())
        note = in_latex(_text(self.note))
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{in_latex(self.caption)}}}",
            rf"\label{{tab:{re.sub('[^A-Za-z0-9-]+', '-', self.name)}}}",
            rf"\begin{{tabular}}{{{layout}}}",
            r"\toprule",
            " & ".join(columns) + r" \\",
            r"\midrule",
            *(" & ".join(row) + r" \\" for row in self._bold(rows, r"\textbf{{{}}}")),
            r"\bottomrule",
            r"\end{tabular}",
            *([rf"\par\smallskip{{\footnotesize {note}}}"] if note else []),
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def for_terminal(self) -> Any:
        """A table of rich, for `captune.escaping.console`; marked rows are bold."""
        from rich.table import Table as RichTable

        columns, rows = self.texts(one_line)
        table = RichTable(title=self.caption, title_justify="left", box=None, pad_edge=False)
        for i, title in zip(self._shown(), columns, strict=True):
            # where a terminal is narrow, an interval goes below its number: nothing is cut off
            number = self.columns[i].number
            table.add_column(title, justify="right" if number else "left", overflow="fold")
        for i, row in enumerate(rows):
            table.add_row(*row, style="bold" if i in self.marked else None)
        table.caption, table.caption_justify = _text(self.note) or None, "left"
        return table

    def _bold(self, rows: Sequence[Sequence[str]], form: str) -> list[list[str]]:
        # the name alone: readers of a paper take a bold number for the best of its column
        return [
            [form.format(row[0]), *row[1:]] if i in self.marked and row[0] else list(row)
            for i, row in enumerate(rows)
        ]

    def _shown(self) -> list[int]:
        """Positions of the columns that are not drawn alone."""
        return [
            i
            for i in range(len(self.columns))
            if not any(isinstance(row[i], Fraction) for row in self.rows)
        ]

    def texts(self, escaped: Callable[[str], str] = str) -> tuple[list[str], list[list[str]]]:
        """Titles and rows as people read them."""
        shown = self._shown()
        titles = [escaped(self.columns[i].title) for i in shown]
        return titles, [[escaped(_text(row[i])) for i in shown] for row in self.rows]


class NotebookDisplay:
    """A run or a result that a notebook shows as a table with images.

    `captune.as_html`, which makes it, is loaded when a notebook asks for it.
    """

    def _repr_html_(self) -> str:
        import captune

        return captune.as_html(self)


def _values(cell: Any) -> list[Any]:
    """With both ends of its interval."""
    if not isinstance(cell, Estimate):
        return [_value(cell), "", ""]
    return [_value(cell.number), *map(_value, cell.interval or ("", ""))]


def _value(cell: Any) -> Any:
    if isinstance(cell, Number):
        return cell.value
    if isinstance(cell, Estimate):
        return _value(cell.number)
    return "" if cell is None else _text(cell) if hasattr(cell, "striptags") else cell


def _text(cell: Any) -> str:
    """A cell as a person reads it; markup without its tags."""
    if cell is None:
        return "–"
    return str(cell.striptags() if hasattr(cell, "striptags") else cell)


def in_markdown(text: str) -> str:
    """Text as one line of Markdown, with no sign that means something there."""
    return re.sub(r"([\\`*_\[\]<>|~$&#])", r"\\\1", one_line(text))


_LATEX = {
    **{sign: f"\\{sign}" for sign in "#$%&_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\N{MINUS SIGN}": "$-$",
    "–": "--",
    "“": "``",
    "”": "''",
    "…": r"\ldots{}",
    "†": r"$^\dagger$",
}


def in_latex(text: str) -> str:
    """Text as one line of LaTeX, with no sign that means something there."""
    return "".join(_LATEX.get(sign, sign) for sign in one_line(text))
