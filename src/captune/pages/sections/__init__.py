"""What a page says of a run: one module for each kind, which `runs.kinds` names.

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
from captune.pages.blocks import Section, Tiles
from captune.pages.sources import PageSettings, RunSet, RunSource
from captune.runs.kinds import KINDS
from captune.tables import Table

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


def section_of(kind: str) -> KindSection:
    """The module that says what a page says of runs of this kind."""
    return cast("KindSection", import_module(KINDS[kind].section))
