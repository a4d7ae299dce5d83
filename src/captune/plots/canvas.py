"""What all figures share: paper, ink, fonts, text that fits its place, and files.

No pyplot and no figure registry: a Figure is an object that is drawn by Agg and then forgotten, in
any thread. Matplotlib reads its style from one table for the whole process; `house_style` puts ours
there under a lock while a figure is made or saved and takes it away again, so that neither the
user's style reaches our figures nor ours theirs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from PIL import Image

from captune.errors import UserError
from captune.files import whole_file
from captune_metrics.display import printable

WIDTH = 7.0  # inches: the text width of a page, where 9 points are as large as the words around
DPI = 160
TEXT, SMALL = 9.0, 8.0  # points
MARGIN = 0.15  # inches


class Tone:
    """Okabe and Ito's palette, which colour-blind readers tell apart, and what is beside it."""

    GREEN, ORANGE, BLUE, GREY = "#009E73", "#E69F00", "#0072B2", "#8A8F94"
    INK, MUTED, FAINT, PAPER = "#22262A", "#5C6369", "#DDE1E4", "#FFFFFF"


# fonts that draw what DejaVu Sans cannot, where one is installed; colour fonts are of no use to Agg
_MORE_FONTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Noto Sans SC", "Source Han Sans"),
    *("WenQuanYi Zen Hei", "Droid Sans Fallback", "Hiragino Sans", "PingFang SC"),
    *("Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS"),
    *("Noto Sans", "Noto Emoji", "Segoe UI Symbol", "Segoe UI Emoji"),
    "Last Resort High-Efficiency",  # named outright, it stands in silently (matplotlib >= 3.11)
)
_LOCK = threading.RLock()
_FONT_LOG = logging.getLogger("matplotlib.font_manager")
_LONGEST = 500  # characters of one label that are looked at
_NOT_STYLE = (
    *("backend", "interactive", "toolbar", "timezone", "webagg", "tk.", "docstring", "date."),
)


@contextmanager
def house_style() -> Iterator[None]:
    """Our style inside the block (or the function it decorates), the user's again after it."""
    quiet = _Quiet()
    with _LOCK, matplotlib.rc_context():
        _FONT_LOG.addFilter(quiet)
        ours: Any = _style()
        matplotlib.rcParams.update(ours)
        try:
            yield
        finally:
            _FONT_LOG.removeFilter(quiet)


class _Quiet(logging.Filter):
    """Drops the remark that a font we fall back on has no bold face."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "Failed to find font weight" not in str(record.msg)


@cache
def _style() -> dict[str, Any]:
    defaults: Any = matplotlib.rcParamsDefault
    installed = set(font_manager.get_font_names())
    return {name: defaults[name] for name in defaults if not name.startswith(_NOT_STYLE)} | {
        "font.family": ["DejaVu Sans", *filter(installed.__contains__, _MORE_FONTS), "sans-serif"],
        "font.size": TEXT,
        "text.color": Tone.INK,
        "text.parse_math": False,  # a label may hold a $
        "axes.edgecolor": Tone.GREY,
        "axes.labelcolor": Tone.INK,
        "axes.labelsize": SMALL,
        "axes.titlesize": TEXT,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "xtick.color": Tone.INK,
        "ytick.color": Tone.INK,
        "xtick.labelsize": SMALL,
        "ytick.labelsize": SMALL,
        "grid.color": Tone.FAINT,
        "grid.linewidth": 0.8,
        "figure.facecolor": Tone.PAPER,
        "savefig.facecolor": Tone.PAPER,
        "savefig.dpi": DPI,
        "svg.fonttype": "none",
        "svg.hashsalt": "captune",
        "pdf.fonttype": 42,
    }


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Writes the figure as .png (160 dpi), .svg (text stays text) or .pdf; appears whole or not.

    The same figure gives the same bytes: no date and no random names inside.
    Raises UserError for another ending, or where the file cannot be written.
    """
    path = Path(path)
    form = path.suffix.lower().lstrip(".")
    undated: dict[str, dict[str, None]] = {
        "png": {},
        "svg": {"Date": None},
        "pdf": {"CreationDate": None},
    }
    if form not in undated:
        raise UserError(f"{path}: figures are written as .png, .svg or .pdf; choose one of them")
    with house_style(), whole_file(path, "wb") as file:
        figure.savefig(file, format=form, metadata=undated[form])
    return path


