"""The Markdown files of the repository as pages of the site: copied, their links moved along.

A file keeps the links that work on GitHub. On the site a link to another page leads to that page,
one to a picture to its copy, and one to any other file of the repository to that file on GitHub.
A link to nothing is left as it is: Sphinx then names it and the build fails.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

# fenced blocks and code spans stay; in the rest, [text](target) and ![text](target)
_CODE_OR_LINK = re.compile(
    r"(?P<code>^(?P<fence>```+|~~~+).*?^(?P=fence)[ \t]*$|(?P<tick>`+)(?!`).*?(?P=tick))"
    r"|(?P<opening>\]\()(?P<target>[^()\s]+)(?P<closing>\))",
    re.MULTILINE | re.DOTALL,
)
_PICTURES = (".png", ".jpg", ".svg", ".gif")


@dataclass(frozen=True)
class Contents:
    """What pages.toml says.

    files: page name -> path in the repository, for pages that do not lie in docs/.
    parts: (title, entries); an entry is a page's name, or a list of those under the one before.
    modules: name -> what it is for, of the Python reference.
    """

    repository: str
    files: dict[str, str]
    parts: list[tuple[str, list[Any]]]
    modules: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Contents:
        """Raises KeyError where a key is missing."""
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        parts = [(part["title"], part["pages"]) for part in data["part"]]
        return cls(data["repository"], data["files"], parts, data["python"])

    def pages(self) -> list[str]:
        """The names of all pages, in reading order."""
        names: list[str] = []
        for _, entries in self.parts:
            for entry in entries:
                names += entry if isinstance(entry, list) else [entry]
        return names

    def source(self, page: str) -> str:
        """The path in the repository of the file behind `page`."""
        return self.files.get(page, f"docs/{page}.md")


def copy_pages(root: Path, contents: Contents, commands: Collection[str], out: Path) -> None:
    """Write the page of every file of `contents` to `out`.

    root: the repository. commands: whose options have a reference page. Raises FileNotFoundError
    for a page without a file, and ValueError for a Markdown file of docs/ that is on no page.
    """
    written = [page for page in contents.pages() if not page.startswith(("commands/", "python/"))]
    page_of = {contents.source(page): page for page in written}
    lost = {
        path.relative_to(root).as_posix() for path in (root / "docs").rglob("*.md")
    } - page_of.keys()
    if lost:
        raise ValueError(f"docs/site/pages.toml names no page for {', '.join(sorted(lost))}")
    for page in written:
        text = (root / contents.source(page)).read_text(encoding="utf-8")
        text = move_links(text, page, root, contents, page_of)
        if page in commands:
            text = _pointing_to_options(text, page)
        target = out / f"{page}.md"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text + _toctree(page, contents), encoding="utf-8")
    shutil.copytree(root / "docs/pictures", out / "pictures")


def move_links(
    text: str, page: str, root: Path, contents: Contents, page_of: dict[str, str]
) -> str:
    """The text of `page` with its relative links moved from the repository to the site."""
    source = contents.source(page)

    def moved(match: re.Match[str]) -> str:
        if match["code"] is not None:
            return match[0]
        target, mark, anchor = match["target"].partition("#")
        if not target or ":" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path in page_of:
            place = f"{page_of[path]}.md"
        elif path.startswith("docs/pictures/") and path.endswith(_PICTURES):
            place = path.removeprefix("docs/")
        elif (root / path).exists():
            return f"]({contents.repository}/blob/main/{path}{mark}{anchor})"
        else:
            return match[0]
        start = posixpath.dirname(page) or "."
        return f"]({posixpath.relpath(place, start)}{mark}{anchor})"

    return _CODE_OR_LINK.sub(moved, text)


def _pointing_to_options(text: str, command: str) -> str:
    """The guide to a command, with a link to the reference of its options under the title."""
    title, _, rest = text.partition("\n")
    link = f"[All options of `captune {command}`](commands/{command}.md)"
    return f"{title}\n\n{link}\n{rest}"


def _toctree(page: str, contents: Contents) -> str:
    """The navigation: all of it on the first page; elsewhere the pages under this one, if any."""
    if page == "index":
        blocks = [
            _directive([e for e in entries if not isinstance(e, list)], caption=title)
            for title, entries in contents.parts
        ]
        return "".join(blocks)
    for _, entries in contents.parts:
        for entry, below in pairwise(entries):
            if entry == page and isinstance(below, list):
                return _directive(below)
    return ""


def _directive(pages: list[str], caption: str = "") -> str:
    lines = ["", "", "```{toctree}", ":hidden:"]
    if caption:
        lines.append(f":caption: {caption}")
    lines.append("")
    lines += ["What is it <self>" if page == "index" else f"/{page}" for page in pages]
    return "\n".join([*lines, "```", ""])
