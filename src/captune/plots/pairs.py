"""The best pairs of image and caption above, the worst below, each with its score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from captune.plots.canvas import (
    FAINT,
    GREEN,
    INK,
    MARGIN,
    MUTED,
    ORANGE,
    SMALL,
    TEXT,
    WIDTH,
    fitted,
    full_rows,
    house_style,
    measured,
    new_figure,
    place,
    shrunk,
    write,
    write_lines,
)

_GAP, _LINE, _SECTION = 0.15, 0.155, 0.27  # inches
_CAPTION_LINES, _MOST_COLUMNS = 5, 5


@dataclass(frozen=True)
class PairPanel:
    """One picture with its caption.

    image: RGB, any size; None draws a grey place that says `missing`. score: the number as text,
    place: its rank as text. others: what else is said of it (other scores), a line each where the
        panels are narrow. references: as many as fit beside a picture that has the row for itself.
    """

    caption: str
    score: str
    place: str = ""
    image: Image.Image | None = None
    missing: str = "no image"
    others: Sequence[str] = ()
    references: Sequence[str] = ()


@house_style()
def pairs_figure(
    best: Sequence[PairPanel],
    worst: Sequence[PairPanel],
    title: str = "",
    subtitle: str = "",
    *,
    remarks: tuple[str, str] = ("", ""),
    pictures: bool = True,
) -> Figure:
    """Two galleries under each other; up to five pairs in a row, a single one beside its caption.

    worst: may be empty. remarks: what a reader must know of the best and of the worst, such as
        ties. pictures: False where no image is known at all: captions alone.
    Raises ValueError without a pair.
    """
    both = [(GREEN, "best", best, remarks[0]), (ORANGE, "worst", worst, remarks[1])]
    sections = [section for section in both if section[2]]
    if not sections:
        raise ValueError("expected at least one pair to draw")
    columns = full_rows(max(len(section[2]) for section in sections), _MOST_COLUMNS, 3)
    width = (WIDTH - 2 * MARGIN - _GAP * (columns - 1)) / columns
    image = (2.9 if columns == 1 else width) if pictures else 0.0
    scratch = new_figure(1)
    cards = [[_Card(scratch, panel, width, image) for panel in section[2]] for section in sections]
    heads = fitted(scratch, title, WIDTH - 2 * MARGIN, 2, TEXT + 2, weight="bold") if title else []
    below = fitted(scratch, subtitle, WIDTH - 2 * MARGIN, 2, SMALL) if subtitle else []
    head = 0.2 * len(heads) + _LINE * len(below) + (0.1 if heads or below else 0)
    rows = [[row[i : i + columns] for i in range(0, len(row), columns)] for row in cards]
    heights = [[max(card.height for card in row) + 0.12 for row in section] for section in rows]
    total = MARGIN + head + sum(_SECTION + sum(section) for section in heights) + 0.05
    figure = new_figure(total)
    top = write_lines(figure, MARGIN, MARGIN, heads, 0.2, TEXT + 2, weight="bold")
    write_lines(figure, MARGIN, top, below, _LINE, SMALL, color=MUTED)
    top = MARGIN + head
    for (colour, end, panels, remark), section, section_heights in zip(
        sections, rows, heights, strict=True
    ):
        name = end if len(panels) == 1 else f"the {len(panels)} {end}"
        _heading(figure, top, colour, name if len(sections) > 1 else "the only pair", remark)
        top += _SECTION
        for row, height in zip(section, section_heights, strict=True):
            for column, card in enumerate(row):
                card.draw(figure, MARGIN + column * (width + _GAP), top, colour)
            top += height
    return figure


def _heading(figure: Figure, top: float, colour: str, name: str, remark: str) -> None:
    write(figure, MARGIN, top, "■", TEXT + 1, color=colour)
    write(figure, MARGIN + 0.17, top, name, TEXT, weight="bold")
    if remark:
        left = MARGIN + 0.17 + measured(figure, TEXT, weight="bold")(name) + 0.15
        words = fitted(figure, remark, WIDTH - MARGIN - left, 1, SMALL)[0]
        write(figure, left, top + 0.01, words, SMALL, color=MUTED)


class _Card:
    """A panel whose words are broken into lines that fit its width, in inches."""

    def __init__(self, figure: Figure, panel: PairPanel, width: float, image: float) -> None:
        self.panel = panel
        self.beside = width > 4 and image > 0  # a single pair in the row: words beside the picture
        self.image = image
        self.width = width - image - 0.25 if self.beside else width
        lines = _CAPTION_LINES if width < 3 else 12
        size = TEXT if width > 2 else SMALL
        self.size = size
        self.caption = fitted(figure, panel.caption or "(empty caption)", self.width, lines, size)
        if self.width < 3:
            lines_of_others = [(words, 1) for words in panel.others]
        else:
            lines_of_others = [(" · ".join(panel.others), 3)]
        self.others = [
            line
            for words, most in lines_of_others
            for line in fitted(figure, words, self.width, most, SMALL - 1)
        ]
        room = self.width - measured(figure, TEXT, weight="bold")(panel.score) - 0.08
        self.place = fitted(figure, panel.place, room, 1, SMALL)[0] if panel.place else ""
        self.line = _LINE * size / SMALL
        self.references: list[str] = []
        words = 0.22 + self.line * len(self.caption) + 0.04 + 0.14 * len(self.others)
        self.picture = 0.75 * image  # most images are 4:3; others leave a part of it empty
        if self.beside:
            self._add_references(figure, int((self.picture - words - 0.1) / _LINE))
            self.height = max(words, self.picture)
        else:
            self.height = words + self.picture + (0.06 if image else 0)

    def _add_references(self, figure: Figure, room: int) -> None:
        """Whole references while there are lines left, below a line that names them."""
        for reference in self.panel.references:
            lines = fitted(figure, f"– {reference}", self.width, 3, SMALL)
            if 1 + len(self.references) + len(lines) > room:
                break
            self.references += lines
        if self.references:
            self.references.insert(0, "references")

    def draw(self, figure: Figure, left: float, top: float, colour: str) -> None:
        """With its upper left corner at a place in inches."""
        if self.image:
            self._draw_image(figure, left, top)
            if self.beside:
                left += self.image + 0.25
            else:
                top += self.picture + 0.06
        write(figure, left, top, self.panel.score, TEXT, weight="bold", color=INK)
        right = left + self.width
        write(figure, right, top + 0.01, self.place, SMALL, color=MUTED, ha="right")
        whole_width, whole_height = figure.get_size_inches()
        line = Rectangle(
            (left / whole_width, 1 - (top + 0.18) / whole_height),
            self.width / whole_width,
            0.015 / whole_height,
            color=colour,
            linewidth=0,
            transform=figure.transFigure,
        )
        figure.add_artist(line)
        top += 0.22
        top = write_lines(figure, left, top, self.caption, self.line, self.size) + 0.04
        top = write_lines(figure, left, top, self.others, 0.14, SMALL - 1, color=MUTED) + 0.1
        write_lines(figure, left, top, self.references, _LINE, SMALL, color=MUTED)

    def _draw_image(self, figure: Figure, left: float, top: float) -> None:
        axes = place(figure, left, top, self.image, self.picture)
        axes.set_axis_off()
        if self.panel.image is not None:
            axes.imshow(shrunk(self.panel.image, self.image, self.picture), aspect="equal")
            axes.set_anchor("NW" if self.beside else "S")
            return
        axes.add_patch(Rectangle((0, 0), 1, 1, color=FAINT, transform=axes.transAxes))
        words = "\n".join(fitted(figure, self.panel.missing, self.image - 0.2, 3, SMALL))
        middle = {"ha": "center", "va": "center", "transform": axes.transAxes}
        axes.text(0.5, 0.5, words, fontsize=SMALL, color=MUTED, **middle)
