"""One page of any runs: the answer first, then each job, then how to make it again."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from markupsafe import Markup
from msgspec import Meta, Struct, to_builtins

import captune
from captune.files import whole_file
from captune.json_yaml import Count
from captune.pages.blocks import (
    Cards,
    Code,
    Fold,
    Gallery,
    Paragraph,
    Section,
    Tile,
    Tiles,
    blocks_of,
    json_for_script,
    render_template,
    shown,
)
from captune.pages.sections import PageContext, captions, published, section_of
from captune.pages.sources import (
    PageSettings,
    RunSet,
    RunSource,
    digests_of,
    plain_text,
    read_runs,
    words,
)
from captune.pages.thumbnails import Album, hidden_sentence
from captune.progress import SILENT, Progress
from captune.runs.kinds import KINDS
from captune.runs.reader import ABOUT
from captune.studies import read_study
from captune.tables import Column, Table, numbers
from captune.text import counted, listed, one_line, plain

_TILES = 8
_MOST_SKIPPED = 200


class PageRun(Struct, frozen=True, kw_only=True):
    """A run of a page. below: it came with its tune. sha256: of its files, then."""

    number: int
    folder: Annotated[str, Meta(pattern=r"^[^\0]*$")]
    name: str
    kind: str = ""
    below: bool
    sha256: dict[str, str]


class PageAbout(Struct, frozen=True):
    """What a page says of itself to machines: enough to make it again and check it.

    Who reads it has to bear in mind that anybody may have written it.
    """

    captune: str
    command: list[str]
    page: str
    settings: PageSettings
    runs: Annotated[list[PageRun], Meta(min_length=1)]
    missing: dict[str, str]
    sizes: dict[str, tuple[Count, Count]]


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
    def said(self) -> list[str]:
        """What it says of each run first, without markup."""
        return [plain_text(said) for said, _ in self.answers]

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

    def about(self) -> PageAbout:
        """What it says of itself to machines."""
        given = {source.number for source in self.runs.given}
        runs = [
            PageRun(
                number=source.number,
                folder=str(source.run.folder.resolve()),
                name=source.name,
                kind=source.run.kind,
                below=source.number not in given,
                sha256=digests_of(source.run),
            )
            for source in self.runs.sources
        ]
        own = self.command, self.path, self.settings
        return PageAbout(captune.__version__, *own, runs, self.album.missing, self.album.sizes)


def build_page(
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
    unusable = context.captions.unusable
    # in the order of the kinds, and of a kind usable runs first
    by_kind = {
        kind: sorted(runs.of_kind(kind), key=lambda one: one.is_unusable or one.number in unusable)
        for kind in KINDS
    }
    ordered = [source for some in by_kind.values() for source in some]
    sections: list[Section] = []
    answers: list[tuple[Any, Tiles | None]] = []
    if settings.published:
        study = read_study(settings.published)
        sections.append(published.section(study, runs))
        answers.append((published.answer(study, runs), None))
    for kind in KINDS:
        parts = [section_of(kind).section(source, context) for source in by_kind[kind]]
        if kind == captions.LAST_KIND:
            parts.append(captions.all_captions(context))
        sections += [part for part in parts if part is not None]
    sections.append(_again(runs, command, page))
    _tell_apart(sections)
    answers += [_answer(source, source.number in unusable) for source in ordered]
    title = settings.title or _title(ordered)
    return Page(title, runs, answers, sections, context.album, settings, list(command), page)


def _answer(source: RunSource, has_unusable: bool) -> tuple[Any, Tiles | None]:
    """What is said of a run first; a tune says itself what of it is not usable."""
    said, tiles = section_of(source.run.kind).answer(source)
    if not has_unusable or source.run.kind == "tune":
        return said, tiles
    warning = words("{} has captions that are not usable, whatever their scores. ", source.name)
    return warning + said, None


def _title(ordered: Sequence[RunSource]) -> str:
    """Jobs with the images of the largest run of each; those on as many are told together."""
    most: dict[str, int] = {}
    for source in ordered:
        job = KINDS[source.run.kind].title
        most[job] = max(source.images, most.get(job, 0))
    parts = (
        f"{listed([job for job, n in most.items() if n == images])} on {counted(images, 'image')}"
        for images in dict.fromkeys(most.values())
    )
    title = "; ".join(parts)
    return title[:1].upper() + title[1:]


def _tell_apart(sections: Sequence[Section]) -> None:
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
    page = build_page(folders, settings, command=command, page=str(path), images=images)
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
            "about": to_builtins(page.about()) if page.made_by == "report" else None,
            "script": Markup(script),  # noqa: S704  # our own file
            "style": Markup(_asset("report.css")),  # noqa: S704
            "digest": digest,
            "version": captune.__version__,
            "galleries": {g.name: json_for_script(shown(g.data())) for g in page.galleries},
            # galleries take the pictures of cards too
            "loose": [p for p in page.album.pictures if p.uri and p.number not in on_cards],
            "stamp": _stamp(page.runs),
        },
    )


def _asset(name: str) -> str:
    return (files("captune.pages") / "templates" / "report" / name).read_text(encoding="utf-8")


def _again(runs: RunSet, command: Sequence[str], page: str) -> Section:
    """How to make the page again: commands first, then what they ran on. page: its name."""
    part = Section("again", "How to make this again")
    typed = [_shell(source.at("command", file=ABOUT)) for source in runs.given]
    typed += [_shell(command)] if command else []
    told = (
        "Every number of this page carries the place in a run folder that it is from. The next"
        " line derives all of them again and names what differs."
    )
    part.blocks += [
        Code("\n".join(dict.fromkeys(line for line in typed if line))),
        Paragraph(told, soft=True),
        Code(_shell(["captune", "verify", page])),
        *(_runs(runs), *_models(runs), *_inputs(runs), _machine(runs)),
    ]
    options = [
        [source.name, name, one_line(plain(value))]
        for source in runs.given
        for name, value in source.run.about["options"].items()
        if value not in (None, [], False)
    ]
    files = [
        [source.name, file, sha256]
        for source in runs.sources
        for file, sha256 in digests_of(source.run).items()
    ]
    skipped = [[source.name, *row] for source in runs.sources for row in _skipped(source)]
    hashes = _texts("files", "Files of the runs", "run, file, sha256*", files)
    part.blocks += [
        Fold("Options of each run", [_texts("options", "Options", "run, option, value*", options)]),
        Fold("Hashes of the run folders", [hashes]),
    ]
    if skipped:
        shown = skipped[:_MOST_SKIPPED]
        table = _texts("skipped", "Skipped files", "run, file*, reason", shown)
        part.blocks.append(Fold(f"Skipped files ({len(skipped):,})", [table]))
    return part


def _texts(name: str, caption: str, titles: str, rows: Sequence[Sequence[Any]]) -> Table:
    """A table of texts; behind the title of a column that takes what is left stands a star."""
    columns = [Column(title.rstrip("*"), wide=title[-1] == "*") for title in titles.split(", ")]
    return Table(name, caption, columns, rows)


def _shell(words: Any) -> str:
    return shlex.join(one_line(str(word)) for word in words) if isinstance(words, list) else ""


def _runs(runs: RunSet) -> Table:
    rows = []
    for source in runs.given:
        about = source.run.about
        rows.append(
            [
                source.name,
                about["kind"],
                one_line(about["started"]),
                source.figure(plain, "seed", file=ABOUT) if about.get("seed") is not None else None,
                one_line(str(about.get("device", ""))),
                one_line(about["root"]),
            ]
        )
    columns = [*map(Column, ("run", "command", "made")), *numbers("seed")]
    columns += [Column("device"), Column("images below", wide=True)]
    return Table("runs", "Runs", columns, rows)


def _models(runs: RunSet) -> list[Table]:
    found: dict[tuple[str, str], list[Any]] = {}
    for source in runs.sources:
        for model in source.run.about["models"]:
            if isinstance(model, Mapping):
                spec, weights = str(model.get("spec")), str(model.get("weights_id"))
                others = (model.get(key) or "" for key in ("preprocessing_id", "licence"))
                row = [one_line(str(text)) for text in (spec, used_as(model), weights, *others)]
                found.setdefault((spec, weights), row)
    titles = "model, used as, weights*, preprocessing*, licence"
    return [_texts("models", "Models", titles, list(found.values()))] if found else []


def used_as(model: Mapping[str, Any]) -> str:
    """What tells models of one name apart."""
    if "bridge" in model or "family" in model:
        return "captioner"
    return "language model" if "decoder_id" in model else "encoder"


def _inputs(runs: RunSet) -> list[Table]:
    """A row a file, whatever read it."""
    found: dict[tuple[str, str], list[str]] = {}
    for source in runs.sources:
        for name, path, sha256 in _each_input(source.run.metrics.get("inputs")):
            # "a candidates" is the candidates of A
            side, _, rest = name.partition(" ")
            told = f"{rest} {side.upper()}" if side in ("a", "b") and rest else name
            found.setdefault((path, sha256), []).append(f"{told} of {source.name}")
    rows = [
        [one_line(path), one_line(", ".join(read)), one_line(sha256)]
        for (path, sha256), read in found.items()
    ]
    return [_texts("inputs", "Inputs", "file*, read as*, sha256", rows)] if rows else []


def _each_input(inputs: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    if not isinstance(inputs, Mapping):
        return
    for name, about in inputs.items():
        if isinstance(about, Mapping) and "sha256" in about:
            yield f"{prefix}{name}", str(about.get("path")), str(about["sha256"])
        else:
            yield from _each_input(about, f"{name} ")


def _machine(runs: RunSet) -> Table:
    """A row where all runs agree, else a row a run."""
    told = {
        source.name: (_hardware(source.run.about["hardware"]), _versions(source.run.about))
        for source in runs.sources
    }
    if len(set(told.values())) == 1:
        rows = [["all runs", *next(iter(told.values()))]]
    else:
        rows = [[name, *texts] for name, texts in told.items()]
    return _texts("machine", "Machine and packages", "run, hardware, packages*", rows)


def _hardware(hardware: Mapping[str, Any]) -> str:
    parts = [hardware.get("system"), f"{hardware.get('cores')} cores", hardware.get("gpu")]
    return one_line(", ".join(str(part) for part in parts if part))


def _versions(about: Mapping[str, Any]) -> str:
    return one_line(", ".join(f"{name} {version}" for name, version in about["versions"].items()))


def _skipped(source: RunSource) -> list[list[str]]:
    skipped = source.run.metrics.get("skipped")
    return [
        [one_line(str(item.get("path"))), one_line(str(item.get("reason")))]
        for item in (skipped if isinstance(skipped, list) else [])
        if isinstance(item, Mapping)
    ]


def _stamp(runs: RunSet) -> str:
    """A hash of all run folders, for the foot of the page."""
    told = json.dumps([digests_of(source.run) for source in runs.sources], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:12]
