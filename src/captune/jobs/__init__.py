"""The jobs: one module per verb, called alike by Python, the command line and the app.

Each has `run(options, progress, *, command)`, which returns a `Result`, and the public function of
its name. Every `run` has five steps: refuse early; load; compute and write records as they come;
close the run; figures and page. The run folder is held over all of them.

This module imports no job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captune.images import Skipped
from captune.progress import SILENT, Progress
from captune.tables import NotebookDisplay, Table

PAGE = "report.html"
PAGE_IMAGES = 200  # in a gallery of the page that a job leaves


@dataclass(kw_only=True, eq=False)
class Result(NotebookDisplay, Sequence[Any]):
    """What a job came to; a sequence of its items.

    images: how many were read. skipped: files that were not, and why. notes: sentences about the
    result. written: what was written -> where; "run" is the run folder.
    items: a Prediction, Caption or Explanation per image: all of them from the functions of
    Python, the first ones from `run`, and none of a job that has no such values.
    """

    images: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    written: dict[str, Path] = field(default_factory=dict)
    items: list[Any] = field(default_factory=list, repr=False)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        return self.items[index]

    @property
    def run(self) -> Path | None:
        """The run folder, or None where none was asked for."""
        return self.written.get("run")

    def summary(self) -> dict[str, Any]:
        """What `--json` prints: these keys, and those of the job."""
        return {
            "run": None if self.run is None else str(self.run),
            "images": self.images,
            "skipped": [{"path": item.path, "reason": item.reason} for item in self.skipped],
            "written": {what: str(path) for what, path in self.written.items()},
        }

    def tables(self) -> list[Table]:
        """What the terminal, `--table` and a notebook show.

        A table named "images" has a row per item, for which a notebook shows the items themselves.
        """
        return []

    def sentences(self) -> list[str]:
        """What a person reads below the tables; the first one stands above them in a notebook."""
        return []


def leave_page(out: Path, progress: Progress = SILENT) -> Path:
    """Write OUT/report.html, the page of the finished run in `out`, and return its path."""
    from captune.pages.page import write_report
    from captune.pages.sources import PageSettings

    page = out / PAGE
    write_report([out], page, PageSettings(limit=PAGE_IMAGES), bar=progress.bar)
    return page
