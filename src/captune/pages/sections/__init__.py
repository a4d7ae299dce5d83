"""What a page says of a run: one module for each kind, in the order of `runs.kinds.KINDS`.

Each has three functions:
`section(source, context)` is the part of the page about a run, or None where another part tells it;
`answer(source)` is a sentence for the top of the page, and its headline numbers or None;
`tables(source)` are the tables of the run, for a terminal, a notebook and files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from captune.pages.album import Album
from captune.pages.blocks import Paragraph, Section, Tiles
from captune.pages.sources import PageSettings, RunSet, RunSource, words
from captune.runs.kinds import KINDS
from captune.tables import Column, Table, numbers
from captune.text import count, one_line

if TYPE_CHECKING:
    from captune.pages.sections.caption_sources import CaptionSources


@dataclass(frozen=True)
class PageContext:
    """What a section may need beside its run: all runs of the page, its images, its settings."""

    runs: RunSet
    album: Album
    settings: PageSettings

    @cached_property
    def captions(self) -> CaptionSources:
        """The captions of all runs."""
        from captune.pages.sections.caption_sources import CaptionSources

        return CaptionSources(self.runs)


class KindSection(Protocol):
    """The functions of a module of this package (see the docstring of the package)."""

    @property
    def section(self) -> Callable[[RunSource, PageContext], Section | None]:
        """The part of the page about a run."""

    @property
    def answer(self) -> Callable[[RunSource], tuple[Any, Tiles | None]]:
        """What the page says first."""

    @property
    def tables(self) -> Callable[[RunSource], list[Table]]:
        """The tables of a run."""


def shard_blocks(source: RunSource) -> list[Any]:
    """How much of a job on shards is done, and what failed; nothing of another run."""
    if source.run.metrics.get("sharded") is None:
        return []

    def figure(name: str) -> Any:
        return source.figure(count, "sharded", name)

    said = words(
        "The images here are a sample. {} of {} shards are done, in {}: {} images, {} of them"
        " without an answer.",
        figure("shards"), figure("shards_of"), source.at("sharded", "place"),
        figure("rows"), figure("errors"),
    )  # fmt: skip
    rows = [
        [one_line(reason), source.figure(count, "sharded", "reasons", reason)]
        for reason in source.at("sharded").get("reasons", {})
    ]
    columns = [Column("no answer because", wide=True), *numbers("images")]
    table = [Table(f"errors-{source.number}", "Images without an answer", columns, rows)]
    return [Paragraph(said), *(table if rows else [])]


def section_of(kind: str) -> KindSection:
    """The module that says what a page says of runs of this kind."""
    return cast("KindSection", import_module(KINDS[kind].section))
