"""`captune report`: run folders become one page that can be handed to somebody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captune.errors import UserError
from captune.files import check_writable
from captune.images import Skipped
from captune.jobs import Result
from captune.options.codec import from_python
from captune.options.pages import ReportOptions
from captune.progress import SILENT, Progress
from captune.runs.reader import is_running
from captune.runs.writer import finished_part
from captune.text import counted, listed
from captune_metrics.display import printable

if TYPE_CHECKING:
    from captune.pages.page import Page


@dataclass(kw_only=True, eq=False)
class ReportResult(Result):
    """A page of runs. page: what it shows."""

    page: Page

    @property
    def bytes(self) -> int:
        """The size of the page."""
        return self.written["page"].stat().st_size

    def summary(self) -> dict[str, Any]:
        """What `--json` prints."""
        sources = self.page.runs.sources
        return {
            **super().summary(),
            "run": str(sources[0].run.folder),
            "runs": [
                {"name": source.name, "folder": str(source.run.folder), "kind": source.run.kind}
                for source in sources
            ],
            "notes": self.notes,
            "title": self.page.title,
            "answers": self.page.said,
            "thumbnails": len(self.page.album.pictures),
            "bytes": self.bytes,
        }

    def sentences(self) -> list[str]:
        """The answers, and the size of the page."""
        runs = counted(len(self.page.runs.sources), "run")
        images = counted(len(self.page.album.pictures), "image")
        return [*self.page.said, f"{runs}, {images}, {self.bytes / 1e6:.1f} MB"]


def report(
    runs: str | Path | Sequence[str | Path], out: str | Path, **options: Any
) -> ReportResult:
    """Write one page of some runs, as `captune report`.

    runs: run folders of any job. out: FILE.html. options: the fields of `ReportOptions`,
    such as title="Adapter against LoRA", figures="figures/". Raises UserError for what is no run
    and for what cannot be written.
    """
    return run(from_python(ReportOptions, runs=runs, out=out, **options))


def run(
    options: ReportOptions, progress: Progress = SILENT, *, command: Sequence[str] = ()
) -> ReportResult:
    """Write the page, and the figures that were asked for.

    command: the words that asked for the page, kept in it. Raises UserError for no runs, for what
    is no run, and for what cannot be written.
    """
    from captune.pages.page import write_report
    from captune.pages.sources import PageSettings
    from captune.pages.thumbnails import HIDDEN

    if options.out is None:
        raise UserError("no page to write; name one with --out FILE.html")
    if options.out.suffix.lower() not in ("", ".html", ".htm"):
        raise UserError(f"--out {printable(options.out)} writes HTML; name it *.html")
    check_writable(options.out)
    if options.figures is not None:
        check_writable(options.figures / "tables")
    runs, notes = _finished(options.runs)
    for note in notes:
        progress.message(note)
    page = write_report(
        runs,
        options.out,
        PageSettings(options.title or "", options.limit, options.top, options.published or ""),
        command=command,
        images=options.images,
        progress=progress,
    )
    missing = page.album.missing.items()
    result = ReportResult(
        page=page,
        images=max(int(source.run.metrics.get("images") or 0) for source in page.runs.sources),
        skipped=[Skipped(path, reason) for path, reason in missing if reason != HIDDEN],
        written={"page": options.out},
        notes=notes,
    )
    if options.figures is not None:
        from captune.pages.figures import export

        export(page, options.figures, say=progress.message, raw_csv=options.raw_csv)
        result.written["figures"] = options.figures
    if page.hidden:
        result.notes.append(page.hidden)
        progress.message(page.hidden)
    return result


def _finished(runs: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the runs without those that were stopped or are running, a sentence for each of those)."""
    found: list[str] = []
    notes = []
    for run in runs:
        part = finished_part(Path(run))
        runs_now = is_running(Path(run))
        if part is None and not runs_now:
            found.append(run)
            continue
        part = part or []
        found += [str(path) for path in part if str(path) not in runs]
        methods = f", but for {listed([path.name for path in part])}" if part else ""
        notes.append(
            f"{printable(run)} is running now, and is left out{methods}; report it when it is done"
            if runs_now
            else f"{printable(run)} was stopped, and is left out{methods}; run its command again to"
            " finish it"
        )
    if notes and not found:
        raise UserError(notes[0])
    return found, notes
