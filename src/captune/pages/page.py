"""One page of any runs: the answer first, then each job, then how to make it again."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

import captune
from captune.files import whole_file
from captune.pages.album import Album, hidden_sentence
from captune.pages.blocks import (
    Cards,
    Gallery,
    Section,
    Tile,
    Tiles,
    blocks_of,
    json_for_script,
    render_template,
    shown,
)
from captune.pages.sections import PageContext, captions, provenance, published, section_of
from captune.pages.sources import PageSettings, RunSet, RunSource, digests_of, read_runs
from captune.progress import SILENT, Progress
from captune.runs.kinds import KINDS
from captune.studies import read_study
from captune.text import counted, listed, one_line

_TILES = 8


@dataclass
class Page:
    """What a page shows, before it is rendered.

    answers: a sentence and headline numbers for each run. sections: in the order of the page.
    made_by: the command of captune that makes such pages.
    """

    title: str
    runs: RunSet
    answers: list[tuple[Any, Tiles | None]]
    sections: list[Section]
    album: Album
    settings: PageSettings
    command: list[str] = field(default_factory=list)
    path: str = ""
    made_by: str = "report"

    @property
    def hidden(self) -> str:
        """That images are not shown, and how they can be; nothing where all are."""
        return hidden_sentence(self.album.hidden)

    @property
    def galleries(self) -> list[Gallery]:
        """All that are drawn from data."""
        return [g for part in self.sections for g in blocks_of(part.blocks, Gallery)]

    @property
    def tiles(self) -> list[Tile]:
        """The headline numbers: the first of each run, then the others while there is room."""
        rows = [list(tiles.tiles) for _, tiles in self.answers if tiles is not None]
        ordered = [row[i] for i in range(4) for row in rows if i < len(row)]
        kept = ordered[: max(_TILES, len(rows))]
        shown = [tile for row in rows for tile in row if any(tile is one for one in kept)]
        # what a score means is said once
        told = [str(tile.says) for tile in shown]
        return [
            replace(tile, says="") if told[i] in told[:i] else tile for i, tile in enumerate(shown)
        ]

    def about(self) -> dict[str, Any]:
        """What the page says of itself to machines: enough to make it again and check it."""
        given = {source.number for source in self.runs.given}
        return {
            "captune": captune.__version__,
            "command": self.command,
            "page": self.path,
            "settings": asdict(self.settings),
            "runs": [
                {
                    "number": source.number,
                    "folder": str(source.run.folder.resolve()),
                    "name": source.name,
                    "kind": source.run.kind,
                    "below": source.number not in given,
                    "sha256": digests_of(source.run),
                }
                for source in self.runs.sources
            ],
            "missing": self.album.missing,
            "sizes": self.album.sizes,
        }


def build(
    folders: Sequence[str | Path],
    settings: PageSettings,
    *,
    command: Sequence[str] = (),
    page: str = "report.html",
    album: Album | None = None,
    names: Sequence[str] = (),
    images: Path | None = None,
) -> Page:
    """Read the runs and say what a page says of them; no image is opened yet.

    command: the words that asked for the page, kept in it. album, names: of a page that was made
    before. images: the folder of the images of runs from elsewhere. Raises UserError for what is no
    run.
    """
    runs = read_runs(folders, names, images)
    context = PageContext(runs, Album() if album is None else album, settings)
    # of a run: in the order of the kinds
    ordered = [source for kind in KINDS for source in runs.of_kind(kind)]
    sections: list[Section] = []
    answers: list[tuple[Any, Tiles | None]] = []
    if settings.published:
        study = read_study(settings.published)
        sections.append(published.section(study, runs))
        answers.append((published.answer(study, runs), None))
    for kind in KINDS:
        parts = [section_of(kind).section(source, context) for source in runs.of_kind(kind)]
        if kind == captions.LAST_KIND:
            parts.append(captions.all_captions(context))
        sections += [part for part in parts if part is not None]
    sections.append(provenance.section(runs, command, page))
    _tell_apart(sections)
    answers += [section_of(source.run.kind).answer(source) for source in ordered]
    title = settings.title or _title(ordered)
    return Page(title, runs, answers, sections, context.album, settings, list(command), page)


def _title(ordered: Sequence[RunSource]) -> str:
    jobs = list(dict.fromkeys(KINDS[source.run.kind].title for source in ordered))
    images = max(int(source.run.metrics.get("images") or 0) for source in ordered)
    return f"{listed(jobs).capitalize()} on {counted(images, 'image')}"


def _tell_apart(sections: Sequence[Section]) -> None:
    """Sections of the same job are told apart by their runs."""
    titles = [part.title for part in sections]
    for part in sections:
        if part.run and titles.count(part.title) > 1:
            part.title = f"{part.title}: {part.run}"


def write_report(
    folders: Sequence[str | Path],
    path: Path,
    settings: PageSettings,
    *,
    command: Sequence[str] = (),
    images: Path | None = None,
    progress: Progress = SILENT,
) -> Page:
    """Write the page of some runs.

    images: the folder of the images of runs from elsewhere, whose images are not shown without it.
    Raises UserError for what is no run and for a file that cannot be written.
    """
    page = build(folders, settings, command=command, page=str(path), images=images)
    with progress.bar("images", len(page.album.pictures)) as advance:
        page.album.encode(advance)
    write_page(page, path)
    return page


def write_page(page: Page, path: Path) -> None:
    """Render a page whose album is encoded. Raises UserError for a file that cannot be written."""
    html = render_page(page)
    with whole_file(path) as file:
        file.write(html)


def render_page(page: Page) -> str:
    """The page as HTML."""
    script = _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    on_cards = {
        card.picture.number
        for part in page.sections
        for cards in blocks_of(part.blocks, Cards)
        for card in cards.cards
        if card.picture is not None
    }
    return render_template(
        "report/page.html.jinja",
        {
            "title": one_line(page.title),
            "page": page,
            "script": Markup(script),  # noqa: S704  # our own file
            "style": Markup(_asset("report.css")),  # noqa: S704
            "digest": digest,
            "version": captune.__version__,
            "galleries": {g.name: json_for_script(shown(g.data())) for g in page.galleries},
            # galleries take the pictures of cards too
            "loose": [p for p in page.album.pictures if p.uri and p.number not in on_cards],
            "stamp": provenance.stamp(page.runs),
        },
    )


def _asset(name: str) -> str:
    return (files("captune.pages") / "templates" / "report" / name).read_text(encoding="utf-8")
