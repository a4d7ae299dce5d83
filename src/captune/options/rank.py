"""Options of `captune rank`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from captune.options.fields import option, require_at_least
from captune.options.shared import CsvOptions


@dataclass(kw_only=True)
class RankOptions(CsvOptions):
    """`captune rank`."""

    run: Path = option("run folder of captune score", positional=True, nargs=None, metavar="RUN")
    by: str = option("the metric to rank by, one of those in the run", "cider", metavar="METRIC")
    top: int = option("pairs to show at either end", 10, metavar="N")
    images: Path | None = option(
        "folder of the images, where the run does not know it", None, metavar="DIR"
    )
    out: Path | None = option("folder for the gallery (default: the run)", None, metavar="DIR")

    def __post_init__(self) -> None:
        """Raises UserError for a gallery of nothing."""
        require_at_least(self, top=1)
