"""A page as a browser's parser sees it: elements, attributes, and what would run or be fetched."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

_EMPTY = ("meta", "img", "link", "br", "rect", "path", "circle", "input")


class Outline(HTMLParser):
    """tags: in order. loads: every address that would be fetched; links: that could be followed.

    text: what can be read, in pieces. handlers: attributes on...=
    """

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []
        self.scripts: list[tuple[str | None, str]] = []
        self._script: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in _EMPTY:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "data", "action", "poster"):
                self.loads.append(value or "")
            if name == "href":
                self.links.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)
            if name == "id":
                self.ids.append(value or "")
        if tag == "script":
            self._script = dict(attrs).get("type")
            self.scripts.append((self._script, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "li", "p"):
            self.text.append(" ")
        if tag not in _EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data)
        elif self.open and self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        """All that can be read, in one line."""
        return " ".join("".join(self.text).split())


def outline(page: Path) -> Outline:
    """Parse a page; what is opened must be closed."""
    parsed = Outline()
    parsed.feed(page.read_text(encoding="utf-8"))
    assert parsed.open == []
    return parsed
