"""One page of any runs: the answer first, then each job, then how to make it again."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

import captune
from captune.files import whole_file
from captune.pages import (
    captions,
    comparing,
    explanations,
    prompts,
    provenance,
    published,
    recognition,
    tuning,
)
from captune.pages.blocks import Gallery, Section, Tile, Tiles, blocks_of
from captune.pages.given import Given, digests_of, read_given
from captune.pages.numbers import Source
from captune.pages.pages import embedded, filled, shown
from captune.pages.settings import Settings
from captune.pages.thumbnails import Album, hidden_sentence
from captune.pages.writers import read_writers
from captune.studies import read_study
from captune.text import counted, listed, one_line

KINDS = ("classify", "prompts", "tune", "caption", "score", "compare", "explain", "faithful")
Bar = Callable[[str, int], AbstractContextManager[Callable[..., None]]]
_TILES = 8
_JOBS = {
    "classify": "recognition",
    "prompts": "prompts",
    "tune": "tuning",
    "caption": "captions",
    "score": "captions",
    "compare": "comparison",
    "explain": "explanations",
    "faithful": "explanations",
}


@dataclass
class Report:
    """What a page shows, before it is drawn.

    answers: a sentence and headline numbers a run. sections: in the order of the page.
    """

    title: str
    given: Given
    answers: list[tuple[Any, Tiles | None]]
    sections: list[Section]
    album: Album
    settings: Settings
    command: list[str] = field(default_factory=list)
    page: str = ""

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


def build(
    folders: Sequence[str | Path],
    settings: Settings,
    *,
    command: Sequence[str] = (),
    page: str = "report.html",
    album: Album | None = None,
    names: Sequence[str] = (),
    images: Path | None = None,
) -> Report:
    """Read the runs and say what a page says of them; no image is opened yet.

    command: the words that asked for the page, kept in it. album, names: of a page that was made
    before. images: the folder of the images of runs from elsewhere. Raises UserError for what is no
    run.
    """
    given = read_given(folders, KINDS, names, images)
    album = Album() if album is None else album
    sections: list[Section] = []
    answers: list[tuple[Any, Tiles | None]] = []
    if settings.published:
        study = read_study(settings.published)
        sections.append(published.section(study, given))
        answers.append((published.answer(study, given), None))
    for source in given.of_kind("classify"):
        sections.append(recognition.section(source, album, settings))
    for source in given.of_kind("prompts"):
        sections.append(prompts.section(source))
    for source in given.of_kind("tune"):
        sections.append(tuning.section(source, given))
    for source in given.of_kind("compare"):
        sections.append(comparing.section(source, album, settings))
    written = captions.section(read_writers(given), given, album, settings)
    sections += [written] if written is not None else []
    for source in given.of_kind("explain"):
        sections.append(explanations.section(source, album, settings))
    for source in given.of_kind("faithful"):
        sections.append(explanations.leaderboard(source))
    sections.append(provenance.section(given, command, page))
    _tell_apart(sections)
    answers += [answer_of(source, given) for source in _headed(given)]
    title = settings.title or _title(given)
    return Report(title, given, answers, sections, album, settings, list(command), page)


def _headed(given: Given) -> list[Source]:
    """The runs that the answer is about, in the order of the page."""
    return sorted(given.of_kind(*KINDS), key=lambda source: KINDS.index(source.run.kind))


def answer_of(source: Source, given: Given) -> tuple[Any, Tiles | None]:
    """What the page says of a run first: a sentence, and its headline numbers."""
    kind = source.run.kind
    if kind == "classify":
        return recognition.answer(source)
    if kind == "prompts":
        return prompts.answer(source)
    if kind == "tune":
        return tuning.answer(source, given)
    if kind == "caption":
        return captions.answer_of_captions(source)
    if kind == "score":
        return captions.answer_of_scores(source)
    if kind == "explain":
        return explanations.answer(source)
    if kind == "faithful":
        return explanations.answer_of_faithful(source)
    return comparing.answer(source)


def _title(given: Given) -> str:
    jobs = list(dict.fromkeys(_JOBS[source.run.kind] for source in _headed(given)))
    images = max(int(source.run.metrics.get("images") or 0) for source in given.sources)
    return f"{listed(jobs).capitalize()} on {counted(images, 'image')}"


def _tell_apart(sections: Sequence[Section]) -> None:
    """Sections of the same job are told apart by their runs."""
    titles = [part.title for part in sections]
    for part in sections:
        if part.run and titles.count(part.title) > 1:
            part.title = f"{part.title}: {part.run}"


def write_report(
    folders: Sequence[str | Path],
    page: Path,
    settings: Settings,
    *,
    command: Sequence[str] = (),
    images: Path | None = None,
    bar: Bar = lambda what, total: nullcontext(lambda done: None),
) -> Report:
    """Write the page of some runs.

    images: the folder of the images of runs from elsewhere, whose images are not shown without it.
    Raises UserError for what is no run and for a file that cannot be written.
    """
    report = build(folders, settings, command=command, page=str(page), images=images)
    pictures = report.album.pictures
    with bar("images", len(pictures)) as advance:
        report.album.encode(advance)
    html = drawn(report)
    with whole_file(page) as file:
        file.write(html)
    return report


def drawn(report: Report) -> str:
    """The page as HTML."""
    script = _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    static = _in_html(report)
    return filled(
        "report/page.html.jinja",
        {
            "title": one_line(report.title),
            "report": report,
            "script": Markup(script),  # noqa: S704  # our own file
            "style": Markup(_asset("report.css")),  # noqa: S704
            "digest": digest,
            "version": captune.__version__,
            "about": embedded(about(report)),
            "galleries": {g.name: embedded(shown(g.data())) for g in report.galleries},
            "loose": [p for p in report.album.pictures if p.uri and p.number not in static],
            "stamp": provenance.stamp(report.given),
        },
    )


def about(report: Report) -> dict[str, Any]:
    """What the page says of itself to machines: enough to make it again and check it."""
    below = {s.number for methods in report.given.methods.values() for s in methods.values()}
    return {
        "captune": captune.__version__,
        "command": report.command,
        "page": report.page,
        "settings": asdict(report.settings),
        "runs": [
            {
                "number": source.number,
                "folder": str(source.run.folder.resolve()),
                "name": source.name,
                "kind": source.run.kind,
                "below": source.number in below,
                "sha256": digests_of(source.run),
            }
            for source in report.given.sources
        ],
        "missing": report.album.missing,
        "sizes": report.album.sizes,
    }


def _in_html(report: Report) -> set[int]:
    """Numbers of the pictures that stand on cards, from which galleries take them too."""
    from captune.pages.blocks import Cards

    return {
        card.picture.number
        for part in report.sections
        for cards in blocks_of(part.blocks, Cards)
        for card in cards.cards
        if card.picture is not None
    }


def _asset(name: str) -> str:
    return (files("captune.pages") / "templates" / "report" / name).read_text(encoding="utf-8")
