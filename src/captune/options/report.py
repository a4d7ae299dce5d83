"""Options of `captune report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from captune.options.fields import option, require_at_least
from captune.options.shared import CsvOptions


@dataclass(kw_only=True)
class ReportOptions(CsvOptions):
    """`captune report`."""

    runs: list[str] = option(
        "run folders of any job; the methods of a tune come along",
        [],
        positional=True,
        nargs="*",
        metavar="RUN",
    )
    out: Path | None = option(
        "the page to write: one file, which opens without a network", None, metavar="FILE.html"
    )
    title: str | None = option("heading of the page (default: what was done)", None, metavar="TEXT")
    limit: int = option("images in a gallery, at the most", 2000, metavar="N")
    top: int = option("images at either end of the best and the worst", 4, metavar="N")
    images: Path | None = option(
        "folder of the images of runs from elsewhere, where the runs' paths begin: without it only"
        " images in the run's own folder are shown",
        None,
        metavar="DIR",
    )
    figures: Path | None = option(
        "folder for every table as CSV and every figure as PNG, SVG and PDF", None, metavar="DIR"
    )
    published: str | None = option(
        "set the figures of a published study beside those of the runs: dlcv-hw3, or a YAML file",
        None,
        metavar="STUDY",
    )
    check: Path | None = option(
        "a page of captune report: derive every figure of it again from its run folders, or from"
        " the RUN given",
        None,
        metavar="FILE.html",
    )

    def __post_init__(self) -> None:
        """Raises UserError for a page of nothing."""
        require_at_least(self, limit=1, top=1)
