"""What the sections of a page are made of, and how it becomes HTML in which every text is text.

`templates/report/blocks.html.jinja` draws each kind of block."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from captune.escaping import printable_lines
from captune.pages.thumbnails import Picture
from captune.tables import Number
from captune.text import percent
from captune_metrics.display import printable


def render_template(name: str, content: Mapping[str, Any], package: str = "captune.pages") -> str:
    """The template `name` of a package, filled with `content`; what is missing is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        # whatever a template forgets: no text of others turns the words around it
        finalize=lambda value: value if hasattr(value, "__html__") else shown(value),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["embedded"] = json_for_script
    environment.filters["printable"] = _printable
    return environment.get_template(name).render(**content)


def _printable(text: Any) -> Any:
    return text if hasattr(text, "__html__") else printable(text)


def shown(content: Any) -> Any:
    """What a script of a page will show: the texts in lists and mappings, printable."""
    if isinstance(content, str):
        return printable_lines(content)
    if isinstance(content, Mapping):
        return {name: shown(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [shown(value) for value in content]
    return content


def json_for_script(content: Any) -> Markup:
    """JSON inside a script element, which nothing in it can end. Raises ValueError for NaN."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    for sign in "<>&'":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704  # what could be markup is escaped above


Text = Markup | Number | str


class Block:
    """A part of a page, which a template draws by its kind."""

    @property
    def kind(self) -> str:
        """The name of its class, in small letters."""
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Paragraph(Block):
    """A sentence or several. soft: what explains rather than tells."""

    text: Text
    soft: bool = False


@dataclass(frozen=True)
class Points(Block):
    """Sentences that each stand for themselves."""

    items: Sequence[Text]


@dataclass(frozen=True)
class Remarks(Points):
    """What a reader has to know before believing a number."""


@dataclass(frozen=True)
class Tile:
    """One headline number. interval: both ends. says: what it means. recipe: how it was made."""

    label: str
    figure: Number
    interval: tuple[Number, Number] | None = None
    says: Text = ""
    recipe: str = ""


@dataclass(frozen=True)
class Tiles(Block):
    """Headline numbers beside each other."""

    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Bar:
    """One label of an image with its share; tone: truth, wrong or other.

    fraction: the length of the bar, where it is not the figure. note: behind the figure.
    """

    name: str
    figure: Number
    tone: str = "other"
    fraction: float | None = None
    note: str = ""

    @property
    def length(self) -> float:
        """The length of the bar, 0 to 1."""
        return float(self.figure.value) if self.fraction is None else self.fraction


@dataclass(frozen=True)
class Line:
    """A caption on a card. tag: whose it is. scores: (metric, figure)."""

    tag: str
    caption: str
    scores: Sequence[tuple[str, Number]] = ()


@dataclass(frozen=True)
class Card:
    """An image and what is said of it. tone: the colour of its edge. above: in large letters.

    more_references: how many there are beside those shown.
    """

    name: str
    picture: Picture | None
    above: Text = ""
    below: Text = ""
    bars: Sequence[Bar] = ()
    lines: Sequence[Line] = ()
    references: Sequence[str] = ()
    more_references: int = 0
    tone: str = ""


@dataclass(frozen=True)
class Cards(Block):
    """Images beside each other."""

    title: str
    cards: Sequence[Card]
    note: Text = ""


@dataclass(frozen=True)
class Gallery(Block):
    """All images, to be searched and sorted: drawn from data when a reader comes to it.

    items: dictionaries as `report.js` reads them (`gallery.item`). sorts: (what, value an item or
    None, whether the largest comes first). filters: (what, positions of items).
    """

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
class Chart(Block):
    """A drawing. svg: made by `charts`. key: (tone, meaning)."""

    svg: Markup
    title: str = ""
    key: Sequence[tuple[str, str]] = ()
    note: Text = ""
    wide: bool = False


@dataclass(frozen=True)
class Beside(Block):
    """Blocks beside each other where there is room."""

    blocks: Sequence[Any]
    natural: bool = False  # each as wide as it is, rather than all alike


@dataclass(frozen=True)
class Fold(Block):
    """What is shown when asked for."""

    title: str
    blocks: Sequence[Any]


@dataclass(frozen=True)
class Code(Block):
    """Lines to be typed."""

    text: str


@dataclass(frozen=True)
class Heading(Block):
    """Of a part of a section."""

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
