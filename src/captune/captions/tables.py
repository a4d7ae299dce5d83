"""Captions in rows: CSV and TSV with a header, Flickr8k's token files, Flickr30k's results."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator

from captune.captions.file import (
    FORMS,
    CaptionCollector,
    Keys,
    filled_lines,
    is_file_name,
    keys_among,
)
from captune.files import lines_of
from captune.tables import as_typed
from captune_metrics.display import named, printable, quoted

_LISTS = ("captions", "references", "sentences", "raw")  # columns whose cells may be lists
_TOKEN_LINE = re.compile(r"([^\t\r\n]+)#[0-9]+\t(.*)", re.DOTALL)
# Flickr30k's own file has a row that lacks its second bar: "2199200615.jpg| 4   A dog runs ..."
_MISSING_BAR = re.compile(r" ?[0-9]+ {2,}(.*)", re.DOTALL)


def read_table(text: str, collector: CaptionCollector) -> str:
    """Fill `collector` from rows of any of the forms; the name of the form.

    Raises UserError for a table without columns for image and caption, and for rows with more or
    fewer cells than its header.
    """
    # a spreadsheet's empty rows are separators only
    first = next((line for _, line in filled_lines(text) if line.strip("\t,; ")), "")
    if _TOKEN_LINE.fullmatch(first):
        _read_tokens(text, collector)
        return "Flickr tokens"
    for delimiter, form in (("\t", "TSV"), (",", "CSV"), (";", "CSV")):
        header = _header(first, delimiter)
        keys = keys_among(header)
        if keys is not None:
            _read_rows(text, delimiter, header, keys, collector)
            return form
        if len(header) == 2 and is_file_name(header[0]):
            bare = Keys("image", None, ("caption",))
            _read_rows(text, delimiter, ("image", "caption"), bare, collector, has_header=False)
            return f"{form} without header"
    header = tuple(first.split("|"))
    keys = keys_among(header)
    if keys is not None and keys.captions == header[-1:]:
        _read_bars(text, header, keys, collector)
        return "Flickr30k results"
    cells = first.split("\t" if "\t" in first else ";" if ";" in first else ",")
    raise collector.refuse(
        f"its first line names no columns for image and caption (it has {named(cells)}); write"
        f" image,caption there, or give {FORMS}."
    )


def _header(line: str, delimiter: str) -> tuple[str, ...]:
    """The names of the columns; none where a cell is longer than a table's may be."""
    try:
        return tuple(next(csv.reader([line], delimiter=delimiter), ()))
    except csv.Error:
        return ()


def _read_tokens(text: str, collector: CaptionCollector) -> None:
    """`name.jpg#0<TAB>caption` (Hodosh et al. 2013)."""
    for number, line in filled_lines(text):
        match = _TOKEN_LINE.fullmatch(line)
        if match is None:
            raise collector.refuse(
                f"line {number} is not like the others, name.jpg#0, a tab and the caption."
            )
        image_id = collector.id_of(match[1], "line", number)
        collector.name_file(image_id, image_id)
        collector.add(image_id, match[2], "line", number)


def _read_bars(text: str, header: tuple[str, ...], keys: Keys, collector: CaptionCollector) -> None:
    """`image_name| comment_number| comment` (Young et al. 2014, as it is passed around)."""
    image, last = header.index(keys.image), len(header) - 1
    rows = filled_lines(text)
    next(rows)
    for number, line in rows:
        cells = line.split("|", last)
        if len(cells) == last == 2:
            match = _MISSING_BAR.fullmatch(cells[1])
            if match is not None:
                cells.append(match[1])
        if len(cells) <= last:
            raise _wrong_width(number, len(cells), header, collector)
        image_id = collector.id_of(cells[image].strip(), "line", number)
        if is_file_name(image_id):
            collector.name_file(image_id, image_id)
        # the blank belongs to the bar
        collector.add(image_id, cells[last].removeprefix(" "), "line", number)


def _read_rows(
    text: str,
    delimiter: str,
    header: tuple[str, ...],
    keys: Keys,
    collector: CaptionCollector,
    *,
    has_header: bool = True,
) -> None:
    """Rows below a header, quoted as spreadsheets do."""
    doubled = [name for name in (keys.image, *keys.captions) if header.count(name) > 1]
    if doubled:
        raise collector.refuse(f"column {quoted(doubled[0])} appears twice; rename one of them.")
    image = header.index(keys.image)
    file = header.index(keys.file) if keys.file is not None else None
    captions = [header.index(name) for name in keys.captions]
    for number, cells in _rows(text, delimiter, collector):
        if has_header:
            has_header = False
            continue
        if len(cells) != len(header):
            raise _wrong_width(number, len(cells), header, collector)
        image_id = collector.id_of(cells[image], "line", number)
        if file is not None and cells[file]:
            collector.name_file(image_id, collector.id_of(cells[file], "line", number))
        elif file is None and is_file_name(image_id):
            collector.name_file(image_id, image_id)
        # of caption_1 to caption_5 an image may have fewer
        filled = [column for column in captions if len(captions) == 1 or cells[column]]
        added = [
            _add_cell(image_id, cells[column], header[column], number, collector)
            for column in filled
        ]
        if not any(added):
            raise collector.refuse(
                f"line {number}: image {quoted(image_id)} has no captions; give it one or take it"
                " out."
            )


def _rows(
    text: str, delimiter: str, collector: CaptionCollector
) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, with the number of the line that each ends on."""
    # strict: a quote that is never closed would swallow every row behind it
    reader = csv.reader(lines_of(text), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                yield reader.line_num, [as_typed(cell) for cell in cells]
    except csv.Error as error:
        raise collector.refuse(
            f"line {reader.line_num} is not a table row ({printable(error)}); put a caption"
            ' that holds quotes or the separator into double quotes, and write "" for each quote in'
            " it."
        ) from None


def _add_cell(
    image_id: str, cell: str, column: str, number: int, collector: CaptionCollector
) -> int:
    """One caption, or those of a JSON list in a column whose name is in the plural; how many."""
    if column.strip().lower() not in _LISTS or not (cell[:1] == "[" and cell[-1:] == "]"):
        collector.add(image_id, cell, "line", number)
        return 1
    try:
        captions: list[object] = json.loads(cell)
    except (ValueError, RecursionError):
        raise collector.refuse(
            f'line {number}: its {column} are not a JSON list; write ["one", "two"] there.'
        ) from None
    for caption in captions:
        collector.add(image_id, caption, "line", number)
    return len(captions)


def _wrong_width(
    number: int, found: int, header: tuple[str, ...], collector: CaptionCollector
) -> Exception:
    hint = (
        "put a caption that holds the separator into double quotes"
        if found > len(header)
        else "complete the row or take it out"
    )
    return collector.refuse(
        f"line {number} has {found} cells, where the header has {len(header)}"
        f" ({named(header)}); {hint}."
    )