class Sheet(Figure):
    """A figure of the usual width, which is laid out in inches from its upper left corner."""

    def __init__(self, height: float) -> None:
        super().__init__(figsize=(WIDTH, height), dpi=DPI)
        FigureCanvasAgg(self)

    def share(self, left: float, top: float) -> tuple[float, float]:
        """A place in inches as matplotlib has it: shares of the figure, from the lower left."""
        width, height = self.get_size_inches()
        return left / width, 1 - top / height

    def place(self, left: float, top: float, width: float, height: float, grid: str = "") -> Any:
        """Axes at a place. grid: "x" or "y", across which there are lines, with short ticks."""
        across, down = self.get_size_inches()
        bottom = (down - top - height) / down
        axes: Any = self.add_axes((left / across, bottom, width / across, height / down))
        if grid:
            axes.grid(axis=grid)
            axes.tick_params(length=2, color=Tone.MUTED)
        return axes

    def write(self, left: float, top: float, text: str, size: float = TEXT, **style: Any) -> Text:
        """Text whose upper left corner lies at a place."""
        style.setdefault("va", "top")
        return self.text(*self.share(left, top), text, fontsize=size, **style)

    def write_lines(
        self, left: float, top: float, lines: Sequence[str], step: float, *size: float, **style: Any
    ) -> float:
        """Lines below each other, `step` inches apart; returns where the next one would stand."""
        for line in lines:
            self.write(left, top, line, *size, **style)
            top += step
        return top

    def head(self, text: str, room: float = WIDTH - 2 * MARGIN) -> None:
        """What the figure shows, in bold above it: one line of `room` inches."""
        line = fitted(text, room, 1, TEXT + 1, weight="bold")[0]
        self.write(MARGIN, 0.12, line, TEXT + 1, weight="bold")

    def key(
        self,
        left: float,
        top: float,
        entries: Sequence[tuple[str, str, str]],
        only: Collection[str] | None = None,
    ) -> None:
        """One line of (marker, colour, meaning); `only` of these colours."""
        measure = measured(SMALL)
        for marker, colour, meaning in entries:
            if only is None or colour in only:
                self.write(left, top, marker, SMALL + 2, color=colour, va="center")
                self.write(left + 0.17, top, meaning, SMALL, va="center")
                left += 0.17 + measure(meaning) + 0.22


def shrunk(image: Image.Image, width: float, height: float) -> Image.Image:
    """The image with no more pixels than a place in inches shows at twice our resolution."""
    small = image.convert("RGB")
    small.thumbnail((round(2 * width * DPI), round(2 * height * DPI)), Image.Resampling.LANCZOS)
    return small


def clean(text: str) -> str:
    """Text for one line of a figure, and for XML: what hides or turns text around is escaped."""
    return printable(" ".join(text[:_LONGEST].split()))


def measured(size: float, **style: Any) -> Callable[[str], float]:
    """A function that tells the width of a text in inches."""
    renderer = RendererAgg(1, 1, DPI)
    font = FontProperties(size=size, **style)

    def width(text: str) -> float:
        return float(renderer.get_text_width_height_descent(text, font, False)[0]) / DPI

    return width


def fitted(text: str, width: float, lines: int = 1, size: float = TEXT, **style: Any) -> list[str]:
    """`text` broken into at most `lines` of `width` inches; an ellipsis ends what had to be cut."""
    measure, rest = measured(size, **style), clean(text)
    broken: list[str] = []
    while rest and len(broken) < lines:
        fits = _longest_prefix(rest, lambda part: measure(part) <= width)
        if fits == len(rest):
            broken.append(rest)
            break
        if len(broken) == lines - 1:
            fits = _longest_prefix(rest, lambda part: measure(part.rstrip() + "…") <= width)
            broken.append(rest[:fits].rstrip() + "…")
            break
        # a line ends at a space, or inside a word that fills more than half of it
        space = rest.rfind(" ", 0, fits + 1)
        end = space if space > fits // 2 else fits
        broken.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return broken or [""]


def label_beside(axes: Any, x: int, y: float, inches: float, text: str, **style: Any) -> None:
    """Text in the row `y` of axes, so many inches from their left (x 0) or right end (x 1)."""
    axes.annotate(
        text, (x, y), xycoords=("axes fraction", "data"), xytext=(72 * inches, 0),
        textcoords="offset points", va="center", **style,
    )  # fmt: skip


def full_rows(panels: int, most: int, least: int) -> int:
    """How many of them stand in a row, so that the last row is as full as can be."""
    if panels <= most:
        return panels
    return min(range(most, least - 1, -1), key=lambda columns: -panels % columns)


def _longest_prefix(text: str, fits: Callable[[str], bool]) -> int:
    """Length of the longest beginning that fits, at least one sign."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if fits(text[:middle]):
            low = middle
        else:
            high = middle - 1
    return low
