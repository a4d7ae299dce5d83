"""Does a page hold? Every figure of it is derived again from the run folders.

Two questions. Does the page say what the run folders say: it is built again and compared, figure by
figure, gallery by gallery and word by word. Do the run folders agree with themselves: what
metrics.json says of all images is computed again from the images in records.jsonl.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import zip_longest
from pathlib import Path
from typing import Any

import captune
from captune.errors import UserError
from captune.files import read_text
from captune.json_yaml import MOST_MEMORY, as_shown, convert, differences, json_cost, require
from captune.pages.page import PageAbout, build_page, render_page
from captune.pages.sources import digests_of
from captune.pages.thumbnails import Album
from captune.runs.reader import check_records
from captune_metrics.display import printable, quoted


@dataclass(frozen=True)
class PageContent:
    """What a page says. figures: (where from, exact value, as shown). data: of the galleries.

    words: all else that can be read, in order.
    """

    about: PageAbout
    figures: list[tuple[str, str, str]]
    data: list[Any]
    words: list[str]


@dataclass
class PageCheck:
    """What came of a check. figures: that were derived again. differing: a sentence each."""

    figures: int
    runs: int
    differing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether all came out again."""
        return not self.differing


def check_page(page: Path, folders: Sequence[str] = ()) -> PageCheck:
    """Derive every figure of a page again. folders: of its runs, where they are elsewhere by now.

    Raises UserError for what is no page of captune report, and for runs that are gone.
    """
    said = read_page(page)
    about = said.about
    report = build_page(
        # the methods of a tune are found below it
        list(folders) or [run.folder for run in about.runs if not run.below],
        about.settings,
        command=about.command,
        page=about.page,
        album=Album(about.missing, about.sizes),
        names=[run.name for run in about.runs],
    )
    report.album.encode()
    again = _Reader()
    again.feed(render_page(report))
    now = again.found(page)
    checked = PageCheck(len(now.figures), len(report.runs.sources))
    checked.differing += _figures(said, now)
    checked.differing += _galleries(said, now)
    if about.captune != captune.__version__:
        made = printable(about.captune)
        checked.notes.append(f"made by captune {made}: words are not compared, figures are")
    elif not checked.differing:
        checked.differing += _words(said, now)
    checked.differing += [told for s in report.runs.sources for told in check_records(s.run)]
    checked.notes += _changed(about, report.runs.sources)
    return checked


def read_page(page: Path) -> PageContent:
    """A page as a machine reads it. Raises UserError for what captune report did not write."""
    reader = _Reader()
    text = read_text(str(page))
    with suppress(AssertionError):  # html.parser's word for `<![`
        reader.feed(text)
    return reader.found(page)


def _figures(said: PageContent, now: PageContent) -> Iterator[str]:
    for page, run in zip_longest(said.figures, now.figures):
        if page == run:
            continue
        if page is None or run is None or page[0] != run[0]:
            more = "more" if len(said.figures) > len(now.figures) else "fewer or other"
            yield f"the page has {more} figures than its runs give, from {(page or run)[0]} on"
            return
        if page[1] != run[1]:
            shown = as_shown(page[1]), as_shown(run[1])
            yield f"{run[0]}: the page has {shown[0]}, the run gives {shown[1]}"
        else:
            yield f"{run[0]}: the page shows {quoted(page[2])}, the run gives {quoted(run[2])}"


def _galleries(said: PageContent, now: PageContent) -> Iterator[str]:
    if len(said.data) != len(now.data):
        yield f"the page has {len(said.data)} tables and galleries, its runs give {len(now.data)}"
        return
    for page, run in zip(said.data, now.data, strict=True):
        for place, has, gives in differences(_with_lines(page), _with_lines(run)):
            where = place or "a table"
            shown = as_shown(has), as_shown(gives)
            yield f"data of the page, {where}: it has {shown[0]}, the runs give {shown[1]}"


def _with_lines(data: Any) -> Any:
    """Data of a page, texts of several lines as lists: a line has a place of its own."""
    if isinstance(data, dict):
        return {key: _with_lines(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_with_lines(value) for value in data]
    return data.splitlines() if isinstance(data, str) and "\n" in data else data


def _words(said: PageContent, now: PageContent) -> Iterator[str]:
    for page, run in zip_longest(said.words, now.words):
        if page != run:
            yield f"the page says {quoted(page or '')}, its runs give {quoted(run or '')}"
            return


def _changed(about: PageAbout, sources: Sequence[Any]) -> Iterator[str]:
    """Files of the runs that are not the same bytes as then; what they say may be the same."""
    before = {run.number: run.sha256 for run in about.runs}
    for source in sources:
        then = before.get(source.number)
        now = digests_of(source.run)
        for name in now:
            if then and then.get(name) != now[name]:
                yield f"{printable(source.run.folder)}: {name} is not the file of then"


class _Reader(HTMLParser):
    """Figures, data and words of a page; pictures and style are passed over."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._figures: list[tuple[str, str, str]] = []
        self._open: tuple[str, str] | None = None
        self._shown: list[str] = []
        self._script = ""
        self._text: list[str] = []
        self._data: list[Any] = []
        self._about: Any = None
        self._words: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        if tag == "data":
            self._open, self._shown = (told.get("data-from") or "", told.get("value") or ""), []
        elif tag == "script":
            kind = told.get("type")
            name = told.get("id") or told.get("class") or ""
            self._script = name if kind == "application/json" else "other"
            self._text = []
        elif tag == "style":
            self._silent += 1
        elif tag == "img" and told.get("alt"):
            self._words.append(str(told["alt"]))

    def handle_endtag(self, tag: str) -> None:
        if tag == "data" and self._open is not None:
            self._figures.append((*self._open, "".join(self._shown)))
            self._open = None
        elif tag == "script":
            if self._script != "other":
                self._keep("".join(self._text))
            self._script = ""
        elif tag == "style":
            self._silent -= 1

    def handle_data(self, data: str) -> None:
        if self._script:
            self._text.append(data)
        elif self._open is not None:
            self._shown.append(data)
        elif not self._silent and data.strip():
            self._words.append(" ".join(data.split()))

    def _keep(self, text: str) -> None:
        content = None
        if json_cost(text) <= MOST_MEMORY:
            with suppress(ValueError, RecursionError):
                content = json.loads(text)
        if self._script == "about":
            self._about = content
        else:
            self._data.append(content)

    def found(self, page: Path) -> PageContent:
        """What was read. Raises UserError where it is no page of ours."""
        try:
            about = convert(self._about, PageAbout)
            require(min(about.settings.limit, about.settings.top) >= 1, "it shows no image")
        except ValueError as error:
            raise UserError(
                f"{printable(page)} is not a page of captune report ({printable(error)});"
                " make one with captune report RUN... --out FILE.html"
            ) from None
        return PageContent(about, self._figures, self._data, self._words)
