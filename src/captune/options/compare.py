"""Options of `captune compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from captune.options.fields import check_overwrite, option, overwrite_option
from captune.options.score import MetricOptions
from captune.options.shared import CsvOptions


@dataclass(kw_only=True)
class CompareOptions(MetricOptions, CsvOptions):
    """`captune compare`."""

    first: Path = option("captions A: as in score", positional=True, nargs=None, metavar="A")
    second: Path = option("captions B: as in score", positional=True, nargs=None, metavar="B")
    top: int = option("images to show on either side of the difference", 10, metavar="N")
    out: Path | None = option("run folder to write: tables and plots", None, metavar="RUN")
    overwrite: bool = overwrite_option()
    csv: Path | None = option("write a row an image, both scores a metric", None, metavar="FILE")

    def __post_init__(self) -> None:
        """Raises UserError for what does not go together."""
        super().__post_init__()
        check_overwrite(self)
