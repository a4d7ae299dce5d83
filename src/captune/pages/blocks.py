"""What the sections of a page are made of; `templates/report/blocks.html.jinja` draws each kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from markupsafe import Markup

from captune.pages.numbers import Figure
from captune.pages.pages import embedded
from captune.pages.thumbnails import Picture
from captune.tables import csv_row

Text = Markup | Figure | str


@dataclass(frozen=True)
class Paragraph:
    """A sentence or several. soft: what explains rather than tells."""

    kind: ClassVar[str] = "paragraph"
    text: Text
    soft: bool = False


@dataclass(frozen=True)
class Points:
    """Sentences that each stand for themselves."""

    kind: ClassVar[str] = "points"
    items: Sequence[Text]


@dataclass(frozen=True)
class Remarks:
    """What a reader has to know before believing a number."""

    kind: ClassVar[str] = "remarks"
    items: Sequence[Text]


@dataclass(frozen=True)
class Strip:
    """A value and its interval on a line; all in shares of the line, 0 to 1. best: marked so."""

    kind: ClassVar[str] = "strip"
    value: float
    low: float | None = None
    high: float | None = None
    best: bool = False

    @classmethod
    def over(
        cls, value: float, interval: Sequence[float] | None, low: float, high: float, **more: Any
    ) -> Strip:
        """On a line from `low` to `high`."""
        width = (high - low) or 1.0
        ends = [(end - low) / width for end in interval] if interval else [None, None]
        return cls((value - low) / width, *ends, **more)


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval, in one cell."""

    kind: ClassVar[str] = "estimate"
    figure: Figure
    interval: tuple[Figure, Figure] | None = None


@dataclass(frozen=True)
class Tile:
    """One headline number. interval: both ends. says: what it means. recipe: how it was made."""

    label: str
    figure: Figure
    interval: tuple[Figure, Figure] | None = None
    says: Text = ""
    recipe: str = ""


@dataclass(frozen=True)
class Tiles:
    """Headline numbers beside each other."""

    kind: ClassVar[str] = "tiles"
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Column:
    """A column of a table. number: aligned at the right. wide: takes what is left of the line."""

    title: str
    number: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """name: of its CSV file. caption: what it shows. rows: of texts, figures, strips or None.

    marked: positions of rows that stand out.
    """

    kind: ClassVar[str] = "table"
    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    marked: frozenset[int] = frozenset()
    note: Text = ""

    def values(self) -> list[list[Any]]:
        """Header and rows with all digits; strips are left out, an interval has two columns."""
        header: list[Any] = []
        kinds = []
        for i, column in enumerate(self.columns):
            cells = [row[i] for row in self.rows]
            kinds.append(next((c.kind for c in cells if isinstance(c, Strip | Estimate)), ""))
            title = column.title
            header += {
                Strip.kind: [],
                Estimate.kind: [title, f"{title}, 95 % from", f"{title}, 95 % to"],
            }.get(kinds[-1], [title])
        rows = [
            [value for kind, cell in zip(kinds, row, strict=True) for value in _values(kind, cell)]
            for row in self.rows
        ]
        return [header, *rows]

    def csv(self) -> Markup:
        """The same as a CSV file, inside a script element of the page."""
        return embedded("".join(map(csv_row, self.values())))


def _values(kind: str, cell: Any) -> list[Any]:
    """What a cell is in the CSV: one value, none, or three."""
    if kind == Strip.kind:
        return []
    if kind == Estimate.kind:
        if not isinstance(cell, Estimate):
            return [_value(cell), "", ""]
        ends = cell.interval or ("", "")
        return [_value(cell.figure), *map(_value, ends)]
    return [_value(cell)]


def _value(cell: Any) -> Any:
    if isinstance(cell, Figure):
        return cell.value
    if isinstance(cell, Markup):
        return cell.striptags()
    return "" if cell is None else cell


@dataclass(frozen=True)
class Bar:
    """One label of an image with its share; tone: truth, wrong or other."""

    name: str
    figure: Figure
    tone: str = "other"


@dataclass(frozen=True)
class Line:
    """A caption on a card. tag: whose it is. scores: (metric, figure)."""

    tag: str
    caption: str
    scores: Sequence[tuple[str, Figure]] = ()


@dataclass(frozen=True)
class Card:
    """An image and what is said of it. tone: the colour of its edge. above: in large letters."""

    name: str
    picture: Picture | None
    above: Text = ""
    below: Text = ""
    bars: Sequence[Bar] = ()
    lines: Sequence[Line] = ()
    references: Sequence[str] = ()
    tone: str = ""


@dataclass(frozen=True)
class Cards:
    """Images beside each other."""

    kind: ClassVar[str] = "cards"
    title: str
    cards: Sequence[Card]
    note: Text = ""


@dataclass(frozen=True)
class Gallery:
    """All images, to be searched and sorted: drawn from data when a reader comes to it.

    items: dictionaries as `report.js` reads them (`gallery.item`). sorts: (what, value an item or
    None, whether the largest comes first). filters: (what, positions of items).
    """

    kind: ClassVar[str] = "gallery"
    name: str
    title: str
    noun: str
    items: Sequence[dict[str, Any]]
    sorts: Sequence[tuple[str, Sequence[Any], bool]]
    filters: Sequence[tuple[str, Sequence[int]]] = ()
    tags: Sequence[str] = ()
    note: Text = ""
    large: bool = False  # fewer and larger images

    def data(self) -> dict[str, Any]:
        """What the page holds of it."""
        return {
            "items": self.items,
            "tags": self.tags,
            "sorts": [
                {"label": label, "values": values, "down": down}
                for label, values, down in self.sorts
            ],
            "filters": [{"label": label, "keep": keep} for label, keep in self.filters],
        }


@dataclass(frozen=True)
class Chart:
    """A drawing. svg: made by `charts`. key: (tone, meaning)."""

    kind: ClassVar[str] = "chart"
    svg: Markup
    title: str = ""
    key: Sequence[tuple[str, str]] = ()
    note: Text = ""
    wide: bool = False


@dataclass(frozen=True)
class Beside:
    """Blocks beside each other where there is room."""

    kind: ClassVar[str] = "beside"
    blocks: Sequence[Any]
    natural: bool = False  # each as wide as it is, rather than all alike


@dataclass(frozen=True)
class Fold:
    """What is shown when asked for."""

    kind: ClassVar[str] = "fold"
    title: str
    blocks: Sequence[Any]


@dataclass(frozen=True)
class Code:
    """Lines to be typed."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Heading:
    """Of a part of a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass
class Section:
    """A part of the page. run: what it is about, where that is one run."""

    id: str
    title: str
    run: str = ""
    blocks: list[Any] = field(default_factory=list)


def blocks_of(blocks: Sequence[Any], kind: type[Any]) -> list[Any]:
    """All blocks of one kind, those inside others too."""
    found = []
    for block in blocks:
        if isinstance(block, kind):
            found.append(block)
        if isinstance(block, Beside | Fold):
            found += blocks_of(block.blocks, kind)
    return found
