"""Every link of the Markdown files leads somewhere on GitHub: to a file, and to a heading in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", ".github/*.md", "docs/**/*.md", "packages/*/*.md")
    for path in ROOT.glob(pattern)
)
CODE = re.compile(r"^(```+).*?^\1\s*$|(`+)(?!`).*?\2", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)")


def links(text: str) -> list[str]:
    """Targets of the links to this repository in Markdown."""
    return [target for target in LINK.findall(CODE.sub("", text)) if ":" not in target]


def anchors(text: str) -> set[str]:
    """The names that GitHub gives to the headings of Markdown."""
    without_fences = re.sub(r"^(```+).*?^\1\s*$", "", text, flags=re.MULTILINE | re.DOTALL)
    names: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?)\s*$", without_fences, re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        count = sum(known == name or known.startswith(f"{name}-") for known in names)
        names.add(f"{name}-{count}" if name in names else name)
    return names


def dead_links(page: Path) -> list[str]:
    dead = []
    for link in links(page.read_text(encoding="utf-8")):
        place, _, anchor = link.partition("#")
        target = page if not place else page.parent / place
        if not target.exists() or (
            anchor and anchor not in anchors(target.read_text(encoding="utf-8"))
        ):
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page) == []


def test_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A *title*, twice\n## A title twice\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md) [b](other.md#a-title-twice) [c](other.md#no) [d](gone.md) `[e](gone.md)`\n"
        "```\n[f](gone.md)\n```\n[g](https://example.org/x) [h](#nothing)\n",
        encoding="utf-8",
    )
    assert dead_links(page) == ["other.md#no", "gone.md", "#nothing"]
