"""The documentation site: it builds without a warning, and needs nothing but its own files."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from captune.cli import build_parser
from captune.cli.commands import COMMANDS

SITE = Path(__file__).parents[1] / "docs/site"
pytestmark = pytest.mark.needs("docs")


class Page(HTMLParser):
    """links: where <a> leads. assets: what a browser loads by itself. ids: anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.assets: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if "id" in values:
            self.ids.add(values["id"])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("index", "search", "next", "prev"):
            self.assets.append(values.get("href", ""))
        self.assets += [values[name] for name in ("src", "srcset", "data") if name in values]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site") / "html"
    done = subprocess.run(
        [sys.executable, SITE / "build.py", out], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def test_it_loads_nothing_from_another_host(site: Path, pages: dict[Path, Page]) -> None:
    assets = {asset for page in pages.values() for asset in page.assets}
    assert len(assets) > 10
    assert [asset for asset in assets if urlsplit(asset).netloc] == []
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", text) == []


def test_every_link_and_anchor_leads_somewhere(pages: dict[Path, Page]) -> None:
    dead = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if target not in pages or (anchor and anchor not in pages[target].ids):
                dead.append((path.name, link))
    assert dead == []


def test_pictures_are_shown(site: Path, pages: dict[Path, Page]) -> None:
    shown = {Path(unquote(asset)).name for page in pages.values() for asset in page.assets}
    assert {path.name for path in (SITE.parent / "pictures").iterdir()} <= shown


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_its_row(site: Path, command: str) -> None:
    text = (site / f"commands/{command}.html").read_text(encoding="utf-8")
    subparsers = build_parser()._actions[-1]
    assert isinstance(subparsers, argparse._SubParsersAction)
    for action in subparsers.choices[command]._actions:
        for option in action.option_strings:
            found = len(re.findall(rf'<td><p><code[^>]*><span class="pre">{option}<', text))
            assert found == (0 if option in ("-h", "--help") else 1), option


def test_public_names_are_described(site: Path) -> None:
    import captune

    text = (site / "python/captune.html").read_text(encoding="utf-8")
    for name in captune.__all__:
        assert name.startswith("_") or f"<h3>{name}<" in text, name


@pytest.mark.parametrize("link", ["gone.md", "#no-such-heading", "other.md#no-such-heading"])
def test_a_dead_link_fails_the_build(tmp_path: Path, link: str) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "index.md").write_text(
        f"# First\n\n[fine](other.md#second) [dead]({link})\n\n```{{toctree}}\nother\n```\n"
    )
    (pages / "other.md").write_text("# Second\n")
    program = "import sys; from pathlib import Path; from build import build; "
    program += "sys.exit(build(Path(sys.argv[1]), Path(sys.argv[2])))"
    done = subprocess.run(
        [sys.executable, "-c", program, pages, tmp_path / "html"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SITE), *sys.path])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0
    assert link.rpartition("#")[2] in done.stderr


def test_links_move_with_their_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SITE)
    import sources

    root = SITE.parents[1]
    contents = sources.Contents.read(SITE / "pages.toml")
    page_of = {contents.source(page): page for page in contents.pages()}

    def moved(text: str, page: str) -> str:
        return sources.move_links(text, page, root, contents, page_of)

    assert moved("[a](docs/tune.md#what-an-epoch-is)", "index") == "[a](tune.md#what-an-epoch-is)"
    card = "model-cards/captune-lite"
    assert moved("[a](../../docs/faithful.md)", card) == "[a](../faithful.md)"
    assert moved("[a](../README.md) [b](#x)", "faq") == "[a](index.md) [b](#x)"
    assert moved("![a](docs/pictures/report.png)", "index") == "![a](pictures/report.png)"
    assert moved("[a](../Makefile)", "faq") == f"[a]({contents.repository}/blob/main/Makefile)"
    kept = "[a](https://example.org) [b](gone.md) `[c](tune.md)`\n\n```\n[d](../README.md)\n```\n"
    assert moved(kept, "faq") == kept
